"""`ctllm.cloud.identity.oidc.claims`: what the claims of a provider token say."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.jws import MAX_TIMESTAMP
from ctllm.cloud.identity import MANAGE, SERVE, USE, AccessGrant, User
from ctllm.cloud.identity.oidc.claims import (
    LEEWAY,
    MAX_NAME,
    MAX_SUBJECT,
    check_claims,
    find_claim,
    find_tier,
    read_grant,
    read_groups,
)
from ctllm.config import Provider, Tier
from ctllm.errors import GroupNotAllowed, Unauthorized
from tests.unit.cloud.identity.oidc.tokens import CLAIMS, NOW, SETTINGS

TIERS = {"gold": Tier(groups=("staff", "admins")), "plain": Tier(groups=("everyone", "staff"))}


def settings(**changes: Any) -> Provider:
    """Return the provider's settings with changes."""
    return msgspec.structs.replace(SETTINGS, **changes)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims with changes, without those that are None."""
    return {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}


class CheckTests(SynchronousTestCase):
    def accepted(self, provider: Provider = SETTINGS, **changes: Any) -> None:
        check_claims(claims(**changes), provider, NOW)

    def refused(self, provider: Any = SETTINGS, **changes: Any) -> str:
        error = self.assertRaises(Unauthorized, check_claims, claims(**changes), provider, NOW)
        return str(error.message)

    def test_the_clocks_may_differ_by_thirty_seconds(self) -> None:
        self.accepted(iat=NOW + 4)
        self.accepted(iat=NOW + LEEWAY, nbf=NOW + LEEWAY)
        self.accepted(exp=NOW - LEEWAY + 1)
        self.assertIn("not valid yet", self.refused(iat=NOW + LEEWAY + 1))
        self.assertIn("not valid yet", self.refused(iat=NOW + LEEWAY + 1, nbf=NOW))
        self.assertIn("not valid yet", self.refused(nbf=NOW + LEEWAY + 1))
        self.assertIn("has expired", self.refused(exp=NOW - LEEWAY))

    def test_needs_the_times_of_issue_and_expiry(self) -> None:
        for name in ("iat", "exp"):
            self.assertIn(f"claim {name}", self.refused(**{name: None}))

    def test_times_are_positive_finite_numbers(self) -> None:
        wrong: tuple[Any, ...] = (
            True,
            False,
            "1800000300",
            -1,
            0,
            float("nan"),
            float("inf"),
            MAX_TIMESTAMP * 2,
        )
        for value in (*wrong, 10**400, [NOW], {"a": 1}):
            for name in ("iat", "exp", "nbf"):
                self.refused(**{name: value})

    def test_a_token_expires_after_it_becomes_valid(self) -> None:
        self.refused(iat=NOW + 20, exp=NOW + 10)
        self.refused(nbf=NOW + 20, exp=NOW + 10)

    def test_the_audience_is_a_string_or_a_list(self) -> None:
        self.accepted(aud="api")
        self.accepted(aud=["other", "api"])
        for audience in ("other", "", "ap", "api ", ["other"], [], ["a", "p", "i"], {"api": 1}, 5):
            self.assertIn("another service", self.refused(aud=audience))
        self.refused(aud=None)
        self.refused(aud=[None, ["api"]])

    def test_without_a_configured_audience_it_is_a_client_id(self) -> None:
        provider = settings(audience="", page_client_id="page")
        self.accepted(provider, aud="desktop")
        self.accepted(provider, aud=["page"])
        self.refused(provider, aud="api")
        self.refused(settings(audience=""), aud="")
        self.refused(SETTINGS, aud="desktop")

    def test_refuses_other_tokens_of_keycloak(self) -> None:
        for kind in ("ID", "Refresh", "Offline", "Logout"):
            self.assertIn("not an access token", self.refused(typ=kind))
        self.accepted(typ="Bearer")
        self.accepted(settings(token="id_token"), typ="ID")

    def test_refuses_tokens_that_are_bound_to_a_key(self) -> None:
        self.assertIn("bound to a key", self.refused(cnf={"jkt": "x"}))

    @given(
        st.dictionaries(
            st.sampled_from(["iat", "exp", "nbf", "aud", "sub", "name", "azp", "groups", "typ"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=5,
            ),
        )
    )
    def test_no_claims_raise_another_error(self, changes: dict[str, Any]) -> None:
        try:
            check_claims({**CLAIMS, **changes}, SETTINGS, NOW)
            grant = read_grant({**CLAIMS, **changes}, SETTINGS, TIERS, NOW)
        except Unauthorized:
            return
        self.assertTrue(grant.user.name and grant.user.subject.isprintable())


class GrantTests(SynchronousTestCase):
    def grant(self, provider: Any = SETTINGS, **changes: Any) -> AccessGrant:
        return read_grant(claims(**changes), provider, TIERS, NOW)

    def test_has_the_user_of_the_issuer_and_the_expiry(self) -> None:
        grant = self.grant()
        self.assertEqual(grant.user, User("https://login.example", "auth0|ada", "Ada"))
        self.assertEqual(grant.expires_at, CLAIMS["exp"])
        self.assertEqual((grant.session_ids, grant.credential_id, grant.tier), ((), "", ""))

    def test_a_trailing_slash_of_the_issuer_makes_no_other_user(self) -> None:
        bare = settings(issuer="https://login.example")
        self.assertEqual(self.grant(bare).user.id, self.grant().user.id)

    def test_providers_of_one_namespace_have_the_same_users(self) -> None:
        first = settings(namespace="people", user_claim="email")
        second = msgspec.structs.replace(first, issuer="https://other.example")
        verified = {"email": "ada@example.org", "email_verified": True}
        found = {self.grant(each, **verified).user.id for each in (first, second)}
        self.assertEqual(found, {"people|ada@example.org"})
        self.assertNotIn(self.grant(**verified).user.id, found)

    def test_an_email_address_must_be_verified(self) -> None:
        provider = settings(user_claim="email")
        for verified in (False, None, "true", 1):
            self.assertRaises(
                Unauthorized, self.grant, provider, email="ada@example.org", email_verified=verified
            )

    def test_a_subject_is_a_printable_string(self) -> None:
        wrong = ("", " ", "a\nb", "a\x00", "\u202e", "a" * 256, "a" * 10_000)
        for subject in (*wrong, None, 5, True, ["ada"], {"a": 1}):
            self.assertRaises(Unauthorized, self.grant, sub=subject)
        self.assertEqual(self.grant(sub="a" * MAX_SUBJECT).user.subject, "a" * MAX_SUBJECT)

    def test_a_name_falls_back_to_what_can_be_displayed(self) -> None:
        names = {"preferred_username": "ada99", "nickname": "adi", "email": "ada@example.org"}
        self.assertEqual(self.grant(name=None, **names).user.name, "ada99")
        self.assertEqual(self.grant(name="a\x1b[2J", nickname="adi").user.name, "adi")
        self.assertEqual(self.grant(name=5, email="ada@example.org").user.name, "ada@example.org")
        self.assertEqual(self.grant(name="  ").user.name, "auth0|ada")
        self.assertEqual(self.grant(name="x" * 500).user.name, "x" * MAX_NAME)
        own = settings(name_claim="https://example.org/name")
        self.assertEqual(self.grant(own, **{"https://example.org/name": "A."}).user.name, "A.")

    def test_the_scope_serve_is_for_tokens_of_desktops(self) -> None:
        named: Any
        for named in ({"azp": "desktop"}, {"client_id": "desktop"}, {"aud": ["api", "desktop"]}):
            self.assertEqual(self.grant(**named).scopes, {USE, MANAGE, SERVE}, named)
        for named in (
            {},
            {"azp": "page"},
            {"client_id": "another", "aud": ["api", "desktop"]},
            {"azp": "desktop", "client_id": "another"},
            {"azp": ["desktop"]},
        ):
            self.assertEqual(self.grant(**named).scopes, {USE, MANAGE}, named)

    def test_the_time_of_authentication_is_never_later_than_the_token(self) -> None:
        issued = CLAIMS["iat"]
        self.assertEqual(self.grant(auth_time=issued - 500).auth_time, issued - 500)
        given_time: Any
        for given_time in (None, issued + 500, "1", True, -5, []):
            self.assertEqual(self.grant(auth_time=given_time).auth_time, issued, given_time)
        self.assertEqual(self.grant(iat=NOW + 20).auth_time, NOW)


class GroupTests(SynchronousTestCase):
    def test_a_claim_is_a_name_a_url_or_a_path(self) -> None:
        nested = {
            "groups": 1,
            "https://example.org/groups": 2,
            "realm_access": {"roles": 3},
            "a.b": 4,
            "a": {"b": 5},
        }
        for name, value in (
            ("groups", 1),
            ("https://example.org/groups", 2),
            ("realm_access.roles", 3),
            ("a.b", 4),
            ("realm_access.none", None),
            ("groups.x", None),
            ("missing", None),
        ):
            self.assertEqual(find_claim(nested, name), value, name)
        self.assertIsNone(
            find_claim({"https://example": {"org/groups": 1}}, "https://example.org/groups")
        )

    def test_groups_are_a_list_or_one_string(self) -> None:
        provider = settings(groups_claim="groups")
        for value, expected in (
            (["a", "b"], {"a", "b"}),
            ("a b", {"a b"}),
            (["a", 5, None, ["c"]], {"a"}),
            (None, set()),
            (5, set()),
            ({"a": 1}, set()),
        ):
            self.assertEqual(read_groups({"groups": value}, provider), expected)
        self.assertEqual(read_groups({"groups": ["a"]}, SETTINGS), frozenset())

    def test_who_is_in_no_allowed_group_is_refused_by_name(self) -> None:
        provider = settings(groups_claim="groups", allowed_groups=("staff", "friends"))
        self.assertEqual(read_grant(claims(groups=["friends"]), provider, {}, NOW).user.name, "Ada")
        for groups in ([], None, ["staf"], "staff friends", ["Staff"], [["staff"]]):
            error = self.assertRaises(
                GroupNotAllowed, read_grant, claims(groups=groups), provider, {}, NOW
            )
            self.assertEqual(error.user, User("https://login.example", "auth0|ada", "Ada"))
            self.assertIn("Ada is in no group", error.message)

    def test_the_tier_is_the_first_that_has_a_group_of_the_user(self) -> None:
        for groups, tier in (
            (("everyone", "admins"), "gold"),
            (("staff",), "gold"),
            (("everyone",), "plain"),
            (("others",), ""),
            ((), ""),
        ):
            self.assertEqual(find_tier(frozenset(groups), TIERS), tier)
        provider = settings(groups_claim="groups")
        self.assertEqual(
            read_grant(claims(groups=["everyone"]), provider, TIERS, NOW).tier, "plain"
        )

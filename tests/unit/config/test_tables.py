"""Tests of `ctllm.config.tables`: `[cloud.providers.NAME]` and `[cloud.tiers.NAME]`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import KEYS, OPTIONS, TABLES, Cloud, Config, Provider, Tier, load, to_options
from ctllm.errors import BadConfiguration

ENVIRON = {"HOME": "/home/ada", "CTLLM_CONFIG": "/dev/null"}
AUTH0 = """
[cloud.providers.auth0]
issuer = "https://tenant.auth0.com/"
client_id = "abc"
"""


class _Case(SynchronousTestCase):
    def file(self, text: str) -> Path:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return path

    def loaded(self, text: str) -> Config:
        return load(self.file(text), {}, ENVIRON)

    def assert_refused(self, text: str, expected: str) -> None:
        path = self.file(text)
        error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON)
        self.assertEqual(error.message, f"{path}{expected}")

    def assert_provider_refused(self, line: str, expected: str) -> None:
        self.assert_refused(AUTH0 + line, f", line 5: cloud.providers.auth0.{expected}")


class LoadTests(_Case):
    def test_a_provider_has_defaults_for_all_but_two_keys(self) -> None:
        expected = Provider(issuer="https://tenant.auth0.com/", client_id="abc")
        self.assertEqual(self.loaded(AUTH0).cloud, Cloud(providers={"auth0": expected}))
        self.assertEqual(expected.algorithms, ("RS256", "ES256"))
        self.assertEqual(expected.scope, "openid profile offline_access")
        self.assertEqual((expected.user_claim, expected.token), ("sub", "access_token"))

    def test_a_configuration_without_tables_has_no_providers(self) -> None:
        config = self.loaded("[cloud]\nmax_proxies = 5\n")
        self.assertEqual((config.cloud.providers, config.cloud.tiers), ({}, {}))

    def test_tables_keep_the_order_of_the_file(self) -> None:
        text = "".join(f'[cloud.tiers.{name}]\ngroups = ["{name}"]\n' for name in "zay")
        self.assertEqual(list(self.loaded(text).cloud.tiers), ["z", "a", "y"])

    def test_a_tier_has_limits_and_a_spawner(self) -> None:
        text = """
[cloud.tiers.staff]
groups = ["staff", "admins"]
requests_per_minute = 60
max_requests = 4
max_desktops = 2
spawner = "docker"
"""
        expected = Tier(
            groups=("staff", "admins"),
            requests_per_minute=60,
            max_requests=4,
            max_desktops=2,
            spawner="docker",
        )
        self.assertEqual(self.loaded(text).cloud.tiers, {"staff": expected})

    def test_accepts_dotted_keys_inline_tables_and_quoted_names(self) -> None:
        inline = '{issuer = "https://a.example", client_id = "a"}'
        for text in (
            f"[cloud]\nproviders = {{a = {inline}}}",
            f"cloud.providers.a = {inline}",
            '["cloud"."providers" . "a"]\nissuer = "https://a.example"\nclient_id = "a"\n',
        ):
            self.assertEqual(self.loaded(text).cloud.providers["a"].client_id, "a")

    def test_no_key_of_a_table_is_an_option(self) -> None:
        self.assertEqual(set(TABLES), {"cloud.providers", "cloud.tiers"})
        self.assertFalse(set(TABLES) & set(KEYS))
        self.assertFalse({"issuer", "providers", "tiers", "client-id"} & set(OPTIONS))
        provider = Provider(issuer="https://a.example", client_id="a")
        self.assertEqual(to_options(Cloud(providers={"a": provider})), to_options(Cloud()))
        for keys in TABLES.values():
            for key in keys.values():
                self.assertTrue(key.description.endswith("."), key.name)


class RefusalTests(_Case):
    def test_names_file_line_and_key(self) -> None:
        self.assert_refused(
            '\n[cloud.providers.auth0]\nclient_id = "abc"\nissuer = 5\n',
            ", line 4: cloud.providers.auth0.issuer: must be a string",
        )

    def test_a_wrong_key_gets_a_suggestion(self) -> None:
        self.assert_provider_refused(
            'client_idd = "x"', 'client_idd: no such key; did you mean "client_id"?'
        )
        self.assert_refused("[cloud.tiers.a]\nx = 1\n", ", line 2: cloud.tiers.a.x: no such key")

    def test_a_provider_needs_an_issuer_and_a_client_id(self) -> None:
        self.assert_refused(
            '[cloud.providers.a]\nissuer = "https://a.example"\n',
            ", line 1: [cloud.providers.a]: client_id must be set",
        )
        self.assert_refused(
            '[cloud.providers.a]\nclient_id = "a"\n',
            ", line 1: [cloud.providers.a]: issuer must be set",
        )
        self.assert_refused(
            '[cloud.providers.a]\nissuer = "https://a.example"\nclient_id = ""\n',
            ", line 3: cloud.providers.a.client_id: must be a string that is not empty",
        )

    def test_a_tier_needs_groups(self) -> None:
        self.assert_refused(
            "[cloud.tiers.a]\nmax_requests = 1\n",
            ", line 1: [cloud.tiers.a]: groups must be set",
        )
        self.assert_refused(
            "[cloud.tiers.a]\ngroups = []\n",
            ", line 2: cloud.tiers.a.groups: groups must be set",
        )

    def test_tables_are_tables(self) -> None:
        self.assert_refused(
            "[cloud]\nproviders = 5\n",
            ", line 2: [cloud.providers]: must be a section with tables of its own",
        )
        self.assert_refused(
            '[cloud.providers]\nissuer = "https://a.example"\n',
            ", line 2: [cloud.providers.issuer]: must be a table with keys of its own",
        )

    def test_names_are_lower_case_words(self) -> None:
        rule = "must have a name of at most 32 characters: a-z first, then a-z, 0-9 and -"
        for name in ("Auth0", "0a", "a_b", '"a.b"', "a" * 33):
            shown = name.strip('"')
            self.assert_refused(
                f"[cloud.tiers.{name}]\n", f", line 1: [cloud.tiers.{shown}]: {rule}"
            )

    def test_an_issuer_is_an_https_url_unless_it_is_on_this_machine(self) -> None:
        for issuer in (
            "https://a.example",
            "https://a.example/",
            "https://a.example/realms/b",
            "https://a.example:8443/",
            "http://localhost:1",
            "http://127.0.0.1:1/a",
            "http://[::1]:1",
        ):
            text = f'[cloud.providers.a]\nissuer = "{issuer}"\nclient_id = "a"\n'
            self.assertEqual(self.loaded(text).cloud.providers["a"].issuer, issuer)
        url = (
            "must be the issuer's URL without user, query or fragment, such as "
            "https://login.example.org/"
        )
        https = "must begin with https://, unless the provider is on this machine"
        for issuer, expected in (
            ("ctllm", url),
            ("https://ada:x@a.example", url),
            ("https://a.example/?x", url),
            ("https://a.example#x", url),
            ("https://a.example/a|b", url),
            ("ftp://a.example", url),
            ("http://a.example", https),
            ("http://127.0.0.1.example", https),
            ("http://localhost.example", https),
        ):
            self.assert_refused(
                f'[cloud.providers.a]\nissuer = "{issuer}"\nclient_id = "a"\n',
                f", line 2: cloud.providers.a.issuer: {expected}",
            )

    def test_only_asymmetric_algorithms_are_allowed(self) -> None:
        known = "ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512"
        for name in ("none", "HS256", "HS512", "rs256", "RS1", ""):
            self.assert_provider_refused(
                f'algorithms = ["{name}"]', f"algorithms: must be of {known}"
            )
        self.assert_provider_refused(
            "algorithms = []", "algorithms: must have at least one algorithm"
        )
        accepted = self.loaded(f"{AUTH0}algorithms = {known.split(', ')}")
        self.assertEqual(len(accepted.cloud.providers["auth0"].algorithms), 9)

    def test_no_provider_authenticates_the_users_of_invites(self) -> None:
        for name in ("ctllm", "a|b", r"a\nb"):
            self.assert_provider_refused(
                f'namespace = "{name}"',
                'namespace: must be in one line, without "|", and not "ctllm"',
            )

    def test_allowed_groups_need_a_claim(self) -> None:
        self.assert_provider_refused(
            'allowed_groups = ["staff"]',
            "allowed_groups: needs groups_claim, the claim with a user's groups",
        )

    def test_claims_have_names(self) -> None:
        shown = (
            "must be the name of a claim, such as groups, realm_access.roles or "
            "https://example.org/groups"
        )
        for key in ("user_claim", "name_claim", "groups_claim"):
            for name in ("a b", ".a", "a.", r"a\u0000"):
                self.assert_provider_refused(f'{key} = "{name}"', f"{key}: {shown}")
        self.assert_provider_refused('user_claim = ""', "user_claim: must be the name of a claim")

    def test_two_providers_have_two_issuers(self) -> None:
        """A trailing slash makes no difference, nor does an audience."""
        self.assert_refused(
            f"""{AUTH0}
[cloud.providers.b]
client_id = "b"
audience = "b"
issuer = "https://tenant.auth0.com"
""",
            ", line 9: cloud.providers.b.issuer: cloud.providers.auth0 has the same issuer",
        )

"""Tokens to grants: the built-in issuer, API keys, and many kinds behind one face."""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine
from dataclasses import replace

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import generate_key, hash_key, owner_tag, parse_owner_tag
from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity import (
    AccessGrant,
    AccessTokenIssuer,
    ApiKeyLeases,
    AssertionSigner,
    CachingTokenVerifier,
    CompositeTokenVerifier,
    User,
)
from ctllm.cloud.identity.access_token_issuer import ACCESS_TOKEN
from ctllm.errors import BadRequest, Forbidden, Unauthorized

ALICE = User("ctllm", "alice", "Alice")
MALLORY = User("ctllm", "mallory", "Mallory")
USE = frozenset({"use"})
START = 1_000_000.0
SERVING = AccessGrant(ALICE, frozenset({"use", "serve"}), START + 600, START, ("d",))
STRANGER = AccessGrant(MALLORY, frozenset({"use", "serve"}), START + 600, START)


class Case(SynchronousTestCase):
    """A clock, and coroutines that do not wait."""

    def setUp(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    def got(self, coroutine: Coroutine[Deferred[object], object, AccessGrant]) -> AccessGrant:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refused(self, coroutine: Coroutine[Deferred[object], object, AccessGrant]) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), Unauthorized)
        return str(failure.value)


class UserTests(SynchronousTestCase):
    """Who somebody is."""

    def test_key_is_unique(self) -> None:
        """Subjects may hold a bar; an issuer with one could make two users the same."""
        self.assertEqual(User("https://i/", "auth0|1", "A").id, "https://i/|auth0|1")
        for issuer, subject in (("https://i/|auth0", "1"), ("", "1"), ("i", "")):
            self.assertRaises(ValueError, User, issuer, subject, "A")

    def test_name_is_no_identity(self) -> None:
        """Another name is the same person."""
        self.assertEqual(User("i", "1", "A").id, User("i", "1", "B").id)

    def test_require(self) -> None:
        """What a grant does not hold is forbidden, by name."""
        grant = AccessGrant(ALICE, USE, START, START)
        grant.require_scope("use")
        self.assertIn(
            "'manage'", self.assertRaises(Forbidden, grant.require_scope, "manage").message
        )


class IssuerTests(Case):
    """Access tokens of the built-in issuer."""

    def setUp(self) -> None:
        super().setUp()
        self.key = Ed25519PrivateKey.generate()
        self.issuer = AccessTokenIssuer(self.key, self.now)

    def claims(self, **changes: object) -> dict[str, object]:
        claims: dict[str, object] = {
            "iss": "ctllm",
            "aud": "ctllm-cloud",
            "sub": "alice",
            "name": "Alice",
            "scope": "use",
            "iat": int(START),
            "exp": int(START) + 600,
            "jti": "1",
        }
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not None}

    def signed(self, **changes: object) -> str:
        return ACCESS_TOKEN.sign(self.key, json.dumps(self.claims(**changes)).encode())

    def test_round(self) -> None:
        """What was issued grants the same user and scopes for ten minutes."""
        token = self.issuer.issue(ALICE, frozenset({"use", "manage"}))
        self.assertTrue(self.issuer.matches(token))
        grant = self.got(self.issuer.verify(token))
        self.assertEqual(
            grant, AccessGrant(ALICE, frozenset({"use", "manage"}), START + 600, START)
        )

    def test_standard(self) -> None:
        """An independent implementation of JWT reads it."""
        self.time = time.time()
        token = self.issuer.issue(ALICE, USE)
        public = self.key.public_key()
        read = jwt.decode(token, public, algorithms=["EdDSA"], audience="ctllm-cloud")
        self.assertEqual((read["sub"], read["name"], read["scope"]), ("alice", "Alice", "use"))

    def test_never_twice_the_same(self) -> None:
        """Two tokens of one second differ."""
        self.assertNotEqual(self.issuer.issue(ALICE, USE), self.issuer.issue(ALICE, USE))

    def test_only_its_own(self) -> None:
        """It vouches for nobody else's users and for no scope that it does not know."""
        other = User("https://i/", "alice", "Alice")
        self.assertRaises(ValueError, self.issuer.issue, other, USE)
        self.assertRaises(ValueError, self.issuer.issue, ALICE, frozenset({"root"}))

    def test_wrong_claims(self) -> None:
        """Any claim that is wrong, missing, foreign or of another type is refused."""
        self.got(self.issuer.verify(self.signed()))
        for changes in (
            {"iss": "other"},
            {"aud": "ctllm-proxy-1"},
            {"aud": ["ctllm-cloud"]},
            {"sub": ""},
            {"sub": None},
            {"scope": "use root"},
            {"exp": None},
            {"iat": None},
            {"jti": None},
            {"exp": "9999999999"},
            {"admin": True},
        ):
            self.refused(self.issuer.verify(self.signed(**changes)))

    def test_age(self) -> None:
        """Too old and too new are refused, each with its reason: by five and by thirty seconds."""
        token = self.issuer.issue(ALICE, USE)
        self.time = START + 604
        self.got(self.issuer.verify(token))
        self.time = START + 605
        self.assertIn("expired", self.refused(self.issuer.verify(token)))
        self.time = START - 30
        self.got(self.issuer.verify(token))
        self.time = START - 31
        self.assertIn("clocks", self.refused(self.issuer.verify(token)))

    def test_forged(self) -> None:
        """Unsigned, signed with the public key as a secret, by another key, of another type."""
        public = self.key.public_key().public_bytes_raw()
        typ = {"typ": "ctllm-access+jwt"}
        for forged in (
            jwt.encode(self.claims(), None, algorithm="none", headers=typ),
            jwt.encode(self.claims(), public, algorithm="HS256", headers=typ),
            jwt.encode(self.claims(), Ed25519PrivateKey.generate(), "EdDSA", headers=typ),
            jwt.encode(self.claims(), self.key, "EdDSA"),
            self.signed().rpartition(".")[0] + ".",
            self.signed()[:-1],
            "",
        ):
            self.refused(self.issuer.verify(forged))

    def test_same_token_by_other_hands(self) -> None:
        """The forgeries above fail for what is wrong in them: made rightly by PyJWT, one passes."""
        typ = {"typ": "ctllm-access+jwt"}
        self.got(self.issuer.verify(jwt.encode(self.claims(), self.key, "EdDSA", headers=typ)))

    def test_assertion_is_no_access_token(self) -> None:
        """What a proxy is shown does not open the cloud, although one key signs both."""
        assertion = AssertionSigner(self.key, self.now).sign("ctllm-proxy-1", USE)
        self.assertFalse(self.issuer.matches(assertion))
        self.refused(self.issuer.verify(assertion))

    def test_giant(self) -> None:
        """More than 8 KiB is refused for its length."""
        giant = self.signed(name="a" * MAX_TOKEN_SIZE)
        self.assertIn("too long", self.refused(self.issuer.verify(giant)))


class Counting:
    """An Identity that owns what begins with its prefix and counts what it is asked."""

    def __init__(self, prefix: str, expires: float) -> None:
        self.prefix = prefix
        self.expires = expires
        self.asked: list[str] = []
        self.refuses = False

    def matches(self, token: str) -> bool:
        return token.startswith(self.prefix)

    async def verify(self, token: str) -> AccessGrant:
        self.asked.append(token)
        if self.refuses:
            raise Unauthorized("No.")
        return AccessGrant(User("i", token, ""), USE, self.expires, START)


class IdentitiesTests(Case):
    """Many kinds of tokens behind one face."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = Counting("a", START + 10), Counting("b", START + 10)
        self.both = CompositeTokenVerifier([self.a, self.b])

    def test_asks_only_the_owner(self) -> None:
        """A token goes to the kind that owns it and to no other."""
        self.assertEqual(self.got(self.both.verify("b1")).user.subject, "b1")
        self.assertEqual((self.a.asked, self.b.asked), ([], ["b1"]))

    def test_nobodys(self) -> None:
        """A token of no kind is refused with what to do."""
        self.assertFalse(self.both.matches("c"))
        self.assertIn("Log in", self.refused(self.both.verify("c")))
        self.assertIn("Log in", self.refused(self.both.verify("")))

    def test_refusal_is_final(self) -> None:
        """What its owner refuses is not offered to the next kind."""
        self.a.refuses = True
        late = Counting("a", START + 10)
        self.refused(CompositeTokenVerifier([self.a, late]).verify("a"))
        self.assertEqual(late.asked, [])

    def test_giant(self) -> None:
        """Nobody is asked about more than 8 KiB."""
        self.refused(self.both.verify("a" * (MAX_TOKEN_SIZE + 1)))
        self.assertEqual(self.a.asked, [])


class RememberedTests(Case):
    """Grants are remembered, for no longer than they last."""

    def setUp(self) -> None:
        super().setUp()
        self.kind = Counting("a", START + 10)
        self.remembered = CachingTokenVerifier(self.kind, self.now, max_grants=2)

    def test_asks_once(self) -> None:
        """The same token is verified once; another one is another."""
        for token in ("a1", "a1", "a2", "a1"):
            self.assertEqual(self.got(self.remembered.verify(token)).user.subject, token)
        self.assertEqual(self.kind.asked, ["a1", "a2"])

    def test_until_it_expires(self) -> None:
        """From the very second of its end a grant is asked for again."""
        self.got(self.remembered.verify("a1"))
        self.time = START + 10
        self.kind.refuses = True
        self.refused(self.remembered.verify("a1"))

    def test_expired_at_once(self) -> None:
        """A grant that ends as it is given is not remembered."""
        self.kind.expires = START
        self.got(self.remembered.verify("a1"))
        self.got(self.remembered.verify("a1"))
        self.assertEqual(len(self.kind.asked), 2)

    def test_refusals_are_not_remembered(self) -> None:
        """Who was refused is asked about anew."""
        self.kind.refuses = True
        self.refused(self.remembered.verify("a1"))
        self.kind.refuses = False
        self.got(self.remembered.verify("a1"))

    def test_not_text(self) -> None:
        """A token that is not even UTF-8 reaches its kind's refusal."""
        self.kind.refuses = True
        self.refused(self.remembered.verify("a\udcff"))


class KeyTextTests(SynchronousTestCase):
    """API keys as text."""

    def test_form(self) -> None:
        """A key begins with its kind and its owner's tag, and no two are the same."""
        key = generate_key(ALICE.id)
        self.assertTrue(key.startswith(f"ctllm-k-{owner_tag(ALICE.id)}-"))
        self.assertEqual(parse_owner_tag(key), owner_tag(ALICE.id))
        self.assertNotEqual(key, generate_key(ALICE.id))

    def test_not_a_key(self) -> None:
        """Text of another form has no tag."""
        key = generate_key(ALICE.id)
        longer = key.replace("-k-", "-k-0")
        for text in ("", "ctllm-k-", key[:-1], key + "a", key + "\n", key.upper(), longer):
            self.assertIsNone(parse_owner_tag(text))


class ApiKeysTests(Case):
    """API keys, good while a desktop of their owner vouches for them."""

    def setUp(self) -> None:
        super().setUp()
        self.keys = ApiKeyLeases(self.now)
        self.key = generate_key(ALICE.id)
        self.digest = hash_key(self.key)

    def test_use_only(self) -> None:
        """A key grants its owner's models and nothing else, until the lease ends."""
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.assertTrue(self.keys.matches(self.key))
        grant = AccessGrant(ALICE, USE, START + 60, START, ("d",))
        self.assertEqual(self.got(self.keys.verify(self.key)), grant)

    def test_unknown(self) -> None:
        """A key that nobody vouches for is refused, as is any other text."""
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        for text in (
            generate_key(ALICE.id),
            generate_key(MALLORY.id),
            self.digest,
            "ctllm-k-",
            "\udcff",
        ):
            self.refused(self.keys.verify(text))

    def test_keys_that_may_manage(self) -> None:
        """The desktop says which of its keys do; naming one that it does not vouch for does not."""
        other = generate_key(ALICE.id)
        self.keys.lease(SERVING, "d1", [self.digest], 60, [self.digest, hash_key(other)])
        grant = self.got(self.keys.verify(self.key))
        self.assertEqual(grant.scopes, frozenset({"use", "manage"}))
        self.refused(self.keys.verify(other))
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.assertEqual(self.got(self.keys.verify(self.key)).scopes, USE)

    def test_lease_ends(self) -> None:
        """The lease's end is the key's, to the second; renewed in time it goes on."""
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.time = START + 59
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.time = START + 118
        self.got(self.keys.verify(self.key))
        self.time = START + 119
        self.refused(self.keys.verify(self.key))

    def test_revoked_at_once(self) -> None:
        """The next lease without a key's hash ends the key, even behind all kinds."""
        both = CompositeTokenVerifier([self.keys])
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.got(both.verify(self.key))
        self.keys.lease(SERVING, "d1", [], 60)
        self.refused(both.verify(self.key))

    def test_stolen_hash(self) -> None:
        """Somebody else's desktop that claims the hash gets nothing: neither alone nor beside."""
        self.keys.lease(STRANGER, "d1", [self.digest], 60)
        self.refused(self.keys.verify(self.key))
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.assertEqual(self.got(self.keys.verify(self.key)).user, ALICE)
        self.keys.lease(STRANGER, "d1", [], 60)
        self.keys.remove_where(lambda each: each.user == MALLORY)
        self.assertEqual(self.got(self.keys.verify(self.key)).user, ALICE)

    def test_wrong_tag(self) -> None:
        """A key that carries another owner's tag is refused although its hash is vouched for."""
        foreign = generate_key(MALLORY.id)
        self.keys.lease(SERVING, "d1", [hash_key(foreign)], 60)
        self.refused(self.keys.verify(foreign))

    def test_release(self) -> None:
        """A desktop that leaves takes its keys along, and not those of another desktop."""
        other = generate_key(ALICE.id)
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.keys.lease(replace(SERVING, session_ids=("e",)), "d2", [hash_key(other)], 60)
        self.keys.remove_where(lambda each: each.session_ids == ("d",))
        self.refused(self.keys.verify(self.key))
        self.got(self.keys.verify(other))

    def test_shared_key(self) -> None:
        """A key that two desktops vouch for lives until both are gone."""
        self.keys.lease(SERVING, "d1", [self.digest], 10)
        self.keys.lease(SERVING, "d2", [self.digest], 60)
        self.time = START + 30
        self.got(self.keys.verify(self.key))

    def test_bounds(self) -> None:
        """A hundred hashes and no more; a refused lease leaves the old one."""
        many = [f"{n:064x}" for n in range(101)]
        self.keys.lease(SERVING, "d1", [*many[:99], self.digest], 60)
        self.assertRaises(BadRequest, self.keys.lease, SERVING, "d1", many, 60)
        self.got(self.keys.verify(self.key))

    def test_no_hash(self) -> None:
        """What is not a hex SHA-256 is refused."""
        for text in ("", "A" * 64, "0" * 63, "0" * 64 + "\n", self.key):
            self.assertRaises(BadRequest, self.keys.lease, SERVING, "d1", [text], 60)

    def test_desktops(self) -> None:
        """Thirty-two desktops a user; the known go on, an ended one makes room."""
        for n in range(32):
            self.keys.lease(SERVING, f"d{n}", [], 60 + n)
        self.assertRaises(Forbidden, self.keys.lease, SERVING, "new", [], 60)
        self.keys.lease(SERVING, "d1", [self.digest], 60)
        self.keys.lease(STRANGER, "new", [], 60)
        self.time = START + 60
        self.keys.lease(SERVING, "new", [self.digest], 60)
        self.got(self.keys.verify(self.key))

"""The session assertion: a proxy believes what the cloud signed for it, and nothing else."""

from __future__ import annotations

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth import jws
from ctllm.auth.session_assertions import ASSERTION, LIFETIME_SECONDS, AssertionVerifier
from ctllm.cloud.identity import AccessTokenIssuer, AssertionSigner, User
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import BadConfiguration, Forbidden, Unauthorized

PROXY = "ctllm-proxy-0123456789abcdef0123456789abcdef"
USE = frozenset({"use"})
START = 1_000_000.0


def body(**changes: object) -> dict[str, object]:
    """Give the claims of a good assertion made at START, with `changes`; None leaves one out."""
    claims: dict[str, object] = {
        "iss": "ctllm",
        "sub": "0123456789abcdef0123456789abcdef",
        "aud": PROXY,
        "scope": "use",
        "iat": int(START),
        "exp": int(START) + LIFETIME_SECONDS,
    }
    claims.update(changes)
    return {name: value for name, value in claims.items() if value is not None}


class Case(SynchronousTestCase):
    """A cloud's key, a proxy that trusts it, and a clock that both look at."""

    def setUp(self) -> None:
        self.time = START
        self.key = Ed25519PrivateKey.generate()
        self.assertions = AssertionSigner(self.key, self.now)
        self.verifier = AssertionVerifier(jws.encode_public_key(self.key), PROXY, self.now)

    def now(self) -> float:
        return self.time

    def signed(self, **changes: object) -> str:
        return ASSERTION.sign(self.key, json.dumps(body(**changes)).encode())

    def refused(self, token: str | bytes) -> str:
        return self.assertRaises(Unauthorized, self.verifier.verify, token).message


class VerifierTests(Case):
    """What a proxy takes."""

    def test_believes_the_cloud(self) -> None:
        """An assertion for this proxy gives the user's hash, the scopes and the end."""
        claims = self.verifier.verify(self.assertions.sign(PROXY, USE))
        self.assertEqual(claims.subject, PROXY.removeprefix("ctllm-proxy-"))
        self.assertEqual(claims.scopes, USE)
        self.assertEqual(claims.expires, START + LIFETIME_SECONDS)

    def test_text_and_bytes(self) -> None:
        """Header values may come as bytes or text."""
        token = self.assertions.sign(PROXY, USE)
        self.assertEqual(self.verifier.verify(token), self.verifier.verify(token.encode()))

    def test_serve(self) -> None:
        """Serving is said only if it was granted, and other scopes stay in the cloud."""
        token = self.assertions.sign(PROXY, frozenset({"use", "serve", "manage"}))
        self.assertEqual(self.verifier.verify(token).scopes, {"use", "serve"})

    def test_good_body_is_good(self) -> None:
        """The forgeries below start from a body that passes unchanged."""
        self.verifier.verify(self.signed())

    def test_wrong_claims(self) -> None:
        """Any claim that is wrong, missing, foreign or of another type is refused."""
        for changes in (
            {"iss": "other"},
            {"aud": PROXY + "0"},
            {"aud": [PROXY]},
            {"aud": None},
            {"scope": "serve"},
            {"scope": "manage"},
            {"scope": "use manage serve"},
            {"scope": "serve use"},
            {"exp": None},
            {"iat": None},
            {"exp": str(int(START) + LIFETIME_SECONDS)},
            {"admin": True},
        ):
            self.refused(self.signed(**changes))

    def test_expired(self) -> None:
        """Five seconds after its end an assertion is refused, with that reason."""
        token = self.signed()
        self.time = START + LIFETIME_SECONDS + 4
        self.verifier.verify(token)
        self.time = START + LIFETIME_SECONDS + 5
        self.assertIn("expired", self.refused(token))

    def test_known_expires(self) -> None:
        """Having been verified before does not make an assertion live longer."""
        token = self.signed()
        self.verifier.verify(token)
        self.time = START + LIFETIME_SECONDS + 5
        self.assertIn("expired", self.refused(token))

    def test_future(self) -> None:
        """The verifier's clock may be thirty seconds slow, and no more."""
        self.verifier.verify(self.signed(iat=int(START) + 30))
        self.assertIn("clocks", self.refused(self.signed(iat=int(START) + 31)))

    def test_times_that_no_clock_shows(self) -> None:
        """They are no times, though they are numbers in JSON."""
        for far in ({"exp": 2**53 + 1}, {"exp": 10**400}, {"iat": 10**400}):
            self.refused(self.signed(**far))

    def test_alg_none(self) -> None:
        """An unsigned token is refused, whatever its header calls it."""
        for typ in ("JWT", "ctllm-assertion+jwt"):
            forged = jwt.encode(body(), None, algorithm="none", headers={"typ": typ})
            self.refused(forged)

    def test_public_key_as_secret(self) -> None:
        """A MAC keyed with the public key is no signature."""
        public = self.key.public_key().public_bytes_raw()
        for secret in (public, jws.encode_base64url(public).encode()):
            headers = {"typ": "ctllm-assertion+jwt"}
            self.refused(jwt.encode(body(), secret, algorithm="HS256", headers=headers))

    def test_unsigned_under_right_header(self) -> None:
        """The right header with no, a short, or a random signature is refused."""
        signed = self.signed().rpartition(".")[0]
        for signature in (
            "",
            "AA",
            jws.encode_base64url(bytes(64)),
            jws.encode_base64url(bytes(65)),
        ):
            self.refused(f"{signed}.{signature}")
        self.refused(signed)

    def test_other_key(self) -> None:
        """Another cloud's assertion is refused."""
        stranger = Ed25519PrivateKey.generate()
        self.refused(AssertionSigner(stranger, self.now).sign(PROXY, USE))

    def test_other_type(self) -> None:
        """The same claims under another `typ`, or under more header fields, are refused."""
        for headers in ({"typ": "JWT"}, {"typ": "ctllm-assertion+jwt", "kid": "1"}):
            self.refused(jwt.encode(body(), self.key, algorithm="EdDSA", headers=headers))

    def test_access_token_is_no_assertion(self) -> None:
        """What a person holds does not pass at a proxy, although one key signs both."""
        user = User("ctllm", "alice", "alice")
        self.refused(AccessTokenIssuer(self.key, self.now).issue(user, USE))

    def test_every_prefix_and_flip(self) -> None:
        """No token that was cut or changed anywhere passes, not even where only padding changed."""
        token = self.signed()
        for cut in range(len(token)):
            self.refused(token[:cut])
            other = "B" if token[cut] != "B" else "C"
            self.refused(token[:cut] + other + token[cut + 1 :])

    def test_one_spelling(self) -> None:
        """A signature spelt another way (padding, spare bits, foreign signs) is refused."""
        token = self.signed()
        spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = spare[spare.index(token[-1]) + 1]
        for spelling in (token + "=", token + "==", token + "\n", token[:-1] + "!" + token[-1]):
            self.refused(spelling)
        self.refused(token[:-1] + last)

    def test_not_text(self) -> None:
        """Bytes and characters that no token has are refused, not tripped over."""
        for token in (b"\xff\xfe", b"", b"..", "\udcff", "é.é.é", "a.b.c", "\x00" * 10):
            self.refused(token)

    def test_giant(self) -> None:
        """More than 8 KiB is refused for its length before anything is read."""
        self.assertIn("longer than", self.refused(self.signed() + "A" * jws.MAX_TOKEN_SIZE))
        self.assertIn("longer than", self.refused(self.signed(scope="u" * jws.MAX_TOKEN_SIZE)))

    def test_bad_public_key(self) -> None:
        """A public key that is none stops the start, with a sentence."""
        for text in ("", "AA", "!" * 43, jws.encode_base64url(bytes(33)), "é" * 43):
            error = self.assertRaises(BadConfiguration, AssertionVerifier, text, PROXY, self.now)
            self.assertIn("public key", error.message)


class AssertionsTests(Case):
    """What the cloud signs."""

    def test_standard(self) -> None:
        """An independent implementation of JWT reads the same from it."""
        self.time = time.time()
        token = self.assertions.sign(PROXY, USE)
        claims = jwt.decode(token, self.key.public_key(), algorithms=["EdDSA"], audience=PROXY)
        self.assertEqual(claims, body(iat=int(self.time), exp=int(self.time) + LIFETIME_SECONDS))
        self.assertEqual(jwt.get_unverified_header(token)["typ"], "ctllm-assertion+jwt")

    def test_again_for_half_its_life(self) -> None:
        """The same assertion is given until half of its life is over, then a new one."""
        first = self.assertions.sign(PROXY, USE)
        self.time = START + LIFETIME_SECONDS / 2 - 1
        self.assertEqual(self.assertions.sign(PROXY, USE), first)
        self.time = START + LIFETIME_SECONDS / 2
        self.assertEqual(
            self.verifier.verify(self.assertions.sign(PROXY, USE)).expires,
            self.time + LIFETIME_SECONDS,
        )

    def test_never_somebody_elses(self) -> None:
        """Neither another proxy nor another scope gets what was signed before."""
        made = {
            self.assertions.sign(proxy, scopes)
            for proxy in (PROXY, PROXY[:-1] + "0")
            for scopes in (USE, frozenset({"use", "serve"}))
        }
        self.assertEqual(len(made), 4)

    def test_no_use(self) -> None:
        """Who may not use models gets no assertion."""
        self.assertRaises(Forbidden, self.assertions.sign, PROXY, frozenset({"serve"}))


class RecentTests(SynchronousTestCase):
    """A memory with an end and a bound."""

    def setUp(self) -> None:
        self.time = 0.0
        self.recent: TtlCache[str, int] = TtlCache(2, lambda: self.time)

    def test_until_its_time(self) -> None:
        """A value is there until its time and not at it; then it takes no room either."""
        self.recent.put("a", 1, 10)
        self.time = 9.9
        self.assertEqual(self.recent.get("a"), 1)
        self.time = 10
        self.assertIsNone(self.recent.get("a"))
        self.assertEqual(len(self.recent), 0)

    def test_least_recently_used_goes(self) -> None:
        """The value that was not asked for the longest makes room."""
        self.recent.put("a", 1, 10)
        self.recent.put("b", 2, 10)
        self.recent.get("a")
        self.recent.put("c", 3, 10)
        self.assertEqual([self.recent.get(key) for key in "abc"], [1, None, 3])

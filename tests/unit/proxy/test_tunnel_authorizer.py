"""The authorization of tunnels, which desktops renew in band."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import LIFETIME_SECONDS, SERVE, USE
from ctllm.cloud.identity import AssertionSigner
from ctllm.errors import Forbidden, Unauthorized
from ctllm.proxy.assignment import Assignment
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.tunnel_authorizer import GRACE, TunnelAuthorizer
from ctllm.tunnel.frames import FrameKind, split_frames
from tests.unit.fakes import FakeDesktop
from tests.unit.proxy.registry_case import OK, RegistryCase

PROXY = "ctllm-proxy-" + "a" * 32
OTHER = "ctllm-proxy-" + "b" * 32
#: The difference between the wall clock and the monotonic clock.
EPOCH = 1_700_000_000.0
SERVING = frozenset({USE, SERVE})


class AuthorizationCase(RegistryCase):
    """A registry that verifies authorizations, and the cloud that signs them."""

    def setUp(self) -> None:
        super().setUp()
        self.key = Ed25519PrivateKey.generate()
        assignment = Assignment(encode_public_key(self.key), PROXY, self.now)
        self.authorizer = TunnelAuthorizer(assignment, self.clock, self.now)
        self.registry = DesktopRegistry(
            self.clock, 1 << 18, 30, 4, 60, verify_authorization=self.authorizer.verify
        )

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def sign(self, proxy: str = PROXY, scopes: frozenset[str] = SERVING) -> str:
        return AssertionSigner(self.key, self.now).sign(proxy, scopes)

    def authorized_desk(self) -> FakeDesktop:
        """Return a desktop that connected with a session assertion of now."""
        desk = self.desk()
        desk.lose(self.clock.seconds())
        desk.connect(authorized_until=self.authorizer.verify(self.sign().encode()))
        return desk

    def closing_codes(self, desk: FakeDesktop) -> list[bytes]:
        frames = [next(split_frames(each)) for each in desk.socket.closing_messages]
        assert all(kind == FrameKind.BYE for kind, _, _ in frames)
        return [payload for _, _, payload in frames]


class TunnelAuthorizerTests(AuthorizationCase):
    def test_deadline_is_the_expiry_and_the_grace(self) -> None:
        self.clock.advance(50)
        until = self.authorizer.verify(self.sign().encode())
        self.assertEqual(until, 50 + LIFETIME_SECONDS + GRACE)

    def test_refuses_an_assertion_without_serve(self) -> None:
        for scopes in ({USE}, {USE, "manage"}):
            token = self.sign(scopes=frozenset(scopes)).encode()
            self.assertRaises(Forbidden, self.authorizer.verify, token)

    def test_refuses_an_assertion_for_another_proxy_or_an_expired_one(self) -> None:
        self.assertRaises(Unauthorized, self.authorizer.verify, self.sign(OTHER).encode())
        token = self.sign().encode()
        self.clock.advance(LIFETIME_SECONDS + 5)
        self.assertRaises(Unauthorized, self.authorizer.verify, token)


class RenewalTests(AuthorizationCase):
    def test_closes_a_tunnel_that_is_not_renewed(self) -> None:
        desk = self.authorized_desk()
        self.wait(LIFETIME_SECONDS + GRACE - 2)
        self.assertEqual(self.closing_codes(desk), [])
        self.wait(3)
        (reason,) = self.closing_codes(desk)
        self.assertIn(b'"unauthenticated"', reason)

    def test_renewed_tunnel_stays_connected_with_its_streams(self) -> None:
        desk = self.authorized_desk()
        heard = self.open()
        desk.sinks[0].write_head(OK)
        for _ in range(40):
            self.wait(60)
            desk.tunnel.send_authorization(self.sign())
            desk.settle()
        self.assertEqual(self.closing_codes(desk), [])
        desk.sinks[0].write(b"the end.")
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"the end.", "end"))

    def test_invalid_authorization_extends_nothing(self) -> None:
        forged = AssertionSigner(Ed25519PrivateKey.generate(), self.now).sign(PROXY, SERVING)
        for bad in (self.sign(OTHER), self.sign(scopes=frozenset({USE})), forged, "x", ""):
            desk = self.authorized_desk()
            self.wait(LIFETIME_SECONDS)
            desk.tunnel.send_authorization(bad)
            desk.settle()
            self.assertTrue(desk.tunnel.is_established, bad)
            self.wait(GRACE + 2)
            self.assertEqual(len(self.closing_codes(desk)), 1, bad)
            self.desks.remove(desk)
            desk.lose(self.clock.seconds())
            self.registry.remove_expired()

    def test_earlier_authorization_does_not_shorten_a_later_one(self) -> None:
        desk = self.authorized_desk()
        old = self.sign()
        self.wait(LIFETIME_SECONDS - 10)
        for assertion in (self.sign(), old):
            desk.tunnel.send_authorization(assertion)
            desk.settle()
        self.wait(LIFETIME_SECONDS + GRACE - 5)
        self.assertEqual(self.closing_codes(desk), [])

    def test_new_connection_has_the_authorization_of_its_own_handshake(self) -> None:
        desk = self.authorized_desk()
        desk.lose(self.clock.seconds())
        desk.connect(authorized_until=self.clock.seconds() + 5)
        self.wait(6)
        self.assertEqual(len(self.closing_codes(desk)), 1)

"""A proxy that waits: it accepts one assignment, and before it nothing else."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.session_assertions import SERVE, USE
from ctllm.cloud.identity import AssertionSigner
from ctllm.errors import Unauthorized
from ctllm.proxy.tunnel_authorizer import TunnelAuthorizer
from tests.unit.proxy.test_app import ELSEWHERE, HERE, Case

POST = "POST /ctllm/control/assignment"


class WaitingProxyTests(Case):
    """The proxy HERE waits. The cloud assigns it to the user of ELSEWHERE."""

    is_waiting = True

    def assignment(self, key: Ed25519PrivateKey | None = None, user: str = ELSEWHERE) -> str:
        return AssertionSigner(key or self.key, self.clock.seconds).sign_assignment(HERE, user)

    def accept(self, token: str) -> int:
        return self.ask(POST, token, "Content-Length: 0\r\n")[0]

    def test_accepts_no_assertion_before_its_assignment(self) -> None:
        self.assertEqual(self.ask("GET /health")[0], 200)
        for proxy in (HERE, ELSEWHERE):
            for path in ("/api/tags", "/ctllm/desktops", "/ws/tunnel", "/ctllm/control/requests"):
                status, body = self.ask(f"GET {path}", self.sign(USE, proxy=proxy))
                self.assertEqual(status, 401, path)
                self.assertIn("has no user yet", str(body))

    def test_belongs_to_one_user_after_its_assignment(self) -> None:
        """Its tunnels, too. What is signed for the id that it had means nothing."""
        self.assertEqual(self.accept(self.assignment()), 204)
        users = self.sign(USE, proxy=ELSEWHERE)
        self.assertEqual(self.ask("GET /ctllm/desktops", users), (200, {"desktops": []}))
        self.assertEqual(self.ask("GET /ctllm/desktops", self.sign(USE))[0], 401)
        authorizer = TunnelAuthorizer(self.assigned, self.clock, self.clock.seconds)
        authorizer.verify(self.sign(USE, SERVE, proxy=ELSEWHERE).encode())
        self.assertRaises(Unauthorized, authorizer.verify, self.sign(USE, SERVE).encode())

    def test_refuses_every_second_assignment(self) -> None:
        """A replay of the first one, one for the same user, and one for another."""
        first = self.assignment()
        self.assertEqual(self.accept(first), 204)
        self.clock.advance(1)
        for token in (first, self.assignment(), self.assignment(user=HERE), "", "rubbish"):
            self.assertEqual(self.accept(token), 409, token)
        users = self.sign(USE, proxy=ELSEWHERE)
        self.assertEqual(self.ask("GET /ctllm/desktops", users)[0], 200)

    def test_refuses_what_the_cloud_did_not_sign_and_still_waits(self) -> None:
        """A session assertion assigns nothing, and nothing but POST does."""
        forged = self.assignment(Ed25519PrivateKey.generate())
        for token in (forged, self.sign(USE), self.sign(USE, proxy=ELSEWHERE), "rubbish", "\x80"):
            self.assertEqual(self.accept(token), 401, token)
        self.assertEqual(self.ask("GET /ctllm/control/assignment", self.assignment())[0], 405)
        self.assertEqual(self.accept(self.assignment()), 204)


class AssignedProxyTests(Case):
    """A proxy that was started for a user."""

    def test_accepts_no_assignment(self) -> None:
        token = AssertionSigner(self.key, self.clock.seconds).sign_assignment(HERE, ELSEWHERE)
        self.assertEqual(self.ask(POST, token, "Content-Length: 0\r\n")[0], 409)
        self.assertEqual(self.ask("GET /ctllm/desktops", self.sign(USE))[0], 200)

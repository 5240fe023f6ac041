"""The desktop renews the authorization of its tunnel."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from ctllm.desktop.tunnel_authorization import RENEWAL_INTERVAL, TunnelAuthorization
from ctllm.errors import BadGateway, CtllmError
from ctllm.proxy.desktop_registry import DesktopRegistry
from tests.unit.fakes import FakeDesktop
from tests.unit.proxy.registry_case import RegistryCase


class FakeSession:
    """What the renewal needs of a `CloudSession`."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.error: CtllmError | None = None

    async def access_token(self) -> str:
        if self.error is not None:
            raise self.error
        return f"token-{len(self.tokens)}"

    def client(self) -> Any:
        return self

    async def authorize_tunnel(self, token: str) -> str:
        self.tokens.append(token)
        return f"assertion-for-{token}"


class TunnelAuthorizationTests(RegistryCase):
    def setUp(self) -> None:
        super().setUp()
        self.received: list[bytes] = []
        self.registry = DesktopRegistry(
            self.clock, 1 << 18, 30, 4, 60, verify_authorization=self.verify
        )
        self.desktop = FakeDesktop(self.registry, 1, "home", "up")
        self.session = FakeSession()
        self.renewals = Clock()
        session: Any = self.session
        service = TunnelAuthorization(self.desktop.tunnel, session, self.renewals)
        service.startService()
        self.addCleanup(lambda: self.assertEqual(self.renewals.getDelayedCalls(), []))
        self.addCleanup(service.stopService)

    def verify(self, assertion: bytes) -> float:
        self.received.append(assertion)
        return self.clock.seconds() + 300

    def pass_interval(self) -> None:
        self.renewals.advance(RENEWAL_INTERVAL)
        self.desktop.settle()

    def test_sends_a_new_assertion_every_interval(self) -> None:
        self.assertEqual(self.received, [])  # the handshake has just had one
        self.pass_interval()
        self.pass_interval()
        self.assertEqual(self.received, [b"assertion-for-token-0", b"assertion-for-token-1"])

    def test_requests_nothing_while_disconnected(self) -> None:
        self.desktop.lose(self.clock.seconds())
        self.renewals.advance(RENEWAL_INTERVAL)
        self.assertEqual(self.session.tokens, [])
        self.desktop.connect()
        self.pass_interval()
        self.assertEqual(len(self.received), 1)

    def test_tries_again_after_a_failure(self) -> None:
        self.session.error = BadGateway("The cloud is down.")
        self.pass_interval()
        self.assertEqual(self.received, [])
        self.session.error = None
        self.pass_interval()
        self.assertEqual(len(self.received), 1)

    def test_sends_nothing_to_a_proxy_without_the_capability(self) -> None:
        self.desktop.lose(self.clock.seconds())
        self.desktop.tunnel.connection_made()
        self.desktop.tunnel.next_message()
        hello = b'{"version":1,"window":1000}'
        self.desktop.tunnel.receive_message(b"\x01" + len(hello).to_bytes(4) + bytes(16) + hello)
        self.assertTrue(self.desktop.tunnel.is_established)
        self.renewals.advance(RENEWAL_INTERVAL)
        self.assertEqual(self.session.tokens, [])
        self.desktop.tunnel.connection_lost(self.clock.seconds())

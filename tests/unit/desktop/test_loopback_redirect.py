"""The listener for the redirect: one request is accepted, and it always stops listening."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlencode

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.loopback_redirect import LoopbackRedirect
from ctllm.desktop.oauth.authorization_code import AuthorizationCodeGrant
from ctllm.desktop.oauth.tokens import GrantRefused
from ctllm.errors import BadConfiguration, RequestTimeout
from tests.unit.desktop.oauth.provider_values import CLIENT, METADATA, PROVIDER

PORT = 4321


class ListeningPort:
    """A port that remembers whether it is open."""

    def __init__(self) -> None:
        self.is_open = True

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", PORT)

    def stopListening(self) -> Deferred[None]:
        self.is_open = False
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done


class ListeningReactor(MemoryReactorClock):
    """A reactor with one port."""

    def __init__(self) -> None:
        super().__init__()
        self.port = ListeningPort()
        self.interface = ""
        self.factory: Any = None
        self.error: Exception | None = None

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if self.error is not None:
            raise self.error
        self.interface, self.factory = interface, factory
        return self.port


class LoopbackRedirectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = ListeningReactor()
        self.redirect = LoopbackRedirect(self.reactor, timeout=600)
        listening = Deferred.fromCoroutine(self.redirect.listen(self.make_grant))
        self.grant = self.successResultOf(listening)
        self.code: Deferred[str] = Deferred.fromCoroutine(self.redirect.wait())

    def make_grant(self, uri: str) -> AuthorizationCodeGrant:
        return AuthorizationCodeGrant(CLIENT, PROVIDER, METADATA, uri)

    def close(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.redirect.close()))
        self.assertFalse(self.reactor.port.is_open)

    def request(self, path: str = "/callback", **fields: str) -> str:
        """Return the response to a request with these fields in its query."""
        transport = StringTransport()
        protocol = self.reactor.factory.buildProtocol(None)
        protocol.makeConnection(transport)
        target = f"{path}?{urlencode(fields)}"
        protocol.dataReceived(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n\r\n".encode()
        )
        self.reactor.advance(0)
        response = transport.value().decode()
        protocol.connectionLost(cast(Any, None))
        return response

    def accept(self) -> str:
        return self.request(code="the-code", state=self.grant.state)

    def test_listens_on_loopback_alone(self) -> None:
        self.assertEqual(self.reactor.interface, "127.0.0.1")
        self.assertEqual(self.grant.redirect_uri, f"http://127.0.0.1:{PORT}/callback")
        self.close()

    def test_accepts_one_redirect_and_shows_a_page_that_loads_nothing(self) -> None:
        response = self.accept()
        self.assertEqual(self.successResultOf(self.code), "the-code")
        self.assertIn("HTTP/1.1 200", response)
        self.assertIn("You can close this window", response)
        for header in ("default-src 'none'", "no-store", "no-referrer"):
            self.assertIn(header, response)
        self.assertNotIn("the-code", response)
        self.close()

    def test_refuses_a_second_redirect(self) -> None:
        self.accept()
        self.assertIn("HTTP/1.1 410", self.accept())
        self.close()

    def test_requests_of_others_are_refused_and_the_login_goes_on(self) -> None:
        self.assertIn("HTTP/1.1 400", self.request(code="x", state="guess"))
        self.assertIn("HTTP/1.1 404", self.request("/other", code="x", state=self.grant.state))
        self.assertNoResult(self.code)
        self.accept()
        self.assertEqual(self.successResultOf(self.code), "the-code")
        self.close()

    def test_an_error_of_the_provider_ends_the_login(self) -> None:
        response = self.request(
            error="access_denied", error_description="<script>", state=self.grant.state
        )
        self.assertIn("HTTP/1.1 400", response)
        self.assertIn("&lt;script&gt;", response)
        self.failureResultOf(self.code, GrantRefused)
        self.close()

    def test_times_out(self) -> None:
        self.reactor.advance(601)
        self.failureResultOf(self.code, RequestTimeout)
        self.assertIn("HTTP/1.1 410", self.accept())
        self.close()

    def test_closing_cancels_the_timeout(self) -> None:
        self.close()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.reactor.advance(601)
        self.assertNoResult(self.code)

    def test_a_port_that_cannot_be_listened_on_names_the_other_method(self) -> None:
        self.close()
        self.reactor.error = CannotListenError("127.0.0.1", 0, OSError("no"))
        redirect = LoopbackRedirect(self.reactor)
        listening = Deferred.fromCoroutine(redirect.listen(self.make_grant))
        error = self.failureResultOf(listening, BadConfiguration).value
        self.assertIn("--device", error.message)

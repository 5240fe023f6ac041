"""How a cloud is dialled: through proxies, by TLS, and what is said where that fails."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ctllm.http.client import tls_endpoint
from ctllm.http.client import url_endpoint as module
from ctllm.http.client.handshake import ConnectFailed
from ctllm.http.client.url_endpoint import MAX_CONNECT_RESPONSE, endpoint_for_url
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.fakes import FakeEndpoint, MemoryTransport

PROXY = {"HTTPS_PROXY": "http://alice:secret@proxy.example:3128", "HTTP_PROXY": "proxy.example"}


@implementer(IHandshakeListener)
class RecordingProtocol(Protocol):
    """The protocol that is connected; records what it is given."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost_reason: Failure | None = None
        self.is_secured = False

    def handshakeCompleted(self) -> None:
        self.is_secured = True

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost_reason = reason


class CloudEndpointCase(SynchronousTestCase):
    """Endpoints on TCP connections that the test accepts or refuses."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.tcp = FakeEndpoint()
        self.addresses: list[tuple[str, int]] = []
        self.patch(module, "HostnameEndpoint", self.endpoint)
        self.protocols: list[RecordingProtocol] = []

    def endpoint(self, reactor: Any, host: str, port: int, timeout: float) -> Any:
        self.addresses.append((host, port))
        return self.tcp

    def build_protocol(self) -> RecordingProtocol:
        self.protocols.append(RecordingProtocol())
        return self.protocols[-1]

    def connect(self, url: str, **environ: str) -> Deferred[Any]:
        factory = Factory.forProtocol(self.build_protocol)
        made: Deferred[Any] = endpoint_for_url(url, self.clock, environ).connect(factory)
        return made

    def failure_of(self, connecting: Deferred[Any]) -> str:
        return str(self.failureResultOf(connecting, ConnectFailed).value)


class ProxyTests(CloudEndpointCase):
    """Connections through an HTTP proxy, without TLS."""

    def connect_to_proxy(
        self, url: str = "http://cloud.example:8080"
    ) -> tuple[Deferred[Any], MemoryTransport]:
        connecting = self.connect(url, **PROXY)
        return connecting, self.tcp.accept()

    def test_connects_directly_without_a_proxy(self) -> None:
        connecting = self.connect("http://cloud.example:8080")
        wire = self.tcp.accept()
        self.assertIs(self.successResultOf(connecting), self.protocols[0])
        self.assertEqual((self.addresses, wire.take_written()), ([("cloud.example", 8080)], b""))

    def test_sends_connect_and_passes_on_what_follows(self) -> None:
        connecting, wire = self.connect_to_proxy()
        self.assertEqual(self.addresses, [("proxy.example", 80)])
        self.assertEqual(
            wire.take_written(),
            b"CONNECT cloud.example:8080 HTTP/1.1\r\nHost: cloud.example:8080\r\n\r\n",
        )
        wire.protocol.dataReceived(b"HTTP/1.1 200 Conn")
        self.assertNoResult(connecting)
        wire.protocol.dataReceived(b"ection established\r\nVia: x\r\n\r\nearly")
        (inner,) = self.protocols
        self.assertIs(self.successResultOf(connecting), inner)
        wire.protocol.dataReceived(b" late")
        self.assertEqual(inner.received, b"early late")
        inner.transport.write(b"hello")
        self.assertEqual(wire.take_written(), b"hello")
        wire.disconnect()
        assert inner.lost_reason is not None
        self.assertTrue(inner.lost_reason.check(ConnectionDone))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sends_proxy_authorization_and_brackets_ipv6(self) -> None:
        _, wire = self.connect_to_proxy("https://[2001:db8::7]")
        self.assertEqual(
            wire.take_written(),
            b"CONNECT [2001:db8::7]:443 HTTP/1.1\r\nHost: [2001:db8::7]:443\r\n"
            b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n",
        )

    def test_reports_the_proxys_refusal_sanitized_and_without_password(self) -> None:
        for answer, words in (
            (b"HTTP/1.1 403 Not \x1b[2Jhere\r\n\r\n", ["403 Not \ufffd[2Jhere", "cloud.example:"]),
            (b"HTTP/1.0 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n", ["407", "user:password@"]),
            (b"HTTP/1.1 403 No\r\n\r\n", ["ask its administrator"]),
            (b"HTTP/1.1 502\r\n\r\n", ["(502)", "cannot reach this address"]),
            (b"HTTP/1.1 418 Tea\r\n\r\n", ["(418 Tea)"]),
            (b"SSH-2.0-x\r\n\r\n", ["is not an HTTP proxy"]),
            (b"HTTP/1.1 200 " + b"x" * MAX_CONNECT_RESPONSE, ["too large"]),
        ):
            connecting, wire = self.connect_to_proxy()
            wire.protocol.dataReceived(answer)
            said = self.failure_of(connecting)
            for word in [*words, "http://proxy.example:80"]:
                self.assertIn(word, said)
            self.assertEqual((wire.closed, self.protocols), ("abort", []))
            wire.deliver_abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_says_that_the_password_was_refused_without_showing_it(self) -> None:
        connecting, wire = self.connect_to_proxy("https://cloud.example")
        wire.protocol.dataReceived(b"HTTP/1.1 407 alice:secret YWxpY2U6c2VjcmV0\r\n\r\n")
        said = self.failure_of(connecting)
        self.assertIn("http://proxy.example:3128 does not accept the user and password", said)

    def test_a_proxy_that_sends_a_byte_now_and_then_times_out(self) -> None:
        connecting, wire = self.connect_to_proxy()
        for _ in range(3):
            self.assertNoResult(connecting)
            wire.protocol.dataReceived(b"H")
            self.clock.advance(HANDSHAKE_TIMEOUT / 3)
        self.assertIn("does not respond", self.failure_of(connecting))

    def test_times_out_a_proxy_without_response(self) -> None:
        connecting, wire = self.connect_to_proxy()
        self.clock.advance(HANDSHAKE_TIMEOUT)
        self.assertIn("does not respond", self.failure_of(connecting))
        self.assertEqual(wire.closed, "abort")

    def test_reports_a_proxy_that_closes_the_connection(self) -> None:
        connecting, wire = self.connect_to_proxy()
        wire.disconnect()
        self.assertIn("closed the connection", self.failure_of(connecting))

    def test_reports_a_proxy_that_refuses_the_connection(self) -> None:
        connecting = self.connect("https://cloud.example", **PROXY)
        self.tcp.refuse(ConnectionRefusedError())
        self.assertIn(
            "Cannot connect to the proxy http://proxy.example:3128", self.failure_of(connecting)
        )

    def test_cancel_aborts_in_each_phase(self) -> None:
        for phase in range(2):
            connecting = self.connect("http://cloud.example", **PROXY)
            wire = self.tcp.accept() if phase else None
            connecting.cancel()
            self.failureResultOf(connecting)
            self.tcp.pending.clear()
            self.assertEqual(self.tcp.cancelled if wire is None else wire.closed,
                             1 if wire is None else "abort")  # fmt: skip
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails_without_connecting_for_an_unusable_proxy_variable(self) -> None:
        said = self.failure_of(
            self.connect("https://cloud.example", HTTPS_PROXY="socks5://proxy:1")
        )
        self.assertIn("HTTPS_PROXY", said)
        self.assertEqual(self.addresses, [])


def self_self_signed(name: str, days: int = 1, host: str = "cloud.example") -> PrivateCertificate:
    """A certificate of `host` that was signed by itself, as `name`, and is good for so long."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    text = made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return PrivateCertificate.loadPEM(text)


class TlsServerEndpoint:
    """An endpoint of a TLS server in memory."""

    def __init__(self, certificate: PrivateCertificate, clock: Clock) -> None:
        self.factory: Any = TLSMemoryBIOFactory(
            certificate.options(), False, Factory.forProtocol(RecordingProtocol)
        )
        self.pumps: list[IOPump] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        client, server = factory.buildProtocol(None), self.factory.buildProtocol(None)
        self.pumps.append(
            connect(
                server,
                FakeTransport(server, True),
                client,
                FakeTransport(client, False),
                greet=False,
            )
        )
        return succeed(client)

    def flush(self) -> None:
        for pump in self.pumps:
            pump.flush()


class TlsTests(CloudEndpointCase):
    def shake_hands(self, shown: PrivateCertificate, trusted: Any = None) -> Deferred[Any]:
        tls_server = TlsServerEndpoint(shown, self.clock)
        self.patch(module, "HostnameEndpoint", lambda *_, **__: tls_server)
        if trusted is not None:
            self.patch(
                tls_endpoint, "optionsForClientTLS",
                lambda host: optionsForClientTLS(host, Certificate.loadPEM(trusted.dumpPEM())),
            )  # fmt: skip
        connecting = self.connect("https://cloud.example")
        tls_server.flush()
        self.tls_server = tls_server
        return connecting

    def test_connects_after_the_handshake_and_notifies_the_protocol(self) -> None:
        certificate = self_self_signed("Cloud")
        connecting = self.shake_hands(certificate, certificate)
        inner = self.successResultOf(connecting)
        self.assertTrue(inner.is_secured)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_explains_an_unknown_issuer_and_how_to_trust_it(self) -> None:
        said = self.failure_of(self.shake_hands(self_self_signed("Corp\x1b[2J CA")))
        for words in ("certificate of cloud.example", "Corp\ufffd[2J CA", "SSL_CERT_FILE"):
            self.assertIn(words, said)
        self.assertEqual(self.protocols, [])

    def test_explains_an_expired_certificate(self) -> None:
        certificate = self_self_signed("Cloud", days=-1)
        said = self.failure_of(self.shake_hands(certificate, certificate))
        self.assertIn("it has expired", said)
        self.assertNotIn("SSL_CERT_FILE", said)

    def test_explains_a_certificate_for_another_name(self) -> None:
        certificate = self_self_signed("Cloud", host="other.example")
        said = self.failure_of(self.shake_hands(certificate, certificate))
        self.assertIn("certificate of cloud.example is not trusted", said)
        self.assertIn("another name", said)

    def test_explains_a_server_without_tls(self) -> None:
        for what in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None):
            connecting = self.connect("https://cloud.example")
            wire = self.tcp.accept()
            if what is None:
                self.clock.advance(HANDSHAKE_TIMEOUT)
            elif what:
                wire.protocol.dataReceived(what)
                wire.disconnect()
            else:
                wire.disconnect()
            said = self.failure_of(connecting)
            self.assertIn("cloud.example", said)
            self.assertIn("TLS", said)
        self.assertEqual(self.protocols, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

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

from ctllm.desktop import cloud_endpoint as module
from ctllm.desktop.cloud_endpoint import MAX_CONNECT_RESPONSE, ConnectFailed, endpoint_for_url
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.fakes import FakeEndpoint, MemoryTransport

PROXY = {"HTTPS_PROXY": "http://alice:secret@proxy.example:3128", "HTTP_PROXY": "proxy.example"}


@implementer(IHandshakeListener)
class Remembers(Protocol):
    """A protocol for which a connection is made."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: Failure | None = None
        self.secured = False

    def handshakeCompleted(self) -> None:
        self.secured = True

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason


class Case(SynchronousTestCase):
    """Dialled are places that the test answers for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.place = FakeEndpoint()
        self.dialled: list[tuple[str, int]] = []
        self.patch(module, "HostnameEndpoint", self.endpoint)
        self.protocols: list[Remembers] = []

    def endpoint(self, reactor: Any, host: str, port: int, timeout: float) -> Any:
        self.dialled.append((host, port))
        return self.place

    def made(self) -> Remembers:
        self.protocols.append(Remembers())
        return self.protocols[-1]

    def dial(self, url: str, **environ: str) -> Deferred[Any]:
        factory = Factory.forProtocol(self.made)  # type: ignore[arg-type]
        made: Deferred[Any] = endpoint_for_url(url, self.clock, environ).connect(factory)
        return made

    def failed(self, dialling: Deferred[Any]) -> str:
        return str(self.failureResultOf(dialling, ConnectFailed).value)


class Proxies(Case):
    """A cloud by CONNECT; without TLS, to see what is said."""

    def asked(
        self, url: str = "http://cloud.example:8080"
    ) -> tuple[Deferred[Any], MemoryTransport]:
        dialling = self.dial(url, **PROXY)
        return dialling, self.place.accept()

    def test_directly(self) -> None:
        """Without a proxy nothing is asked."""
        dialling = self.dial("http://cloud.example:8080")
        wire = self.place.accept()
        self.assertIs(self.successResultOf(dialling), self.protocols[0])
        self.assertEqual((self.dialled, wire.take_written()), ([("cloud.example", 8080)], b""))

    def test_asked_and_granted(self) -> None:
        """What follows the answer is the cloud's; what the protocol writes goes to it."""
        dialling, wire = self.asked()
        self.assertEqual(self.dialled, [("proxy.example", 80)])
        self.assertEqual(
            wire.take_written(),
            b"CONNECT cloud.example:8080 HTTP/1.1\r\nHost: cloud.example:8080\r\n\r\n",
        )
        wire.protocol.dataReceived(b"HTTP/1.1 200 Conn")
        self.assertNoResult(dialling)
        wire.protocol.dataReceived(b"ection established\r\nVia: x\r\n\r\nearly")
        (inner,) = self.protocols
        self.assertIs(self.successResultOf(dialling), inner)
        wire.protocol.dataReceived(b" late")
        self.assertEqual(inner.heard, b"early late")
        inner.transport.write(b"hello")
        self.assertEqual(wire.take_written(), b"hello")
        wire.disconnect()
        assert inner.lost is not None
        self.assertTrue(inner.lost.check(ConnectionDone))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_we_are_there(self) -> None:
        """User and password of the variable; an address in brackets."""
        _, wire = self.asked("https://[2001:db8::7]")
        self.assertEqual(
            wire.take_written(),
            b"CONNECT [2001:db8::7]:443 HTTP/1.1\r\nHost: [2001:db8::7]:443\r\n"
            b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n",
        )

    def test_refused(self) -> None:
        """What the proxy says is said on, without what a terminal would obey, and no password."""
        for answer, words in (
            (b"HTTP/1.1 403 Not \x1b[2Jhere\r\n\r\n", ["403 Not \ufffd[2Jhere", "cloud.example:"]),
            (b"HTTP/1.0 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n", ["407", "user:password@"]),
            (b"HTTP/1.1 502\r\n\r\n", ["(502)"]),
            (b"SSH-2.0-x\r\n\r\n", ["is no HTTP proxy"]),
            (b"HTTP/1.1 200 " + b"x" * MAX_CONNECT_RESPONSE, ["without end"]),
        ):
            dialling, wire = self.asked()
            wire.protocol.dataReceived(answer)
            said = self.failed(dialling)
            for word in [*words, "http://proxy.example:80"]:
                self.assertIn(word, said)
            self.assertEqual((wire.closed, self.protocols), ("abort", []))
            wire.deliver_abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """Not for long."""
        dialling, wire = self.asked()
        self.clock.advance(HANDSHAKE_TIMEOUT)
        self.assertIn("does not answer", self.failed(dialling))
        self.assertEqual(wire.closed, "abort")

    def test_hangs_up(self) -> None:
        dialling, wire = self.asked()
        wire.disconnect()
        self.assertIn("hung up", self.failed(dialling))

    def test_not_there(self) -> None:
        dialling = self.dial("https://cloud.example", **PROXY)
        self.place.refuse(ConnectionRefusedError())
        self.assertIn("the proxy http://proxy.example:3128 is not there", self.failed(dialling))

    def test_given_up(self) -> None:
        """In each phase."""
        for phase in range(2):
            dialling = self.dial("http://cloud.example", **PROXY)
            wire = self.place.accept() if phase else None
            dialling.cancel()
            self.failureResultOf(dialling)
            self.place.pending.clear()
            self.assertEqual(self.place.cancelled if wire is None else wire.closed,
                             1 if wire is None else "abort")  # fmt: skip
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_variable_that_names_none(self) -> None:
        """Nobody is dialled."""
        said = self.failed(self.dial("https://cloud.example", HTTPS_PROXY="socks5://proxy:1"))
        self.assertIn("HTTPS_PROXY", said)
        self.assertEqual(self.dialled, [])


def signed(name: str, days: int = 1, host: str = "cloud.example") -> PrivateCertificate:
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


class Listening:
    """An endpoint with a TLS server behind it, over memory."""

    def __init__(self, certificate: PrivateCertificate, clock: Clock) -> None:
        self.factory: Any = TLSMemoryBIOFactory(
            certificate.options(), False, Factory.forProtocol(Remembers)
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


class Certificates(Case):
    """A cloud by TLS."""

    def shake_hands(self, shown: PrivateCertificate, trusted: Any = None) -> Deferred[Any]:
        listening = Listening(shown, self.clock)
        self.patch(module, "HostnameEndpoint", lambda *_, **__: listening)
        if trusted is not None:
            self.patch(
                module, "optionsForClientTLS",
                lambda host: optionsForClientTLS(host, Certificate.loadPEM(trusted.dumpPEM())),
            )  # fmt: skip
        dialling = self.dial("https://cloud.example")
        listening.flush()
        self.listening = listening
        return dialling

    def test_good(self) -> None:
        """The protocol is there once the handshake is over, and hears of it."""
        certificate = signed("Cloud")
        dialling = self.shake_hands(certificate, certificate)
        inner = self.successResultOf(dialling)
        self.assertTrue(inner.secured)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unknown(self) -> None:
        """What is wrong, whose it is, who signed it, and how to trust them."""
        said = self.failed(self.shake_hands(signed("Corp\x1b[2J CA")))
        for words in ("certificate of cloud.example", "Corp\ufffd[2J CA", "SSL_CERT_FILE"):
            self.assertIn(words, said)
        self.assertEqual(self.protocols, [])

    def test_expired(self) -> None:
        """No file helps against that."""
        certificate = signed("Cloud", days=-1)
        said = self.failed(self.shake_hands(certificate, certificate))
        self.assertIn("it has expired", said)
        self.assertNotIn("SSL_CERT_FILE", said)

    def test_of_another(self) -> None:
        certificate = signed("Cloud", host="other.example")
        said = self.failed(self.shake_hands(certificate, certificate))
        self.assertIn("certificate of cloud.example is not trusted", said)
        self.assertIn("another name", said)

    def test_no_tls(self) -> None:
        """A server that speaks something else, or hangs up, or says nothing."""
        for what in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None):
            dialling = self.dial("https://cloud.example")
            wire = self.place.accept()
            if what is None:
                self.clock.advance(HANDSHAKE_TIMEOUT)
            elif what:
                wire.protocol.dataReceived(what)
                wire.disconnect()
            else:
                wire.disconnect()
            said = self.failed(dialling)
            self.assertIn("cloud.example", said)
            self.assertIn("TLS", said)
        self.assertEqual(self.protocols, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

"""How the desktop dials its cloud: directly or through an HTTP proxy, and by TLS where it can.

One endpoint serves every call and the tunnel. Its `connect` fires when bytes may be sent, that is
after the handshake of TLS, and fails with `DialFailed`, which says what is wrong and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.desktop.proxy_environment import HttpProxy, proxy_for
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.failures import make_failure
from ctllm.reactor.timeout import Timeout

#: Seconds that making a connection may take.
CONNECT_TIMEOUT = 10
#: Most bytes of a proxy's answer to CONNECT.
MAX_CONNECT_RESPONSE = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r?\n")


class ConnectFailed(Exception):
    """No connection was made; the message is a sentence for people."""


def endpoint_for_url(url: str, reactor: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """An endpoint for the host of `url` (http or https), whose certificate must be good.

    It goes through the proxy that `environ` names for that URL.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        proxy = proxy_for(url, environ)
    except ValueError as error:
        return _FailedEndpoint(ConnectFailed(str(error)))
    if proxy is None:
        endpoint: Any = HostnameEndpoint(reactor, host, port, timeout=CONNECT_TIMEOUT)
    else:
        endpoint = _ProxyTunnelEndpoint(
            _proxy_server_endpoint(proxy, reactor), proxy, host, port, reactor
        )
    return _TlsEndpoint(endpoint, host, reactor) if secure else endpoint


def _proxy_server_endpoint(proxy: HttpProxy, reactor: Any) -> Any:
    endpoint: Any = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=CONNECT_TIMEOUT)
    return _TlsEndpoint(endpoint, proxy.host, reactor) if proxy.is_tls else endpoint


@implementer(IStreamClientEndpoint)
class _FailedEndpoint:
    """An endpoint that cannot be reached, for a reason that is known already."""

    def __init__(self, error: ConnectFailed) -> None:
        self._error = error

    def connect(self, factory: Any) -> Deferred[Any]:
        """Fail."""
        deferred: Deferred[Any] = Deferred()
        deferred.errback(self._error)
        return deferred


class _HandshakeProtocol(Protocol):
    """What a connection speaks before it is the protocol's of `factory`, which `made` gets.

    After that it only passes on what comes; the protocol has the transport itself.
    """

    transport: Any

    def __init__(self, factory: Any, clock: Any, timeout_message: str) -> None:
        self._factory = factory
        self._timeout_message = timeout_message
        self._protocol: Any = None
        self._is_done = False
        self._timeout = Timeout(clock, self._timed_out)
        self.done: Deferred[Any] = Deferred(self._cancel)

    def connectionMade(self) -> None:
        """Begin."""
        self._timeout.start(HANDSHAKE_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """For the protocol, once there is one."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended, before there was a protocol or after."""
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        elif not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.done.errback(self.describe_failure(reason))

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """Why a connection that ended could not be used."""
        return ConnectFailed(f"the connection ended too early: {reason.getErrorMessage()}")

    def succeed(self) -> None:
        """The connection is the protocol's from here on."""
        self._is_done = True
        self._timeout.cancel()
        self._protocol = self._factory.buildProtocol(self.transport.getPeer())
        self._protocol.makeConnection(self.transport)
        self.done.callback(self._protocol)

    def fail(self, error: ConnectFailed) -> None:
        """The connection is of no use."""
        if not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.transport.abortConnection()
            self.done.errback(error)

    def _timed_out(self) -> None:
        self.fail(ConnectFailed(self._timeout_message))

    def _cancel(self, _: Deferred[Any]) -> None:
        self._is_done = True
        self._timeout.cancel()
        self.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _HandshakeEndpoint:
    """An endpoint whose connections go through a `_Stage`, made by `stage`, on those of another."""

    def __init__(self, endpoint: Any, handshake_for: Callable[[Any], _HandshakeProtocol]) -> None:
        self._endpoint = endpoint
        self._handshake_for = handshake_for

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory` after the stage."""
        handshakes = Factory.forProtocol(lambda: self._handshake_for(factory))
        handshakes.noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(handshakes)
        connecting.addCallback(lambda handshake: handshake.done)
        return connecting


# -- a proxy


class _ProxyConnectProtocol(_HandshakeProtocol):
    """Asks a proxy for a tunnel (RFC 9110, section 9.3.6)."""

    def __init__(self, factory: Any, clock: Any, proxy: HttpProxy, authority: bytes) -> None:
        super().__init__(factory, clock, f"the proxy {proxy} does not answer")
        self._proxy = proxy
        self._authority = authority
        self._response = b""

    def connectionMade(self) -> None:
        """Ask."""
        super().connectionMade()
        lines = [b"CONNECT %b HTTP/1.1" % self._authority, b"Host: %b" % self._authority]
        if self._proxy.authorization:
            lines.append(b"Proxy-Authorization: %b" % self._proxy.authorization)
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    def dataReceived(self, data: bytes) -> None:
        """Its answer, and what comes through the tunnel."""
        if self._is_done:
            super().dataReceived(data)
            return
        self._response += data
        head, end, rest = self._response.partition(b"\r\n\r\n")
        if end:
            self._handle_response(head + b"\r\n", rest)
        elif len(self._response) > MAX_CONNECT_RESPONSE:
            self.fail(ConnectFailed(f"the proxy {self._proxy} answers without end"))

    def _handle_response(self, head: bytes, rest: bytes) -> None:
        status = _STATUS_LINE.match(head)
        if status is None:
            self.fail(ConnectFailed(f"what answers at {self._proxy} is no HTTP proxy"))
        elif status[1].startswith(b"2"):
            self.succeed()
            if rest:
                super().dataReceived(rest)
        else:
            self.fail(ConnectFailed(self._describe_refusal(status[1].decode(), status[2] or b"")))

    def _describe_refusal(self, status: str, phrase: bytes) -> str:
        said = sanitize_line(f"{status} {phrase.decode('latin-1')}".strip(), MAX_LOGGED_CHARS)
        what = f"the proxy {self._proxy} refused to connect to {self._authority.decode()} ({said})"
        if status == "407":
            return f"{what}; it wants a user and password: http://user:password@… in HTTPS_PROXY"
        return what

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """It hung up."""
        return ConnectFailed(f"the proxy {self._proxy} hung up: {reason.getErrorMessage()}")


class _ProxyTunnelEndpoint(_HandshakeEndpoint):
    """Connects to a host and port through a proxy."""

    def __init__(self, endpoint: Any, proxy: HttpProxy, host: str, port: int, clock: Any) -> None:
        self._proxy = proxy
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
        authority = f"{name}:{port}".encode()
        super().__init__(
            endpoint, lambda factory: _ProxyConnectProtocol(factory, clock, proxy, authority)
        )

    def connect(self, factory: Any) -> Deferred[Any]:
        """As every endpoint; where the proxy is not there, that is what is said."""
        return super().connect(factory).addErrback(self._describe_unreachable)

    def _describe_unreachable(self, reason: Failure) -> Failure:
        if isinstance(reason.value, (ConnectFailed, CancelledError)):
            return reason
        said = reason.getErrorMessage()
        return make_failure(ConnectFailed(f"the proxy {self._proxy} is not there: {said}"))


# -- TLS

#: What is wrong with a certificate, by OpenSSL's number for it (x509_vfy.h), in our words.
_CERTIFICATE_ERRORS = {
    9: "it is not valid yet; is this machine's clock right?",
    10: "it has expired",
    18: "it is signed by itself, and this machine does not know it",
    19: "its authority is not known to this machine",
    20: "its authority is not known to this machine",
    21: "its authority is not known to this machine",
    23: "it was revoked",
    24: "it was signed by one that is no authority",
}
_UNKNOWN_ISSUER = frozenset((18, 19, 20, 21))
_CA_HINT = (
    "If that is as it should be, as with a company's own authority, set SSL_CERT_FILE to a file "
    "with the certificate of the authority (PEM)"
)


@implementer(IOpenSSLClientConnectionCreator)
class _TlsConnectionCreator:
    """Makes TLS connections as Twisted does, and notes why a certificate is refused."""

    def __init__(self, host: str) -> None:
        self._options: Any = optionsForClientTLS(host)
        self._host = host
        self.certificate_error = ""

    def clientConnectionForTLS(self, protocol: Any) -> Any:
        """A connection that verifies."""
        connection = self._options.clientConnectionForTLS(protocol)
        connection.set_verify(SSL.VERIFY_PEER, self._on_verified)
        return connection

    def _on_verified(self, _: Any, certificate: Any, number: int, depth: int, good: int) -> bool:
        """OpenSSL has judged a certificate of the chain; its word counts."""
        if not good and not self.certificate_error:
            what = _CERTIFICATE_ERRORS.get(number, f"OpenSSL's error {number}")
            issuer = sanitize_line(certificate.get_issuer().CN or "", MAX_LOGGED_CHARS)
            by = f" (issued by {issuer!r})" if issuer else ""
            self.certificate_error = f"the certificate of {self._host} is not trusted: {what}{by}"
            if number in _UNKNOWN_ISSUER:
                self.certificate_error += f". {_CA_HINT}"
        return bool(good)


@implementer(IHandshakeListener)
class _TlsHandshakeProtocol(_HandshakeProtocol):
    """Waits for the handshake of TLS."""

    def __init__(self, factory: Any, clock: Any, host: str, creator: _TlsConnectionCreator) -> None:
        super().__init__(factory, clock, f"{host} does not finish the handshake of TLS")
        self._host = host
        self._creator = creator

    def handshakeCompleted(self) -> None:
        """Be sure who is there; as a TLS transport does, tell a protocol that wants to know.

        Twisted verifies the name as well and closes, but says here all the same that all is well.
        """
        if self._is_done:
            return
        is_address = isIPAddress(self._host) or ":" in self._host
        verify = verify_ip_address if is_address else verify_hostname
        try:
            verify(self.transport.getHandle(), self._host)
        except (VerificationError, CertificateError):
            self.fail(self._wrong_name())
            return
        self.succeed()
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """The certificate, or that there is no TLS."""
        if self._creator.certificate_error:
            return ConnectFailed(self._creator.certificate_error)
        if isinstance(reason.value, (VerificationError, CertificateError)):
            return self._wrong_name()
        if isinstance(reason.value, SSL.Error):
            said = ", ".join(str(each[-1]) for each in (reason.value.args or ([],))[0])
            said = sanitize_line(said or "it hung up", MAX_LOGGED_CHARS)
            return ConnectFailed(f"{self._host} does not speak TLS as it should: {said}")
        return ConnectFailed(f"{self._host} ended the handshake of TLS: {reason.getErrorMessage()}")

    def _wrong_name(self) -> ConnectFailed:
        return ConnectFailed(
            f"the certificate of {self._host} is not trusted: it is made out to another name. "
            "Is the address the one that is in it?"
        )


@implementer(IStreamClientEndpoint)
class _TlsEndpoint:
    """TLS over another endpoint, to `host`, which must show a good certificate."""

    def __init__(self, endpoint: Any, host: str, clock: Any) -> None:
        self._endpoint, self._host, self._clock = endpoint, host, clock

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        creator: Any = _TlsConnectionCreator(self._host)
        secured = wrapClientTLS(creator, self._endpoint)
        return _HandshakeEndpoint(
            secured, lambda inner: _TlsHandshakeProtocol(inner, self._clock, self._host, creator)
        ).connect(factory)

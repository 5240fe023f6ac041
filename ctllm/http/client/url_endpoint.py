"""Endpoints for URLs: directly or through an HTTP proxy, with TLS for https URLs.

`connect` fires after the TLS handshake, and fails with `ConnectFailed`, whose message says what is
wrong and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.http.client.proxy_environment import HttpProxy, proxy_for
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.reactor.timeout import Timeout

#: Seconds for the TCP handshake.
CONNECT_TIMEOUT = 10
#: The most bytes of a proxy's response to CONNECT.
MAX_CONNECT_RESPONSE = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r?\n")
#: What to do, by the status with which a proxy refuses.
_REFUSAL_HINTS = {
    "403": "Its rules do not allow this address: ask its administrator",
    "405": "It does not allow CONNECT to this port: ask its administrator",
    "407": "It needs a user and password: set HTTPS_PROXY to http://user:password@…",
    "502": "It cannot reach this address",
    "503": "It cannot reach this address",
    "504": "It cannot reach this address",
}


class ConnectFailed(Exception):
    """The connection could not be made; the message is for people."""


def endpoint_for_url(url: str, reactor: Clock, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """Return an endpoint for the host of `url`, through the HTTP proxy that `environ` names.

    The certificate of an https URL is verified.
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
        endpoint: Endpoint = HostnameEndpoint(reactor, host, port, timeout=CONNECT_TIMEOUT)
    else:
        endpoint = _ProxyTunnelEndpoint(
            _proxy_server_endpoint(proxy, reactor), proxy, host, port, reactor
        )
    return _TlsEndpoint(endpoint, host, reactor) if secure else endpoint


def _proxy_server_endpoint(proxy: HttpProxy, reactor: Clock) -> Endpoint:
    endpoint: Endpoint = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=CONNECT_TIMEOUT)
    return _TlsEndpoint(endpoint, proxy.host, reactor) if proxy.is_tls else endpoint


@implementer(IStreamClientEndpoint)
class _FailedEndpoint:
    """An endpoint whose connections fail with `error`."""

    def __init__(self, error: ConnectFailed) -> None:
        self._error = error

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return a Deferred that has failed."""
        deferred: Deferred[IProtocol] = Deferred()
        deferred.errback(self._error)
        return deferred


class _HandshakeProtocol(Protocol):
    """A handshake at the start of a connection, before the protocol of `factory`.

    `done` fires with that protocol. It then has the transport, and this passes on what is received.
    """

    transport: Any

    def __init__(self, factory: IProtocolFactory, clock: Clock, timeout_message: str) -> None:
        self._factory = factory
        self._timeout_message = timeout_message
        self._protocol: Any = None
        self._is_done = False
        self._timeout = Timeout(clock, self._timed_out)
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def connectionMade(self) -> None:
        """Start the handshake's timeout."""
        self._timeout.start(HANDSHAKE_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """Pass on data after the handshake."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail the handshake, or pass on the loss of the connection."""
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        elif not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.done.errback(self.describe_failure(reason))

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """Return the error for a connection that was closed during the handshake."""
        return ConnectFailed(
            f"The connection was closed during the handshake: {reason.getErrorMessage()}"
        )

    def succeed(self) -> None:
        """Complete the handshake, and build the protocol."""
        self._is_done = True
        self._timeout.cancel()
        self._protocol = self._factory.buildProtocol(self.transport.getPeer())
        self._protocol.makeConnection(self.transport)
        self.done.callback(self._protocol)

    def fail(self, error: ConnectFailed) -> None:
        """Abort the connection with `error`."""
        if not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.transport.abortConnection()
            self.done.errback(error)

    def _timed_out(self) -> None:
        self.fail(ConnectFailed(self._timeout_message))

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self._is_done = True
        self._timeout.cancel()
        self.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _HandshakeEndpoint:
    """An endpoint whose connections start with a handshake; `handshake_for` makes it."""

    def __init__(
        self, endpoint: Endpoint, handshake_for: Callable[[IProtocolFactory], _HandshakeProtocol]
    ) -> None:
        self._endpoint = endpoint
        self._handshake_for = handshake_for

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        handshakes = Factory.forProtocol(lambda: self._handshake_for(factory))
        handshakes.noisy = False
        connecting: Deferred[_HandshakeProtocol] = self._endpoint.connect(handshakes)
        return connecting.addCallback(lambda handshake: handshake.done)


# -- HTTP proxies


class _ProxyConnectProtocol(_HandshakeProtocol):
    """The CONNECT request to a proxy (RFC 9110, section 9.3.6)."""

    def __init__(
        self, factory: IProtocolFactory, clock: Clock, proxy: HttpProxy, authority: bytes
    ) -> None:
        super().__init__(factory, clock, f"The proxy {proxy} does not respond")
        self._proxy = proxy
        self._authority = authority
        self._response = b""

    def connectionMade(self) -> None:
        """Send the request."""
        super().connectionMade()
        lines = [b"CONNECT %b HTTP/1.1" % self._authority, b"Host: %b" % self._authority]
        if self._proxy.authorization:
            lines.append(b"Proxy-Authorization: %b" % self._proxy.authorization)
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    def dataReceived(self, data: bytes) -> None:
        """Parse the response, or pass on what is received through the tunnel."""
        if self._is_done:
            super().dataReceived(data)
            return
        self._response += data
        head, end, rest = self._response.partition(b"\r\n\r\n")
        if end:
            self._handle_response(head + b"\r\n", rest)
        elif len(self._response) > MAX_CONNECT_RESPONSE:
            self.fail(ConnectFailed(f"The response of the proxy {self._proxy} is too large"))

    def _handle_response(self, head: bytes, rest: bytes) -> None:
        status = _STATUS_LINE.match(head)
        if status is None:
            self.fail(ConnectFailed(f"The server at {self._proxy} is not an HTTP proxy"))
        elif status[1].startswith(b"2"):
            self.succeed()
            if rest:
                super().dataReceived(rest)
        else:
            self.fail(ConnectFailed(self._describe_refusal(status[1].decode(), status[2] or b"")))

    def _describe_refusal(self, status: str, phrase: bytes) -> str:
        said = sanitize_line(f"{status} {phrase.decode('latin-1')}".strip(), MAX_LOGGED_CHARS)
        if status == "407" and self._proxy.authorization:
            return (
                f"The proxy {self._proxy} does not accept the user and password in HTTPS_PROXY "
                f"({said})"
            )
        what = f"The proxy {self._proxy} refused to connect to {self._authority.decode()} ({said})"
        return f"{what}. {_REFUSAL_HINTS[status]}" if status in _REFUSAL_HINTS else what

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """Return the error for a proxy that closed the connection."""
        return ConnectFailed(
            f"The proxy {self._proxy} closed the connection: {reason.getErrorMessage()}"
        )


class _ProxyTunnelEndpoint(_HandshakeEndpoint):
    """An endpoint for a host and port, reached through a proxy."""

    def __init__(
        self, endpoint: Endpoint, proxy: HttpProxy, host: str, port: int, clock: Clock
    ) -> None:
        self._proxy = proxy
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
        authority = f"{name}:{port}".encode()
        super().__init__(
            endpoint, lambda factory: _ProxyConnectProtocol(factory, clock, proxy, authority)
        )

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; an error of the proxy's connection names the proxy."""
        return super().connect(factory).addErrback(self._describe_unreachable)

    def _describe_unreachable(self, reason: Failure) -> Failure:
        if isinstance(reason.value, (ConnectFailed, CancelledError)):
            return reason
        said = reason.getErrorMessage()
        return make_failure(ConnectFailed(f"Cannot connect to the proxy {self._proxy}: {said}"))


# -- TLS

#: What is wrong with a certificate, by OpenSSL's error number (x509_vfy.h).
_CERTIFICATE_ERRORS = {
    9: "it is not valid yet; check this machine's clock",
    10: "it has expired",
    18: "it is self-signed, and not one that this machine trusts",
    19: "this machine does not trust its issuer",
    20: "this machine does not trust its issuer",
    21: "this machine does not trust its issuer",
    23: "it was revoked",
    24: "it was signed by a certificate that is not an authority's",
}
_UNKNOWN_ISSUER = frozenset((18, 19, 20, 21))
_CA_HINT = (
    "If it was issued by an authority of your own, set SSL_CERT_FILE to a PEM file with that "
    "authority's certificate"
)


@implementer(IOpenSSLClientConnectionCreator)
class _TlsConnectionCreator:
    """Makes TLS connections as Twisted does, and stores why a certificate was refused."""

    def __init__(self, host: str) -> None:
        self._options: Any = optionsForClientTLS(host)
        self._host = host
        self.certificate_error = ""

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        """Return a TLS connection that verifies the certificate."""
        connection: SSL.Connection = self._options.clientConnectionForTLS(protocol)
        connection.set_verify(SSL.VERIFY_PEER, self._on_verified)
        return connection

    def _on_verified(
        self, _: object, certificate: X509, number: int, depth: int, good: int
    ) -> bool:
        """Store OpenSSL's error for a certificate of the chain; return its verdict."""
        if not good and not self.certificate_error:
            what = _CERTIFICATE_ERRORS.get(number, f"OpenSSL's error {number}")
            issuer = sanitize_line(certificate.get_issuer().CN or "", MAX_LOGGED_CHARS)
            by = f" (issued by {issuer!r})" if issuer else ""
            self.certificate_error = f"The certificate of {self._host} is not trusted: {what}{by}"
            if number in _UNKNOWN_ISSUER:
                self.certificate_error += f". {_CA_HINT}"
        return bool(good)


@implementer(IHandshakeListener)
class _TlsHandshakeProtocol(_HandshakeProtocol):
    """The TLS handshake."""

    def __init__(
        self, factory: IProtocolFactory, clock: Clock, host: str, creator: _TlsConnectionCreator
    ) -> None:
        super().__init__(factory, clock, f"{host} did not complete the TLS handshake")
        self._host = host
        self._creator = creator

    def handshakeCompleted(self) -> None:
        """Verify the name, then notify the protocol as a TLS transport does.

        Twisted also verifies the name and closes the connection, but calls this all the same.
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
        """Return the error of the certificate, or of the handshake."""
        if self._creator.certificate_error:
            return ConnectFailed(self._creator.certificate_error)
        if isinstance(reason.value, (VerificationError, CertificateError)):
            return self._wrong_name()
        if isinstance(reason.value, SSL.Error):
            said = ", ".join(str(each[-1]) for each in (reason.value.args or ([],))[0])
            said = sanitize_line(said or "it closed the connection", MAX_LOGGED_CHARS)
            return ConnectFailed(f"The TLS handshake with {self._host} failed: {said}")
        return ConnectFailed(
            f"{self._host} closed the connection during the TLS handshake: "
            f"{reason.getErrorMessage()}"
        )

    def _wrong_name(self) -> ConnectFailed:
        return ConnectFailed(
            f"The certificate of {self._host} is not trusted: it is for another name. "
            "Use the host name that the certificate has."
        )


@implementer(IStreamClientEndpoint)
class _TlsEndpoint:
    """An endpoint with TLS over another one; the certificate must be valid for `host`."""

    def __init__(self, endpoint: Endpoint, host: str, clock: Clock) -> None:
        self._endpoint, self._host, self._clock = endpoint, host, clock

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        creator = _TlsConnectionCreator(self._host)
        # zope's interfaces are implemented, which mypy does not see.
        secured: Any = wrapClientTLS(creator, self._endpoint)  # type: ignore[arg-type]
        return _HandshakeEndpoint(
            secured, lambda inner: _TlsHandshakeProtocol(inner, self._clock, self._host, creator)
        ).connect(factory)

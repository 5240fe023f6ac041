"""Endpoints for URLs: directly or through an HTTP proxy, with TLS for https URLs.

`connect` fires after the TLS handshake, and fails with `ConnectFailed`, whose message says what is
wrong and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.http.client.handshake import ConnectFailed, HandshakeEndpoint, HandshakeProtocol
from ctllm.http.client.proxy_environment import HttpProxy, proxy_for
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock, Endpoint

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
    return _secure(endpoint, host, reactor) if secure else endpoint


def _proxy_server_endpoint(proxy: HttpProxy, reactor: Clock) -> Endpoint:
    endpoint: Endpoint = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=CONNECT_TIMEOUT)
    return _secure(endpoint, proxy.host, reactor) if proxy.is_tls else endpoint


def _secure(endpoint: Endpoint, host: str, reactor: Clock) -> Endpoint:
    from ctllm.http.client.tls_endpoint import TlsEndpoint  # late: it takes much memory

    return TlsEndpoint(endpoint, host, reactor)


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


class _ProxyConnectProtocol(HandshakeProtocol):
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


class _ProxyTunnelEndpoint(HandshakeEndpoint):
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

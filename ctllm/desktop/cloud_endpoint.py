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
from ctllm.reactor.timeout import Timeout

#: Seconds that making a connection may take.
PATIENCE = 10
#: Most bytes of a proxy's answer to CONNECT.
MAX_CONNECT_ANSWER = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r?\n")


class DialFailed(Exception):
    """No connection was made; the message is a sentence for people."""


def dialler(url: str, reactor: Any, environ: Mapping[str, str] = os.environ) -> Any:
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
        return _Failing(DialFailed(str(error)))
    if proxy is None:
        endpoint: Any = HostnameEndpoint(reactor, host, port, timeout=PATIENCE)
    else:
        endpoint = _Connect(_to(proxy, reactor), proxy, host, port, reactor)
    return _Secure(endpoint, host, reactor) if secure else endpoint


def _to(proxy: HttpProxy, reactor: Any) -> Any:
    endpoint: Any = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=PATIENCE)
    return _Secure(endpoint, proxy.host, reactor) if proxy.secure else endpoint


@implementer(IStreamClientEndpoint)
class _Failing:
    """An endpoint that cannot be reached, for a reason that is known already."""

    def __init__(self, error: DialFailed) -> None:
        self._error = error

    def connect(self, factory: Any) -> Deferred[Any]:
        """Fail."""
        failed: Deferred[Any] = Deferred()
        failed.errback(self._error)
        return failed


class _Stage(Protocol):
    """What a connection speaks before it is the protocol's of `factory`, which `made` gets.

    After that it only passes on what comes; the protocol has the transport itself.
    """

    transport: Any

    def __init__(self, factory: Any, clock: Any, late: str) -> None:
        self._factory = factory
        self._late = late
        self._inner: Any = None
        self._over = False
        self._deadline = Timeout(clock, self._too_late)
        self.made: Deferred[Any] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        """Begin."""
        self._deadline.start(HANDSHAKE_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """For the protocol, once there is one."""
        if self._inner is not None:
            self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended, before there was a protocol or after."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self._over:
            self._over = True
            self._deadline.cancel()
            self.made.errback(self.explained(reason))

    def explained(self, reason: Failure) -> DialFailed:
        """Why a connection that ended could not be used."""
        return DialFailed(f"the connection ended too early: {reason.getErrorMessage()}")

    def succeed(self) -> None:
        """The connection is the protocol's from here on."""
        self._over = True
        self._deadline.cancel()
        self._inner = self._factory.buildProtocol(self.transport.getPeer())
        self._inner.makeConnection(self.transport)
        self.made.callback(self._inner)

    def fail(self, error: DialFailed) -> None:
        """The connection is of no use."""
        if not self._over:
            self._over = True
            self._deadline.cancel()
            self.transport.abortConnection()
            self.made.errback(error)

    def _too_late(self) -> None:
        self.fail(DialFailed(self._late))

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._over = True
        self._deadline.cancel()
        self.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _Staged:
    """An endpoint whose connections go through a `_Stage`, made by `stage`, on those of another."""

    def __init__(self, endpoint: Any, stage: Callable[[Any], _Stage]) -> None:
        self._endpoint = endpoint
        self._stage = stage

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory` after the stage."""
        stages = Factory.forProtocol(lambda: self._stage(factory))
        stages.noisy = False
        made: Deferred[Any] = self._endpoint.connect(stages)
        made.addCallback(lambda stage: stage.made)
        return made


# -- a proxy


class _Connecting(_Stage):
    """Asks a proxy for a tunnel (RFC 9110, section 9.3.6)."""

    def __init__(self, factory: Any, clock: Any, proxy: HttpProxy, authority: bytes) -> None:
        super().__init__(factory, clock, f"the proxy {proxy} does not answer")
        self._proxy = proxy
        self._authority = authority
        self._head = b""

    def connectionMade(self) -> None:
        """Ask."""
        super().connectionMade()
        lines = [b"CONNECT %b HTTP/1.1" % self._authority, b"Host: %b" % self._authority]
        if self._proxy.authorization:
            lines.append(b"Proxy-Authorization: %b" % self._proxy.authorization)
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    def dataReceived(self, data: bytes) -> None:
        """Its answer, and what comes through the tunnel."""
        if self._over:
            super().dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._answered(head + b"\r\n", rest)
        elif len(self._head) > MAX_CONNECT_ANSWER:
            self.fail(DialFailed(f"the proxy {self._proxy} answers without end"))

    def _answered(self, head: bytes, rest: bytes) -> None:
        status = _STATUS.match(head)
        if status is None:
            self.fail(DialFailed(f"what answers at {self._proxy} is no HTTP proxy"))
        elif status[1].startswith(b"2"):
            self.succeed()
            if rest:
                super().dataReceived(rest)
        else:
            self.fail(DialFailed(self._refusal(status[1].decode(), status[2] or b"")))

    def _refusal(self, status: str, phrase: bytes) -> str:
        said = sanitize_line(f"{status} {phrase.decode('latin-1')}".strip(), MAX_LOGGED_CHARS)
        what = f"the proxy {self._proxy} refused to connect to {self._authority.decode()} ({said})"
        if status == "407":
            return f"{what}; it wants a user and password: http://user:password@… in HTTPS_PROXY"
        return what

    def explained(self, reason: Failure) -> DialFailed:
        """It hung up."""
        return DialFailed(f"the proxy {self._proxy} hung up: {reason.getErrorMessage()}")


class _Connect(_Staged):
    """Connects to a host and port through a proxy."""

    def __init__(self, endpoint: Any, proxy: HttpProxy, host: str, port: int, clock: Any) -> None:
        self._proxy = proxy
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
        authority = f"{name}:{port}".encode()
        super().__init__(endpoint, lambda factory: _Connecting(factory, clock, proxy, authority))

    def connect(self, factory: Any) -> Deferred[Any]:
        """As every endpoint; where the proxy is not there, that is what is said."""
        return super().connect(factory).addErrback(self._not_there)

    def _not_there(self, reason: Failure) -> Failure:
        if reason.check(DialFailed, CancelledError):
            return reason
        said = reason.getErrorMessage()
        return Failure(DialFailed(f"the proxy {self._proxy} is not there: {said}"))


# -- TLS

#: What is wrong with a certificate, by OpenSSL's number for it (x509_vfy.h), in our words.
_PROBLEMS = {
    9: "it is not valid yet; is this machine's clock right?",
    10: "it has expired",
    18: "it is signed by itself, and this machine does not know it",
    19: "its authority is not known to this machine",
    20: "its authority is not known to this machine",
    21: "its authority is not known to this machine",
    23: "it was revoked",
    24: "it was signed by one that is no authority",
}
_UNKNOWN = frozenset((18, 19, 20, 21))
_TRUST = (
    "If that is as it should be, as with a company's own authority, set SSL_CERT_FILE to a file "
    "with the certificate of the authority (PEM)"
)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Makes TLS connections as Twisted does, and notes why a certificate is refused."""

    def __init__(self, host: str) -> None:
        self._options: Any = optionsForClientTLS(host)
        self._host = host
        self.problem = ""

    def clientConnectionForTLS(self, protocol: Any) -> Any:
        """A connection that verifies."""
        connection = self._options.clientConnectionForTLS(protocol)
        connection.set_verify(SSL.VERIFY_PEER, self._verified)
        return connection

    def _verified(self, _: Any, certificate: Any, number: int, depth: int, good: int) -> bool:
        """OpenSSL has judged a certificate of the chain; its word counts."""
        if not good and not self.problem:
            what = _PROBLEMS.get(number, f"OpenSSL's error {number}")
            issuer = sanitize_line(certificate.get_issuer().CN or "", MAX_LOGGED_CHARS)
            by = f" (issued by {issuer!r})" if issuer else ""
            self.problem = f"the certificate of {self._host} is not trusted: {what}{by}"
            if number in _UNKNOWN:
                self.problem += f". {_TRUST}"
        return bool(good)


@implementer(IHandshakeListener)
class _Securing(_Stage):
    """Waits for the handshake of TLS."""

    def __init__(self, factory: Any, clock: Any, host: str, creator: _Creator) -> None:
        super().__init__(factory, clock, f"{host} does not finish the handshake of TLS")
        self._host = host
        self._creator = creator

    def handshakeCompleted(self) -> None:
        """Be sure who is there; as a TLS transport does, tell a protocol that wants to know.

        Twisted verifies the name as well and closes, but says here all the same that all is well.
        """
        if self._over:
            return
        is_address = isIPAddress(self._host) or ":" in self._host
        verify = verify_ip_address if is_address else verify_hostname
        try:
            verify(self.transport.getHandle(), self._host)
        except (VerificationError, CertificateError):
            self.fail(self._of_another())
            return
        self.succeed()
        if IHandshakeListener.providedBy(self._inner):
            self._inner.handshakeCompleted()

    def explained(self, reason: Failure) -> DialFailed:
        """The certificate, or that there is no TLS."""
        if self._creator.problem:
            return DialFailed(self._creator.problem)
        if reason.check(VerificationError, CertificateError):
            return self._of_another()
        if isinstance(reason.value, SSL.Error):
            said = ", ".join(str(each[-1]) for each in (reason.value.args or ([],))[0])
            said = sanitize_line(said or "it hung up", MAX_LOGGED_CHARS)
            return DialFailed(f"{self._host} does not speak TLS as it should: {said}")
        return DialFailed(f"{self._host} ended the handshake of TLS: {reason.getErrorMessage()}")

    def _of_another(self) -> DialFailed:
        return DialFailed(
            f"the certificate of {self._host} is not trusted: it is made out to another name. "
            "Is the address the one that is in it?"
        )


@implementer(IStreamClientEndpoint)
class _Secure:
    """TLS over another endpoint, to `host`, which must show a good certificate."""

    def __init__(self, endpoint: Any, host: str, clock: Any) -> None:
        self._endpoint, self._host, self._clock = endpoint, host, clock

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        creator: Any = _Creator(self._host)
        secured = wrapClientTLS(creator, self._endpoint)
        return _Staged(
            secured, lambda inner: _Securing(inner, self._clock, self._host, creator)
        ).connect(factory)

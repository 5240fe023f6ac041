"""Connections with TLS, whose errors say what is wrong with a certificate.

Without a URL of https this is not imported, because TLS takes 8 MB.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.http.client.handshake import ConnectFailed, HandshakeEndpoint, HandshakeProtocol
from ctllm.reactor.interfaces import Clock, Endpoint

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
class _TlsHandshakeProtocol(HandshakeProtocol):
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
class TlsEndpoint:
    """An endpoint with TLS over another one; the certificate must be valid for `host`."""

    def __init__(self, endpoint: Endpoint, host: str, clock: Clock) -> None:
        self._endpoint, self._host, self._clock = endpoint, host, clock

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        creator = _TlsConnectionCreator(self._host)
        # zope's interfaces are implemented, which mypy does not see.
        secured: Any = wrapClientTLS(creator, self._endpoint)  # type: ignore[arg-type]
        return HandshakeEndpoint(
            secured, lambda inner: _TlsHandshakeProtocol(inner, self._clock, self._host, creator)
        ).connect(factory)

"""Transports to a Docker engine: a UNIX socket, or TCP with or without TLS."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, optionsForClientTLS
from twisted.web.client import Agent
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from ctllm.errors import BadConfiguration
from ctllm.fastpath.http_pool import quiet_pool
from ctllm.reactor.endpoints import unix_client_endpoint
from ctllm.reactor.interfaces import Clock, Endpoint

#: The port of Docker with TLS.
DEFAULT_TLS_PORT = 2376
#: Seconds until connecting fails.
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class DockerTransport:
    """How an engine is reached. `description` names it in messages for people."""

    agent: IAgent
    base_url: str
    description: str


def create_transport(reactor: Clock, address: str, certificates: str = "") -> DockerTransport:
    """Return the transport to ``unix:///path``, ``/path`` or ``tcp://host:port``.

    `certificates` is a directory with ca.pem, cert.pem and key.pem, like DOCKER_CERT_PATH of the
    docker command. TCP without certificates is only allowed on the loopback interface. Raises
    BadConfiguration.
    """
    parts = urlsplit(address)
    if parts.scheme in ("", "unix") and parts.path.startswith("/") and not parts.netloc:
        return _unix_transport(reactor, parts.path)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "tcp" or not host or parts.path.strip("/"):
        raise BadConfiguration(
            f"docker_url = {address!r} is not the address of a Docker engine. Use "
            "unix:///path/to/docker.sock or tcp://host:port."
        )
    netloc = f"[{host}]" if ":" in host else host
    if certificates:
        return _tls_transport(reactor, netloc, port or DEFAULT_TLS_PORT, Path(certificates))
    if not _is_loopback(host) or port is None:
        raise BadConfiguration(
            f"docker_url = {address!r} is not safe: anyone on the network could take over the "
            "connection. Set docker_certs_dir for an engine on another machine, and a port for one "
            "on this machine."
        )
    return DockerTransport(
        _create_agent(reactor), f"http://{netloc}:{port}", f"Docker at {netloc}:{port}"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _create_agent(reactor: Clock, tls_policy: _MutualTls | None = None) -> IAgent:
    options = {} if tls_policy is None else {"contextFactory": tls_policy}
    agent = Agent(  # type: ignore[no-untyped-call]
        reactor, connectTimeout=CONNECT_TIMEOUT, pool=quiet_pool(reactor), **options
    )
    return cast(IAgent, agent)


@implementer(IAgentEndpointFactory)
class _UnixEndpointFactory:
    """Returns the endpoint of one UNIX socket for every URL."""

    def __init__(self, reactor: Clock, path: str) -> None:
        self._reactor, self._path = reactor, path

    def endpointForURI(self, uri: object) -> Endpoint:
        return unix_client_endpoint(self._reactor, self._path, timeout=CONNECT_TIMEOUT)


def _unix_transport(reactor: Clock, path: str) -> DockerTransport:
    agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
        reactor, _UnixEndpointFactory(reactor, path), pool=quiet_pool(reactor)
    )
    return DockerTransport(agent, "http://docker", f"Docker at {path}")


@implementer(IPolicyForHTTPS)
class _MutualTls:
    """TLS with a client certificate. The engine's certificate must be signed by `authority`."""

    def __init__(self, authority: Certificate, client_certificate: PrivateCertificate) -> None:
        self._authority, self._client_certificate = authority, client_certificate

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return optionsForClientTLS(
            hostname.decode("ascii").strip("[]"),
            self._authority,
            clientCertificate=self._client_certificate,
        )


def _tls_transport(reactor: Clock, netloc: str, port: int, directory: Path) -> DockerTransport:
    try:
        authority = Certificate.loadPEM((directory / "ca.pem").read_bytes())
        key = KeyPair.load((directory / "key.pem").read_bytes(), crypto.FILETYPE_PEM)
        client_certificate = PrivateCertificate.fromCertificateAndKeyPair(  # type: ignore[no-untyped-call]
            Certificate.loadPEM((directory / "cert.pem").read_bytes()), key
        )
    except OSError as error:
        raise BadConfiguration(
            f"docker_certs_dir: {error.filename} cannot be read: {error.strerror}. The directory "
            "must contain ca.pem, cert.pem and key.pem."
        ) from error
    except (crypto.Error, SSL.Error, ValueError) as error:
        raise BadConfiguration(
            f"docker_certs_dir: ca.pem, cert.pem or key.pem in {directory} is invalid."
        ) from error
    agent = _create_agent(reactor, _MutualTls(authority, client_certificate))
    return DockerTransport(agent, f"https://{netloc}:{port}", f"Docker at {netloc}:{port}")

"""The ways to an engine: a UNIX socket, or TCP with TLS, with an agent of Twisted's for each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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
from ctllm.reactor.interfaces import Endpoint

#: Where an engine with TLS listens.
DEFAULT_TLS_PORT = 2376
#: Seconds that making a connection may take.
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class DockerTransport:
    """How an engine is reached: `base` begins every URL, `where` is what people are told."""

    agent: IAgent
    base_url: str
    description: str


def create_transport(reactor: Any, address: str, certificates: str = "") -> DockerTransport:
    """The way to `unix:///path`, `/path` or `tcp://host:port`.

    For TCP `certificates` is a folder with ca.pem, cert.pem and key.pem, as the docker command's
    DOCKER_CERT_PATH has; without them only loopback is taken. Raises BadConfiguration.
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
            f"docker_url = {address!r} is no address of a Docker engine: that is unix:///a/path or "
            "tcp://host:port"
        )
    netloc = f"[{host}]" if ":" in host else host
    if certificates:
        return _tls_transport(reactor, netloc, port or DEFAULT_TLS_PORT, Path(certificates))
    if not _is_loopback(host) or port is None:
        raise BadConfiguration(
            f"docker_url = {address!r} would give the machine to whoever listens in between: an engine "
            "that is not on this machine needs certificates, and one that is needs a port"
        )
    description = f"the Docker engine at {netloc}:{port}"
    return DockerTransport(_create_agent(reactor), f"http://{netloc}:{port}", description)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _create_agent(reactor: Any, policy: Any = None) -> IAgent:
    more = {} if policy is None else {"contextFactory": policy}
    return Agent(reactor, connectTimeout=CONNECT_TIMEOUT, pool=quiet_pool(reactor), **more)  # type: ignore[no-untyped-call]


@implementer(IAgentEndpointFactory)
class _UnixEndpointFactory:
    """Every URL leads to one UNIX socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor, self._path = reactor, path

    def endpointForURI(self, uri: object) -> Endpoint:
        return unix_client_endpoint(self._reactor, self._path, timeout=CONNECT_TIMEOUT)


def _unix_transport(reactor: Any, path: str) -> DockerTransport:
    agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
        reactor, _UnixEndpointFactory(reactor, path), pool=quiet_pool(reactor)
    )
    return DockerTransport(agent, "http://docker", f"the Docker engine at {path}")


@implementer(IPolicyForHTTPS)
class _MutualTls:
    """Both sides show a certificate; the engine's must be signed by the authority given."""

    def __init__(self, authority: Certificate, own: PrivateCertificate) -> None:
        self._authority, self._own = authority, own

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return optionsForClientTLS(
            hostname.decode("ascii").strip("[]"), self._authority, clientCertificate=self._own
        )


def _tls_transport(reactor: Any, name: str, port: int, folder: Path) -> DockerTransport:
    try:
        authority = Certificate.loadPEM((folder / "ca.pem").read_bytes())
        key = KeyPair.load((folder / "key.pem").read_bytes(), crypto.FILETYPE_PEM)
        own = PrivateCertificate.fromCertificateAndKeyPair(  # type: ignore[no-untyped-call]
            Certificate.loadPEM((folder / "cert.pem").read_bytes()), key
        )
    except OSError as error:
        raise BadConfiguration(
            f"docker_certs_dir: {error.filename} cannot be read: {error.strerror}. The folder needs "
            "ca.pem, cert.pem and key.pem"
        ) from error
    except (crypto.Error, SSL.Error, ValueError) as error:
        raise BadConfiguration(
            f"docker_certs_dir: ca.pem, cert.pem or key.pem in {folder} is none"
        ) from error
    agent = _create_agent(reactor, _MutualTls(authority, own))
    return DockerTransport(agent, f"https://{name}:{port}", f"the Docker engine at {name}:{port}")

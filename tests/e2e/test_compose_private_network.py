"""The server in containers in a company's network: the only way out is an HTTPS proxy.

ACME server and OpenID provider have certificates of an authority that no system knows.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory

from ctllm.server.env_file import fill_template
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.compose_server import SERVICES, ComposeServer, compose_server
from tests.e2e.dockerd import Dockerd
from tests.e2e.oidc_provider import OidcProvider, start_provider
from tests.e2e.test_https_proxy import LOGIN_HOST, HttpsProxy
from tests.e2e.test_tls import create_certificate
from tests.ports import free_port, port_of

#: The network of api-backend and certbot, which leads nowhere but to this machine.
SUBNET, GATEWAY = "10.141.9.0/28", "10.141.9.1"
NETWORKS = f"""
networks:
  outbound:
    internal: true
    ipam: {{config: [{{subnet: {SUBNET}}}]}}
"""


def isolate(server: ComposeServer, acme_port: int) -> None:
    """Let `certbot` and `api-backend` reach neither pebble nor anything else by themselves."""
    path = server.folder / "override.yaml"
    text = path.read_text().replace("{inbound: {}, outbound: {}}", "{inbound: {}}")
    text = text.replace(':15000:15000"', f':15000:15000", "127.0.0.1:{acme_port}:14000"')
    text = text.partition("  certbot:\n")[0]  # it has no certificate of pebble's own
    path.write_text(text + NETWORKS)


async def serve_provider(cluster: Cluster, ports: dict[str, int]) -> tuple[OidcProvider, bytes]:
    """Start a provider behind TLS, for `ports` of the proxy; return it and its certificate."""
    provider = await start_provider(cluster, users={"ada": []}, host=LOGIN_HOST)
    folder = cluster.directory / "login"
    folder.mkdir()
    key, certificate = create_certificate(folder, LOGIN_HOST)
    listening: Any = reactor
    port = listening.listenSSL(
        0, ProxyFactory("127.0.0.1", provider.port),
        DefaultOpenSSLContextFactory(str(key), str(certificate)), interface="127.0.0.1",
    )  # fmt: skip
    cluster.ports.append(port)
    ports[f"{LOGIN_HOST}:{provider.port}"] = port_of(port)
    return provider, certificate.read_bytes()


def set_values(server: ComposeServer, **values: str) -> None:
    env = server.folder / ".env"
    env.write_text(fill_template(env.read_text(), values))


@pytest.mark.skipif(os.geteuid() != 0, reason="It starts a Docker Engine.")
@ensureDeferred
async def test_certbot_and_backend_use_the_proxy_and_the_authorities_of_a_company(
    docker: Dockerd, cluster: Cluster
) -> None:
    """Nginx has a certificate of the company's ACME server, and its user logs in."""
    acme_port = free_port()
    ports = {"pebble:14000": acme_port}
    proxy = HttpsProxy(ports)
    listening: Any = reactor
    listener = listening.listenTCP(0, proxy)  # also at GATEWAY, which does not exist yet
    cluster.ports.append(listener)
    provider, certificate = await serve_provider(cluster, ports)
    with compose_server(docker) as server:
        isolate(server, acme_port)
        authorities = server.folder / "company.pem"
        authorities.write_bytes(
            certificate + (server.folder / "pebble/certificate.pem").read_bytes()
        )
        set_values(
            server, CA_FILE=str(authorities),
            HTTPS_PROXY=f"http://alice:secret@{GATEWAY}:{port_of(listener)}",
        )  # fmt: skip
        with (server.folder / "ctllm.toml").open("a") as file:
            file.write("\n" + provider.table("acme"))
        await deferToThread(server.compose, "up", "-d", "pebble", *SERVICES)

        async def has_certificate() -> bool:
            try:
                await deferToThread(server.fetch_root)
                return (await deferToThread(server.request, "/health")).status == 200
            except OSError:
                return False

        await wait_until(has_certificate, "the certificate", 90)
        token = (await provider.sign_in("ada"))["access_token"]
        body = f'{{"client": "desktop", "provider_token": "{token}"}}'

        def log_in() -> int:
            return server.request(
                "/ctllm/session", method="POST", body=body, Content_Type="application/json"
            ).status

        assert await deferToThread(log_in) == 201
        assert set(proxy.authorities) == set(ports)
        for service in ("api-backend", "certbot"):
            assert "secret" not in "\n".join(await deferToThread(server.logs, service))

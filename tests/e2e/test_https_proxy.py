"""A desktop whose network reaches the cloud only through an HTTPS proxy (CONNECT)."""

from __future__ import annotations

import json
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.test_tls import TlsCloud
from tests.ports import listen, port_of

#: A name that does not resolve: only the proxy can connect to it.
HOST = "cloud.example"
#: alice:secret
CREDENTIAL_HEADER = b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0"


class CloudConnection(Protocol):
    """The proxy's connection to the cloud."""

    transport: Any

    def __init__(self, client: ClientConnection) -> None:
        self.client = client

    def dataReceived(self, data: bytes) -> None:
        self.client.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.client.transport.loseConnection()


class ClientConnection(Protocol):
    """One connection to the proxy."""

    factory: Any
    transport: Any

    def __init__(self) -> None:
        self.head = b""
        self.cloud: CloudConnection | None = None

    def dataReceived(self, data: bytes) -> None:
        if self.cloud is not None:
            self.cloud.transport.write(data)
            return
        self.head += data
        if not self.head.endswith(b"\r\n\r\n"):
            return
        if CREDENTIAL_HEADER not in self.head:
            self.transport.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            self.transport.loseConnection()
            return
        self.factory.authorities.append(self.head.split(b" ")[1].decode())
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.factory.cloud_port)
        connectProtocol(endpoint, CloudConnection(self)).addCallbacks(
            self.cloud_connected, lambda _: self.transport.loseConnection()
        )

    def cloud_connected(self, cloud: CloudConnection) -> None:
        self.cloud = cloud
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: Any = None) -> None:
        if self.cloud is not None:
            self.cloud.transport.loseConnection()


class HttpsProxy(Factory):
    """An HTTPS proxy that connects every name to the cloud; `authorities` lists them."""

    protocol = ClientConnection

    def __init__(self, cloud_port: int) -> None:
        self.cloud_port = cloud_port
        self.authorities: list[str] = []


@ensureDeferred
async def test_every_connection_to_the_cloud_uses_the_proxy(cluster: Cluster) -> None:
    """Login, the tunnel, and the list of desktops; wrong credentials are reported."""
    tls_cloud = TlsCloud(cluster, HOST)
    proxy = HttpsProxy(cluster.cloud_port)
    port = listen(reactor, proxy)
    cluster.ports.append(port)
    proxy_address = f"127.0.0.1:{port_of(port)}"
    link = await tls_cloud.start_and_invite()

    wrong_password = {
        **tls_cloud.trusting_environment,
        "HTTPS_PROXY": f"http://alice:wrong@{proxy_address}",
    }
    refused = await tls_cloud.log_in(link, wrong_password)
    assert refused.exit_code == 1
    assert f"The proxy http://{proxy_address} refused to connect to {HOST}" in refused.output
    assert "407" in refused.output
    assert "wrong" not in refused.output

    proxied = {
        **tls_cloud.trusting_environment,
        "https_proxy": f"http://alice:secret@{proxy_address}",
    }
    untrusting = {**cluster.environment(), "https_proxy": proxied["https_proxy"]}
    refused = await tls_cloud.log_in(link, untrusting)
    assert refused.exit_code == 1
    assert f"The certificate of {HOST} is not trusted" in refused.output
    bypassed = await tls_cloud.log_in(link, {**proxied, "NO_PROXY": ".example"})
    assert bypassed.exit_code == 1, "the cloud was reached without the proxy"

    count = len(proxy.authorities)
    logged_in = await tls_cloud.log_in(link, proxied)
    assert logged_in.exit_code == 0, logged_in.output
    authority = f"{HOST}:{cluster.cloud_port}"
    assert set(proxy.authorities) == {authority}
    assert len(proxy.authorities) == count + 1

    state = f"--state-dir={cluster.state_dir('alice')}"
    _, ollama = cluster.start_fake_ollama("llama3.2")
    start = (
        "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", state,
        f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off",
    )  # fmt: skip
    desktop = cluster.start_process(*start, env=untrusting)

    async def is_reason_shown() -> bool:
        program = cluster.start_process("status", "ctllm", state, "status", "--json")
        await program.exited
        if not program.output.startswith("{"):
            return False  # it is starting
        status = json.loads(program.output)
        return status["state"] == "error" and "SSL_CERT_FILE" in status["reason"]

    await wait_until(is_reason_shown, "the reason in the status")
    await desktop.stop()
    desktop = cluster.start_process(*start, env=proxied)
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")

    async def are_desktops_listed() -> bool:
        program = cluster.start_process("status", "ctllm", state, "status", "--json")
        await program.exited
        return bool(json.loads(program.output)["desktops"])

    await wait_until(are_desktops_listed, "the list of desktops")
    assert set(proxy.authorities) == {authority}

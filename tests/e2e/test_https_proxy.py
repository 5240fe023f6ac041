"""Desktops and a cloud whose networks have one way out: an HTTPS proxy (CONNECT)."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory

from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.oidc_provider import TOKEN_ENDPOINT, configure, start_provider
from tests.e2e.test_tls import TlsCloud, create_certificate
from tests.fake_ollama import FakeOllama
from tests.ports import listen, port_of

#: Names that do not resolve: only the proxy can connect to them.
HOST, LOGIN_HOST = "cloud.example", "login.example"
#: alice:secret
CREDENTIAL_HEADER = b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0"
LINK = re.compile(rf"^    (https://{LOGIN_HOST}\S+)\r?$", re.M)
#: Listens in its network namespace, and sends the socket to the process that started it.
LISTEN = """
import socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(50)
parent = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(parent, [b"x"], [listener.fileno()])
"""


class ServerConnection(Protocol):
    """The proxy's connection to a server."""

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
        self.server: ServerConnection | None = None

    def dataReceived(self, data: bytes) -> None:
        if self.server is not None:
            self.server.transport.write(data)
            return
        self.head += data
        if not self.head.endswith(b"\r\n\r\n"):
            return
        if CREDENTIAL_HEADER not in self.head:
            self.refuse(b"407 Proxy Authentication Required")
            return
        authority = self.head.split(b" ")[1].decode()
        self.factory.authorities.append(authority)
        if authority not in self.factory.ports:
            self.refuse(b"502 Bad Gateway")
            return
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.factory.ports[authority])
        connectProtocol(endpoint, ServerConnection(self)).addCallbacks(
            self.server_connected, lambda _: self.transport.loseConnection()
        )

    def refuse(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 %b\r\n\r\n" % status)
        self.transport.loseConnection()

    def server_connected(self, server: ServerConnection) -> None:
        self.server = server
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: Any = None) -> None:
        if self.server is not None:
            self.server.transport.loseConnection()


class HttpsProxy(Factory):
    """An HTTPS proxy to `ports` of this machine, by host and port. `authorities` lists requests."""

    protocol = ClientConnection

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.authorities: list[str] = []


class IsolatedNetwork:
    """A network namespace with a loopback interface and nothing else."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up; read x"],
                                        stdin=subprocess.PIPE)  # fmt: skip
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        while "LOOPBACK,UP" not in self.run("ip", "link", "show", "lo"):
            assert self._holder.poll() is None

    def run(self, *argv: str) -> str:
        own = os.readlink("/proc/self/ns/net")
        if os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            return ""
        return subprocess.run(
            [*self._inside, *argv], capture_output=True, check=True, text=True
        ).stdout

    def start(self, name: str, *arguments: str, env: dict[str, str]) -> ChildProcess:
        """Start a program in it."""
        argv = ["/usr/bin/nsenter", *self._inside[1:], str(BIN / arguments[0]), *arguments[1:]]
        process = ChildProcess(name, argv, env)
        self._cluster.processes.append(process)
        return process

    def listen(self, factory: Any) -> int:
        """Let this process listen in it; return the port."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            argv = [*self._inside, sys.executable, "-c", LISTEN, str(theirs.fileno())]
            subprocess.run(argv, check=True, pass_fds=[theirs.fileno()])
            _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=descriptor) as listener:
            listener.setblocking(False)
            adopting: Any = reactor
            self._cluster.ports.append(
                adopting.adoptStreamPort(listener.fileno(), socket.AF_INET, factory)
            )
            return int(listener.getsockname()[1])

    def start_fake_ollama(self) -> str:
        """Serve a fake Ollama in it; return the option for the desktop."""
        ollama = FakeOllama(reactor, models=("llama3.2",), word_interval=0.0)
        return f"--ollama-host=127.0.0.1:{self.listen(ollama.site)}"

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait()


@pytest.fixture
def network(cluster: Cluster) -> Iterator[IsolatedNetwork]:
    """The desktop's network."""
    network = IsolatedNetwork(cluster)
    yield network
    network.close()


def _request(cluster: Cluster, certificates: Path, key: str) -> tuple[int, Any]:
    """Ask the desktop's model through the cloud."""
    context = ssl.create_default_context(cafile=str(certificates))
    with (
        socket.create_connection(("127.0.0.1", cluster.cloud_port), 30) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        connection = http.client.HTTPConnection(HOST)
        connection.sock = secured
        body = json.dumps({"model": "llama3.2", "prompt": "hello", "stream": False})
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/api/generate", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@ensureDeferred
async def test_a_desktop_logs_in_with_a_provider_and_serves_by_the_proxy_alone(
    cluster: Cluster, network: IsolatedNetwork
) -> None:
    """Cloud and provider have certificates of an own authority; the cloud has a proxy, too."""
    provider = await start_provider(cluster, users={"ada": []}, host=LOGIN_HOST)
    await provider.set_token_seconds(5)  # so that the desktop asks for another at its start
    tls_cloud = TlsCloud(cluster, HOST)
    folder = cluster.directory / "login"
    folder.mkdir()
    key, certificate = create_certificate(folder, LOGIN_HOST)
    adding: Any = reactor
    tls_port = adding.listenSSL(
        0,
        ProxyFactory("127.0.0.1", provider.port),
        DefaultOpenSSLContextFactory(str(key), str(certificate)),
        interface="127.0.0.1",
    )
    cluster.ports.append(tls_port)
    cloud_authority = f"{HOST}:{cluster.cloud_port}"
    login_authority = f"{LOGIN_HOST}:{provider.port}"
    ports = {cloud_authority: cluster.cloud_port, login_authority: port_of(tls_port)}
    desktops_proxy, clouds_proxy = HttpsProxy(ports), HttpsProxy(ports)
    authorities = cluster.directory / "authorities.pem"
    authorities.write_bytes(tls_cloud.certificate.read_bytes() + certificate.read_bytes())
    address = f"127.0.0.1:{network.listen(desktops_proxy)}"
    env = {
        **cluster.environment(),
        "SSL_CERT_FILE": str(authorities),
        "HTTPS_PROXY": f"http://alice:secret@{address}",
    }
    listener = listen(reactor, clouds_proxy)
    cluster.ports.append(listener)
    configure(cluster, provider.table("acme"))
    cluster.extra_environment |= {
        "SSL_CERT_FILE": str(authorities),
        "HTTPS_PROXY": f"http://alice:secret@127.0.0.1:{port_of(listener)}",
    }
    await tls_cloud.start_and_invite()

    state = f"--state-dir={cluster.state_dir('ada')}"
    log_in = ("login", "ctllm", state, "login", tls_cloud.url, "--device", "--no-browser")
    without_proxy = network.start(*log_in, env={**env, "HTTPS_PROXY": ""})
    assert await without_proxy.exited == 1, "The network has another way out."
    login = network.start(*log_in, env=env)

    def find_link() -> re.Match[str] | None:
        assert login.exit_code is None, login.output
        return LINK.search(login.output)

    link = await wait_until(find_link, "the link")
    await provider.approve_device(link[1], "ada")
    assert await login.exited == 0, login.output
    await provider.forget_requests()

    desktop = network.start(
        "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", state,
        "--desktop-listen=off", network.start_fake_ollama(), env=env,
    )  # fmt: skip
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")
    adding_key = network.start("keys", "ctllm", state, "keys", "add", "laptop", env=env)
    assert await adding_key.exited == 0, adding_key.output
    api_key = adding_key.output.split()[-1]

    async def is_answered() -> bool:
        status, body = await deferToThread(_request, cluster, authorities, api_key)
        return status == 200 and bool(body["done"])

    await wait_until(is_answered, "a response with the key")
    assert await provider.requests(TOKEN_ENDPOINT), "The login was not renewed."
    assert set(desktops_proxy.authorities) == {cloud_authority, login_authority}
    assert set(clouds_proxy.authorities) == {login_authority}
    for process in cluster.processes:
        assert "secret@" not in process.output


@ensureDeferred
async def test_every_connection_to_the_cloud_uses_the_proxy(
    cluster: Cluster, network: IsolatedNetwork
) -> None:
    """Login, the tunnel, and the list of desktops; wrong credentials are reported."""
    tls_cloud = TlsCloud(cluster, HOST)
    authority = f"{HOST}:{cluster.cloud_port}"
    proxy = HttpsProxy({authority: cluster.cloud_port})
    proxy_address = f"127.0.0.1:{network.listen(proxy)}"
    link = await tls_cloud.start_and_invite()
    state = f"--state-dir={cluster.state_dir('alice')}"

    async def log_in(env: dict[str, str]) -> ChildProcess:
        program = network.start("login", "ctllm", state, "login", link, env=env)
        await program.exited
        return program

    wrong_password = {
        **tls_cloud.trusting_environment,
        "HTTPS_PROXY": f"http://alice:wrong@{proxy_address}",
    }
    refused = await log_in(wrong_password)
    assert refused.exit_code == 1
    assert f"The proxy http://{proxy_address} does not accept the user and" in refused.output
    assert "407" in refused.output
    assert "wrong" not in refused.output

    proxied = {
        **tls_cloud.trusting_environment,
        "https_proxy": f"http://alice:secret@{proxy_address}",
    }
    untrusting = {**cluster.environment(), "https_proxy": proxied["https_proxy"]}
    refused = await log_in(untrusting)
    assert refused.exit_code == 1
    assert f"The certificate of {HOST} is not trusted" in refused.output
    bypassed = await log_in({**proxied, "NO_PROXY": ".example"})
    assert bypassed.exit_code == 1, "the cloud was reached without the proxy"

    count = len(proxy.authorities)
    logged_in = await log_in(proxied)
    assert logged_in.exit_code == 0, logged_in.output
    assert set(proxy.authorities) == {authority}
    assert len(proxy.authorities) == count + 1

    start = (
        "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", state, "--desktop-listen=off",
    )  # fmt: skip
    desktop = network.start(*start, env=untrusting)

    async def is_reason_shown() -> bool:
        program = cluster.start_process("status", "ctllm", state, "status", "--json")
        await program.exited
        if not program.output.startswith("{"):
            return False  # it is starting
        status = json.loads(program.output)
        return status["state"] == "error" and "SSL_CERT_FILE" in status["reason"]

    await wait_until(is_reason_shown, "the reason in the status")
    await desktop.stop()
    desktop = network.start(*start, env=proxied)
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")

    async def are_desktops_listed() -> bool:
        program = cluster.start_process("status", "ctllm", state, "status", "--json")
        await program.exited
        return bool(json.loads(program.output)["desktops"])

    await wait_until(are_desktops_listed, "the list of desktops")
    assert set(proxy.authorities) == {authority}

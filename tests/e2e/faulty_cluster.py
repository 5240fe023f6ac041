"""A cluster with a network relay before the cloud and before each desktop; an async client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import h11
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.fixed_response_upstream import FixedResponseUpstream
from tests.e2e.network_relay import NetworkRelay


class ResponseReader(Protocol):
    """A client connection with one request; collects the response.

    `complete` is true after a clean end of the response, `closed` after any end.
    """

    transport: Any

    def __init__(self, head: bytes, body: bytes) -> None:
        self._request = head + body
        self._h11 = h11.Connection(h11.CLIENT)
        self._h11.send(
            h11.Request(method=head.split(b" ")[0], target=b"/", headers=[("Host", "x")])
        )
        self._h11.send(h11.EndOfMessage())
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = self.closed = False
        self.completed_at = 0.0

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._h11.receive_data(data)
        while not self.complete:
            event = self._h11.next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {n.decode(): v.decode() for n, v in event.headers}
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.complete = self.closed = True
                self.completed_at = reactor.seconds()
                self.transport.loseConnection()
            else:
                return

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = True

    def disconnect(self) -> None:
        if not self.closed:
            self.transport.abortConnection()

    @property
    def line_count(self) -> int:
        return self.body.count(b"\n")

    @property
    def complete_lines(self) -> bytes:
        """The complete lines of the body, without an error line."""
        lines = bytes(self.body).splitlines(keepends=True)
        return b"".join(ln for ln in lines if ln.endswith(b"\n") and not ln.startswith(b'{"error"'))

    async def wait_for_lines(self, count: int) -> None:
        await wait_until(lambda: self.line_count >= count or self.closed, f"{count} lines")
        assert not self.closed, (self.status, bytes(self.body[-300:]))

    async def wait_closed(self, timeout: float = 60.0) -> ResponseReader:
        await wait_until(lambda: self.closed, f"the end, after {self.line_count} lines", timeout)
        return self


async def send_request(
    port: int, method: str, path: str, token: str, body: Any = None, **headers: str
) -> ResponseReader:
    """Send a request; return the reader once it is connected.

    Underscores in the names of `headers` become hyphens.
    """
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode()
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda addr: ResponseReader(head, data)  # type: ignore[method-assign]
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return cast(ResponseReader, await endpoint.connect(factory))


class FaultyCluster:
    """A cloud and desktops of alice, each behind a network relay; clients use `client_relay`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.upstream = FixedResponseUpstream()
        cluster.ports.append(self.upstream)
        self.relays: list[NetworkRelay] = []
        self.desktops: list[ChildProcess] = []
        self.readers: list[ResponseReader] = []
        self.cloud_options: tuple[str, ...] = ()
        self.token = ""
        self.ollama_port = self.upstream.port
        self.cloud: ChildProcess

    async def start(self, *cloud_options: str) -> FaultyCluster:
        self.cloud_options = cloud_options
        self.cloud = await self.cluster.start_cloud(*cloud_options)
        self.client_relay = NetworkRelay(self.cluster.cloud_port)
        self.cluster.ports.append(self.client_relay)
        self.token = await self.cluster.create_token("alice")
        return self

    async def add_desktop(self, *options: str) -> NetworkRelay:
        """Start a desktop of alice, named by its number from 0; return its network relay."""
        relay = NetworkRelay(self.cluster.cloud_port)
        self.cluster.ports.append(relay)
        state = f"alice-{len(self.relays)}"
        link = await self.cluster.create_invite("alice")
        link = link.replace(f":{self.cluster.cloud_port}", f":{relay.port}")
        await self.cluster.run_ctllm(state, "login", link)
        self.relays.append(relay)
        self.desktops.append(self.run_desktop(len(self.relays) - 1, *options))
        await self.wait_connected(len(self.desktops) - 1)
        return relay

    def run_desktop(self, number: int, *options: str) -> ChildProcess:
        ollama = f"--ollama-host=127.0.0.1:{self.ollama_port}"
        name = f"--desktop-name={number}"
        return self.cluster.run_role(
            "desktop", f"alice-{number}", ollama, "--desktop-listen=off", name, *options
        )

    async def wait_connected(self, number: int) -> None:
        """Wait until a newly started desktop is connected."""
        process = self.desktops[number]
        try:
            await wait_until(
                lambda: "Cloud connection: connected" in process.output, f"desktop {number}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{process.output}\n{self.cloud.output}") from None

    async def start_chat(
        self, lines: int, interval: float = 0.0, pad: int = 0, **headers: str
    ) -> ResponseReader:
        """Request numbered lines through `client_relay`."""
        body = {"model": "numbers", "lines": lines, "interval": interval, "pad": pad}
        token = headers.pop("token", self.token)
        reader = await send_request(
            self.client_relay.port, "POST", "/api/chat", token, body, **headers
        )
        self.readers.append(reader)
        return reader

    async def start_direct_chat(
        self, lines: int, interval: float, **headers: str
    ) -> ResponseReader:
        """Request numbered lines without a relay between the client and the cloud."""
        body = {"model": "numbers", "lines": lines, "interval": interval}
        port = self.cluster.cloud_port
        reader = await send_request(port, "POST", "/api/chat", self.token, body, **headers)
        self.readers.append(reader)
        return reader

    async def resume(self, request_id: str, offset: int, token: str = "") -> ResponseReader:
        """Request a response's body from byte `offset` on."""
        path = f"/ctllm/exchanges/{request_id}?from={offset}"
        reader = await send_request(self.client_relay.port, "GET", path, token or self.token)
        self.readers.append(reader)
        return reader

    async def resume_after_reconnect(
        self, request_id: str, offset: int, token: str = ""
    ) -> ResponseReader:
        """Resume a response once its desktop is connected again; wait for its end."""

        async def try_resume() -> ResponseReader | None:
            try:
                reader = await self.resume(request_id, offset, token)
            except OSError:
                return None  # the cloud does not listen yet
            await wait_until(lambda: reader.status or reader.closed, "a status")
            return reader if reader.status == 200 else None

        reader: ResponseReader = await wait_until(try_resume, "the response to be resumed")
        return await reader.wait_closed()

    async def proxy_status(self) -> dict[str, Any]:
        """Return the status of alice's proxy."""
        _, _, body = await self.cluster.request("GET", "/ctllm/proxy", token=self.token)
        status: dict[str, Any] = json.loads(body)
        return status

    async def metric(self, name: str) -> float:
        port = self.cluster.metrics_port
        _, _, body = await self.cluster.request("GET", "/metrics", port=port)
        for line in body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"The cloud has no metric {name}.")

    def proxy_pid(self) -> int:
        children = Path(f"/proc/{self.cloud.pid}/task/{self.cloud.pid}/children").read_text()
        return int(children.split()[0])

    def disconnect_clients(self) -> None:
        """Abort the connections of all readers."""
        for reader in self.readers:
            reader.disconnect()

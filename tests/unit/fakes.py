"""Fakes of endpoints, transports, sinks, upstreams and desktops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from ctllm.errors import CtllmError
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.ipc.messages import ConnectionState, OllamaStatus, Status, Traffic
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.tunnel import frames
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream


class MemoryTransport(StringTransport):
    """A transport in memory. As with a real one, an abort arrives a turn later: `deliver_abort`."""

    closed = ""
    protocol: Any = None

    def loseConnection(self) -> None:
        self.closed = self.closed or "close"
        super().loseConnection()

    def abortConnection(self) -> None:
        self.closed = "abort"

    def unregisterProducer(self) -> None:
        self.producer = None  # a real one does not mind when there is none

    def loseWriteConnection(self) -> None:
        self.closed = "half"

    def take_written(self) -> bytes:
        """Return what was written since the last call."""
        value: bytes = self.value()
        self.clear()
        return value

    def deliver_abort(self) -> None:
        """Deliver an abort, as the next turn of the reactor does."""
        if self.closed == "abort":
            self.protocol.connectionLost(Failure(ConnectionAborted()))

    def disconnect(self, reason: Exception | None = None) -> None:
        """Close the connection from the other side."""
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


class MemorySocket:
    """What `SocketTransport` reads from and sends to: `unread` by whole reads, at most `room`."""

    def __init__(self) -> None:
        self.unread: list[bytes] = []
        self.sent = b""
        self.room = 1 << 20
        self.error: OSError | None = None

    def recv(self, size: int) -> bytes:
        if self.error is not None:
            raise self.error
        if not self.unread:
            raise BlockingIOError
        return self.unread.pop(0)

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)


class SocketTransport(MemoryTransport):
    """A transport with the attributes of one of Twisted's that has a socket."""

    dataBuffer = b""

    def __init__(self) -> None:
        super().__init__()
        self.socket = MemorySocket()
        self._tempDataBuffer: list[bytes] = []
        self.connected = True

    def doRead(self) -> object:
        try:
            data = self.socket.recv(64 * 1024)
        except BlockingIOError:
            return None
        except OSError:
            return ConnectionLost()
        if not data:
            return ConnectionDone()
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        self._tempDataBuffer.append(data)

    def abortConnection(self) -> None:
        super().abortConnection()
        self.doRead = lambda: None  # type: ignore[method-assign]

    def receive(self, *reads: bytes) -> object:
        """Read each of `reads` as the reactor does, or a closed connection for b""."""
        result: object = None
        for data in reads:
            self.socket.unread.append(data)
            result = self.doRead()
        return result

    def flush(self) -> bytes:
        """Send what was written; return all that was sent since the last call."""
        sent = self.socket.sent + b"".join(self._tempDataBuffer)
        self.socket.sent, self._tempDataBuffer[:] = b"", []
        return sent


class MemoryTlsTransport(MemoryTransport):
    """A TLS transport, whose handshake a test completes."""

    wrappedProtocol = None


class FakeEndpoint:
    """An endpoint whose connection attempts wait until a test accepts or refuses them."""

    def __init__(self) -> None:
        self.pending: list[tuple[Any, Deferred[Any]]] = []
        self.cancelled = 0
        self.transports: list[MemoryTransport] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred(self._gave_up)
        self.pending.append((factory, waiting))
        return waiting

    def _gave_up(self, waiting: Deferred[Any]) -> None:
        self.cancelled += 1

    def accept(self, wire: MemoryTransport | None = None) -> MemoryTransport:
        factory, waiting = self.pending.pop(0)
        protocol, wire = factory.buildProtocol(None), wire or MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        self.transports.append(wire)
        waiting.callback(protocol)
        return wire

    def refuse(self, error: Exception) -> None:
        self.pending.pop(0)[1].errback(error)


class ServedEndpoint:
    """An endpoint with a real HTTP server behind it, in memory. `flush` moves the bytes."""

    def __init__(self, app: Any, clock: Any) -> None:
        self.factory = HttpServerFactory(app, clock)
        self.pumps: list[IOPump] = []
        self.refusal: Exception | None = None

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refusal is not None:
            return fail(self.refusal)
        client, server = factory.buildProtocol(None), self.factory.buildProtocol(None)
        self.pumps.append(
            connect(server, FakeTransport(server, True), client, FakeTransport(client, False))
        )
        return succeed(client)

    def flush(self) -> None:
        while sum(pump.pump() for pump in self.pumps):
            pass


class FakeResponseSink:
    """A `ResponseSink` that records the response, and checks the order of the calls."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body = bytearray()
        self.outcome: str | CtllmError | None = None
        self.may_send_body = True

    @property
    def data(self) -> bytes:
        return bytes(self.body)

    @property
    def is_finished(self) -> bool:
        return self.outcome == "end"

    @property
    def error(self) -> Any:
        return None if self.outcome in (None, "end") else self.outcome

    def write_head(self, head: ResponseHead) -> None:
        assert self.head is None and self.outcome is None
        self.head = head

    def write(self, piece: bytes) -> None:
        assert self.head is not None and self.outcome is None
        self.body += piece

    def finish(self) -> None:
        assert self.head is not None and self.outcome is None
        self.outcome = "end"

    def fail(self, error: CtllmError) -> None:
        assert self.outcome is None
        self.outcome = error

    def pause_request_body(self) -> None:
        assert self.outcome is None
        self.may_send_body = False

    def resume_request_body(self) -> None:
        assert self.outcome is None, "called after the end"
        self.may_send_body = True


class FakeRequestSink:
    """A `RequestSink` that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    @property
    def data(self) -> bytes:
        return b"".join(call for call in self.calls if isinstance(call, bytes))

    @property
    def is_finished(self) -> bool:
        return "end" in self.calls

    @property
    def error(self) -> CtllmError | None:
        return next((call for call in self.calls if isinstance(call, CtllmError)), None)

    def write(self, piece: bytes) -> None:
        self.calls.append(piece)

    def finish(self) -> None:
        self.calls.append("end")

    def cancel(self, error: CtllmError) -> None:
        self.calls.append(error)

    def pause_response(self) -> None:
        self.calls.append("pause")

    def resume_response(self) -> None:
        self.calls.append("resume")


class FakeUpstream:
    """An `Upstream` that records requests, for the test to respond to."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.sinks: list[Any] = []
        self.requests: list[FakeRequestSink] = []

    def start_request(
        self, head: RequestHead, caller: Any, spliced_sink: Any = None
    ) -> FakeRequestSink:
        self.heads.append(head)
        self.sinks.append(caller)
        self.requests.append(FakeRequestSink())
        return self.requests[-1]


def make_status(state: ConnectionState = ConnectionState.CONNECTED, **more: Any) -> Status:
    """Return a status; `more` replaces its fields."""
    fields: dict[str, Any] = {
        "authentication_state": (
            "unauthenticated" if state is ConnectionState.LOGGED_OUT else "authenticated"
        ),
        "connection_status": "connected", "state": state, "reason": "", "user": "ann",
        "cloud_url": "https://c.example", "desktop_id": "d" * 32, "desktop_name": "attic",
        "ollama": OllamaStatus("http://127.0.0.1:11434", "up", "1", (), ()), "desktops": (),
        "desktops_error": "", "policy": "auto", "route": "local", "proxy": "running",
        "endpoint": "", "last_error": "", "traffic": Traffic(0, 0, 0, 0, 0, 0, 0, 0),
        "version": "1", "pid": 1, "started": 0.0,
    }  # fmt: skip
    return Status(**{**fields, **more})


class FakeProxyWebSocket:
    """A connection of a desktop, for a DesktopRegistry."""

    tunnel: Initiator | None = None
    latency_ms: float | None = None

    def __init__(self, authorized_until: float = math.inf, max_desktops: int = 0) -> None:
        self.authorized_until = authorized_until
        self.max_desktops = max_desktops
        self.grant = b"grant"
        self.on_closed: Callable[[], None] = lambda: None
        self.closing_messages: list[bytes] = []

    @property
    def is_closing(self) -> bool:
        return bool(self.closing_messages)

    def attach_tunnel(self, tunnel: Initiator, on_closed: Callable[[], None]) -> None:
        self.tunnel = tunnel
        self.on_closed = on_closed

    def close_gracefully(self, message: bytes = b"") -> None:
        self.closing_messages.append(message)


class FakeDesktop:
    """A desktop whose requests the test responds to, on one connection after another."""

    def __init__(
        self,
        registry: DesktopRegistry,
        number: int,
        name: str,
        ollama: str = "",
        *models: str,
        capabilities: tuple[str, ...] = ("resume", "allowed-models"),
    ) -> None:
        self.registry = registry
        self.id = f"{number:032x}"
        self.tunnel = Responder(
            1 << 18,
            30.0,
            8,
            request_handler=self.accept,
            resume_buffer_bytes=1 << 16,
            desktop=frames.Desktop(self.id, name),
            capabilities=capabilities,
        )
        self.sinks: list[ResponderStream] = []
        self.heads: list[RequestHead] = []
        self.request_sinks: list[FakeRequestSink] = []
        self.socket = FakeProxyWebSocket()
        if ollama:
            self.tunnel.send_status(frames.Status(ollama, "0.5.1", models or ("m:1",)))
        self.connect()

    def accept(self, head: RequestHead, sink: ResponderStream) -> FakeRequestSink:
        self.sinks.append(sink)
        self.heads.append(head)
        self.request_sinks.append(FakeRequestSink())
        return self.request_sinks[-1]

    def connect(self, authorized_until: float = math.inf) -> None:
        self.socket = FakeProxyWebSocket(authorized_until)
        self.tunnel.connection_made()
        self.settle()

    def settle(self) -> None:
        while True:
            up = self.tunnel.next_message()
            if up and self.socket.tunnel is None:
                self.registry.hello_received(self.socket, up)  # type: ignore[arg-type]
            elif up and self.socket.tunnel is not None:
                self.socket.tunnel.receive_message(up)
            down = b"" if self.socket.tunnel is None else self.socket.tunnel.next_message()
            if down:
                self.tunnel.receive_message(down)
            if not up and not down:
                return

    def lose(self, now: float) -> None:
        """Lose the connection on both ends."""
        self.tunnel.connection_lost(now)
        tunnel, self.socket.tunnel = self.socket.tunnel, None
        assert tunnel is not None
        tunnel.connection_lost(now)
        self.socket.on_closed()

"""Stand-ins with the products' faces: a place to dial, its wire, a caller, a call, an upstream."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from ctllm.errors import CtllmError
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.server.factory import HttpServerFactory


class Wire(StringTransport):
    """One connection. As on a real one, an abort is heard of a turn later: see `settle`."""

    closed = ""

    def loseConnection(self) -> None:
        self.closed = self.closed or "close"
        super().loseConnection()

    def abortConnection(self) -> None:
        self.closed = "abort"

    def unregisterProducer(self) -> None:
        self.producer = None  # a real one does not mind when there is none

    def loseWriteConnection(self) -> None:
        self.closed = "half"

    def said(self) -> bytes:
        """What was written since this was last asked."""
        value: bytes = self.value()
        self.clear()
        return value

    def settle(self) -> None:
        """The next turn: an abort arrives."""
        if self.closed == "abort":
            self.protocol.connectionLost(Failure(ConnectionAborted()))

    def hang_up(self, reason: Exception | None = None) -> None:
        """The other side closed."""
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


class SecuredWire(Wire):
    """One with TLS, whose handshake a test completes."""

    wrappedProtocol = None


class Place:
    """An endpoint: each dialling waits until a test accepts or refuses it."""

    def __init__(self) -> None:
        self.dialled: list[tuple[Any, Deferred[Any]]] = []
        self.given_up = 0
        self.wires: list[Wire] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred(self._gave_up)
        self.dialled.append((factory, waiting))
        return waiting

    def _gave_up(self, waiting: Deferred[Any]) -> None:
        self.given_up += 1

    def accept(self, wire: Wire | None = None) -> Wire:
        factory, waiting = self.dialled.pop(0)
        protocol, wire = factory.buildProtocol(None), wire or Wire()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        self.wires.append(wire)
        waiting.callback(protocol)
        return wire

    def refuse(self, error: Exception) -> None:
        self.dialled.pop(0)[1].errback(error)


class Served:
    """An endpoint with a real HttpServer behind it, over memory; `flush` moves the bytes."""

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


class Heard:
    """A Caller that remembers, and holds who calls it to the contract."""

    def __init__(self) -> None:
        self.headed: ResponseHead | None = None
        self.got = bytearray()
        self.over: str | CtllmError | None = None
        self.may_send = True

    def write_head(self, head: ResponseHead) -> None:
        assert self.headed is None and self.over is None
        self.headed = head

    def write(self, piece: bytes) -> None:
        assert self.headed is not None and self.over is None
        self.got += piece

    def finish(self) -> None:
        assert self.headed is not None and self.over is None
        self.over = "end"

    def fail(self, error: CtllmError) -> None:
        assert self.over is None
        self.over = error

    def pause_request_body(self) -> None:
        assert self.over is None
        self.may_send = False

    def resume_request_body(self) -> None:
        assert self.over is None, "called after the end"
        self.may_send = True


class Told:
    """A Call that remembers."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def write(self, piece: bytes) -> None:
        self.told.append(piece)

    def finish(self) -> None:
        self.told.append("end")

    def cancel(self, error: CtllmError) -> None:
        self.told.append(error)

    def pause_response(self) -> None:
        self.told.append("pause")

    def resume_response(self) -> None:
        self.told.append("resume")


class Upstream:
    """An Upstream that remembers what it was asked, for the test to answer."""

    def __init__(self) -> None:
        self.asked: list[RequestHead] = []
        self.callers: list[Any] = []
        self.calls: list[Told] = []

    def start_request(self, head: RequestHead, caller: Any) -> Told:
        self.asked.append(head)
        self.callers.append(caller)
        self.calls.append(Told())
        return self.calls[-1]

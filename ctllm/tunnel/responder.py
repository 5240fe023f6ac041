"""The bridge's end of a tunnel: answers exchanges, and keeps them for those who come back."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import (
    BadGateway,
    ClientDisconnected,
    CtllmError,
    Gone,
    ProtocolViolation,
    ServiceUnavailable,
)
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import RequestHead, ResponseHead, decode_request, encode_response
from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import (
    MAX_HEAD,
    NO_EXCHANGE,
    VERSION,
    Desktop,
    Hello,
    Kind,
    Status,
    frame,
    json_frame,
    offset_frame,
)
from ctllm.tunnel.peer import BROKE, TunnelPeer
from ctllm.tunnel.stream import Link, Stream

#: Given an exchange (a Caller) and what it asks, starts the work and returns the Call.
Accept = Callable[["ResponderStream", RequestHead], RequestSink]

#: How many resumable answers keep a long tail at once; more are granted no resumption.
MAX_RESUMABLE = 16


class ResponderStream(Stream):
    """The answerer's end of an exchange; a `Caller` for whatever does the work."""

    call: RequestSink

    def __init__(self, id: bytes, answerer: Responder, resume: int) -> None:
        keep = answerer.keep if resume else 0
        super().__init__(
            id,
            ReceiveWindow(answerer.window),
            SendBuffer(answerer.peer_window, keep),
            answerer.ready,
        )
        self.resume = resume
        self.failure: CtllmError | None = None
        self._answerer = answerer
        self._head = b""

    # -- Caller

    def write_head(self, head: ResponseHead) -> None:
        """Send the answer's status and headers."""
        payload = encode_response(head)
        if len(payload) > MAX_HEAD:  # the proxy would take the frame for a broken tunnel
            error = BadGateway("the answer's headers are too large for a tunnel")
            self.call.cancel(error)
            self.fail(error)
            return
        self._head = frame(Kind.HEAD, self.id, payload)
        if self.link is Link.LIVE:
            self._announcement += self._head
            self._ready(self)

    def write(self, piece: bytes) -> None:
        """Send a piece of the answer."""
        if self._put(piece):
            self.call.pause_response()

    def finish(self) -> None:
        """The answer is whole."""
        self.out.ended = True
        self._ready(self)

    def fail(self, error: CtllmError) -> None:
        """There will be no more answer than what was given; told after that was sent."""
        self.failure = error
        self._ready(self)

    def pause_request_body(self) -> None:
        """Count nothing more of the request as consumed; the window then stops the opener."""
        self._pause_reader()

    def resume_request_body(self) -> None:
        """Whatever does the work reads again."""
        self._resume_reader()

    # -- what the tunnel does

    @property
    def over(self) -> bool:
        """Whether `call` has nothing left to do."""
        return self.failure is not None or (self.out.ended and self.into.final is not None)

    def frames(self, share: int, found: list[bytes | bytearray]) -> int:
        """Append what is to be sent now; after the last byte before a failure, the failure."""
        size = super().frames(share, found)
        if self.failure and self.link is Link.LIVE and self.out.sent == self.out.written:
            self._answerer.refuse(self, self.failure)
        return size

    def attach(self, offset: int) -> None:
        """Go on from `offset`; raises Gone where that is not kept any more."""
        if offset > self.out.written:  # whoever has the end has nothing left to ask for
            raise Gone("the answer is not that long")
        self.out.rewind(offset)
        self._live()
        self._announcement = offset_frame(Kind.ATTACH, self.id, self.into.reach) + self._head

    def hear_data(self, offset: int, piece: bytes) -> None:
        """Take a piece of the request body."""
        self.into.accept(offset, len(piece))
        self.call.write(piece)
        self._consumed()

    def hear_end(self, offset: int) -> None:
        """The request body is whole."""
        self.into.end(offset)
        self.call.finish()
        self._consumed()

    def hear_ack(self, offset: int) -> None:
        """Take how far the opener has consumed the answer."""
        if self._acknowledged(offset):
            self.call.resume_response()


class Responder(TunnelPeer[ResponderStream]):
    """The end that answers. One lives as long as the desktop, over all connections and proxies."""

    def __init__(
        self, window: int, grace: float, max_exchanges: int, *, keep: int, desktop: Desktop
    ) -> None:
        super().__init__(window, grace, max_exchanges)
        self.keep = keep
        self.desktop = desktop
        self.accept: Accept | None = None
        self.on_greeted: Callable[[], None] = lambda: None
        self._status = b""
        self._now = 0.0

    @property
    def peer_window(self) -> int:
        """How far beyond its acknowledgements the proxy lets us send."""
        return self._peer_window

    def connected(self) -> None:
        """A new connection is open: say HELLO, then what is known of Ollama."""
        held = tuple(id.hex() for id in self.exchanges)
        hello = Hello(VERSION, self.window, self.desktop, ("resume",), held)
        self._notices[:] = [json_frame(Kind.HELLO, NO_EXCHANGE, hello)]
        self.wake()

    def tell(self, status: Status) -> None:
        """Tell the proxy, now and after each connection, what is known of Ollama."""
        self._status = json_frame(Kind.STATUS, NO_EXCHANGE, status)
        self._notice(self._status)

    def refuse(self, exchange: ResponderStream, error: CtllmError) -> None:
        """End an exchange from this side and tell the other."""
        if exchange.id in self.exchanges:
            self._forget(exchange)
            self._reset(exchange.id, error)

    def sweep(self, now: float) -> None:
        """Give up what nobody came back for in time."""
        self._now = now
        for exchange in list(self.exchanges.values()):
            if exchange.expires is not None and exchange.expires <= now:
                self._end(exchange, ClientDisconnected("nobody came back for the answer in time"))

    def _greeted(self, hello: Hello) -> None:
        self.on_greeted()
        if self._status:
            self._notice(self._status)
        held = frozenset(hello.exchanges)
        for exchange in list(self.exchanges.values()):
            if exchange.id.hex() not in held and not self._kept(exchange):
                gone = "the proxy does not hold this exchange any more"
                self._end(exchange, ClientDisconnected(gone))

    def _kept(self, exchange: ResponderStream) -> bool:
        """Whether an exchange that this proxy does not hold may still be asked for."""
        return exchange.resume > 0 and exchange.into.final is not None

    def _patience(self, exchange: ResponderStream) -> float:
        return max(self.grace, exchange.resume)

    def _lost(self, exchange: ResponderStream, error: CtllmError) -> None:
        if not exchange.over:
            exchange.call.cancel(error)

    def _on_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        if kind == Kind.OPEN:  # also of one that ended here, where its end was lost on the way
            self._open(id, payload)
        elif kind == Kind.ATTACH:
            self._reset(id, Gone("the desktop does not hold this exchange any more"))
        else:
            self._stray(kind, id)

    def _open(self, id: bytes, payload: bytes) -> None:
        try:
            head, resume = decode_request(payload)
        except ValueError as error:
            raise ProtocolViolation(f"an OPEN frame that is not right: {error}") from None
        if len(self.exchanges) >= self.max_exchanges:
            self._remember(id)
            self._reset(id, ServiceUnavailable("the desktop has too many requests under way"))
            return
        assert self.accept is not None
        exchange = ResponderStream(id, self, self._granted(resume))
        self.exchanges[id] = exchange
        try:
            exchange.call = self.accept(exchange, head)
        except CtllmError as error:
            self.refuse(exchange, error)
        except Exception as error:
            self.on_crash(error)
            self.refuse(exchange, CtllmError(BROKE))

    def _granted(self, resume: int) -> int:
        kept = sum(1 for exchange in self.exchanges.values() if exchange.resume)
        return resume if kept < MAX_RESUMABLE else 0

    def _on_data(self, exchange: ResponderStream, offset: int, piece: bytes) -> None:
        exchange.hear_data(offset, piece)

    def _on_end(self, exchange: ResponderStream, offset: int) -> None:
        exchange.hear_end(offset)

    def _on_ack(self, exchange: ResponderStream, offset: int) -> None:
        exchange.hear_ack(offset)
        if exchange.out.end_acked:
            if self._kept(exchange):
                exchange.expires = self._now + exchange.resume
            else:
                self._finish(exchange)

    def _finish(self, exchange: ResponderStream) -> None:
        self._end(exchange, ClientDisconnected("the answer was whole before the request was"))

    def _on_attach(self, exchange: ResponderStream, offset: int) -> None:
        try:
            exchange.attach(offset)
        except Gone as gone:
            self.refuse(exchange, gone)
            self._lost(exchange, gone)

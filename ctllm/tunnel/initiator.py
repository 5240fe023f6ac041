"""The proxy's end of a tunnel: opens exchanges and takes them up again on a new connection."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ctllm.common.memory_budget import MemoryBudget, unlimited_budget
from ctllm.errors import (
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    Gone,
    NotFound,
    ProtocolViolation,
    RequestHeaderFieldsTooLarge,
    ServiceUnavailable,
)
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead, decode_response, encode_request
from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import (
    MAX_HEAD,
    NO_EXCHANGE,
    VERSION,
    Hello,
    Kind,
    Status,
    frame,
    from_json,
    json_frame,
    offset_frame,
)
from ctllm.tunnel.peer import TunnelPeer
from ctllm.tunnel.stream import Link, Stream


class InitiatorStream(Stream):
    """The opener's end of an exchange; a `Call` for whoever asked through it."""

    def __init__(self, id: bytes, opener: Initiator, caller: ResponseSink, opening: bytes) -> None:
        super().__init__(
            id, ReceiveWindow(opener.window), SendBuffer(opener.peer_window), opener.ready
        )
        self.caller = caller
        self.heard = False  # whether the answerer is known to have this exchange
        self.headed = False
        self._opener = opener
        self._opening = opening
        self._announcement = opening
        self.resume_seconds = 0  # how long its client may stay away
        self._attaching = 0  # ATTACH frames that were sent and not yet answered
        self._taken_up = not opening  # its request went through a proxy before this one

    # -- Call

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self.id not in self._opener.exchanges:
            return  # it is over, and what is left of the request goes nowhere
        self._opener.budget.reserve(len(piece))
        if self._put(piece):
            self.caller.pause_request_body()

    def finish(self) -> None:
        """The request body is whole."""
        self.out.ended = True
        self._ready(self)

    def cancel(self, error: CtllmError) -> None:
        """The caller left: so does the exchange."""
        self._opener.drop(self, error)

    def pause_response(self) -> None:
        """Count nothing more as consumed; the window then stops the answerer."""
        self._pause_reader()

    def resume_response(self) -> None:
        """The caller reads again."""
        self._resume_reader()

    # -- attachment

    @property
    def awaits_attach(self) -> bool:
        """Whether an ATTACH of ours is still to be answered."""
        return self._attaching > 0

    @property
    def unopened(self) -> bool:
        """Whether the answerer cannot know of it: its OPEN was not even sent."""
        return bool(self._announcement) and self._announcement is self._opening

    def frames(self, share: int, found: list[bytes | bytearray]) -> int:
        """Append what is to be sent now."""
        if self.link is Link.ATTACHING and self._announcement:
            self._attaching += 1
        return super().frames(share, found)

    def detach(self, expires: float) -> None:
        """The connection was lost, and with it the answers to every ATTACH."""
        super().detach(expires)
        self._attaching = 0

    def attach(self) -> None:
        """Ask to go on where we are: the answerer is back."""
        self.link = Link.ATTACHING
        self.expires = None
        self._announcement = offset_frame(Kind.ATTACH, self.id, self.into.reach)
        self._ready(self)

    def open_again(self) -> None:
        """The answerer never heard of it: begin anew. Nothing was acknowledged, so all is held."""
        self.out.rewind(0)
        self._announcement = self._opening
        self._live()
        self._ack_forced = False  # there is nothing to tell of an answer that has not begun

    def attached(self, offset: int) -> None:
        """The answerer goes on, and wants the request body from `offset`.

        Who is taken up again before the answerer replied hears it reply to the ATTACH before, too:
        what follows that one is not from where the last one asked.
        """
        self._attaching -= 1
        if self._attaching or self._announcement:
            return
        if not self._taken_up:
            self.out.rewind(offset)
        self._live()

    def hand_to(self, caller: ResponseSink, offset: int) -> None:
        """Let `caller` have the answer from `offset` on, head included."""
        self.caller = caller
        self.headed = False
        self._reader_paused = False
        self.into.rejoin(offset)
        self.attach()

    # -- what the tunnel hears

    def hear_head(self, payload: bytes) -> None:
        """Take the answer's head; one that comes again after an attachment is not news."""
        if self.headed or self.link is not Link.LIVE:
            return
        try:
            head = decode_response(payload)
        except ValueError as error:
            raise ProtocolViolation(f"a HEAD frame that is not right: {error}") from None
        self.headed = True
        self.caller.write_head(self._opener.admit(head))

    def hear_data(self, offset: int, piece: bytes) -> None:
        """Take a piece of the answer."""
        if self.link is not Link.LIVE:
            return  # sent before the answerer saw our ATTACH; it comes again
        if not self.headed:
            raise ProtocolViolation("an answer's bytes before its head")
        self.into.accept(offset, len(piece))
        self.caller.write(piece)
        self._consumed()

    def hear_ack(self, offset: int) -> None:
        """Take how far the answerer has consumed the request body."""
        if self._taken_up or self.link is not Link.LIVE:
            return  # of a request that another proxy sent, or of before our ATTACH
        held = self.out.held
        goes_on = self._acknowledged(offset)
        self._opener.budget.release(held - self.out.held)
        if goes_on:
            self.caller.resume_request_body()


class Initiator(TunnelPeer[InitiatorStream]):
    """The end that opens exchanges. `admit` makes of an answer's head what callers get of it."""

    def __init__(
        self,
        window: int,
        grace: float,
        max_exchanges: int,
        admit: Callable[[ResponseHead], ResponseHead] = lambda head: head,
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(window, grace, max_exchanges)
        self.admit = admit
        self.budget = unlimited_budget() if budget is None else budget
        self.status: Status | None = None

    @property
    def peer_window(self) -> int:
        """How far beyond its acknowledgements the bridge lets us send."""
        return self._peer_window

    def start_request(
        self, head: RequestHead, caller: ResponseSink, resume: int = 0
    ) -> InitiatorStream:
        """Begin an exchange; raises DesktopOffline, Overloaded or HeadTooLarge."""
        if not self.up:
            raise DesktopOffline("the desktop is not connected; it may be back in a moment")
        if len(self.exchanges) >= self.max_exchanges:
            raise ServiceUnavailable(
                f"{self.max_exchanges} requests are under way; try again when some ended"
            )
        payload = encode_request(head, resume)
        if len(payload) > MAX_HEAD:  # the bridge would take the frame for a broken tunnel
            raise RequestHeaderFieldsTooLarge(
                "the request line and headers are too large for a tunnel"
            )
        id = secrets.token_bytes(16)
        opening = frame(Kind.OPEN, id, payload)
        exchange = InitiatorStream(id, self, caller, opening)
        exchange.resume_seconds = resume
        self.exchanges[id] = exchange
        self.ready(exchange)
        return exchange

    def take_up(self, id: bytes, offset: int, caller: ResponseSink) -> InitiatorStream:
        """Ask for the answer of an exchange again, from `offset`; raises DesktopOffline, NotFound.

        Whether the desktop still holds it shows later: `caller` hears Gone if not. Whoever had the
        answer until now hears that somebody else has taken it up.
        """
        if not self.up:
            raise DesktopOffline("the desktop that holds this answer is not connected")
        exchange = self.exchanges.get(id)
        if exchange is not None:
            if not exchange.resume_seconds or not exchange.out.ended:
                raise NotFound("that answer cannot be taken up")
            exchange.caller.fail(
                ClientDisconnected("this answer was taken up by another connection")
            )
        else:
            exchange = InitiatorStream(id, self, caller, b"")
            exchange.heard = True
            exchange.out.ended = exchange.out.end_sent = exchange.out.end_acked = True
            self.exchanges[id] = exchange
            self._ended.pop(id, None)
        exchange.hand_to(caller, offset)
        return exchange

    def drop(self, exchange: InitiatorStream, error: CtllmError) -> None:
        """End an exchange from this side and tell the other."""
        if exchange.id in self.exchanges:
            self._forget(exchange)
            if not exchange.unopened:
                self._reset(exchange.id, error)

    def _forget(self, exchange: InitiatorStream) -> None:
        """End an exchange; what was kept of its request is free."""
        if exchange.id in self.exchanges:
            self.budget.release(exchange.out.clear())
        super()._forget(exchange)

    def sweep(self, now: float) -> None:
        """Give up exchanges whose desktop did not come back within the grace time."""
        for exchange in list(self.exchanges.values()):
            if exchange.expires is not None and exchange.expires <= now:
                self.drop(exchange, DesktopLost("gave up"))
                lost = "the desktop went away in the middle of this and did not come back"
                self._end(exchange, DesktopLost(lost))

    def _greeted(self, hello: Hello) -> None:
        held = frozenset(hello.exchanges)
        known = tuple(id.hex() for id in self.exchanges)
        self._notices.insert(
            0, json_frame(Kind.HELLO, NO_EXCHANGE, Hello(VERSION, self.window, exchanges=known))
        )
        for exchange in list(self.exchanges.values()):
            if exchange.id.hex() in held:
                exchange.attach()
            elif not exchange.heard:
                exchange.open_again()
            else:
                self._end(exchange, DesktopLost("the desktop was restarted in the middle of this"))

    def _lost(self, exchange: InitiatorStream, error: CtllmError) -> None:
        exchange.caller.fail(error)

    def _on_connection(self, kind: int, payload: bytes) -> None:
        if kind != Kind.STATUS or not self.up:
            super()._on_connection(kind, payload)
        self.status = from_json(payload, Status)

    def _on_head(self, exchange: InitiatorStream, kind: int, payload: bytes) -> None:
        if kind != Kind.HEAD:
            super()._on_head(exchange, kind, payload)
        exchange.heard = True
        exchange.hear_head(payload)

    def _on_data(self, exchange: InitiatorStream, offset: int, piece: bytes) -> None:
        exchange.hear_data(offset, piece)

    def _on_end(self, exchange: InitiatorStream, offset: int) -> None:
        if exchange.link is not Link.LIVE:
            return
        if not exchange.headed:
            raise ProtocolViolation("an answer's end before its head")
        exchange.into.end(offset)
        exchange.into.consume()  # the caller has it all; what its socket holds is its own affair
        self._forget(exchange)
        self._notice(offset_frame(Kind.ACK, exchange.id, exchange.into.acknowledge()))
        if not exchange.out.end_acked:
            self._reset(exchange.id, CtllmError("the answer was whole before the request was"))
        exchange.caller.finish()

    def _on_ack(self, exchange: InitiatorStream, offset: int) -> None:
        exchange.heard = True
        exchange.hear_ack(offset)

    def _on_attach(self, exchange: InitiatorStream, offset: int) -> None:
        if not exchange.awaits_attach:
            raise ProtocolViolation("an ATTACH that nobody asked for")
        exchange.heard = True
        try:
            exchange.attached(offset)
        except Gone:
            raise ProtocolViolation("an ATTACH for bytes that were acknowledged") from None

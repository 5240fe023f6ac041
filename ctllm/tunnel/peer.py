"""What both ends of a tunnel share: exchanges over one connection after another.

Sans-IO: the shell calls `receive` with each message, sends what `outgoing` returns whenever its
transport has room, says `disconnected`, and calls `sweep` now and then. `wake` is called when
there is something to send. Time is seconds from any clock, passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ctllm.errors import CtllmError, ProtocolViolation, error_from_wire
from ctllm.tunnel.frames import (
    NO_EXCHANGE,
    OFFSET,
    VERSION,
    Hello,
    Kind,
    Reason,
    from_json,
    json_frame,
    offset_of,
    split,
)
from ctllm.tunnel.stream import Stream

_DATA = int(Kind.DATA)  # an enumeration's members are slow to get at on the path of a token

#: One exchange's turn, so that a fast one does not keep the others waiting.
SHARE = 16 * 1024
#: How full one message is made.
FILL = 128 * 1024
_FRAMING = 64  # bytes that an exchange's turn costs besides its data, or about
#: How many ended exchanges are remembered: their last frames may still be under way.
REMEMBERED = 8192
#: More frames about nothing than this waiting to be sent means that the peer does not read.
MAX_NOTICES = 16384

#: What both sides hear of a failure of this program.
BROKE = "something in ctllm broke; its log says what"

E = TypeVar("E", bound=Stream)


def _raise(error: Exception) -> None:
    raise error


def check(hello: Hello) -> None:
    """Raise ProtocolViolation for a HELLO that no tunnel can begin with."""
    if hello.version != VERSION:
        raise ProtocolViolation(f"tunnel version {hello.version}; this side speaks {VERSION}")
    if not 1 <= hello.window <= 1 << 30:
        raise ProtocolViolation("a window of impossible size")


class TunnelPeer(Generic[E]):
    """One end of a tunnel."""

    def __init__(self, window: int, grace: float, max_exchanges: int) -> None:
        self.window = window
        self.grace = grace
        self.max_exchanges = max_exchanges
        self.exchanges: dict[bytes, E] = {}
        self.up = False
        self.wake: Callable[[], None] = lambda: None
        self.on_bye: Callable[[Reason], None] = lambda reason: None
        self.on_crash: Callable[[Exception], None] = _raise
        self._peer_window = 0
        self._line: deque[Stream] = deque()
        self._notices: list[bytes] = []
        self._ended: dict[bytes, None] = {}
        self._unread = False  # the peer does not read what it is told

    # -- the shell's side

    def receive(self, message: bytes) -> None:
        """Take one message; raises ProtocolViolation, after which the shell calls `violated`."""
        if self._unread:
            raise ProtocolViolation("frames are not being read")
        for kind, id, payload in split(message):
            if kind == _DATA:
                self._data(id, payload)
            elif id == NO_EXCHANGE:
                self._about_connection(kind, payload)
            else:
                self._about_exchange(kind, id, payload)

    def outgoing(self) -> bytes:
        """The next message to send, or nothing."""
        found: list[bytes | bytearray] = [*self._notices]
        self._notices.clear()
        size = sum(map(len, found))
        while self.up and self._line and size < FILL:
            exchange = self._line.popleft()
            exchange.queued = False
            if exchange.id not in self.exchanges:
                continue
            size += _FRAMING + exchange.frames(SHARE, found)
            if exchange.unsent:
                self.ready(exchange)
        return b"".join(found)

    def disconnected(self, now: float) -> None:
        """The connection was lost: exchanges wait for another, for the grace time."""
        self.up = self._unread = False
        self._notices.clear()
        for exchange in self._line:
            exchange.queued = False
        self._line.clear()
        for exchange in self.exchanges.values():
            exchange.detach(now + self._patience(exchange))

    def violated(self, error: CtllmError) -> bytes:
        """End every exchange with `error`; returns the last message for the peer."""
        self.abandon(error)
        self.up = False
        self._notices.clear()
        return json_frame(Kind.BYE, NO_EXCHANGE, Reason(error.code, error.message[:500]))

    def dismiss(self, error: CtllmError) -> None:
        """End every exchange on both sides with `error`."""
        for exchange in self.exchanges.values():
            self._reset(exchange.id, error)
        self.abandon(error)

    def abandon(self, error: CtllmError) -> None:
        """End every exchange on this side with `error`."""
        for exchange in list(self.exchanges.values()):
            self._end(exchange, error)

    # -- frames

    def _data(self, id: bytes, payload: bytes) -> None:
        exchange = self.exchanges.get(id)
        if exchange is None:
            self._stray(Kind.DATA, id)
            return
        if len(payload) < 8:
            raise ProtocolViolation("a DATA frame without its offset")
        try:
            self._on_data(exchange, OFFSET.unpack_from(payload)[0], payload[8:])
        except ProtocolViolation:
            raise
        except Exception as error:
            self._crashed(exchange, error)

    def _about_connection(self, kind: int, payload: bytes) -> None:
        if kind == Kind.BYE:
            reason = from_json(payload, Reason)
            self.on_bye(reason)
            if reason.code == ProtocolViolation.code:
                self.abandon(
                    error_from_wire(
                        reason.code, f"the other end of the tunnel says: {reason.message}"
                    )
                )
        elif kind == Kind.HELLO:
            self.greet(from_json(payload, Hello))
        else:
            self._on_connection(kind, payload)

    def _about_exchange(self, kind: int, id: bytes, payload: bytes) -> None:
        if not self.up:
            raise ProtocolViolation("a frame before HELLO")
        exchange = self.exchanges.get(id)
        if exchange is None:
            self._on_unknown(kind, id, payload)
            return
        try:
            self._about(exchange, kind, payload)
        except ProtocolViolation:
            raise
        except Exception as error:
            self._crashed(exchange, error)

    def _about(self, exchange: E, kind: int, payload: bytes) -> None:
        if kind == Kind.RESET:
            reason = from_json(payload, Reason)
            self._end(exchange, error_from_wire(reason.code, reason.message))
        elif kind == Kind.ACK:
            self._on_ack(exchange, offset_of(payload))
        elif kind == Kind.END:
            self._on_end(exchange, offset_of(payload))
        elif kind == Kind.ATTACH:
            self._on_attach(exchange, offset_of(payload))
        else:
            self._on_head(exchange, kind, payload)

    def greet(self, hello: Hello) -> None:
        """Take the peer's HELLO: frames may flow from now on."""
        check(hello)
        if self.up:
            raise ProtocolViolation("a second HELLO")
        self._peer_window = hello.window
        self.up = True
        self._greeted(hello)
        self.wake()

    def _stray(self, kind: int, id: bytes) -> None:
        """A frame for an exchange that is not (any more): late is fine, unknown is not."""
        if id not in self._ended:
            raise ProtocolViolation(f"a frame of kind {kind} for an unknown exchange")

    # -- one exchange's end

    def _end(self, exchange: E, error: CtllmError) -> None:
        """Forget an exchange and tell this side's user of it; that this fails is nobody else's."""
        self._forget(exchange)
        try:
            self._lost(exchange, error)
        except Exception as failure:
            self.on_crash(failure)

    def _crashed(self, exchange: E, failure: Exception) -> None:
        """Whoever uses an exchange on this side failed: it ends on both sides, and no other."""
        self.on_crash(failure)
        error = CtllmError(BROKE)
        if exchange.id in self.exchanges:
            self._reset(exchange.id, error)
        self._end(exchange, error)

    # -- bookkeeping

    def ready(self, exchange: Stream) -> None:
        """An exchange has something to send: give it a turn."""
        if not exchange.queued and self.up:
            exchange.queued = True
            self._line.append(exchange)
            self.wake()

    def _notice(self, frame: bytes) -> None:
        if not self.up:
            return
        if len(self._notices) >= MAX_NOTICES:
            self._unread = True  # who is told of it is the peer, and not whoever is just calling
            return
        self._notices.append(frame)
        self.wake()

    def _reset(self, id: bytes, error: CtllmError) -> None:
        self._notice(json_frame(Kind.RESET, id, Reason(error.code, error.message[:500])))

    def _forget(self, exchange: E) -> None:
        if self.exchanges.pop(exchange.id, None) is not None:
            self._remember(exchange.id)

    def _remember(self, id: bytes) -> None:
        """An exchange ended: its last frames may still be under way."""
        self._ended[id] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    # -- what the two ends do differently

    def _greeted(self, hello: Hello) -> None:
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Give up the exchanges whose time is over."""
        raise NotImplementedError

    def _patience(self, exchange: E) -> float:
        return self.grace

    def _lost(self, exchange: E, error: CtllmError) -> None:
        """Tell this side's user of a forgotten exchange that it is over."""
        raise NotImplementedError

    def _on_connection(self, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"a frame of kind {kind} where none is due")

    def _on_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        self._stray(kind, id)

    def _on_head(self, exchange: E, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"a frame of kind {kind} where none is due")

    def _on_data(self, exchange: E, offset: int, piece: bytes) -> None:
        raise NotImplementedError

    def _on_end(self, exchange: E, offset: int) -> None:
        raise NotImplementedError

    def _on_ack(self, exchange: E, offset: int) -> None:
        raise NotImplementedError

    def _on_attach(self, exchange: E, offset: int) -> None:
        raise NotImplementedError

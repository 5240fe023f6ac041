"""One connection of a tray or a command: lines in, answers and events out, all of it bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from typing import Protocol as Face

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm import __version__
from ctllm.common.line_reader import LineReader
from ctllm.desktop.ipc.authenticator import Door
from ctllm.errors import (
    ContentTooLarge,
    CtllmError,
    RequestTimeout,
    ServiceUnavailable,
    Unauthorized,
)
from ctllm.ipc import protocol
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: Visitors at once, and how many of them may not have shown yet who they are.
MOST = 256
MOST_STRANGERS = 32
#: Seconds to show that, and for the rest of a line that has begun.
PATIENCE = 5.0
#: Commands of one visitor that may be under way at once.
MOST_AT_ONCE = 16


class Commands(Face):
    """What answers."""

    def run(self, request: protocol.Request, visitor: Visitor) -> Awaitable[object]:
        """Do it, and give what is to be told; raises CtllmError."""


class Visitor(Protocol):
    """One connection."""

    transport: Any
    factory: Visitors
    _log = Logger()

    def __init__(self, clock: Clock, secret: str, commands: Commands) -> None:
        self.watches = False  # wants to hear of changes
        self.reads_log = False
        self._commands = commands
        self._door = Door(secret)
        self._lines = LineReader(protocol.MAX_LINE_OF_STRANGERS)
        self._waiting: deque[bytes | None] = deque()
        self._busy = 0
        self._full = False
        self._news: dict[str, bytes] = {}  # by kind, the last while the visitor reads nothing
        self._deadline = Timeout(clock, self._too_slow)
        self._gone = False

    # -- Twisted's side

    def connectionMade(self) -> None:
        """Say who we are, and ask who that is."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        try:
            self.factory.enter(self)
            self._door.knock(self.transport)
        except CtllmError as error:
            self.leave(error)
            return
        if self.known:
            self._let_in()
        else:
            self._deadline.start(PATIENCE)
        hello = protocol.Hello(protocol.PROTOCOL, __version__, self._door.challenge)
        self.transport.write(protocol.event_line("hello", hello))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It left. What it asked for is done all the same."""
        self._gone = True
        self._deadline.cancel()
        self._waiting.clear()
        self.factory.left(self)

    def dataReceived(self, data: bytes) -> None:
        """Take lines, and read on only when they were answered."""
        if self._gone:
            return
        self._waiting.extend(self._lines.feed(data))
        self._expect_rest()
        self._serve()

    def _expect_rest(self) -> None:
        """A line that has begun ends soon, as long as we read."""
        if not self.known:
            return  # the deadline is that of AUTH
        if self._lines.has_partial_line and not self._full:
            self._deadline.start(PATIENCE)
        else:
            self._deadline.cancel()

    def pauseProducing(self) -> None:
        """It does not read what it asked for."""
        self._full = True
        self._expect_rest()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It reads again: first what has happened meanwhile, then what it asks."""
        self._full = False
        news, self._news = self._news, {}
        self.transport.write(b"".join(news.values()))
        self.transport.resumeProducing()
        self._expect_rest()
        self._serve()

    def stopProducing(self) -> None:
        """The connection is closing; `connectionLost` tells the rest."""

    # -- requests

    @property
    def known(self) -> bool:
        """Whether it has shown that it may ask."""
        return self._door.open

    def _serve(self) -> None:
        while self._waiting and not self._full and not self._gone:
            line = self._waiting.popleft()
            if line is None:
                error = ContentTooLarge(f"a line may have {self._lines.max_length} bytes")
                self._say(protocol.error_line(None, error))
                if not self.known:
                    self.leave(error)
            elif line.strip():
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        id = protocol.id_of(line)
        try:
            request = protocol.read_request(line)
            if isinstance(request, protocol.Auth):
                self._say(protocol.answer_line(id, protocol.Proof(self._door.show(request))))
                self._let_in()
                return
            if not self.known:
                raise Unauthorized("show first that you may ask, with AUTH")
            if self._busy >= MOST_AT_ONCE:
                raise ServiceUnavailable(
                    f"{MOST_AT_ONCE} commands of yours are under way; wait for them"
                )
        except CtllmError as error:
            self._say(protocol.error_line(id, error))
            if not self.known:
                self.leave(error)
            return
        self._busy += 1
        Deferred.fromCoroutine(self._run(request)).addErrback(self._broken, request.id)

    def _let_in(self) -> None:
        self._lines.max_length = protocol.MAX_LINE
        self._deadline.cancel()
        self.factory.known(self)

    async def _run(self, request: protocol.Request) -> None:
        try:
            answer = protocol.answer_line(request.id, await self._commands.run(request, self))
        except CtllmError as error:
            answer = protocol.error_line(request.id, error)
        finally:
            self._busy -= 1
        self._say(answer)

    def _broken(self, reason: Failure, id: protocol.Id) -> None:
        if not reason.check(CancelledError):
            self._log.failure("a command could not be done", reason)
            self._say(
                protocol.error_line(id, CtllmError("something in ctllm broke; its log says what"))
            )

    # -- what it hears

    def tell(self, event: str, data: object) -> None:
        """Send an event; while the visitor does not read, only the last of each kind is kept."""
        line = protocol.event_line(event, data)
        if self._full:
            self._news[event] = line
        else:
            self._say(line)

    def _say(self, line: bytes) -> None:
        if not self._gone:
            self.transport.write(line)

    def leave(self, error: CtllmError) -> None:
        """Say why, and close; what still comes is thrown away, for else it could not be read."""
        if self._gone:
            return
        fault = protocol.Fault(error.code, error.message)
        self._say(protocol.event_line("error", fault))
        self._gone = True
        self._deadline.start(PATIENCE)
        self._waiting.clear()
        self.transport.unregisterProducer()
        if self._full:
            self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def _too_slow(self) -> None:
        if self._gone:
            self.transport.abortConnection()
        else:
            what = "a line" if self.known else "AUTH"
            self.leave(RequestTimeout(f"{what} did not come within {PATIENCE:g} seconds"))


class Visitors(Factory):
    """Makes a `Visitor` for each connection, and knows those that there are."""

    noisy = False

    def __init__(self, clock: Clock, secret: str, commands: Commands) -> None:
        self._made: Callable[[], Visitor] = lambda: Visitor(clock, secret, commands)
        self._known: set[Visitor] = set()
        self._strangers: dict[Visitor, None] = {}  # the oldest first

    def buildProtocol(self, addr: object) -> Visitor:  # type: ignore[override]
        """A connection's protocol."""
        visitor = self._made()
        visitor.factory = self
        return visitor

    def __iter__(self) -> Any:
        """Those who have shown that they may ask."""
        return iter(tuple(self._known))

    def enter(self, visitor: Visitor) -> None:
        """One more; raises Overloaded. Of strangers the one that waits the longest makes room."""
        if len(self._known) >= MOST:
            raise ServiceUnavailable(f"{MOST} programs are connected here already")
        if len(self._strangers) >= MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.leave(ServiceUnavailable("too many wait here without AUTH"))
        self._strangers[visitor] = None

    def known(self, visitor: Visitor) -> None:
        """It may ask."""
        self._strangers.pop(visitor, None)
        self._known.add(visitor)

    def left(self, visitor: Visitor) -> None:
        """It is gone."""
        self._strangers.pop(visitor, None)
        self._known.discard(visitor)

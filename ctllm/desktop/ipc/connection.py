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
from ctllm.desktop.ipc.authenticator import Authenticator
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
MAX_CONNECTIONS = 256
MAX_UNAUTHENTICATED = 32
#: Seconds to show that, and for the rest of a line that has begun.
READ_TIMEOUT = 5.0
#: Commands of one visitor that may be under way at once.
MAX_CONCURRENT_COMMANDS = 16


class Commands(Face):
    """What answers."""

    def run(self, request: protocol.Request, connection: IpcConnection) -> Awaitable[object]:
        """Do it, and give what is to be told; raises CtllmError."""


class IpcConnection(Protocol):
    """One connection."""

    transport: Any
    factory: IpcConnectionFactory
    _log = Logger()

    def __init__(self, clock: Clock, secret: str, commands: Commands) -> None:
        self.is_subscribed = False  # wants to hear of changes
        self.follows_log = False
        self._commands = commands
        self._authenticator = Authenticator(secret)
        self._line_reader = LineReader(protocol.MAX_UNAUTHENTICATED_LINE)
        self._pending_lines: deque[bytes | None] = deque()
        self._running_commands = 0
        self._paused = False
        self._delayed_events: dict[
            str, bytes
        ] = {}  # by kind, the last while the visitor reads nothing
        self._timeout = Timeout(clock, self._timed_out)
        self._closed = False

    # -- Twisted's side

    def connectionMade(self) -> None:
        """Say who we are, and ask who that is."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        try:
            self.factory.add(self)
            self._authenticator.check_peer(self.transport)
        except CtllmError as error:
            self.close(error)
            return
        if self.is_authenticated:
            self._authenticated()
        else:
            self._timeout.start(READ_TIMEOUT)
        hello = protocol.Hello(
            protocol.PROTOCOL_VERSION, __version__, self._authenticator.challenge
        )
        self.transport.write(protocol.encode_event("hello", hello))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It left. What it asked for is done all the same."""
        self._closed = True
        self._timeout.cancel()
        self._pending_lines.clear()
        self.factory.remove(self)

    def dataReceived(self, data: bytes) -> None:
        """Take lines, and read on only when they were answered."""
        if self._closed:
            return
        self._pending_lines.extend(self._line_reader.feed(data))
        self._update_timeout()
        self._process_lines()

    def _update_timeout(self) -> None:
        """A line that has begun ends soon, as long as we read."""
        if not self.is_authenticated:
            return  # the deadline is that of AUTH
        if self._line_reader.has_partial_line and not self._paused:
            self._timeout.start(READ_TIMEOUT)
        else:
            self._timeout.cancel()

    def pauseProducing(self) -> None:
        """It does not read what it asked for."""
        self._paused = True
        self._update_timeout()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It reads again: first what has happened meanwhile, then what it asks."""
        self._paused = False
        news, self._delayed_events = self._delayed_events, {}
        self.transport.write(b"".join(news.values()))
        self.transport.resumeProducing()
        self._update_timeout()
        self._process_lines()

    def stopProducing(self) -> None:
        """The connection is closing; `connectionLost` tells the rest."""

    # -- requests

    @property
    def is_authenticated(self) -> bool:
        """Whether it has shown that it may ask."""
        return self._authenticator.is_authenticated

    def _process_lines(self) -> None:
        while self._pending_lines and not self._paused and not self._closed:
            line = self._pending_lines.popleft()
            if line is None:
                error = ContentTooLarge(f"a line may have {self._line_reader.max_length} bytes")
                self._write(protocol.encode_error(None, error))
                if not self.is_authenticated:
                    self.close(error)
            elif line.strip():
                self._process_line(line)

    def _process_line(self, line: bytes) -> None:
        id = protocol.parse_request_id(line)
        try:
            request = protocol.parse_request(line)
            if isinstance(request, protocol.Auth):
                self._write(
                    protocol.encode_response(
                        id, protocol.Proof(self._authenticator.verify(request))
                    )
                )
                self._authenticated()
                return
            if not self.is_authenticated:
                raise Unauthorized("show first that you may ask, with AUTH")
            if self._running_commands >= MAX_CONCURRENT_COMMANDS:
                raise ServiceUnavailable(
                    f"{MAX_CONCURRENT_COMMANDS} commands of yours are under way; wait for them"
                )
        except CtllmError as error:
            self._write(protocol.encode_error(id, error))
            if not self.is_authenticated:
                self.close(error)
            return
        self._running_commands += 1
        Deferred.fromCoroutine(self._run_command(request)).addErrback(
            self._command_failed, request.id
        )

    def _authenticated(self) -> None:
        self._line_reader.max_length = protocol.MAX_LINE
        self._timeout.cancel()
        self.factory.mark_authenticated(self)

    async def _run_command(self, request: protocol.Request) -> None:
        try:
            answer = protocol.encode_response(request.id, await self._commands.run(request, self))
        except CtllmError as error:
            answer = protocol.encode_error(request.id, error)
        finally:
            self._running_commands -= 1
        self._write(answer)

    def _command_failed(self, reason: Failure, id: protocol.RequestId) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("a command could not be done", reason)
            self._write(
                protocol.encode_error(id, CtllmError("something in ctllm broke; its log says what"))
            )

    # -- what it hears

    def send_event(self, event: str, data: object) -> None:
        """Send an event; while the visitor does not read, only the last of each kind is kept."""
        line = protocol.encode_event(event, data)
        if self._paused:
            self._delayed_events[event] = line
        else:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if not self._closed:
            self.transport.write(line)

    def close(self, error: CtllmError) -> None:
        """Say why, and close; what still comes is thrown away, for else it could not be read."""
        if self._closed:
            return
        fault = protocol.ErrorDetail(error.code, error.message)
        self._write(protocol.encode_event("error", fault))
        self._closed = True
        self._timeout.start(READ_TIMEOUT)
        self._pending_lines.clear()
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def _timed_out(self) -> None:
        if self._closed:
            self.transport.abortConnection()
        else:
            what = "a line" if self.is_authenticated else "AUTH"
            self.close(RequestTimeout(f"{what} did not come within {READ_TIMEOUT:g} seconds"))


class IpcConnectionFactory(Factory):
    """Makes a `Visitor` for each connection, and knows those that there are."""

    noisy = False

    def __init__(self, clock: Clock, secret: str, commands: Commands) -> None:
        self._made: Callable[[], IpcConnection] = lambda: IpcConnection(clock, secret, commands)
        self._authenticated: set[IpcConnection] = set()
        self._unauthenticated: dict[IpcConnection, None] = {}  # the oldest first

    def buildProtocol(self, addr: object) -> IpcConnection:  # type: ignore[override]
        """A connection's protocol."""
        visitor = self._made()
        visitor.factory = self
        return visitor

    def __iter__(self) -> Any:
        """Those who have shown that they may ask."""
        return iter(tuple(self._authenticated))

    def add(self, connection: IpcConnection) -> None:
        """One more; raises Overloaded. Of strangers the one that waits the longest makes room."""
        if len(self._authenticated) >= MAX_CONNECTIONS:
            raise ServiceUnavailable(f"{MAX_CONNECTIONS} programs are connected here already")
        if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            oldest = next(iter(self._unauthenticated))
            del self._unauthenticated[oldest]
            oldest.close(ServiceUnavailable("too many wait here without AUTH"))
        self._unauthenticated[connection] = None

    def mark_authenticated(self, connection: IpcConnection) -> None:
        """It may ask."""
        self._unauthenticated.pop(connection, None)
        self._authenticated.add(connection)

    def remove(self, connection: IpcConnection) -> None:
        """It is gone."""
        self._unauthenticated.pop(connection, None)
        self._authenticated.discard(connection)

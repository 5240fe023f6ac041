"""The server end of an IPC connection: requests as lines, responses and events, all bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterator
from typing import Any, NamedTuple
from typing import Protocol as TypingProtocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, ITCPTransport
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


class IpcLimits(NamedTuple):
    """The limits of all connections together, and of one."""

    #: Connections in all, and those that are not authenticated.
    max_connections: int = 256
    max_unauthenticated: int = 32
    #: Commands of one connection that run at the same time.
    max_concurrent_commands: int = 16
    #: Seconds within which a client authenticates, and within which a line that has begun ends.
    read_timeout: float = 5.0


_DEFAULT_LIMITS = IpcLimits()


class CommandRunner(TypingProtocol):
    """What runs the commands."""

    def run(self, request: protocol.Request, connection: IpcConnection) -> Awaitable[object]:
        """Run a command and return the data of its response; raises CtllmError."""


class IpcConnection(Protocol):
    """The protocol of one connection.

    Nothing more is read from a client that does not read its responses. Of the events that it
    misses it gets the last of each kind.
    """

    transport: Any
    _log = Logger()

    def __init__(
        self, factory: IpcConnectionFactory, clock: Clock, secret: str, limits: IpcLimits
    ) -> None:
        self.is_subscribed = False  # to changes of the status
        self.follows_log = False
        self._factory = factory
        self._limits = limits
        self._authenticator = Authenticator(secret)
        self._line_reader = LineReader(protocol.MAX_UNAUTHENTICATED_LINE)
        self._pending_lines: deque[bytes | None] = deque()
        self._running_commands = 0
        self._paused = False
        self._delayed_events: dict[str, bytes] = {}  # by kind, while the client does not read
        self._timeout = Timeout(clock, self._timed_out)
        self._closed = False

    # -- Protocol and IPushProducer

    def connectionMade(self) -> None:
        """Send `hello`, with a challenge if the peer's user is not known."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        try:
            self._factory.add(self)
            self._authenticator.check_peer(self.transport)
        except CtllmError as error:
            self.close(error)
            return
        if self.is_authenticated:
            self._authenticated()
        else:
            self._timeout.start(self._limits.read_timeout)
        challenge = self._authenticator.challenge
        hello = protocol.Hello(protocol.PROTOCOL_VERSION, __version__, challenge)
        self.transport.write(protocol.encode_event("hello", hello))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection. Commands that run go on."""
        self._closed = True
        self._timeout.cancel()
        self._pending_lines.clear()
        self._factory.remove(self)

    def dataReceived(self, data: bytes) -> None:
        """Process the lines that `data` completes."""
        if self._closed:
            return
        self._pending_lines.extend(self._line_reader.feed(data))
        self._update_timeout()
        self._process_lines()

    def _update_timeout(self) -> None:
        """Limit the time of a line that has begun, while the connection is read."""
        if not self.is_authenticated:
            return  # the timeout of AUTH is running
        if self._line_reader.has_partial_line and not self._paused:
            self._timeout.start(self._limits.read_timeout)
        else:
            self._timeout.cancel()

    def pauseProducing(self) -> None:
        """Stop reading: the client does not read its responses."""
        self._paused = True
        self._update_timeout()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Send the events that were delayed; then read again."""
        self._paused = False
        events, self._delayed_events = self._delayed_events, {}
        self.transport.write(b"".join(events.values()))
        self.transport.resumeProducing()
        self._update_timeout()
        self._process_lines()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- requests

    @property
    def is_authenticated(self) -> bool:
        """Whether the client may send commands."""
        return self._authenticator.is_authenticated

    def _process_lines(self) -> None:
        while self._pending_lines and not self._paused and not self._closed:
            line = self._pending_lines.popleft()
            if line is None:
                limit = self._line_reader.max_length
                error = ContentTooLarge(f"A line may have {limit} bytes.")
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
                proof = protocol.Proof(self._authenticator.verify(request))
                self._write(protocol.encode_response(id, proof))
                self._authenticated()
                return
            if not self.is_authenticated:
                raise Unauthorized("Authenticate with AUTH first.")
            limit = self._limits.max_concurrent_commands
            if self._running_commands >= limit:
                raise ServiceUnavailable(
                    f"{limit} commands of this connection are running. Wait until one has ended."
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
        self._factory.mark_authenticated(self)

    async def _run_command(self, request: protocol.Request) -> None:
        try:
            data = await self._factory.commands.run(request, self)
            response = protocol.encode_response(request.id, data)
        except CtllmError as error:
            response = protocol.encode_error(request.id, error)
        finally:
            self._running_commands -= 1
        self._write(response)

    def _command_failed(self, reason: Failure, id: protocol.RequestId) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("A command of the IPC failed", reason)
            error = CtllmError("Internal error of ctllm; see the desktop's log.")
            self._write(protocol.encode_error(id, error))

    # -- events

    def send_event(self, event: str, data: object) -> None:
        """Send an event, at once or when the client reads again."""
        line = protocol.encode_event(event, data)
        if self._paused:
            self._delayed_events[event] = line
        else:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if not self._closed:
            self.transport.write(line)

    def close(self, error: CtllmError) -> None:
        """Send the event `error`, and close the connection.

        Data that still arrives is discarded: with unread data in the socket, closing would reset
        the connection, and the client would not get the event.
        """
        if self._closed:
            return
        detail = protocol.ErrorDetail(error.code, error.message)
        self._write(protocol.encode_event("error", detail))
        self._closed = True
        self._timeout.start(self._limits.read_timeout)
        self._pending_lines.clear()
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def _timed_out(self) -> None:
        if self._closed:
            self.transport.abortConnection()
        else:
            missing = "The rest of a line" if self.is_authenticated else "AUTH"
            seconds = f"{self._limits.read_timeout:g} seconds"
            self.close(RequestTimeout(f"{missing} did not arrive within {seconds}."))


class IpcConnectionFactory(Factory):
    """The factory of the connections; it limits them, and iterates over the authenticated ones."""

    noisy = False

    def __init__(
        self,
        clock: Clock,
        secret: str,
        commands: CommandRunner,
        limits: IpcLimits = _DEFAULT_LIMITS,
    ) -> None:
        self.commands = commands
        self._clock = clock
        self._secret = secret
        self._limits = limits
        self._authenticated: set[IpcConnection] = set()
        self._unauthenticated: dict[IpcConnection, None] = {}  # the oldest first

    def buildProtocol(self, addr: IAddress | None) -> IpcConnection:
        """Return the protocol of a new connection."""
        return IpcConnection(self, self._clock, self._secret, self._limits)

    def __iter__(self) -> Iterator[IpcConnection]:
        """Iterate over the authenticated connections."""
        return iter(tuple(self._authenticated))

    def add(self, connection: IpcConnection) -> None:
        """Count a connection; raises ServiceUnavailable if there are too many.

        If too many are unauthenticated, the oldest of those is closed.
        """
        limit = self._limits.max_connections
        if len(self._authenticated) >= limit:
            raise ServiceUnavailable(f"{limit} programs are connected. Close some of them.")
        if len(self._unauthenticated) >= self._limits.max_unauthenticated:
            oldest = next(iter(self._unauthenticated))
            del self._unauthenticated[oldest]
            oldest.close(ServiceUnavailable("Too many connections are not authenticated."))
        self._unauthenticated[connection] = None

    def mark_authenticated(self, connection: IpcConnection) -> None:
        """Count `connection` as authenticated."""
        self._unauthenticated.pop(connection, None)
        self._authenticated.add(connection)

    def remove(self, connection: IpcConnection) -> None:
        """Count `connection` no more: it is closed."""
        self._unauthenticated.pop(connection, None)
        self._authenticated.discard(connection)

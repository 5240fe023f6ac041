"""A blocking client of the desktop daemon, for the tray and the commands. It does not use Twisted.

It finds the daemon by the address file in the state folder, and authenticates it before it sends a
command: by the owner of the UNIX socket, or on TCP by a proof that the daemon knows the secret.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.line_reader import LineReader
from ctllm.errors import BadGateway, CtllmError, NotRunning, Unauthorized, error_from_wire
from ctllm.ipc import protocol
from ctllm.ipc.messages import Status
from ctllm.system.unix_sockets import peer_credentials, pinned_path

#: Seconds that a response may take; logging in and opening the page involve the cloud.
RESPONSE_TIMEOUT = 30.0
T = TypeVar("T")
P = ParamSpec("P")
_INVALID_MESSAGE = "The desktop daemon sent an invalid message: {}"
_RECEIVE_SIZE = 65536
_NOT_RUNNING = "No desktop daemon runs here ({}). Start it with: twistd -n ctllm desktop"


def connect(state: Path, timeout: float) -> socket.socket:
    """Connect to the daemon of the state folder; raises NotRunning or BadGateway."""
    address = read_address(state)
    if address.socket and hasattr(socket, "AF_UNIX"):
        with contextlib.suppress(OSError):  # fall back to TCP
            owner = state.joinpath(*protocol.ADDRESS_FILE).stat().st_uid
            return connect_unix(address.socket, owner, timeout)
    try:
        return _connect_socket(socket.AF_INET, ("127.0.0.1", address.port), timeout)
    except OSError as error:
        reason = f"process {address.pid} has ended: {error.strerror or error}"
        raise NotRunning(_NOT_RUNNING.format(reason)) from error


class IpcClient:
    """A connection to the daemon of the state folder `state`.

    Raises NotRunning if there is none, BadGateway if the connection breaks, and the errors of the
    daemon's responses. `timeout` is in seconds, for each response.
    """

    def __init__(
        self,
        state: Path,
        timeout: float = RESPONSE_TIMEOUT,
        connect: Callable[[Path, float], socket.socket] = connect,
    ) -> None:
        self._last_id = 0
        self._line_reader = LineReader(protocol.MAX_RESPONSE_LINE)
        self._pending_lines: deque[bytes] = deque()
        self._pending_events: deque[protocol.Event] = deque()
        self._timeout = timeout
        self._socket = connect(state, timeout)
        try:
            self._handshake(read_address(state))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; `events` in another thread raises BadGateway."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def call(
        self,
        command: Callable[Concatenate[int, P], protocol.Request],
        *args: P.args,
        **fields: P.kwargs,
    ) -> Any:
        """Send a request of `ctllm.ipc.protocol`; return the data of its response."""
        self._last_id += 1
        deadline = time.monotonic() + self._timeout
        self._send(protocol.encode_request(command(self._last_id, *args, **fields)))
        while True:
            message = self._read_message(deadline)
            if isinstance(message, protocol.Event):
                if message.event == "error":
                    raise _exception_from(_decode(message.data, protocol.ErrorDetail))
                self._pending_events.append(message)
            elif message.id == self._last_id:
                if message.error is not None:
                    raise _exception_from(message.error)
                return _decode(message.data, object)

    def status(self, subscribe: bool = False) -> Status:
        """Return the status; with `subscribe`, changes follow as `events`."""
        if subscribe:
            return _convert(self.call(protocol.Subscribe), Status)
        return _convert(self.call(protocol.StatusRequest), Status)

    def events(self) -> Iterator[protocol.Event]:
        """Iterate over events for ever; raises BadGateway when the connection ends."""
        self._socket.settimeout(None)
        while True:
            message = (
                self._pending_events.popleft() if self._pending_events else self._read_message()
            )
            if isinstance(message, protocol.Event):
                yield message

    # -- the connection

    def _handshake(self, address: protocol.DaemonAddress) -> None:
        first = self._read_message(time.monotonic() + self._timeout)
        if not isinstance(first, protocol.Event) or first.event not in ("hello", "error"):
            raise BadGateway("The server at the address is not a ctllm desktop daemon.")
        if first.event == "error":
            raise _exception_from(_decode(first.data, protocol.ErrorDetail))
        hello = _decode(first.data, protocol.Hello)
        if hello.protocol != protocol.PROTOCOL_VERSION:
            raise BadGateway(
                f"The desktop daemon has another version ({hello.version}). Restart it."
            )
        if not hello.challenge:
            return
        nonce = secrets.token_hex(32)
        proof = protocol.compute_proof(address.secret, "client", hello.challenge, nonce)
        response = _convert(self.call(protocol.Auth, nonce=nonce, proof=proof), protocol.Proof)
        expected = protocol.compute_proof(address.secret, "daemon", hello.challenge, nonce)
        if not secrets.compare_digest(response.proof.encode(), expected.encode()):
            raise Unauthorized("The server is not the desktop daemon of this state folder.")

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise BadGateway(f"The connection to the desktop daemon broke: {error}") from error

    def _read_message(self, deadline: float | None = None) -> protocol.Response | protocol.Event:
        """Return the next message, which must be complete by `deadline`."""
        while not self._pending_lines:
            if deadline is not None:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._receive()
        return protocol.parse_message(self._pending_lines.popleft())

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_SIZE)
        except TimeoutError as error:
            raise BadGateway("The desktop daemon does not respond.") from error
        except OSError as error:
            raise BadGateway(f"The connection to the desktop daemon broke: {error}") from error
        if not data:
            raise BadGateway("The desktop daemon closed the connection.")
        for line in self._line_reader.feed(data):
            if line is None:
                raise BadGateway(_INVALID_MESSAGE.format("the line is too long"))
            self._pending_lines.append(line)


def _convert(value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:
        raise BadGateway(_INVALID_MESSAGE.format(error)) from error


def _decode(raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return decode_json(raw, kind)
    except InvalidJson as error:
        raise BadGateway(_INVALID_MESSAGE.format(error)) from error


def _exception_from(detail: protocol.ErrorDetail) -> CtllmError:
    return error_from_wire(detail.code, detail.message)


def read_address(state: Path) -> protocol.DaemonAddress:
    """Read the address file of the state folder; raises NotRunning or BadGateway."""
    path = state.joinpath(*protocol.ADDRESS_FILE)
    try:
        return decode_json(path.read_bytes(), protocol.DaemonAddress)
    except FileNotFoundError:
        raise NotRunning(_NOT_RUNNING.format(f"there is no {path}")) from None
    except PermissionError as error:
        raise NotRunning(f"{path} cannot be read: it is another user's.") from error
    except InvalidJson as error:
        raise BadGateway(
            f"{path} is damaged ({error}), so that a running daemon cannot be found. Stop the "
            "daemon (SIGTERM) and start it again: it writes the file anew."
        ) from error
    except OSError as error:
        raise NotRunning(_NOT_RUNNING.format(f"{path} cannot be read: {error}")) from error


def connect_unix(path: str, owner: int, timeout: float) -> socket.socket:
    """Connect to a UNIX socket on which `owner` or root listens; raises OSError.

    The caller may be root, and the state folder another user's, who must not choose the server.
    """
    if sys.platform == "win32":
        raise OSError("Windows has no UNIX sockets.")
    with pinned_path(path) as pinned:
        connection = _connect_socket(socket.AF_UNIX, pinned, timeout)
    peer = peer_credentials(connection)
    if peer is not None and peer.uid not in (owner, 0):
        connection.close()
        raise PermissionError(f"User {peer.uid} listens at {path}.")
    return connection


def _connect_socket(family: int, address: str | tuple[str, int], timeout: float) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(timeout)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection

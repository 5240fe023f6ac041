"""A client of the desktop's daemon that blocks: for the tray and the commands. No Twisted.

It finds the daemon by the file in the state folder, and is sure of it before it says anything: by
TCP each shows the other that it can read the secret there.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.line_reader import LineReader
from ctllm.errors import BadGateway, CtllmError, NotRunning, Unauthorized, error_from_wire
from ctllm.ipc import protocol
from ctllm.ipc.messages import Status
from ctllm.system.unix_sockets import peer_credentials, pinned_path

#: Seconds that an answer may take; signing in and opening the page ask the cloud.
RESPONSE_TIMEOUT = 30.0
T = TypeVar("T")
_INVALID_MESSAGE = "what the desktop says makes no sense here: {}"
_RECEIVE_SIZE = 65536
_NOT_RUNNING = "no desktop of ctllm runs here ({}); start it: twistd -n ctllm desktop"


class IpcClient:
    """A connection to the daemon of a `state` folder; raises NotRunning where there is none.

    All else that fails raises CtllmError: UpstreamFailed where the connection breaks, and what the
    daemon says went wrong.
    """

    def __init__(self, state: Path, timeout: float = RESPONSE_TIMEOUT) -> None:
        self._last_id = 0
        self._line_reader = LineReader(protocol.MAX_RESPONSE_LINE)
        self._pending_lines: deque[bytes] = deque()
        self._pending_events: deque[protocol.Event] = deque()  # events that came before an answer
        self._timeout = timeout
        self._socket = _connect(state, timeout)
        try:
            self._handshake(_read_address(state))
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
        """Hang up; another thread that waits for news hears of it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def call(self, command: type[Any], **fields: Any) -> Any:
        """Ask one of `ctllm.ipc.protocol`'s commands; gives the answer's data as plain values."""
        self._last_id += 1
        until = time.monotonic() + self._timeout
        self._send(protocol.encode_request(command(id=self._last_id, **fields)))
        while True:
            heard = self._read_message(until)
            if isinstance(heard, protocol.Event):
                if heard.event == "error":
                    raise _exception_from(_decode(heard.data, protocol.ErrorDetail))
                self._pending_events.append(heard)
            elif heard.id == self._last_id:
                if heard.error is not None:
                    raise _exception_from(heard.error)
                return _decode(heard.data, object)

    def status(self, subscribe: bool = False) -> Status:
        """How everything is; with `subscribe`, changes come as `events`."""
        return _convert(
            self.call(protocol.Subscribe if subscribe else protocol.StatusRequest), Status
        )

    def events(self) -> Iterator[protocol.Event]:
        """What happens, without end; raises UpstreamFailed when the daemon is gone."""
        self._socket.settimeout(None)
        while True:
            heard = self._pending_events.popleft() if self._pending_events else self._read_message()
            if isinstance(heard, protocol.Event):
                yield heard

    # -- underneath

    def _handshake(self, address: protocol.DaemonAddress) -> None:
        first = self._read_message(time.monotonic() + self._timeout)
        if not isinstance(first, protocol.Event) or first.event not in ("hello", "error"):
            raise BadGateway("what listens there is no desktop of ctllm")
        if first.event == "error":
            raise _exception_from(_decode(first.data, protocol.ErrorDetail))
        hello = _decode(first.data, protocol.Hello)
        if hello.protocol != protocol.PROTOCOL_VERSION:
            raise BadGateway(
                f"the desktop that runs is of another version ({hello.version}); restart it"
            )
        if not hello.challenge:
            return
        nonce = secrets.token_hex(32)
        shown = protocol.compute_proof(address.secret, "client", hello.challenge, nonce)
        answer = _convert(self.call(protocol.Auth, nonce=nonce, proof=shown), protocol.Proof)
        right = protocol.compute_proof(address.secret, "daemon", hello.challenge, nonce)
        if not secrets.compare_digest(answer.proof.encode(), right.encode()):
            raise Unauthorized("what listens there is not the desktop of this state folder")

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise BadGateway(f"the desktop is gone: {error}") from error

    def _read_message(self, until: float | None = None) -> protocol.Response | protocol.Event:
        """The next line; `until` is when it must be whole, however it comes."""
        while not self._pending_lines:
            if until is not None:
                self._socket.settimeout(max(0.001, until - time.monotonic()))
            self._receive()
        return protocol.parse_message(self._pending_lines.popleft())

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_SIZE)
        except TimeoutError as error:
            raise BadGateway("the desktop does not answer") from error
        except OSError as error:
            raise BadGateway(f"the desktop is gone: {error}") from error
        if not data:
            raise BadGateway("the desktop hung up")
        for line in self._line_reader.feed(data):
            if line is None:
                raise BadGateway("the desktop says more than fits into a line")
            self._pending_lines.append(line)


def _convert(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:
        raise BadGateway(_INVALID_MESSAGE.format(error)) from error


def _decode(raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return decode_json(raw, kind)
    except InvalidJson as error:
        raise BadGateway(_INVALID_MESSAGE.format(error)) from error


def _exception_from(fault: protocol.ErrorDetail) -> CtllmError:
    return error_from_wire(fault.code, fault.message)


def _read_address(state: Path) -> protocol.DaemonAddress:
    path = state.joinpath(*protocol.ADDRESS_FILE)
    try:
        return decode_json(path.read_bytes(), protocol.DaemonAddress)
    except FileNotFoundError:
        raise NotRunning(_NOT_RUNNING.format(f"there is no {path}")) from None
    except PermissionError as error:
        raise NotRunning(f"{path}: cannot be read; it is another user's desktop") from error
    except InvalidJson as error:
        raise BadGateway(
            f"{path}: is damaged ({error}), so the desktop that may run cannot be found. "
            "End that one (SIGTERM) and start it again: it writes the file anew"
        ) from error
    except OSError as error:
        raise NotRunning(_NOT_RUNNING.format(f"{path} cannot be read: {error}")) from error


def _connect(state: Path, timeout: float) -> socket.socket:
    where = _read_address(state)
    if where.socket and hasattr(socket, "AF_UNIX"):
        with contextlib.suppress(OSError):  # then by TCP
            return _connect_unix(
                where.socket, state.joinpath(*protocol.ADDRESS_FILE).stat().st_uid, timeout
            )
    try:
        return _connect_socket(socket.AF_INET, ("127.0.0.1", where.port), timeout)
    except OSError as error:
        why = f"process {where.pid} is gone: {error.strerror or error}"
        raise NotRunning(_NOT_RUNNING.format(why)) from error


def _connect_unix(path: str, owner: int, timeout: float) -> socket.socket:
    """Connect to a socket at which the owner of the state folder listens, or root.

    We may be root, and the folder another user's, who must not choose what we connect to.
    """
    if sys.platform == "win32":
        raise OSError("this system has no UNIX sockets")
    with pinned_path(path) as there:
        made = _connect_socket(socket.AF_UNIX, there, timeout)
    peer = peer_credentials(made)
    if peer is not None and peer.uid not in (owner, 0):
        made.close()
        raise PermissionError(f"user {peer.uid} listens at {path}")
    return made


def _connect_socket(family: int, address: Any, timeout: float) -> socket.socket:
    made = socket.socket(family)
    try:
        made.settimeout(timeout)
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made

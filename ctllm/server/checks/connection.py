"""Connections to a server that is not trusted, with a deadline for each step.

Whatever a server sends, and however slowly, each function returns or raises in time, and keeps a
bounded amount of it. Errors are of `ProbeError`, with a clause that says what happened.
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import h11

#: The most addresses of a name that are tried.
MAX_ADDRESSES = 8
#: The largest body that is read, in bytes.
MAX_BODY = 4 * 1024 * 1024
_MAX_HEAD = 64 * 1024
_PIECE = 64 * 1024
T = TypeVar("T")


class ProbeError(Exception):
    """A step failed. Its text is a clause."""


class Deadline:
    """A moment on the monotonic clock, some seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that remain; raises ProbeError."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise ProbeError(f"there was no answer within {self._seconds:g} seconds")
        return remaining


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its headers have lower-case names; `pieces` say when each part arrived.

    The times are of the monotonic clock, in seconds.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    pieces: tuple[tuple[float, bytes], ...]


def resolve(
    name: str, deadline: Deadline, lookup: Callable[..., Any] = socket.getaddrinfo
) -> tuple[str, ...]:
    """Return the addresses of a name, IPv4 first, at most `MAX_ADDRESSES`; raises ProbeError."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(lookup(name, None, type=socket.SOCK_STREAM))
        except Exception as error:  # gaierror, or UnicodeError for a label that is too long
            results.put(error)

    threading.Thread(target=run, daemon=True).start()  # the resolver has no deadline of its own
    try:
        found = results.get(timeout=deadline.remaining())
    except queue.Empty:
        raise ProbeError("the resolver did not answer in time") from None
    if isinstance(found, Exception):
        why = found.strerror if isinstance(found, OSError) else str(found)
        raise ProbeError(f"it has no address ({why})") from found
    texts = {str(each[4][0]).partition("%")[0] for each in found}
    addresses = sorted(map(ip_address, texts), key=lambda each: (each.version, each))
    return tuple(map(str, addresses[:MAX_ADDRESSES]))


@contextmanager
def connect_tcp(address: str, port: int, deadline: Deadline) -> Iterator[socket.socket]:
    """Give a connection to an address; raises ProbeError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with _translated(), socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline.remaining())
        connection.connect((address, port))
        connection.setblocking(False)
        yield connection


@contextmanager
def connect_unix(path: Path, deadline: Deadline) -> Iterator[socket.socket]:
    """Give a connection to a UNIX socket; raises ProbeError."""
    with _translated(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline.remaining())
        connection.connect(str(path))
        connection.setblocking(False)
        yield connection


@contextmanager
def start_tls(
    plain: socket.socket, context: ssl.SSLContext, name: str, deadline: Deadline
) -> Iterator[ssl.SSLSocket]:
    """Give the connection with TLS; raises ProbeError, or SSLCertVerificationError as it is."""
    with _translated():
        connection = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
        with connection:
            _retry(connection, deadline, connection.do_handshake)
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what a socket raises into a ProbeError."""
    try:
        yield
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        raise ProbeError(f"TLS failed: {error.reason or error.strerror or error}") from error
    except TimeoutError as error:
        raise ProbeError("there was no answer in time") from error
    except OSError as error:
        raise ProbeError((error.strerror or str(error)).lower()) from error


def _retry(connection: socket.socket, deadline: Deadline, step: Callable[[], T]) -> T:
    """Return the result of a step of a socket that does not block, once it has one."""
    while True:
        try:
            return step()
        except (ssl.SSLWantReadError, BlockingIOError):
            select.select([connection], [], [], deadline.remaining())
        except ssl.SSLWantWriteError:
            select.select([], [connection], [], deadline.remaining())
        deadline.remaining()


def exchange(
    connection: socket.socket,
    host: str,
    target: str,
    deadline: Deadline,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a GET request and return the complete response; raises ProbeError."""
    fields = {"Host": host, "User-Agent": "ctllm-server-check", "Connection": "close"}
    request = h11.Request(
        method="GET", target=target, headers=[*(fields | dict(headers or {})).items()]
    )
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    data = (parser.send(request) or b"") + (parser.send(h11.EndOfMessage()) or b"")
    with _translated():
        # The request is shorter than any socket's buffer: it is sent at once.
        _retry(connection, deadline, lambda: connection.send(data))
        return _read_response(connection, parser, deadline)


def _read_response(
    connection: socket.socket, parser: h11.Connection, deadline: Deadline
) -> Response:
    head: h11.Response | None = None
    pieces: list[tuple[float, bytes]] = []
    size = 0
    while True:
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = _retry(connection, deadline, lambda: connection.recv(_PIECE))
                if not data and head is None:
                    raise ProbeError("the connection closed without a response")
                parser.receive_data(data)
                continue
        except h11.RemoteProtocolError as error:
            raise ProbeError(f"the response is not valid HTTP: {error}") from error
        except ssl.SSLEOFError:
            raise ProbeError("the connection broke off") from None
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            pieces.append((time.monotonic(), bytes(event.data)))
            if (size := size + len(event.data)) > MAX_BODY:
                raise ProbeError(f"the response has more than {MAX_BODY // 2**20} MiB")
        elif not isinstance(event, h11.InformationalResponse):
            break
        deadline.remaining()
    assert head is not None  # the first event is an error, or a response
    fields = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return Response(head.status_code, fields, b"".join(data for _, data in pieces), tuple(pieces))

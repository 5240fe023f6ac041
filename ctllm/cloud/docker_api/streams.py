"""Bodies of requests and responses, including streams of lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as TypingProtocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from ctllm.cloud.docker_api.errors import DockerError, DockerUnavailable
from ctllm.reactor.failures import make_failure

#: The largest body of a response; a list of 10,000 containers has about as many bytes.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: The largest event.
MAX_LINE_BYTES = 256 * 1024


class Consumer(TypingProtocol):
    """Twisted's IConsumer, as far as it is used here."""

    def write(self, data: bytes, /) -> None:
        """Send data."""


class BodyTransport(TypingProtocol):
    """The transport of a response's body in `twisted.web.client`."""

    def stopProducing(self) -> None:
        """Close the connection."""


class Response(TypingProtocol):
    """Twisted's IResponse, as far as it is used here."""

    code: int
    headers: Headers

    def deliverBody(self, protocol: Protocol, /) -> None:
        """Pass the body to `protocol`."""


@implementer(IBodyProducer)
class BytesProducer:
    """The body of a request, written at once."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: Consumer) -> Deferred[None]:
        """Write the body."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: the body is written."""

    resumeProducing = stopProducing = pauseProducing


class BodyCollector(Protocol):
    """Collects a body. `done` fires with it; cancelling `done` closes the connection."""

    transport: BodyTransport  # type: ignore[assignment]

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())
        self._max_bytes = max_bytes
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """Collect data, or close the connection if the body is too large."""
        self._data += data
        if len(self._data) > self._max_bytes and not self.done.called:
            self.transport.stopProducing()
            self.done.errback(DockerError(f"Docker's response exceeds {self._max_bytes:,} bytes"))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Fire `done`."""
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(_truncated())


class LineCollector(LineOnlyReceiver):
    """Passes each line of a body to `on_line`.

    `done` fires at the end, and fails if the body is truncated, if a line is too long, or if
    `on_line` raises an error. Cancelling `done` closes the connection.
    """

    delimiter = b"\n"
    transport: BodyTransport  # type: ignore[assignment]

    def __init__(
        self, on_line: Callable[[bytes], None], max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.transport.stopProducing())
        self.MAX_LENGTH = max_line_bytes
        self._on_line = on_line

    def lineReceived(self, line: bytes) -> None:
        """Pass on a line, unless it is empty."""
        if not line.strip() or self.done.called:
            return
        try:
            self._on_line(line)
        except Exception:
            self._fail(make_failure())

    def lineLengthExceeded(self, line: bytes) -> None:
        """Fail `done`."""
        self._fail(make_failure(DockerError(f"An event exceeds {self.MAX_LENGTH:,} bytes")))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Fire `done`."""
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone):
            self.done.callback(None)
        else:
            self.done.errback(_truncated())

    def _fail(self, reason: Failure) -> None:
        if not self.done.called:
            self.transport.stopProducing()
            self.done.errback(reason)


def _truncated() -> DockerUnavailable:
    return DockerUnavailable("Docker closed the connection in the middle of its response")


def demultiplex_logs(data: bytes) -> bytes:
    """Return the output of a container from its log, which interleaves stdout and stderr.

    Each frame of the log begins with 8 bytes: the number of the stream, three zeros, and the
    length (big-endian). The last frame may be truncated.
    """
    output, offset = bytearray(), 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset + 4 : offset + 8], "big")
        output += data[offset + 8 : offset + 8 + size]
        offset += 8 + size
    return bytes(output)

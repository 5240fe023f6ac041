"""Bodies of answers: whole ones of bounded size, and streams of lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from ctllm.cloud.docker_api.errors import DockerError, DockerUnavailable
from ctllm.reactor.failures import make_failure

#: Bytes of one answer: 10,000 containers in a list have about as many.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: Bytes of one event.
MAX_LINE_BYTES = 256 * 1024


@implementer(IBodyProducer)
class BytesProducer:
    """A small body to send, written at once."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write it."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written already."""

    resumeProducing = stopProducing = pauseProducing


class BodyCollector(Protocol):
    """Collects a body; `done` fires with it. Cancelling `done` closes the connection."""

    transport: Any

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())
        self._max_bytes = max_bytes
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """One more piece."""
        self._data += data
        if len(self._data) > self._max_bytes and not self.done.called:
            self.transport.stopProducing()
            self.done.errback(
                DockerError(f"Docker's answer is longer than {self._max_bytes:,} bytes")
            )

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It has ended, or broken off."""
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(_truncated())


class LineCollector(LineOnlyReceiver):
    """Gives each line to `heard`; `done` fires when there are no more, or fails if it broke off.

    Cancelling `done` closes the connection.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE_BYTES
    transport: Any

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.transport.stopProducing())
        self._on_line = on_line

    def lineReceived(self, line: bytes) -> None:
        """One event, if the line is not empty."""
        if not line.strip() or self.done.called:
            return
        try:
            self._on_line(line)
        except Exception:
            self._fail(make_failure())

    def lineLengthExceeded(self, line: bytes) -> None:
        """Nobody has so much to say."""
        self._fail(
            make_failure(DockerError(f"A line of Docker's is longer than {MAX_LINE_BYTES:,} bytes"))
        )

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """There is no more."""
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
    return DockerUnavailable("Docker hung up in the middle of its answer")


def demultiplex_logs(data: bytes) -> bytes:
    """What a container wrote, of its log as the engine sends it: frames of both its outputs.

    Each has a head of 8 bytes: the output's number, three zeros, and the length (big-endian). The
    last may have been cut off.
    """
    output, offset = bytearray(), 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset + 4 : offset + 8], "big")
        output += data[offset + 8 : offset + 8 + size]
        offset += 8 + size
    return bytes(output)

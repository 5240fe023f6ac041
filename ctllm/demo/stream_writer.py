"""Writes one streamed response: line by line, at a pace, and no faster than its client reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ctllm.reactor.interfaces import Clock, Timer

#: A stream yields to the reactor after this many bytes, so that a fast client starves no other.
_TURN_BYTES = 256 * 1024


class ResponseStream(Protocol):
    """The part of `twisted.web.http.Request` that sends a body."""

    def write(self, data: bytes) -> None:
        """Write, in a chunk of its own where the response is chunked."""

    def write_now(self, line: bytes) -> None:
        """Write, and send at once when the socket has room."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Pause and resume `producer` with the transport."""

    def unregisterProducer(self) -> None:
        """Forget the producer."""


@implementer(IPushProducer)
class StreamWriter:
    """Writes `lines` to a request, each in one write. An empty line is a pause of `interval`."""

    def __init__(
        self, clock: Clock, stream: ResponseStream, lines: Iterator[bytes], interval: float
    ) -> None:
        self._clock = clock
        self.stream = stream
        self._lines = lines
        self._interval = interval
        self._next_at = 0.0
        self._is_paused = False
        self._timer: Timer | None = None
        self._done: Deferred[bool] = Deferred(lambda _: self._stop())

    def run(self) -> Deferred[bool]:
        """Write all lines.

        The Deferred fires with whether the response is complete. Cancel it to stop at once.
        """
        self._next_at = self._clock.seconds()
        self.stream.registerProducer(self, True)
        self._run()
        return self._done

    def pauseProducing(self) -> None:
        """Stop writing until the client has caught up."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Write again, unless the next line is not due yet."""
        if self._is_paused:
            self._is_paused = False
            if self._timer is None:
                self._next_at = self._clock.seconds()
                self._run()

    def stopProducing(self) -> None:
        """Stop writing. The request ends the response."""
        self._stop()

    def before_line(self) -> bool:
        """Return whether the next line may be written now; a subclass may do something else."""
        return True

    def write_line(self, line: bytes) -> None:
        """Write one line."""
        # Without a pace, the lines of a turn leave together, which costs less.
        write = self.stream.write_now if self._interval else self.stream.write
        write(line)

    def continue_after(self, seconds: float) -> None:
        """Write the next line after a pause."""
        self._continue_at(self._clock.seconds() + seconds)

    def end(self, *, complete: bool) -> None:
        """Write nothing more, and report whether the response is complete."""
        self._release()
        self._done.callback(complete)

    def _run(self) -> None:
        try:
            self._write_lines()
        except Exception:
            # The lines come from the code of an endpoint. Its failure ends this response only.
            self._release()
            self._done.errback()

    def _write_lines(self) -> None:
        remaining = _TURN_BYTES
        while not self._is_paused:
            if not self.before_line():
                return
            line = next(self._lines, None)
            if line is None:
                return self.end(complete=True)
            if line:
                remaining -= len(line)
                self.write_line(line)
            elif self._interval:
                return self._continue_at(self._next_at + self._interval)
            if remaining <= 0:
                return self._continue_at(self._clock.seconds())

    def _continue_at(self, due: float) -> None:
        """Continue at a time. Counting from the last line's due time keeps the pace steady."""
        now = self._clock.seconds()
        self._next_at = max(due, now)
        self._timer = self._clock.callLater(self._next_at - now, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._run()

    def _release(self) -> None:
        self._stop()
        self.stream.unregisterProducer()

    def _stop(self) -> None:
        self._lines = iter(())
        self._is_paused = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

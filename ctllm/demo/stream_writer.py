"""One streamed answer on its way out: line by line, at a pace, and no faster than it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ctllm.demo.answer import Stream
from ctllm.demo.clock import Clock, Timer
from ctllm.demo.records import Record
from ctllm.demo.script import Script

# One stream gives the reactor back after so many bytes, so that a fast reader starves nobody.
_TURN = 256 * 1024


@implementer(IPushProducer)
class Flow:
    """Writes a stream's lines to a request, a write each; pauses when its reader does."""

    def __init__(
        self,
        clock: Clock,
        request: Any,
        record: Record,
        stream: Stream,
        script: Script,
        interval: float,
    ) -> None:
        self._clock = clock
        self._request = request
        self._record = record
        self._lines: Iterator[bytes] = stream.lines
        self._error = stream.error
        self._script = script
        self._interval = interval if script.line_interval is None else script.line_interval
        self._marks = script.marks
        self._rested = False
        self._due = 0.0
        self._paused = False
        self._timer: Timer | None = None
        self._done: Deferred[bool] = Deferred(lambda _: self._stop())

    def run(self) -> Deferred[bool]:
        """Write it all. Fires with whether it may end cleanly; cancel it to stop at once."""
        self._due = self._clock.seconds()
        self._request.registerProducer(self, True)
        self._go()
        return self._done

    def pauseProducing(self) -> None:
        """Write nothing more until the reader has caught up; may be said again and again."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on, unless the next line's time has not come yet."""
        if self._paused:
            self._paused = False
            if self._timer is None:
                self._due = self._clock.seconds()
                self._go()

    def stopProducing(self) -> None:
        """Write nothing more; the request's own end says what becomes of the answer."""
        self._stop()

    def _go(self) -> None:
        try:
            self._write_on()
        except Exception:
            # Whatever makes the lines is code of any endpoint; its failure ends this answer.
            self._release()
            self._done.errback()

    def _write_on(self) -> None:
        left = _TURN
        while not self._paused:
            if self._record.lines_sent in self._marks and self._marked():
                return
            line = next(self._lines, None)
            if line is None:
                return self._end(whole=True)
            if line:
                left -= len(line)
                self._write(line)
            elif self._interval:
                return self._sleep_until(self._due + self._interval)
            if left <= 0:
                return self._sleep_until(self._clock.seconds())

    def _write(self, line: bytes) -> None:
        # Without a pace the lines of a turn go out together, which is faster.
        write = self._request.write_now if self._interval else self._request.write
        write(line)
        self._record.wrote()

    def _marked(self) -> bool:
        """Do what the script says after so many lines; whether that holds up the next line."""
        sent, script = self._record.lines_sent, self._script
        if script.pause_after is not None and script.pause_after[0] == sent and not self._rested:
            self._rested = True
            self._request.write(b"")
            self._sleep_until(self._clock.seconds() + script.pause_after[1])
        elif script.break_after == sent:
            self._end(whole=False)
        elif script.error_in_stream is not None and script.error_in_stream[0] == sent:
            self._write(self._error(script.error_in_stream[1]))
            self._end(whole=True)
        else:
            return False
        return True

    def _sleep_until(self, due: float) -> None:
        """Go on then. Counting from the last line's due time keeps the pace from drifting."""
        now = self._clock.seconds()
        self._due = max(due, now)
        self._timer = self._clock.callLater(self._due - now, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._go()

    def _end(self, *, whole: bool) -> None:
        self._release()
        self._done.callback(whole)

    def _release(self) -> None:
        self._stop()
        self._request.unregisterProducer()

    def _stop(self) -> None:
        self._lines = iter(())
        self._paused = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

"""A response of a few lines with pauses, which shows whether something on its way buffers.

`ctllm server check` compares when the lines arrive with when they were sent. The response has the
headers of a stream of Ollama, and none that asks a reverse proxy not to buffer.
"""

from __future__ import annotations

import msgspec

from ctllm.errors import ServiceUnavailable
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.date import date_header
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: How many lines a response has, and the seconds between two of them.
LINES, INTERVAL = 5, 0.2
#: The most responses at the same time: nobody needs a token for one.
MAX_CONCURRENT = 8

_HEADERS = ((b"Content-Type", b"application/x-ndjson"), (b"Cache-Control", b"no-store"))


class ProbeLine(msgspec.Struct, frozen=True):
    """A line: its number, how many there are, and the seconds since the first one was sent."""

    line: int
    lines: int
    seconds: float


class StreamProbe:
    """Responds with `LINES` lines, to at most `MAX_CONCURRENT` clients at the same time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active = 0

    def respond(self, request: ServerRequest) -> None:
        """Begin the response; raises ServiceUnavailable if there are too many."""
        if self._active >= MAX_CONCURRENT:
            raise ServiceUnavailable(
                f"{MAX_CONCURRENT} clients test the streaming at present. Try again in a second.",
                retry_after=1,
            )
        self._active += 1
        response = _ProbeResponse(request, self._clock)
        request.add_observer(lambda _: self._response_ended(response))
        response.start()

    def _response_ended(self, response: _ProbeResponse) -> None:
        self._active -= 1
        response.stop()


class _ProbeResponse:
    """One response in progress."""

    def __init__(self, request: ServerRequest, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._started = clock.seconds()
        self._sent = 0
        self._timeout = Timeout(clock, self._send_line)

    def start(self) -> None:
        self._request.write_head(ResponseHead(200, b"OK", (*_HEADERS, date_header())))
        self._send_line()

    def stop(self) -> None:
        self._timeout.cancel()

    def _send_line(self) -> None:
        self._sent += 1
        elapsed = round(self._clock.seconds() - self._started, 3)
        line = msgspec.json.encode(ProbeLine(self._sent, LINES, elapsed))
        self._request.write(line + b"\n")
        if self._sent == LINES:
            self._request.finish()
        else:
            self._timeout.start(INTERVAL)

"""A fake Ollama whose responses are always the same, so that tests can compare them by hash."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import IO, Any, cast

from twisted.internet import reactor
from twisted.web import http

from tests.ports import listen, port_of


def response_line(number: int, padding: int, done: bool) -> bytes:
    """Return a numbered line of a response, its content at least `padding` characters long."""
    content = f"{number:06d} ".ljust(padding, "x")
    message = {
        "model": "numbers",
        "message": {"role": "assistant", "content": content},
        "done": done,
    }
    return json.dumps(message).encode() + b"\n"


def full_response(lines: int, padding: int = 0) -> bytes:
    """Return the body of a response with `lines` lines."""
    return b"".join(response_line(number, padding, number == lines - 1) for number in range(lines))


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class FixedResponse(http.Request):
    """A request and its response, which is written as a push producer."""

    def __init__(self, upstream: FixedResponseUpstream, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._upstream = upstream
        self._next = self._lines = self._pad = 0
        self._interval = 0.0
        self._paused = False
        self._timer: Any = None

    def process(self) -> None:
        if self.path == b"/api/chat":
            self._start(**json.loads(cast(IO[bytes], self.content).read()))
        else:
            responses = {b"/api/version": {"version": "1"}, b"/api/tags": {"models": []}}
            self.write(json.dumps(responses.get(self.path, {})).encode())
            self.finish()

    def _start(self, lines: int, interval: float = 0.0, pad: int = 0, **_: Any) -> None:
        self._lines, self._interval, self._pad = lines, interval, pad
        self._upstream.request_count += 1
        self._upstream.active.add(self)
        self.setHeader(b"Content-Type", b"application/x-ndjson")
        self.registerProducer(self, True)
        self._write_lines()

    def _write_lines(self) -> None:
        self._timer = None
        for _ in range(1 if self._interval else 100):
            if self._paused:
                return
            self.write(response_line(self._next, self._pad, self._next == self._lines - 1))
            self._next += 1
            if self._next == self._lines:
                self.unregisterProducer()
                self.finish()
                self.stop()
                return
        self._timer = reactor.callLater(self._interval, self._write_lines)

    @property
    def written_lines(self) -> int:
        """The number of lines that were written so far."""
        return self._next

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._timer is None:
            self._write_lines()

    def stopProducing(self) -> None:
        self.stop()

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.stop()

    def stop(self) -> None:
        """Stop writing."""
        self._paused = True
        self._upstream.active.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class FixedResponseUpstream(http.HTTPFactory):
    """Serve POST /api/chat; the body has "lines", "interval" (seconds) and "pad" (characters)."""

    noisy = False

    def __init__(self) -> None:
        super().__init__(reactor=reactor)
        self.timeOut = None
        self.request_count = 0
        self.active: set[FixedResponse] = set()
        self.listening = listen(reactor, self, backlog=4096)
        self.port = port_of(self.listening)

    def buildProtocol(self, addr: Any) -> Any:
        channel = super().buildProtocol(addr)
        assert channel is not None
        channel.requestFactory = partial(FixedResponse, self)
        return channel

    def startFactory(self) -> None:
        """Open no log."""

    def stopFactory(self) -> None:
        """Close no log."""

    def log(self, request: http.Request) -> None:
        """Log nothing."""

    def stopListening(self) -> Any:
        for request in list(self.active):
            request.stop()
        return self.listening.stopListening()

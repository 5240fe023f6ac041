"""The stand-in's end of HTTP: requests whose bodies are taken as they come, never put in a file."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web import http

from ctllm.demo.records import Record
from ctllm.demo.request_handler import Exchange, Setting


class Incoming(http.Request):
    """One request; hands its body to an exchange, piece by piece."""

    _exchange: Exchange | None = None

    def __init__(self, setting: Setting, channel: Any, queued: bool = False) -> None:
        super().__init__(channel)
        self._setting = setting

    def gotLength(self, length: int | None) -> None:
        """Start once the head is in, without the file that twisted.web would make here."""
        # twisted.web gives method and target only after the body; they are needed before it.
        channel: Any = self.channel
        method, target = channel._command, channel._path
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in self.requestHeaders.getAllRawHeaders()
            for value in values
        ]
        started = self._setting.clock.seconds()
        record = Record(method.decode("latin-1"), target.decode("latin-1"), headers, started)
        self._exchange = Exchange(self._setting, self, record)

    def handleContentChunk(self, data: bytes) -> None:
        """Pass on a piece of the body."""
        assert self._exchange is not None
        self._exchange.receive(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer: the body has come."""
        self.method, self.uri, self.clientproto = command, path, version
        assert self._exchange is not None
        self._exchange.serve()

    def write_now(self, line: bytes) -> None:
        """Write a line, and send it at once if nothing else waits to be sent.

        `write` has the reactor watch the socket, take a turn, send, and watch no more: with a
        thousand streams of paced lines that is a good part of the work.
        """
        transport: Any = self.transport
        if not (self.chunked and isinstance(transport, Connection) and _idle(transport)):
            self.write(line)
            return
        chunk = b"%x\r\n%b\r\n" % (len(line), line)
        sent = transport.writeSomeData(chunk)
        # An error is met again, and dealt with, when the reactor writes what is left.
        rest = chunk[sent:] if isinstance(sent, int) else chunk
        if rest:
            transport.write(rest)

    def write_verbatim(self, answer: bytes) -> None:
        """Write an answer as it is, head and framing included."""
        self.startedWriting, self.chunked = 1, 0
        self.channel.write(answer)

    def connectionLost(self, reason: Failure) -> None:
        """Stop working for a client that is gone."""
        super().connectionLost(reason)
        if self._exchange is not None:
            self._exchange.client_left()


def _idle(transport: Any) -> bool:
    waiting = transport.dataBuffer or transport._tempDataBuffer
    return transport.connected and not transport.disconnecting and not waiting


class Site(http.HTTPFactory):
    """Listen with this. It keeps no access log and no idle time-out, as Ollama does."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(reactor=setting.clock)  # type: ignore[arg-type]
        self.timeOut = None
        self._setting = setting

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the channel of one connection."""
        channel = super().buildProtocol(addr)
        assert channel is not None
        channel.requestFactory = partial(Incoming, self._setting)
        return channel

    def startFactory(self) -> None:
        """Open no log."""

    def stopFactory(self) -> None:
        """Close no log."""

    def log(self, request: http.Request) -> None:
        """Log nothing: paths and agents are nobody's business here."""

"""The demo's HTTP server: bodies reach their handler as they arrive and never go to a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web import http

from ctllm.demo.request_handler import (
    ReceivedHead,
    RequestHandler,
    ResponseWriter,
    ServerSettings,
)
from ctllm.fastpath.direct_write import write_now
from ctllm.reactor.interfaces import Transport

#: Makes the handler of a request whose head is received.
HandlerFactory = Callable[[ServerSettings, ResponseWriter, ReceivedHead], RequestHandler]


class RequestLineChannel(http.HTTPChannel):
    """A channel that remembers the last line.

    twisted.web tells a request its method and target when the body is complete. The handler needs
    them before. The channel makes a request while it processes the request line, so `last_line` is
    that line then.
    """

    last_line = b""

    def lineReceived(self, line: bytes) -> None:
        """Remember the line."""
        self.last_line = line
        super().lineReceived(line)  # type: ignore[no-untyped-call]


class HttpRequest(http.Request):
    """One request, which hands its head and its body to a handler."""

    _handler: RequestHandler | None = None

    def __init__(
        self,
        settings: ServerSettings,
        make_handler: HandlerFactory,
        channel: RequestLineChannel,
        queued: bool = False,
    ) -> None:
        super().__init__(channel)
        self._settings = settings
        self._make_handler = make_handler
        self._request_line = channel.last_line.decode("latin-1")

    def gotLength(self, length: int | None) -> None:
        """Make the handler: the head is complete.

        twisted.web opens a file for the body here; this does not.
        """
        method, target, _ = self._request_line.split(" ")
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in self.requestHeaders.getAllRawHeaders()
            for value in values
        )
        head = ReceivedHead(method, target, headers, self._settings.clock.seconds())
        self._handler = self._make_handler(self._settings, self, head)

    def handleContentChunk(self, data: bytes) -> None:
        """Pass a chunk of the body on."""
        assert self._handler is not None
        self._handler.receive(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Respond: the body is complete."""
        self.method, self.uri, self.clientproto = command, path, version
        assert self._handler is not None
        self._handler.serve()

    def pause_body(self) -> None:
        """Stop reading the request body."""
        cast(Transport, self.transport).pauseProducing()

    def resume_body(self) -> None:
        """Read the request body again."""
        cast(Transport, self.transport).resumeProducing()

    def write_now(self, line: bytes) -> None:
        """Write a line, and send it at once when the socket has room."""
        if self.chunked:
            write_now(self.transport, b"%x\r\n%b\r\n" % (len(line), line))
        else:
            self.write(line)  # type: ignore[no-untyped-call]

    def write_verbatim(self, response: bytes) -> None:
        """Write a response with a head and a framing of its own."""
        self.startedWriting, self.chunked = 1, 0
        self.channel.write(response)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """Stop the handler: its client disconnected."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self._handler is not None:
            self._handler.client_disconnected()


class Site(http.HTTPFactory):
    """Listens for the demo. Like Ollama it has no access log and no idle timeout."""

    protocol = RequestLineChannel  # type: ignore[assignment]  # HTTP/1.1 alone

    def __init__(
        self, settings: ServerSettings, make_handler: HandlerFactory = RequestHandler
    ) -> None:
        super().__init__(reactor=settings.clock)  # type: ignore[arg-type]
        self.timeOut = None
        self._make_request = partial(HttpRequest, settings, make_handler)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the channel of one connection."""
        channel = super().buildProtocol(addr)
        assert channel is not None
        channel.requestFactory = self._make_request
        return channel

    def startFactory(self) -> None:
        """Open no log."""

    def stopFactory(self) -> None:
        """Close no log."""

    def log(self, request: http.Request) -> None:
        """Log nothing: paths and user agents are private."""

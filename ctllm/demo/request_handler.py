"""One request to the demo server: received, answered, and stopped when its client disconnects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString

from ctllm.demo import routes
from ctllm.demo.model_store import ModelStore
from ctllm.demo.origin_guard import host_allowed, origin_allowed
from ctllm.demo.request_parser import decompress_zstd
from ctllm.demo.response import (
    ApiRequest,
    CompleteResponse,
    Response,
    StreamedResponse,
    UsedModel,
)
from ctllm.demo.stream_writer import ResponseStream, StreamWriter
from ctllm.errors import ContentTooLarge, CtllmError
from ctllm.reactor.interfaces import Clock

_log = Logger()

#: The longest request body that is held, in bytes. A blob is hashed and not held.
MAX_BODY = 64 * 1024 * 1024


class ResponseWriter(ResponseStream, Protocol):
    """The part of `twisted.web.http.Request` that sends a response."""

    def setResponseCode(self, code: int) -> None:
        """Set the status."""

    def setHeader(self, name: str, value: str | bytes) -> None:
        """Set a header field."""

    def finish(self) -> None:
        """End the response."""

    def loseConnection(self) -> None:
        """Close the connection, whether or not the response is complete."""

    def write_verbatim(self, response: bytes) -> None:
        """Write a response with a head and a framing of its own."""

    def pause_body(self) -> None:
        """Stop reading the request body."""

    def resume_body(self) -> None:
        """Read the request body again."""


@dataclass(frozen=True)
class ReceivedHead:
    """The head of a request; `received_at` is in the clock's seconds."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    received_at: float

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """Return the first value of a header field, or None."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


@dataclass
class ServerSettings:
    """What all requests to one server share.

    `now` returns the seconds since the epoch, `word_interval` is the pause between two words in
    seconds, and `guard_host` refuses a foreign Host or Origin.
    """

    clock: Clock
    now: Callable[[], float]
    models: ModelStore
    word_interval: float
    guard_host: bool = True


class RequestBody:
    """A request body: hashed as it arrives, and held up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.length = 0
        self._limit = limit
        self._hash = hashlib.sha256()
        self._chunks: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Add the next chunk."""
        self.length += len(data)
        self._hash.update(data)
        if self.length <= self._limit:
            self._chunks.append(data)
        else:
            self._chunks.clear()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def content(self) -> bytes | None:
        """All bytes, or None when they exceed the limit."""
        return b"".join(self._chunks) if self.length <= self._limit else None


class RequestHandler:
    """Handles one request: `receive` its body, `serve` it, or stop on `client_disconnected`."""

    def __init__(self, settings: ServerSettings, writer: ResponseWriter, head: ReceivedHead):
        self.settings = settings
        self.writer = writer
        self.head = head
        self.body = RequestBody(0 if head.path.startswith(routes.BLOBS) else MAX_BODY)
        self.is_finished = False
        self._is_started = False
        self._work: Deferred[None] | None = None

    def receive(self, data: bytes) -> None:
        """Take a chunk of the body."""
        self.body.add(data)

    def serve(self) -> None:
        """Send the response. The body is complete."""
        self._work = Deferred.fromCoroutine(self._serve())
        self._work.addErrback(self._failed)

    def client_disconnected(self) -> None:
        """Stop at once."""
        if not self.is_finished:
            self.is_finished = True
            if self._work is not None:
                self._work.cancel()

    async def _serve(self) -> None:
        refusal = self._check_origin()
        if refusal is None:
            await self.respond()
        else:
            self.send(refusal)

    async def respond(self) -> None:
        """Send what the endpoint returns, at the pace of the server's words."""
        response = self.call_endpoint()
        if isinstance(response, StreamedResponse):
            await self.send_stream(response)
        else:
            await self.pause(response.words * self.settings.word_interval)
            self.send(response)

    async def pause(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            await deferLater(self.settings.clock, seconds)  # type: ignore[arg-type]

    def call_endpoint(self) -> Response:
        """Return the response of the endpoint at the path, errors included."""
        try:
            endpoint, argument = routes.find_endpoint(self.head.method, self.head.path)
            return endpoint(self.api_request(argument))
        except CtllmError as error:
            return routes.error_response(self.head.path, error)

    def api_request(self, argument: str) -> ApiRequest:
        """Return the request as endpoints take it. Raises BadRequest or ContentTooLarge."""
        clock, head = self.settings.clock, self.head
        return ApiRequest(
            method=head.method,
            path_argument=argument,
            body=self._decoded_body(),
            body_sha256=self.body.sha256,
            models=self.settings.models,
            now=self.settings.now,
            elapsed=lambda: clock.seconds() - head.received_at,
            content_type=head.header("content-type") or "",
        )

    def _decoded_body(self) -> bytes:
        """Return the body without its content coding. Ollama accepts zstd."""
        if self.head.path.startswith(routes.BLOBS):
            return b""
        content = self.body.content
        if content is None:
            raise ContentTooLarge("http: request body too large")
        is_zstd = self.head.header("content-encoding") == "zstd"
        return decompress_zstd(content) if is_zstd else content

    async def send_stream(self, response: StreamedResponse) -> None:
        """Send a response line by line."""
        self.load(response.used_model)
        self.send_head(200, {"Content-Type": response.media_type})
        self.finish(complete=await self.stream_writer(response).run())

    def stream_writer(self, response: StreamedResponse) -> StreamWriter:
        """Return the writer of one streamed response."""
        settings = self.settings
        return StreamWriter(settings.clock, self.writer, response.lines, settings.word_interval)

    def load(self, used: UsedModel | None) -> None:
        """Count a model as loaded for its keep-alive time."""
        if used is not None:
            self.settings.models.load(used.name, self.settings.now() + used.keep_alive_seconds)

    def send(self, response: CompleteResponse) -> None:
        """Send a complete response."""
        self.load(response.used_model)
        body = self.send_head_of(response)
        self.writer.write(body)
        self.finish(complete=True)

    def send_head_of(self, response: CompleteResponse) -> bytes:
        """Send the head of a complete response, and return the body that must follow."""
        body = response.body if isinstance(response.body, bytes) else response.body()
        fields = dict(response.headers)
        if body:
            fields["Content-Type"] = response.media_type
        if response.status != 204:
            fields["Content-Length"] = str(len(body))
        self.send_head(response.status, fields)
        return body

    def send_head(self, status: int, fields: Mapping[str, str]) -> None:
        """Set the status and the header fields, with what browsers need."""
        self._is_started = True
        origin = self.head.header("origin")
        self.writer.setResponseCode(status)
        if origin is not None and status != 403:
            self.writer.setHeader("Access-Control-Allow-Origin", origin)
        for name, value in fields.items():
            self.writer.setHeader(name, value)
        self.writer.setHeader("Date", datetimeToString(self.settings.now()))  # type: ignore[no-untyped-call]

    def finish(self, *, complete: bool) -> None:
        """End the response. An incomplete one ends with its connection."""
        self.is_finished = True
        if complete:
            self.writer.finish()
        else:
            self.writer.write(b"")
            self.writer.loseConnection()

    def _check_origin(self) -> CompleteResponse | None:
        """Return the response to a foreign Host or Origin, or to a preflight request."""
        host, origin = self.head.header("host"), self.head.header("origin")
        is_foreign = not host_allowed(host or "") or not origin_allowed(origin or "app://")
        if self.settings.guard_host and is_foreign:
            return CompleteResponse(status=403)
        return _PREFLIGHT if self.head.method == "OPTIONS" else None

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError):
            return
        _log.failure("The demo server failed at {path}", failure, path=self.head.path)
        if not self._is_started:
            error = routes.error_json(self.head.path, "the demo server failed", 500)
            self.send(CompleteResponse.json(error, 500))
        elif not self.is_finished:
            self.finish(complete=False)


_PREFLIGHT = CompleteResponse(
    status=204,
    headers=(
        ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("Access-Control-Allow-Headers", "Authorization,Content-Type,User-Agent,Accept"),
        ("Access-Control-Max-Age", "43200"),
    ),
)

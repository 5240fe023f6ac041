"""One request from its head to its end: received, answered, and stopped when it is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString

from ctllm.demo import control, routes
from ctllm.demo.answer import Answer, Call, Load, Stream, Whole, encode
from ctllm.demo.clock import Clock, Timer
from ctllm.demo.model_store import Shelf
from ctllm.demo.origin_guard import host_allowed, origin_allowed
from ctllm.demo.records import BODY_KEPT, Body, Phase, Record, Records
from ctllm.demo.request_parser import decompressed
from ctllm.demo.script import Script, Scripts
from ctllm.demo.stream_writer import Flow
from ctllm.errors import ContentTooLarge, CtllmError

_log = Logger()

_BODY_HELD = 64 * 1024 * 1024


@dataclass
class Setting:
    """What all requests of one stand-in share."""

    clock: Clock
    now: Callable[[], float]  # epoch seconds, for what people and programs read
    scripts: Scripts
    records: Records
    shelf: Shelf
    word_interval: float
    guard_host: bool
    control: bool


class Exchange:
    """Serves one request and keeps its record."""

    def __init__(self, setting: Setting, request: Any, record: Record) -> None:
        self._setting = setting
        self._request = request
        self._record = record
        self._body = Body(BODY_KEPT if record.path.startswith(routes.BLOBS) else _BODY_HELD)
        self._receive_pause = setting.scripts.receive_pause(record)
        self._resume: Timer | None = None
        self._work: Deferred[None] | None = None
        self._controls = setting.control and record.path.startswith(control.PREFIX)
        if not self._controls:
            setting.records.add(record)

    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._body.add(data)
        pause = self._receive_pause
        if pause is not None and self._body.length >= pause[0]:
            self._receive_pause = None
            self._request.transport.pauseProducing()
            self._resume = self._setting.clock.callLater(pause[1], self._receive_on)

    def _receive_on(self) -> None:
        self._resume = None
        self._request.transport.resumeProducing()

    def serve(self) -> None:
        """Answer, now that the body is whole."""
        self._record.received(self._body)
        self._work = Deferred.fromCoroutine(self._serve())
        self._work.addErrback(self._failed)

    def client_left(self) -> None:
        """Stop at once, whatever is going on, and write down when."""
        if self._record.closed_by is None:
            self._record.received(self._body)
            self._record.close(self._setting.clock.seconds(), "client")
            if self._work is not None:
                self._work.cancel()
            if self._resume is not None:
                self._resume.cancel()

    async def _serve(self) -> None:
        refused = self._at_the_door()
        if refused is not None:
            return self._send(refused)
        script = self._setting.scripts.take(self._record)
        await self._rest(script.delay_before_head, "waiting")
        if script.error_before is not None:
            status, body, headers = script.error_before
            kind = "application/json; charset=utf-8" if body.startswith("{") else "text/plain"
            return self._send(Whole(body.encode(), status, kind, tuple(headers.items())))
        if script.verbatim is not None:
            self._request.write_verbatim(script.verbatim.encode("latin-1"))
            return self._finish(cleanly=script.break_after is None)
        answer = self._answer(script)
        await self._rest(script.load_seconds, "loading")
        if isinstance(answer, Stream):
            await self._pour(answer, script)
        else:
            await self._give(answer, script)

    async def _rest(self, seconds: float, phase: Phase) -> None:
        self._record.enter(phase)
        if seconds > 0:
            await deferLater(self._setting.clock, seconds)  # type: ignore[arg-type]

    def _answer(self, script: Script) -> Answer:
        record, setting = self._record, self._setting
        try:
            if self._controls:
                return control.answer(
                    setting.scripts, setting.records, record.method, record.path, self._held()
                )
            endpoint, argument = routes.find(record.method, record.path)
            blob = record.path.startswith(routes.BLOBS)
            body = b"" if blob else self._content()
            call = Call(
                record.method,
                argument,
                body,
                record.body_sha256,
                script,
                setting.shelf,
                setting.now,
                lambda: setting.clock.seconds() - record.started,
                record.header("content-type") or "",
            )
            return endpoint(call)
        except CtllmError as error:
            return routes.refusal(record.path, error)

    def _held(self) -> bytes:
        body = self._body.whole
        if body is None:
            raise ContentTooLarge("http: request body too large")
        return body

    def _content(self) -> bytes:
        """The body without its coding; Ollama takes zstd."""
        body = self._held()
        if self._record.header("content-encoding") != "zstd":
            return body
        return decompressed(body)

    async def _pour(self, stream: Stream, script: Script) -> None:
        self._loaded(stream.loads)
        self._record.enter("answering")
        self._head(200, (("Content-Type", stream.kind),))
        setting = self._setting
        flow = Flow(
            setting.clock, self._request, self._record, stream, script, setting.word_interval
        )
        self._finish(cleanly=await flow.run())

    async def _give(self, whole: Whole, script: Script) -> None:
        self._loaded(whole.loads)
        interval = script.line_interval
        pace = self._setting.word_interval if interval is None else interval
        pause = script.pause_after[1] if script.pause_after is not None else 0.0
        await self._rest(whole.words * pace + pause, "answering")
        if script.error_in_stream is not None:
            failure = routes.failure(self._record.path, script.error_in_stream[1], 500)
            whole = Whole(encode(failure), 500)
        self._send(whole, cleanly=script.break_after is None)

    def _loaded(self, load: Load | None) -> None:
        if load is not None:
            self._setting.shelf.load(load.model, self._setting.now() + load.kept)

    def _send(self, whole: Whole, *, cleanly: bool = True) -> None:
        body = whole.body if isinstance(whole.body, bytes) else whole.body()
        kind = (("Content-Type", whole.kind),) if body else ()
        length = () if whole.status == 204 else (("Content-Length", str(len(body))),)
        self._head(whole.status, (*kind, *length, *whole.headers))
        self._request.write(body if cleanly else body[: len(body) // 2])
        if body:
            self._record.wrote()
        self._finish(cleanly=cleanly)

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        request, origin = self._request, self._record.header("origin")
        request.setResponseCode(status)
        if origin is not None and status != 403:
            request.setHeader("Access-Control-Allow-Origin", origin)
        for name, value in headers:
            request.setHeader(name, value)
        request.setHeader("Date", _date(self._setting.now()))
        self._record.status = status

    def _finish(self, *, cleanly: bool) -> None:
        """End the answer; uncleanly is to close the connection in the middle of it."""
        self._record.close(self._setting.clock.seconds(), "server")
        if cleanly:
            self._request.finish()
        else:
            self._request.write(b"")
            self._request.loseConnection()

    def _at_the_door(self) -> Whole | None:
        """Refuse foreign hosts and pages, and answer what browsers ask beforehand."""
        host, origin = self._record.header("host"), self._record.header("origin")
        foreign = not host_allowed(host or "") or not origin_allowed(origin or "app://")
        if self._setting.guard_host and foreign:
            return Whole(status=403)
        return _PREFLIGHT if self._record.method == "OPTIONS" else None

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError):
            return
        _log.failure("the stand-in failed at {path}", failure, path=self._record.path)
        if self._record.status is None:
            told = routes.failure(self._record.path, "the stand-in failed", 500)
            self._send(Whole.of(told, 500))
        elif self._record.closed_by is None:
            self._finish(cleanly=False)


def _date(seconds: float) -> bytes:
    return datetimeToString(seconds)  # type: ignore[no-any-return]


_PREFLIGHT = Whole(
    status=204,
    headers=(
        ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("Access-Control-Allow-Headers", "Authorization,Content-Type,User-Agent,Accept"),
        ("Access-Control-Max-Age", "43200"),
    ),
)

"""A request handler that follows a script and records what it receives and sends."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import cast

from ctllm.demo import routes
from ctllm.demo.echo_model import Part, RepeatedWord, Reply, echo
from ctllm.demo.request_handler import (
    ReceivedHead,
    RequestHandler,
    ResponseWriter,
    ServerSettings,
)
from ctllm.demo.response import (
    ApiRequest,
    CompleteResponse,
    Response,
    ResponseFormat,
    StreamedResponse,
    encode,
)
from ctllm.demo.stream_writer import ResponseStream, StreamWriter
from ctllm.errors import CtllmError
from ctllm.reactor.interfaces import Clock, Timer
from tests.fake_ollama import control
from tests.fake_ollama.records import Phase, Record, Records
from tests.fake_ollama.script import USUAL, Script, Scripts


class ScriptedHandler(RequestHandler):
    """Handles one request as its script says, and keeps its record."""

    def __init__(
        self,
        settings: ServerSettings,
        writer: ResponseWriter,
        head: ReceivedHead,
        scripts: Scripts,
        records: Records,
        is_controllable: bool,
    ) -> None:
        super().__init__(settings, writer, head)
        self._scripts = scripts
        self._records = records
        self._script = USUAL
        self._is_control = is_controllable and head.path.startswith(control.PREFIX)
        self._record = Record(head.method, head.target, list(head.headers), head.received_at)
        self._receive_pause = scripts.receive_pause(self._record)
        self._resume_timer: Timer | None = None
        if not self._is_control:
            records.add(self._record)

    def receive(self, data: bytes) -> None:
        """Take a chunk of the body. Pause after it when the script says so."""
        super().receive(data)
        pause = self._receive_pause
        if pause is not None and self.body.length >= pause[0]:
            self._receive_pause = None
            self.writer.pause_body()
            self._resume_timer = self.settings.clock.callLater(pause[1], self._resume_body)

    def _resume_body(self) -> None:
        self._resume_timer = None
        self.writer.resume_body()

    def serve(self) -> None:
        """Record the body, and send the response."""
        self._record.set_body(self.body)
        super().serve()

    def client_disconnected(self) -> None:
        """Record when the client disconnected, and stop."""
        if self._record.closed_by is None:
            self._record.set_body(self.body)
            self._record.close(self.settings.clock.seconds(), "client")
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        super().client_disconnected()

    async def respond(self) -> None:
        """Follow the script."""
        self._script = script = self._scripts.next_for(self._record)
        await self._enter("waiting", script.delay_before_head)
        if script.error_before is not None:
            self.send(_error_before(*script.error_before))
        elif script.verbatim is not None:
            self.writer.write_verbatim(script.verbatim.encode("latin-1"))
            self.finish(complete=script.break_after is None)
        else:
            await self._respond_as_usual(self.call_endpoint())

    async def _respond_as_usual(self, response: Response) -> None:
        await self._enter("loading", self._script.load_seconds)
        if isinstance(response, StreamedResponse):
            self._record.enter("answering")
            await self.send_stream(response)
        else:
            await self._send_at_pace(response)

    async def _enter(self, phase: Phase, seconds: float) -> None:
        self._record.enter(phase)
        await self.pause(seconds)

    def call_endpoint(self) -> Response:
        """Return the response of the endpoint, or of the control interface."""
        if not self._is_control:
            return super().call_endpoint()
        try:
            body = self.body.content or b""
            return control.respond(
                self._scripts, self._records, self.head.method, self.head.path, body
            )
        except CtllmError as error:
            return routes.error_response(self.head.path, error)

    def api_request(self, argument: str) -> ApiRequest:
        """Return the request with what the script changes about its response."""
        script = self._script
        request = replace(
            super().api_request(argument),
            load_seconds=script.load_seconds,
            reply=lambda prompt, format: scripted_reply(script, format) or echo(prompt),
        )
        return replace(request, progress_steps=script.count) if script.count else request

    async def _send_at_pace(self, response: CompleteResponse) -> None:
        """Send a complete response after the time that the streamed one would take."""
        script = self._script
        interval = script.line_interval
        pace = self.settings.word_interval if interval is None else interval
        pause = script.pause_after[1] if script.pause_after is not None else 0.0
        await self._enter("answering", response.words * pace + pause)
        if script.error_in_stream is not None:
            error = routes.error_json(self.head.path, script.error_in_stream[1], 500)
            response = CompleteResponse(encode(error), 500, used_model=response.used_model)
        if script.break_after is None:
            self.send(response)
        else:
            self._send_half(response)

    def _send_half(self, response: CompleteResponse) -> None:
        self.load(response.used_model)
        body = self.send_head_of(response)
        self.writer.write(body[: len(body) // 2])
        self._record.count_line()
        self.finish(complete=False)

    def send(self, response: CompleteResponse) -> None:
        """Send a complete response, and record it as one line."""
        super().send(response)

    def send_head_of(self, response: CompleteResponse) -> bytes:
        """Send the head of a complete response, and return its body."""
        body = super().send_head_of(response)
        if body:
            self._record.count_line()
        return body

    def send_head(self, status: int, fields: object) -> None:
        """Record the status."""
        super().send_head(status, cast("dict[str, str]", fields))
        self._record.status = status

    def stream_writer(self, response: StreamedResponse) -> StreamWriter:
        """Return a writer that follows the script."""
        script, settings = self._script, self.settings
        interval = script.line_interval
        pace = settings.word_interval if interval is None else interval
        return ScriptedStreamWriter(
            settings.clock, self.writer, response, pace, script, self._record
        )

    def finish(self, *, complete: bool) -> None:
        """Record the end, and end the response."""
        self._record.close(self.settings.clock.seconds(), "server")
        super().finish(complete=complete)


class ScriptedStreamWriter(StreamWriter):
    """Writes a streamed response, and pauses, fails or breaks off where the script says so."""

    def __init__(
        self,
        clock: Clock,
        stream: ResponseStream,
        response: StreamedResponse,
        interval: float,
        script: Script,
        record: Record,
    ) -> None:
        super().__init__(clock, stream, response.lines, interval)
        self._error_line: Callable[[str], bytes] = response.error_line
        self._script = script
        self._marks = script.marks
        self._record = record
        self._has_paused = False

    def write_line(self, line: bytes) -> None:
        """Write one line, and count it."""
        super().write_line(line)
        self._record.count_line()

    def before_line(self) -> bool:
        """Do what the script says after so many lines. Return whether to write the next one."""
        sent, script = self._record.lines_sent, self._script
        if sent not in self._marks:
            return True
        if (
            script.pause_after is not None
            and script.pause_after[0] == sent
            and not self._has_paused
        ):
            self._has_paused = True
            self.stream.write(b"")
            self.continue_after(script.pause_after[1])
        elif script.break_after == sent:
            self.end(complete=False)
        elif script.error_in_stream is not None and script.error_in_stream[0] == sent:
            if line := self._error_line(script.error_in_stream[1]):
                self.write_line(line)
            self.end(complete=True)
        else:
            return True
        return False


def scripted_reply(script: Script, format: ResponseFormat) -> Reply | None:
    """Return the reply whose words a script gives, or None."""
    if script.count is not None:
        part = Part("text", RepeatedWord(_padded_word(script, format), script.count))
    elif isinstance(script.lines, tuple):
        part = Part("text", script.lines)
    else:
        return None
    return Reply((part,), prompt_tokens=1)


def _padded_word(script: Script, format: ResponseFormat) -> str:
    """Return a word whose line has the length that the script wants.

    The length is measured on a copy of the format, which keeps a state.
    """
    wanted = script.line_bytes or (1024 if script.size else 0)
    sample, part = copy(format), Part("text", ())
    list(sample.part_start_lines(part))
    return "word ".ljust(wanted - len(sample.word_line(part, "")), "x")


def _error_before(status: int, body: str, headers: dict[str, str]) -> CompleteResponse:
    media_type = "application/json; charset=utf-8" if body.startswith("{") else "text/plain"
    return CompleteResponse(body.encode(), status, media_type, tuple(headers.items()))

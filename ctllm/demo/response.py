"""The responses of endpoints, complete or streamed, and the format of a streamed one.

A line is the bytes of one write. An empty line, `WORD_PAUSE`, stands for the pause between words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from ctllm.common.json_decoder import JsonObject
from ctllm.demo.echo_model import Part, Prompt, Reply, echo
from ctllm.demo.model_store import DEFAULT_KEEP_ALIVE, ModelStore

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
#: In the dialects of OpenAI and Anthropic, where a line break ends it, and after a transfer.
JSON_WITHOUT_CHARSET = "application/json"
PLAIN = "text/plain"
WORD_PAUSE = b""

encode = msgspec.json.encode


@dataclass(frozen=True)
class UsedModel:
    """A model that a response uses, and the seconds that it stays loaded afterwards."""

    name: str
    keep_alive_seconds: float = DEFAULT_KEEP_ALIVE


@dataclass(frozen=True)
class CompleteResponse:
    """A response with a body of known length, sent after the time that `words` words take."""

    body: bytes | Callable[[], bytes] = b""
    status: int = 200
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    words: int = 0
    used_model: UsedModel | None = None

    @classmethod
    def json(cls, value: object, status: int = 200) -> CompleteResponse:
        """Return a response with a JSON body."""
        return cls(encode(value), status)

    @classmethod
    def json_line(cls, value: object, status: int = 200) -> CompleteResponse:
        """Return a line of JSON, as the dialects of OpenAI and Anthropic have it."""
        return cls(encode(value) + b"\n", status, JSON_WITHOUT_CHARSET)


@dataclass(frozen=True)
class StreamedResponse:
    """A response of lines. `error_line` returns what Ollama sends for an error within the stream.

    Only its own dialect has a line for it. Under `/v1` Ollama 0.17 sends at most an empty chunk.
    """

    lines: Iterator[bytes]
    error_line: Callable[[str], bytes]
    media_type: str = NDJSON
    used_model: UsedModel | None = None


Response = CompleteResponse | StreamedResponse


class ResponseFormat:
    """The lines of one reply in a dialect. A subclass may keep state between the lines."""

    media_type = NDJSON

    def preamble_lines(self) -> Iterable[bytes]:
        """Return the lines before the first part."""
        return ()

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Return the lines before a part."""
        return ()

    def word_line(self, part: Part, word: str) -> bytes:
        """Return the line for one word of a part."""
        raise NotImplementedError

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Return the lines after a part."""
        return ()

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the lines that end the reply."""
        raise NotImplementedError

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the complete reply as one JSON object."""
        raise NotImplementedError

    def error_line(self, message: str) -> bytes:
        """Return what is sent for an error within the stream, possibly nothing."""
        return b""

    def lines(self, reply: Reply) -> Iterator[bytes]:
        """Return all lines of a reply, with a pause after each word."""
        yield from self.preamble_lines()
        for part in reply.parts:
            yield from self.part_start_lines(part)
            for word in part.words:
                yield self.word_line(part, word)
                yield WORD_PAUSE
            yield from self.part_end_lines(part)
        yield from self.final_lines(reply)


@dataclass(frozen=True)
class ApiRequest:
    """A request as an endpoint takes it.

    `path_argument` is the variable part of the path. `now` returns the seconds since the epoch,
    `elapsed` the seconds since the head was received. `reply` generates the reply to a prompt for
    a format. `load_seconds` is the time that loading the model took, `progress_steps` the number
    of progress lines of a transfer.
    """

    method: str
    path_argument: str
    body: bytes
    body_sha256: str
    models: ModelStore
    now: Callable[[], float]
    elapsed: Callable[[], float]
    content_type: str = ""
    reply: Callable[[Prompt, ResponseFormat], Reply] = lambda prompt, _: echo(prompt)
    load_seconds: float = 0.0
    progress_steps: int = 10


def generate_response(
    request: ApiRequest, prompt: Prompt, format: ResponseFormat, *, stream: bool
) -> Response:
    """Return the reply to a prompt as a response in a format."""
    reply = request.reply(prompt, format)
    used = UsedModel(prompt.model, prompt.keep_alive_seconds)
    if stream:
        return StreamedResponse(
            format.lines(reply), format.error_line, format.media_type, used_model=used
        )
    is_native = format.media_type == NDJSON
    end = b"" if is_native else b"\n"
    return CompleteResponse(
        lambda: encode(format.as_json(reply)) + end,
        media_type=JSON if is_native else JSON_WITHOUT_CHARSET,
        words=reply.completion_tokens,
        used_model=used,
    )


def durations(request: ApiRequest, reply: Reply) -> dict[str, int]:
    """Return the durations and counts that Ollama reports at the end, in nanoseconds."""
    total = int(request.elapsed() * 1e9)
    load = int(request.load_seconds * 1e9)
    return {
        "total_duration": total,
        "load_duration": load,
        "prompt_eval_count": reply.prompt_tokens,
        "prompt_eval_duration": 0,
        "eval_count": reply.completion_tokens,
        "eval_duration": max(total - load, 0),
    }

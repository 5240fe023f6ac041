"""The responses of endpoints, complete or streamed, and the format of a streamed one.

A line is the bytes of one write. An empty line, `WORD_PAUSE`, stands for the pause between words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ctllm.demo.echo_model import Part, Prompt, Reply, echo
from ctllm.demo.model_store import DEFAULT_KEEP_ALIVE, ModelStore

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
PLAIN = "text/plain"
WORD_PAUSE = b""

encode = msgspec.json.encode


@dataclass(frozen=True)
class UsedModel:
    """A model that answers, and how many seconds it stays loaded afterwards."""

    name: str
    keep_alive_seconds: float = DEFAULT_KEEP_ALIVE


@dataclass(frozen=True)
class CompleteResponse:
    """One body with its length. It is made when `words` have had the time to be said."""

    body: bytes | Callable[[], bytes] = b""
    status: int = 200
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    words: int = 0
    used_model: UsedModel | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200) -> CompleteResponse:
        """Answer JSON."""
        return cls(encode(value), status)


@dataclass(frozen=True)
class StreamedResponse:
    """Lines one after the other. `error` makes the dialect's line for an error in mid-stream."""

    lines: Iterator[bytes]
    error_line: Callable[[str], bytes]
    media_type: str = NDJSON
    used_model: UsedModel | None = None


Response = CompleteResponse | StreamedResponse


class ResponseFormat:
    """One answer told in a dialect: what stands before, in and after the words on the wire."""

    media_type = NDJSON

    def preamble_lines(self) -> Iterable[bytes]:
        """Lines before everything else."""
        return ()

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Lines before a part."""
        return ()

    def word_line(self, part: Part, word: str) -> bytes:
        """Give the line for one word of a part."""
        raise NotImplementedError

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Lines after a part."""
        return ()

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Lines that say that it is over, and how."""
        raise NotImplementedError

    def as_json(self, said: Reply) -> Any:
        """Give the same answer in one, as JSON's types."""
        raise NotImplementedError

    def error_line(self, message: str) -> bytes:
        """Give the line for an error in mid-stream."""
        raise NotImplementedError

    def lines(self, said: Reply) -> Iterator[bytes]:
        """All lines of an answer, with a rest after each word."""
        yield from self.preamble_lines()
        for part in said.parts:
            yield from self.part_start_lines(part)
            for word in part.words:
                yield self.word_line(part, word)
                yield WORD_PAUSE
            yield from self.part_end_lines(part)
        yield from self.final_lines(said)


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
    return CompleteResponse(
        lambda: encode(format.as_json(reply)), words=reply.completion_tokens, used_model=used
    )


def durations(request: ApiRequest, reply: Reply) -> dict[str, int]:
    """Return the figures that Ollama reports at the end. Times are in nanoseconds."""
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

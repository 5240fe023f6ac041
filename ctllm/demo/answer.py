"""What an endpoint answers: a whole, or a stream of lines; and how a dialect tells a stream.

Lines are bytes as they go on the wire, one write each. An empty one, `REST`, is where the pause
between two words goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import msgspec

from ctllm.demo.echo_model import Ask, Part, Repeat, Said, reply
from ctllm.demo.model_store import KEPT_LOADED, Shelf
from ctllm.demo.script import Script

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
PLAIN = "text/plain"
REST = b""

encode = msgspec.json.encode


@dataclass(frozen=True)
class Load:
    """A model that answers, and how many seconds it stays loaded afterwards."""

    model: str
    kept: float = KEPT_LOADED


@dataclass(frozen=True)
class Whole:
    """One body with its length. It is made when `words` have had the time to be said."""

    body: bytes | Callable[[], bytes] = b""
    status: int = 200
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    words: int = 0
    loads: Load | None = None

    @classmethod
    def of(cls, value: Any, status: int = 200) -> Whole:
        """Answer JSON."""
        return cls(encode(value), status)


@dataclass(frozen=True)
class Stream:
    """Lines one after the other. `error` makes the dialect's line for an error in mid-stream."""

    lines: Iterator[bytes]
    error: Callable[[str], bytes]
    kind: str = NDJSON
    loads: Load | None = None


Answer = Whole | Stream


@dataclass(frozen=True)
class Call:
    """A request on its way to an endpoint, with what it needs to be answered.

    `argument` is the part of the path that names something; `now` gives epoch seconds, and
    `elapsed` the seconds since the head came.
    """

    method: str
    argument: str
    body: bytes
    sha256: str
    script: Script
    shelf: Shelf
    now: Callable[[], float]
    elapsed: Callable[[], float]
    content_type: str = ""


class Telling:
    """One answer told in a dialect: what stands before, in and after the words on the wire."""

    kind = NDJSON

    def opening(self) -> Iterable[bytes]:
        """Lines before everything else."""
        return ()

    def begin(self, part: Part) -> Iterable[bytes]:
        """Lines before a part."""
        return ()

    def piece(self, part: Part, word: str) -> bytes:
        """Give the line for one word of a part."""
        raise NotImplementedError

    def end(self, part: Part) -> Iterable[bytes]:
        """Lines after a part."""
        return ()

    def closing(self, said: Said) -> Iterable[bytes]:
        """Lines that say that it is over, and how."""
        raise NotImplementedError

    def whole(self, said: Said) -> Any:
        """Give the same answer in one, as JSON's types."""
        raise NotImplementedError

    def error(self, message: str) -> bytes:
        """Give the line for an error in mid-stream."""
        raise NotImplementedError

    def lines(self, said: Said) -> Iterator[bytes]:
        """All lines of an answer, with a rest after each word."""
        yield from self.opening()
        for part in said.parts:
            yield from self.begin(part)
            for word in part.words:
                yield self.piece(part, word)
                yield REST
            yield from self.end(part)
        yield from self.closing(said)


def told(call: Call, ask: Ask, telling: Telling, *, stream: bool) -> Answer:
    """Let the demo, or the call's script, answer in a dialect."""
    said = scripted(call.script, telling) or reply(ask)
    load = Load(ask.model, ask.kept)
    if stream:
        return Stream(telling.lines(said), telling.error, telling.kind, loads=load)
    return Whole(lambda: encode(telling.whole(said)), words=said.tokens, loads=load)


def scripted(script: Script, telling: Telling) -> Said | None:
    """Give the answer whose words a script says, if it does."""
    count = script.count
    if count is not None:
        text = Part("text", Repeat(_padded(script, telling), count))
    elif isinstance(script.lines, tuple):
        text = Part("text", script.lines)
    else:
        return None
    return Said((text,), prompt_tokens=1)


def _padded(script: Script, telling: Telling) -> str:
    """Make a word whose line is as long as the script wants; tried out on a copy of the telling."""
    wanted = script.line_bytes or (1024 if script.size else 0)
    sample, part = copy(telling), Part("text", ())
    list(sample.begin(part))
    return "word ".ljust(wanted - len(sample.piece(part, "")), "x")


def durations(call: Call, said: Said) -> dict[str, int]:
    """Give the figures that Ollama reports at the end; times are nanoseconds."""
    total = int(call.elapsed() * 1e9)
    load = int(call.script.load_seconds * 1e9)
    return {
        "total_duration": total,
        "load_duration": load,
        "prompt_eval_count": said.prompt_tokens,
        "prompt_eval_duration": 0,
        "eval_count": said.tokens,
        "eval_duration": max(total - load, 0),
    }

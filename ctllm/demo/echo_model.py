"""The demo model: it repeats the prompt, and says that it is not a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import msgspec

from ctllm.common.json_decoder import JsonObject
from ctllm.demo.model_store import DEFAULT_KEEP_ALIVE
from ctllm.demo.schema_example import example_of

PREFACE = "This is ctllm's demo, not a model. You said: "

Kind = Literal["thinking", "text", "call"]


@dataclass(frozen=True)
class Tool:
    """A tool that the model may call. `schema` is the JSON Schema of its arguments."""

    name: str
    schema: JsonObject


@dataclass(frozen=True)
class Prompt:
    """A prompt, whatever its dialect. `text` is that of the last message.

    `schema` is the JSON Schema of a structured reply; an empty one allows any object. `max_words`
    limits the reply. The model stays loaded for `keep_alive_seconds` afterwards.
    """

    model: str
    text: str
    images: int = 0
    tools: tuple[Tool, ...] = ()
    think: bool = False
    schema: JsonObject | None = None
    max_words: int | None = None
    keep_alive_seconds: float = DEFAULT_KEEP_ALIVE


@dataclass(frozen=True)
class Part:
    """One part of a reply, in the words in which it is streamed.

    The words of a tool call are the JSON text of its arguments, and `name` is the tool's.
    """

    kind: Kind
    words: Sequence[str]
    name: str = ""

    @property
    def text(self) -> str:
        """All words."""
        return "".join(self.words)


@dataclass(frozen=True)
class Reply:
    """A complete reply, before a dialect formats it. A word counts as a token."""

    parts: tuple[Part, ...]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"] = "stop"
    completion_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "completion_tokens", sum(len(part.words) for part in self.parts))

    def text(self, kind: Kind) -> str:
        """Return the text of all parts of one kind."""
        return "".join(part.text for part in self.parts if part.kind == kind)

    @property
    def tool_call(self) -> Part | None:
        """The tool call, or None."""
        return next((part for part in self.parts if part.kind == "call"), None)


class RepeatedWord(Sequence[str]):
    """A sequence of the same word, which takes the memory of one."""

    def __init__(self, word: str, times: int) -> None:
        self._word = word
        self._times = times

    def __len__(self) -> int:
        return self._times

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        chosen = range(self._times)[index]
        return self._word if isinstance(chosen, int) else RepeatedWord(self._word, len(chosen))

    def __iter__(self) -> Iterator[str]:
        return (self._word for _ in range(self._times))


def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words with the white space before each; joined, they are the text."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def echo(ask: Prompt) -> Reply:
    """Return a call of the first tool if there is one, else an echo of the text."""
    thinking = (
        (Part("thinking", split_words("The demo does not think; it repeats.")),)
        if ask.think
        else ()
    )
    prompt_tokens = max(1, len(split_words(ask.text)))
    if ask.tools:
        return Reply((*thinking, _tool_call(ask.tools[0], ask.text)), prompt_tokens)
    spoken = split_words(_echo_text(ask))
    cut = spoken if ask.max_words is None or ask.max_words < 0 else spoken[: ask.max_words]
    reason: Literal["stop", "length"] = "stop" if len(cut) == len(spoken) else "length"
    return Reply((*thinking, Part("text", cut)), prompt_tokens, reason)


def _echo_text(ask: Prompt) -> str:
    if ask.schema is not None:
        answer = (
            example_of(ask.schema, ask.text) if ask.schema else {"demo": True, "said": ask.text}
        )
        return msgspec.json.encode(answer).decode()
    seen = f" (and {ask.images} image{'s' * (ask.images > 1)})" if ask.images else ""
    return PREFACE + ask.text + seen


def _tool_call(tool: Tool, text: str) -> Part:
    properties = tool.schema.get("properties") or {}
    first = next((n for n, s in properties.items() if _is_string(s)), None)
    arguments = {} if first is None else {first: text}
    return Part("call", (msgspec.json.encode(arguments).decode(),), tool.name)


def _is_string(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") in ("string", ["string"])

"""Patterns for names of models: what an API key with `--models` may use.

A name is understood as Ollama understands it (`model.ParseName`): `[[HOST/]NAMESPACE/]MODEL[:TAG]`,
without regard to case, with the defaults `registry.ollama.ai`, `library` and `latest`. A pattern is
written in the same way:

- `*` stands for any characters and `?` for one, but neither for a slash: `*` is every model of
  Ollama's library or made here, `hf.co/*/*` every model of that host.
- A pattern without wildcards is a name: `llama3` is `llama3:latest`, and no other tag.
- A pattern with wildcards and without a tag allows every tag: `llama*` allows `llama3.2:1b`.

A name that Ollama would not accept matches nothing, so nothing depends on how it would read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ctllm.errors import BadRequest

MAX_PATTERNS = 16
"""Maximum number of patterns of one credential."""

MAX_PATTERN_LENGTH = 128
#: The text of a pattern, as far as its type says.
ModelPattern = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9*?._:/-]+\Z", max_length=MAX_PATTERN_LENGTH)
]
_DEFAULTS = ("registry.ollama.ai", "library")
#: The longest name that is compared: Ollama's host has up to 350 characters, other parts have 80.
_MAX_NAME = 600
_PART = r"[a-z0-9_][a-z0-9_.-]*"
_NAME = re.compile(rf"(?:(?:({_PART}(?::[0-9]+)?)/)?({_PART})/)?({_PART})(?::({_PART}))?")
_GLOB = r"[a-z0-9_*?][a-z0-9_.*?-]*"
_PATTERN = re.compile(rf"(?:(?:({_GLOB}(?::[0-9]+)?)/)?({_GLOB})/)?({_GLOB})(?::({_GLOB}))?")

_Parts = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class ModelPatterns:
    """Patterns of which a model must match one. Without any, no model matches."""

    _patterns: tuple[_Parts, ...]

    def match(self, model: str) -> bool:
        """Return whether the model called `model` matches."""
        parts = _parse_name(model)
        return parts is not None and any(
            all(map(_glob, pattern, parts)) for pattern in self._patterns
        )


def parse_patterns(texts: Iterable[str]) -> ModelPatterns:
    """Return the patterns in `texts`; raises BadRequest for one that is malformed, or too many."""
    given = tuple(texts)
    if len(given) > MAX_PATTERNS:
        raise BadRequest(f"There are more than {MAX_PATTERNS} patterns of models.")
    return ModelPatterns(tuple(map(_parse_pattern, given)))


def _parse_pattern(text: str) -> _Parts:
    found = _PATTERN.fullmatch(text.lower()) if len(text) <= MAX_PATTERN_LENGTH else None
    if found is None:
        raise BadRequest(
            f"{text[:MAX_PATTERN_LENGTH]!r} is not a pattern of names of models. Write "
            "it like a name, with * for any characters: llama3, 'llama*', 'qwen3:*', 'hf.co/*/*'."
        )
    any_tag = "*" if re.search(r"[*?]", text) else "latest"
    return _with_defaults(found, any_tag)


def _parse_name(name: str) -> _Parts | None:
    found = _NAME.fullmatch(name.lower()) if len(name) <= _MAX_NAME and name.isascii() else None
    return None if found is None else _with_defaults(found, "latest")


def _with_defaults(found: re.Match[str], tag: str) -> _Parts:
    host, namespace = (found[n + 1] or _DEFAULTS[n] for n in range(2))
    return host, namespace, found[3], found[4] or tag


def _glob(pattern: str, text: str) -> bool:
    """Return whether `pattern` matches all of `text`, in at most their lengths' product of steps.

    A regular expression could take exponential time for a hostile pattern.
    """
    at = position = 0
    star = resume = -1
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at += 1
            position += 1
        elif star >= 0:
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")

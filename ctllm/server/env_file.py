"""The file `.env` of a server's folder: made from a template, and merged with a newer one.

Docker Compose reads it: a line has `KEY=value`, and a comment begins with "#". In the template,
`#KEY=value` shows the default of a key. Nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_SET = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_DEFAULT = re.compile(r"#([A-Z_][A-Z0-9_]*)=(.*)")


@dataclass(frozen=True, slots=True)
class MergedEnv:
    """The merged text, the keys that it has as new comments, and the keys of no use any more."""

    text: str
    added: tuple[str, ...]
    gone: tuple[str, ...]


def parse_env(text: str) -> dict[str, str]:
    """Return the values that are set. The last one counts, and quotes around a value do not."""
    found = filter(None, map(_SET.fullmatch, text.splitlines()))
    return {match[1]: _unquote(match[2].strip()) for match in found}


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()


def known_keys(text: str) -> frozenset[str]:
    """Return the keys that are set or shown with their default."""
    matches = (_SET.fullmatch(line) or _DEFAULT.fullmatch(line) for line in text.splitlines())
    return frozenset(match[1] for match in matches if match)


def default_values(template: str) -> dict[str, str]:
    """Return the defaults that a template shows."""
    found = filter(None, map(_DEFAULT.fullmatch, template.splitlines()))
    return {match[1]: match[2] for match in found}


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Return the template with `values` set, all of which it knows."""
    return "".join(_fill_line(line, values) for line in template.splitlines(keepends=True))


def _fill_line(line: str, values: Mapping[str, str]) -> str:
    match = _SET.fullmatch(line.rstrip("\n")) or _DEFAULT.fullmatch(line.rstrip("\n"))
    return f"{match[1]}={values[match[1]]}\n" if match and match[1] in values else line


def set_value(text: str, key: str, value: str) -> str:
    """Return the text with another value of a key that is set."""
    lines = text.splitlines(keepends=True)
    return "".join(
        f"{key}={value}\n" if (match := _SET.fullmatch(line.rstrip("\r\n"))) and match[1] == key
        else line
        for line in lines
    )  # fmt: skip


def merge_template(text: str, template: str, delivered: Collection[str]) -> MergedEnv:
    """Return `text` with the keys that only the template has, as comments with their defaults.

    `delivered` are the keys of the template that `text` was made or merged with before.
    """
    present, keys = known_keys(text), known_keys(template)
    added = [
        _paragraph_of_missing(paragraph, present)
        for paragraph in template.split("\n\n")
        if known_keys(paragraph) - present
    ]
    body = text if text.endswith("\n") or not text else f"{text}\n"
    gone = set(parse_env(text)) & (set(delivered) - keys)
    return MergedEnv("\n".join([body, *added]), tuple(sorted(keys - present)), tuple(sorted(gone)))


def _paragraph_of_missing(paragraph: str, present: Collection[str]) -> str:
    """Return the comment of a paragraph and the keys that are missing, each as a comment."""
    lines = []
    for line in paragraph.strip("\n").splitlines():
        match = _SET.fullmatch(line) or _DEFAULT.fullmatch(line)
        if match is None:
            lines.append(line)
        elif match[1] not in present:
            lines.append(f"#{match[1]}={match[2]}")
    return "\n".join(lines) + "\n"

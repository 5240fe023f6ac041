"""Lists of models of several sides (desktops; here and the cloud), made one.

A side may be anything: what is no list is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from ctllm.common.json_decoder import decode_json
from ctllm.http.message.head import RequestHead
from ctllm.ollama.api import canonical_model


@dataclass(frozen=True)
class ListFormat:
    """What a list looks like: the fields that hold it, that name and that order its entries."""

    entries: str
    name: str
    time: str
    content_type: bytes


_FORMATS = {
    b"/api/tags": ListFormat("models", "name", "modified_at", b"application/json; charset=utf-8"),
    b"/api/ps": ListFormat("models", "name", "expires_at", b"application/json; charset=utf-8"),
    b"/v1/models": ListFormat("data", "id", "created", b"application/json"),
}


def find_list_format(head: RequestHead) -> ListFormat | None:
    """The form of the list that is asked for, or None where it is none."""
    return _FORMATS.get(head.path) if head.method == b"GET" else None


def merge_lists(list_format: ListFormat, bodies: Iterable[bytes]) -> bytes | None:
    """One list of all `bodies` that are lists, each model once and as it came; None for none.

    Of two that call a model the same, the first counts; the newest come first, as in Ollama.
    """
    merged: dict[str, Any] | None = None
    found: dict[str, tuple[float, msgspec.Raw]] = {}
    for body in bodies:
        try:
            fields, entries = _parse_list(list_format, body)
        except (ValueError, LookupError):
            continue
        merged = merged or fields
        for name, time, entry in entries:
            found.setdefault(name, (time, entry))
    if merged is None:
        return None
    if found:
        newest = sorted(found.values(), key=lambda known: known[0], reverse=True)
        merged[list_format.entries] = [entry for _, entry in newest]
    return msgspec.json.encode(merged)


def _parse_list(
    list_format: ListFormat, body: bytes
) -> tuple[dict[str, Any], list[tuple[str, float, msgspec.Raw]]]:
    """The fields of a list, and name, time and text of its entries.

    Raises ValueError or LookupError for what is none.
    """
    body.decode("utf-8")  # what stays as it came is not looked at below
    fields = decode_json(body, dict[str, msgspec.Raw])
    raw = fields[list_format.entries]
    entries = [] if bytes(raw) == b"null" else decode_json(raw, list[msgspec.Raw])
    return fields, [(*_parse_entry(list_format, each), each) for each in entries]


def _parse_entry(list_format: ListFormat, entry: msgspec.Raw) -> tuple[str, float]:
    fields = decode_json(entry, dict[str, msgspec.Raw])
    name = decode_json(fields[list_format.name], str)
    return canonical_model(name), _parse_time(
        decode_json(fields.get(list_format.time, b"0"), object)
    )


def _parse_time(time: Any) -> float:
    """A time as one of its dialects gives it, in whole seconds, by which Ollama sorts; or 0."""
    if isinstance(time, int | float):
        return time  # of any size
    try:
        moment = datetime.fromisoformat(time)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 1
    except (TypeError, ValueError):
        return 0.0

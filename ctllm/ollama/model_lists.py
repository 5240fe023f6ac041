"""Merging of the lists of models of several desktops, or of the local and the cloud route.

Bodies that are not valid lists are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from ctllm.common.json_decoder import decode_json
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import canonical_model


@dataclass(frozen=True)
class ListFormat:
    """The format of a list: the fields with its entries, and with their name and their time."""

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
    """Return the format of the list that is requested, or None if none is."""
    return _FORMATS.get(head.path) if head.method == b"GET" else None


def merge_lists(list_format: ListFormat, bodies: Iterable[bytes]) -> bytes | None:
    """Return one list of all `bodies`, newest models first as in Ollama; None if none is valid.

    Each model is listed once, as in the first list that has it.
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


def filter_list(
    list_format: ListFormat, body: bytes, may_list: Callable[[str], bool]
) -> bytes | None:
    """Return the list with the models for which `may_list` is true; None if `body` is no list.

    An entry has a name in each of the fields `name`, `model` and `id` that it has. Of other fields
    of the list only texts are kept.
    """
    try:
        fields, entries = _parse_list(list_format, body)
        allowed = [raw for _, _, raw in entries if all(map(may_list, _entry_names(raw)))]
        texts = {name: text for name, text in fields.items() if bytes(text).startswith(b'"')}
    except (ValueError, LookupError):
        return None
    return msgspec.json.encode({**texts, list_format.entries: allowed})


def _entry_names(entry: msgspec.Raw) -> list[str]:
    fields = decode_json(entry, dict[str, msgspec.Raw])
    return [decode_json(fields[key], str) for key in ("name", "model", "id") if key in fields]


def _parse_list(
    list_format: ListFormat, body: bytes
) -> tuple[dict[str, Any], list[tuple[str, float, msgspec.Raw]]]:
    """Return the fields of a list, and the name, time and JSON of its entries.

    Raises ValueError or LookupError if `body` is not a list.
    """
    body.decode("utf-8")  # raw JSON is not checked below
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


def _parse_time(time: object) -> float:
    """Return epoch seconds of a time of any dialect, in whole seconds as Ollama sorts, or 0."""
    if isinstance(time, int | float):
        return time
    try:
        moment = datetime.fromisoformat(str(time))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 1
    except (TypeError, ValueError):
        return 0.0

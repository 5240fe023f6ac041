"""One field of a `multipart/form-data` body (RFC 7578), read while the body arrives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

#: The longest value of the field, in bytes. A longer one counts as missing.
MAX_VALUE = 1024
#: The parts of a form at most, as in Go's parser of forms, which Ollama uses.
_MAX_PARTS = 1000
_DISPOSITION_HEADER = "Content-Disposition"
_PART_HEADERS = frozenset((_DISPOSITION_HEADER, "Content-Type", "Content-Length"))
#: The value of Content-Disposition as clients write it (RFC 7578, section 4.2).
_DISPOSITION = re.compile(
    r'form-data; name="(?P<name>[^"\\\r\n]*)"(?P<file>; filename="[^"\\\r\n]+")?'
)


class _Parser(Protocol):
    """What is used of `multipart.PushMultipartParser`."""

    closed: bool

    def parse(self, chunk: bytes, /) -> Iterable[Any]:
        """Return what `chunk` completes: heads of parts, their data, and None for their ends."""


def get_boundary(content_type: bytes) -> bytes | None:
    """Return the boundary between a form's parts, or None if `content_type` is not a form's."""
    if not content_type.lower().startswith(b"multipart/form-data"):
        return None
    from multipart import parse_options_header

    _, options = parse_options_header(content_type.decode("latin-1"))
    return str(options.get("boundary", "")).encode("latin-1", "replace") or None


class FormFieldScanner:
    """Finds the first value of the field `name`; `is_settled` when more data would change nothing.

    Files are skipped: Ollama takes the first value that is not a file. With `is_strict`,
    there is no value unless every parser would find the same: no part up to the field has an
    unusual head.
    """

    def __init__(self, name: str, boundary: bytes, is_strict: bool = False) -> None:
        from multipart import MultipartError, PushMultipartParser

        self.is_settled = False
        self.value: str | None = None
        self._name = name
        self._is_strict = is_strict
        self._error: type[Exception] = MultipartError
        self._data: bytearray | None = None  # of the field, while its part is read
        try:
            self._parser: _Parser = PushMultipartParser(
                boundary, max_segment_count=_MAX_PARTS, strict=is_strict
            )
        except MultipartError:
            self.is_settled = True

    def feed(self, data: bytes) -> None:
        """Read the next part of the body."""
        if self.is_settled or not data:
            return
        try:
            for event in self._parser.parse(data):
                self._process(event)
        except self._error:
            self.is_settled = True
        self.is_settled = self.is_settled or self._parser.closed

    def _process(self, event: Any) -> None:
        if self.is_settled:
            return
        if event is None:
            self._finish_part()
        elif isinstance(event, bytes | bytearray):
            if self._data is not None and len(self._data) <= MAX_VALUE:
                self._data += event[: MAX_VALUE + 1]
        elif self._is_strict and not self._is_canonical(event.headerlist):
            self.is_settled = True
        elif event.name == self._name and event.filename is None:
            self._data = bytearray()

    def _is_canonical(self, headers: list[tuple[str, str]]) -> bool:
        """Return whether the head of a part is as clients write it, and the field is no file."""
        names = [name for name, _ in headers]
        found = [
            _DISPOSITION.fullmatch(value) for name, value in headers if name == _DISPOSITION_HEADER
        ]
        if len(set(names)) < len(names) or not _PART_HEADERS.issuperset(names) or not found[0]:
            return False
        return found[0]["file"] is None or found[0]["name"].lower() != self._name

    def _finish_part(self) -> None:
        if self._data is None:
            return
        self.is_settled = True
        if 0 < len(self._data) <= MAX_VALUE:
            self.value = self._data.decode("utf-8", "replace")

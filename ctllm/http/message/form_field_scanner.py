"""One field of a `multipart/form-data` body (RFC 7578), read while the body arrives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

#: The longest value of the field, in bytes. A longer one counts as missing.
MAX_VALUE = 1024
#: The parts of a form at most, as in Go's parser of forms, which Ollama uses.
_MAX_PARTS = 1000


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

    Files are skipped: Ollama takes the first value that is not a file.
    """

    def __init__(self, name: str, boundary: bytes) -> None:
        from multipart import MultipartError, PushMultipartParser

        self.is_settled = False
        self.value: str | None = None
        self._name = name
        self._error: type[Exception] = MultipartError
        self._data: bytearray | None = None  # of the field, while its part is read
        try:
            self._parser: _Parser = PushMultipartParser(boundary, max_segment_count=_MAX_PARTS)
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
        elif event.name == self._name and event.filename is None:
            self._data = bytearray()

    def _finish_part(self) -> None:
        if self._data is None:
            return
        self.is_settled = True
        if 0 < len(self._data) <= MAX_VALUE:
            self.value = self._data.decode("utf-8", "replace")

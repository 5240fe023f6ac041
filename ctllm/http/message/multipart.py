"""One field of a form in `multipart/form-data` (RFC 7578), read while the body comes."""

from __future__ import annotations

from typing import Any

#: Most bytes of the field's value; longer ones are nobody's.
MAX_VALUE = 1024
#: Most parts of a form, as in Go's reader of forms, which Ollama has.
_MAX_PARTS = 1000


def get_boundary(content_type: bytes) -> bytes | None:
    """The boundary of the parts of a form, or None for what is none."""
    if not content_type.lower().startswith(b"multipart/form-data"):
        return None
    from multipart import parse_options_header

    _, options = parse_options_header(content_type.decode("latin-1"))
    return str(options.get("boundary", "")).encode("latin-1", "replace") or None


class FormFieldScanner:
    """Finds the first value of the field `name`; `settled` when more would change nothing.

    Files are passed over: of a form, Ollama takes the first value that is not one.
    """

    def __init__(self, name: str, boundary: bytes) -> None:
        from multipart import MultipartError, PushMultipartParser

        self.is_settled = False
        self.value: str | None = None
        self._name = name
        self._error = MultipartError
        self._text: bytearray | None = None  # of the field, as far as it came
        try:
            self._parser: Any = PushMultipartParser(boundary, max_segment_count=_MAX_PARTS)
        except MultipartError:
            self.is_settled = True

    def feed(self, piece: bytes) -> None:
        """The body goes on with `piece`."""
        if self.is_settled or not piece:
            return
        try:
            for event in self._parser.parse(piece):
                self._take(event)
        except self._error:
            self.is_settled = True
        self.is_settled = self.is_settled or self._parser.closed

    def _take(self, event: Any) -> None:
        if self.is_settled:
            return
        if event is None:
            self._end_of_part()
        elif isinstance(event, bytes | bytearray):
            if self._text is not None and len(self._text) <= MAX_VALUE:
                self._text += event[: MAX_VALUE + 1]
        elif event.name == self._name and event.filename is None:
            self._text = bytearray()

    def _end_of_part(self) -> None:
        if self._text is None:
            return
        self.is_settled = True
        if 0 < len(self._text) <= MAX_VALUE:
            self.value = self._text.decode("utf-8", "replace")

"""Incremental search for the name of the model in a JSON body.

The body is scanned, not parsed, because megabytes of images may precede the name. The scanner
tracks brackets and strings, and reads the keys of the outermost object and the wanted values. It
does not check that the rest is valid JSON.

Ollama uses the last value of a repeated key. So the name is settled at the end of the object, or
after SCAN_LIMIT bytes. It reads some bodies twice, once with regard to the case of keys and once
without (`model`, `Model`): where values differ, no name is certain.
"""

from __future__ import annotations

import re

from ctllm.common.json_decoder import decode_json

#: Maximum bytes of a key or a name in JSON; longer ones are ignored.
MAX_NAME = 1024
#: Bytes of a body after which a name that was found is final.
SCAN_LIMIT = 64 * 1024

_SPACE = b" \t\r\n"
_QUOTE, _COLON = b'":'
_OPENING, _CLOSING = b"{[", b"}]"
#: Whole strings, the opening quote of an incomplete one, and structural characters: those of the
#: outermost object, and those of nested values.
_OBJECT_TOKENS = re.compile(rb'"[^"]*"|[",:{}\[\]]')
_NESTED_TOKENS = re.compile(rb'"[^"]*"|["{}\[\]]')


class EscapeMask:
    """Masks the escapes in JSON that arrives in parts."""

    def __init__(self) -> None:
        self._ends_in_escape = False  # the last byte is the backslash of an escape

    def apply(self, data: bytes) -> bytes:
        """Return data of the same length in which every quote begins or ends a string."""
        if not data:
            return data
        if self._ends_in_escape:
            data = b"_" + data[1:]
        if b"\\" in data:
            data = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._ends_in_escape = data.endswith(b"\\")
        return data


class JsonModelSniffer:
    """Finds the value of the first of `fields` that a JSON object has.

    `is_settled` is true when more data cannot change the result. A name that was found is final
    after `scan_limit` bytes.
    """

    def __init__(self, fields: tuple[str, ...], scan_limit: float = SCAN_LIMIT) -> None:
        self.is_settled = False
        self._scan_limit = scan_limit
        self._fields = fields
        self._bytes_read = 0
        self._values: dict[str, str] = {}
        self._first_value = ""
        self._is_ambiguous = False  # values differ, or one is unreadable
        self._depth = 0
        self._key = ""
        self._is_value = False
        self._mask = EscapeMask()
        self._is_in_string = False
        self._text: bytearray | None = None  # the part of a wanted string that was read

    @property
    def name(self) -> str | None:
        """The name that was found so far, or None."""
        return next(filter(None, map(self._values.get, self._fields)), None)

    def feed(self, data: bytes) -> None:
        """Scan more of the body."""
        plain = self._mask.apply(data)
        at = 0
        while at < len(data) and not self.is_settled:
            if self._is_in_string:
                at = self._scan_string(data, plain)
            elif self._depth == 1:
                at = self._scan_object(data, plain, at)
            elif self._depth:
                at = self._scan_nested(plain, at)
            else:
                at = self._scan_start(data)
        self._bytes_read += len(data)
        if self._bytes_read >= self._scan_limit and self._values.get(self._fields[0]):
            self.is_settled = True

    @property
    def is_certain(self) -> bool:
        """Whether the name is final, and whoever reads the body finds the same."""
        return self.is_settled and not self._is_ambiguous

    def close(self) -> None:
        """Stop scanning."""
        self.is_settled = True

    def _scan_start(self, data: bytes) -> int:
        """Skip to the brace of the object; any other JSON is settled without a name."""
        start = len(data) - len(data.lstrip(_SPACE))
        if start < len(data):
            self._depth = 1
            self.is_settled = not data.startswith(b"{", start)
        return start + 1

    def _scan_object(self, data: bytes, plain: bytes, at: int) -> int:
        """Scan the outermost object up to a nested value or its end."""
        for token in _OBJECT_TOKENS.finditer(plain, at):
            start, end = token.span()
            mark = plain[start]
            if mark == _QUOTE:
                self._text = bytearray() if self._is_wanted() else None
                if end - start == 1:
                    self._is_in_string = True
                    self._collect(data[end:])
                    return len(data)
                self._collect(data[start + 1 : end - 1])
                self._end_string()
            elif mark in _OPENING:
                self._depth += 1
            elif mark in _CLOSING:
                self.is_settled = True
            else:
                self._is_value = mark == _COLON
            if self.is_settled or self._depth > 1:
                return end
        return len(data)

    def _scan_nested(self, plain: bytes, at: int) -> int:
        """Scan nested values up to where the outermost object continues."""
        for token in _NESTED_TOKENS.finditer(plain, at):
            mark = plain[token.start()]
            if mark == _QUOTE:
                if token.end() - token.start() == 1:
                    self._is_in_string = True
                    break
            elif mark in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    return token.end()
        return len(plain)

    # -- strings

    def _scan_string(self, data: bytes, plain: bytes) -> int:
        """Scan the rest of an incomplete string."""
        end = plain.find(b'"')
        self._collect(data[: end if end >= 0 else None])
        if end < 0:
            return len(data)
        self._is_in_string = False
        self._end_string()
        return end + 1

    def _is_wanted(self) -> bool:
        return not self._is_value or self._key in self._fields

    def _collect(self, part: bytes) -> None:
        if self._text is not None and len(self._text) <= MAX_NAME:
            self._text += part[: MAX_NAME + 1]

    def _end_string(self) -> None:
        if self._text is None:
            return
        text, self._text = decode_string(self._text), None
        if not self._is_value:
            self._key = (text or "").casefold()  # Ollama ignores case, as Go's decoder does
        else:
            self._add_value(text)

    def _add_value(self, value: str | None) -> None:
        self._values[self._key] = value or ""
        self._first_value = self._first_value or value or ""
        if value is None or value not in ("", self._first_value):
            self._is_ambiguous = True


def decode_string(raw: bytes | bytearray) -> str | None:
    """Decode what is between the quotes of a string; None if it is invalid or too long."""
    if len(raw) > MAX_NAME:
        return None
    try:
        return decode_json(b'"%b"' % bytes(raw), str)
    except ValueError:
        return None

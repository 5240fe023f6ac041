"""Completion of a truncated JSON object (RFC 8259).

A client that parses a streamed response line by line fails at a truncated line. Completed, the line
is an object again, which can have one more member for the error.
"""

from __future__ import annotations

import re
from enum import Enum

_STRING = re.compile(rb'"(?:[^"\\]|\\u[0-9A-Fa-f]{4}|\\["\\/bfnrt])*')
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SPACE = re.compile(rb"[ \t\r\n]*")
_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?")
#: A string that ends with a high surrogate.
_HIGH_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9A-Fa-f]{2}\Z")
_LITERALS = (b"true", b"false", b"null")
#: First bytes in UTF-8 whose second byte cannot be 0x80, with the lowest second byte.
_SECOND_BYTES = {0xE0: b"\xa0", 0xF0: b"\x90"}


class _Expected(Enum):
    """The token that may follow."""

    VALUE = "value"
    VALUE_OR_END = "value or end"
    KEY = "key"
    KEY_OR_END = "key or end"
    COLON = "colon"
    COMMA_OR_END = "comma or end"


_ALLOWS_END = (_Expected.VALUE_OR_END, _Expected.KEY_OR_END, _Expected.COMMA_OR_END)
_ALLOWS_VALUE = (_Expected.VALUE, _Expected.VALUE_OR_END)
_ALLOWS_KEY = (_Expected.KEY, _Expected.KEY_OR_END)
#: What to insert where one of these is expected, before a container can be closed.
_FILLERS = {
    _Expected.COLON: b":null",
    _Expected.VALUE: b"null",
    _Expected.KEY: b'"":null',
}


def missing_suffix(text: bytes, member: bytes = b"") -> bytes | None:
    """Return what completes `text` to an object whose last member is `member`.

    Returns b"" if `text` is a complete object, and None if it is not the beginning of one.
    """
    reader = _PrefixParser()
    tail = reader.parse(text)
    if tail is None:
        return None
    if not reader.closers:
        return b"" if reader.has_begun else None
    _, *inner = reader.closers
    expected = reader.expected
    if inner:
        tail += _FILLERS.get(expected, b"") + b"".join(reversed(inner))
        expected = _Expected.COMMA_OR_END
    if not member:
        return tail + _FILLERS.get(expected, b"") + b"}"
    if expected in (_Expected.COLON, _Expected.VALUE):
        tail += _FILLERS[expected]
    if expected not in _ALLOWS_KEY:
        tail += b","
    return tail + member + b"}"


class _PrefixParser:
    """Parses the beginning of an object."""

    def __init__(self) -> None:
        self.closers: list[bytes] = []  # of open containers, the outermost first
        self.expected = _Expected.VALUE
        self.has_begun = False

    def parse(self, text: bytes) -> bytes | None:
        """Return what completes the last token; None if `text` does not begin an object."""
        position = 0
        while True:
            found = _SPACE.match(text, position)
            position = found.end() if found else position
            if position == len(text):
                return b""
            token = text[position : position + 1]
            if token == b'"':
                end = self._parse_string(text, position)
            elif token in b"{[}],:":
                end = position + 1 if self._apply_structural(token) else None
            else:
                end = self._parse_scalar(text, position)
            if end is None or not self.has_begun:
                return None
            if isinstance(end, bytes):
                return end
            position = end

    def _apply_structural(self, token: bytes) -> bool:
        """Apply a structural character; return whether it is valid here."""
        expected, closers = self.expected, self.closers
        if token == b"{" and expected in _ALLOWS_VALUE and not (self.has_begun and not closers):
            closers.append(b"}")
            self.expected, self.has_begun = _Expected.KEY_OR_END, True
        elif token == b"[" and expected in _ALLOWS_VALUE and closers:
            closers.append(b"]")
            self.expected = _Expected.VALUE_OR_END
        elif token in b"}]" and closers and closers[-1] == token and expected in _ALLOWS_END:
            closers.pop()
            self.expected = _Expected.COMMA_OR_END
        elif token == b"," and closers and expected is _Expected.COMMA_OR_END:
            self.expected = _Expected.KEY if closers[-1] == b"}" else _Expected.VALUE
        elif token == b":" and expected is _Expected.COLON:
            self.expected = _Expected.VALUE
        else:
            return False
        return True

    def _parse_string(self, text: bytes, start: int) -> int | bytes | None:
        """Return the end of a string, or what completes it; None if it is invalid."""
        is_key = self.expected in _ALLOWS_KEY
        if not is_key and self.expected not in _ALLOWS_VALUE:
            return None
        self.expected = _Expected.COLON if is_key else _Expected.COMMA_OR_END
        found = _STRING.match(text, start)
        assert found is not None
        end = found.end()
        if text[end : end + 1] == b'"':
            return end + 1
        rest = text[end:]
        if rest and not _ESCAPE.fullmatch(rest):
            return None
        missing = _missing_of_escape(rest) if rest else _missing_of_character(found[0])
        if _HIGH_SURROGATE.search(text[start:] + missing):
            missing += b"\\udc00"
        return missing + b'"'

    def _parse_scalar(self, text: bytes, start: int) -> int | bytes | None:
        """Return the end of a number or literal, or what completes it; None if it is invalid."""
        found = _SCALAR.match(text, start)
        if found is None or self.expected not in _ALLOWS_VALUE or not self.closers:
            return None
        self.expected = _Expected.COMMA_OR_END
        if found.end() < len(text):
            return found.end()
        word = found[0]
        for literal in _LITERALS:
            if literal.startswith(word):
                return literal[len(word) :]
        for missing in (b"", b"0"):
            if _NUMBER.fullmatch(word + missing):
                return missing
        return None


def _missing_of_escape(begun: bytes) -> bytes:
    return b"\\" if begun == b"\\" else b"0" * (6 - len(begun))


def _missing_of_character(text: bytes) -> bytes:
    """Return the bytes that complete the last character of `text` in UTF-8."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            missing = b"\x80" * (length - back)
            return _SECOND_BYTES.get(byte, b"\x80") + missing[1:] if back == 1 else missing
        if byte < 0x80:
            break
    return b""

"""The model that a request is for, read out of a JSON body while it comes.

Bodies are not parsed: a client may well send megabytes of pictures before the name. Brackets and
strings are passed over, and of the outermost object the keys are read and the values that are
wanted. Whether the rest is JSON is for Ollama to say.

Of a key that comes twice, Ollama takes the last value: the name is settled at the object's end, or
where so much of the body was read that nobody should wait for another one.
"""

from __future__ import annotations

import re

from ctllm.common.json_decoder import decode_json

#: Most bytes of a key or a name as it is written; longer ones are nobody's.
MAX_NAME = 1024
#: Bytes of a body after which the name that came is believed to be the only one.
SCAN_LIMIT = 64 * 1024

_SPACE = b" \t\r\n"
_QUOTE, _COLON = b'":'
_OPENING, _CLOSING = b"{[", b"}]"
#: Whole strings, the quote of one that is cut off, and the marks that matter: in the outermost
#: object, and deeper.
_OBJECT_TOKENS = re.compile(rb'"[^"]*"|[",:{}\[\]]')
_NESTED_TOKENS = re.compile(rb'"[^"]*"|["{}\[\]]')


class JsonModelSniffer:
    """Finds the first of `fields` that an object has; `settled` when more would change nothing.

    After `enough` bytes a name that came is believed to be the only one.
    """

    def __init__(self, fields: tuple[str, ...], scan_limit: float = SCAN_LIMIT) -> None:
        self.is_settled = False
        self._scan_limit = scan_limit
        self._fields = fields
        self._bytes_read = 0
        self._values: dict[str, str] = {}
        self._depth = 0
        self._key = ""
        self._is_value = False
        self._ends_in_escape = False  # the last byte began an escape
        self._is_in_string = False
        self._text: bytearray | None = None  # of a string that matters, as far as it came

    @property
    def name(self) -> str | None:
        """The name as far as it is known."""
        return next(filter(None, map(self._values.get, self._fields)), None)

    def feed(self, data: bytes) -> None:
        """The body goes on with `piece`."""
        plain = self._mask_escapes(data)
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
        """Whether what was read is all that counts."""
        return self.is_settled

    def close(self) -> None:
        """Nothing more is read of the body."""
        self.is_settled = True

    def _mask_escapes(self, piece: bytes) -> bytes:
        """The same length, in which every quote begins or ends a string."""
        if self._ends_in_escape:
            piece = b"_" + piece[1:]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._ends_in_escape = piece.endswith(b"\\")
        return piece

    def _scan_start(self, piece: bytes) -> int:
        """Skip to the object's brace; what begins with anything else names no model."""
        start = len(piece) - len(piece.lstrip(_SPACE))
        if start < len(piece):
            self._depth = 1
            self.is_settled = not piece.startswith(b"{", start)
        return start + 1

    def _scan_object(self, piece: bytes, plain: bytes, at: int) -> int:
        """Go on in the outermost object, until it goes deeper or is settled."""
        for token in _OBJECT_TOKENS.finditer(plain, at):
            start, end = token.span()
            mark = plain[start]
            if mark == _QUOTE:
                self._text = bytearray() if self._is_wanted() else None
                if end - start == 1:
                    self._is_in_string = True
                    self._collect(piece[end:])
                    return len(piece)
                self._collect(piece[start + 1 : end - 1])
                self._end_string()
            elif mark in _OPENING:
                self._depth += 1
            elif mark in _CLOSING:
                self.is_settled = True
            else:
                self._is_value = mark == _COLON
            if self.is_settled or self._depth > 1:
                return end
        return len(piece)

    def _scan_nested(self, plain: bytes, at: int) -> int:
        """Pass over what is deeper, until the outermost object goes on."""
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

    def _scan_string(self, piece: bytes, plain: bytes) -> int:
        """Go on in a string that was cut off."""
        end = plain.find(b'"')
        self._collect(piece[: end if end >= 0 else None])
        if end < 0:
            return len(piece)
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
        text, self._text = _decode_string(self._text), None
        if not self._is_value:
            self._key = text.casefold()  # Go's decoder, and so Ollama, does not mind case
        else:
            self._values[self._key] = text


def _decode_string(raw: bytearray) -> str:
    """A string's text from what stood between its quotes, or nothing where that is no string."""
    if len(raw) > MAX_NAME:
        return ""
    try:
        return decode_json(b'"%b"' % bytes(raw), str)
    except ValueError:
        return ""

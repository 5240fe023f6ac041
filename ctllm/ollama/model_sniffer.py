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
LONGEST = 1024
#: Bytes of a body after which the name that came is believed to be the only one.
ENOUGH = 64 * 1024

_SPACE = b" \t\r\n"
_QUOTE, _COLON = b'":'
_OPENING, _CLOSING = b"{[", b"}]"
#: Whole strings, the quote of one that is cut off, and the marks that matter: in the outermost
#: object, and deeper.
_AT_TOP = re.compile(rb'"[^"]*"|[",:{}\[\]]')
_DEEPER = re.compile(rb'"[^"]*"|["{}\[\]]')


class ModelName:
    """Finds the first of `fields` that an object has; `settled` when more would change nothing.

    After `enough` bytes a name that came is believed to be the only one.
    """

    def __init__(self, fields: tuple[str, ...], enough: float = ENOUGH) -> None:
        self.settled = False
        self._enough = enough
        self._fields = fields
        self._read_bytes = 0
        self._found: dict[str, str] = {}
        self._depth = 0
        self._key = ""
        self._after_colon = False
        self._escaped = False  # the last byte began an escape
        self._in_string = False
        self._text: bytearray | None = None  # of a string that matters, as far as it came

    @property
    def name(self) -> str | None:
        """The name as far as it is known."""
        return next(filter(None, map(self._found.get, self._fields)), None)

    def feed(self, piece: bytes) -> None:
        """The body goes on with `piece`."""
        plain = self._without_escapes(piece)
        at = 0
        while at < len(piece) and not self.settled:
            if self._in_string:
                at = self._string(piece, plain)
            elif self._depth == 1:
                at = self._top(piece, plain, at)
            elif self._depth:
                at = self._nested(plain, at)
            else:
                at = self._begin(piece)
        self._read_bytes += len(piece)
        if self._read_bytes >= self._enough and self._found.get(self._fields[0]):
            self.settled = True

    @property
    def certain(self) -> bool:
        """Whether what was read is all that counts."""
        return self.settled

    def close(self) -> None:
        """Nothing more is read of the body."""
        self.settled = True

    def _without_escapes(self, piece: bytes) -> bytes:
        """The same length, in which every quote begins or ends a string."""
        if self._escaped:
            piece = b"_" + piece[1:]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._escaped = piece.endswith(b"\\")
        return piece

    def _begin(self, piece: bytes) -> int:
        """Skip to the object's brace; what begins with anything else names no model."""
        start = len(piece) - len(piece.lstrip(_SPACE))
        if start < len(piece):
            self._depth = 1
            self.settled = not piece.startswith(b"{", start)
        return start + 1

    def _top(self, piece: bytes, plain: bytes, at: int) -> int:
        """Go on in the outermost object, until it goes deeper or is settled."""
        for token in _AT_TOP.finditer(plain, at):
            start, end = token.span()
            mark = plain[start]
            if mark == _QUOTE:
                self._text = bytearray() if self._matters() else None
                if end - start == 1:
                    self._in_string = True
                    self._read(piece[end:])
                    return len(piece)
                self._read(piece[start + 1 : end - 1])
                self._end_of_string()
            elif mark in _OPENING:
                self._depth += 1
            elif mark in _CLOSING:
                self.settled = True
            else:
                self._after_colon = mark == _COLON
            if self.settled or self._depth > 1:
                return end
        return len(piece)

    def _nested(self, plain: bytes, at: int) -> int:
        """Pass over what is deeper, until the outermost object goes on."""
        for token in _DEEPER.finditer(plain, at):
            mark = plain[token.start()]
            if mark == _QUOTE:
                if token.end() - token.start() == 1:
                    self._in_string = True
                    break
            elif mark in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    return token.end()
        return len(plain)

    # -- strings

    def _string(self, piece: bytes, plain: bytes) -> int:
        """Go on in a string that was cut off."""
        end = plain.find(b'"')
        self._read(piece[: end if end >= 0 else None])
        if end < 0:
            return len(piece)
        self._in_string = False
        self._end_of_string()
        return end + 1

    def _matters(self) -> bool:
        return not self._after_colon or self._key in self._fields

    def _read(self, part: bytes) -> None:
        if self._text is not None and len(self._text) <= LONGEST:
            self._text += part[: LONGEST + 1]

    def _end_of_string(self) -> None:
        if self._text is None:
            return
        text, self._text = _decoded(self._text), None
        if not self._after_colon:
            self._key = text.casefold()  # Go's decoder, and so Ollama, does not mind case
        else:
            self._found[self._key] = text


def _decoded(raw: bytearray) -> str:
    """A string's text from what stood between its quotes, or nothing where that is no string."""
    if len(raw) > LONGEST:
        return ""
    try:
        return decode_json(b'"%b"' % bytes(raw), str)
    except ValueError:
        return ""

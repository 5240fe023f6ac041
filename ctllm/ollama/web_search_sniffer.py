"""Incremental search for the tool `web_search` in a JSON body.

Ollama runs such a search at ollama.com, also for a model of its own. Like the search for the
model, this scans the body and does not check that it is valid JSON.
"""

from __future__ import annotations

import re

from ctllm.ollama.model_sniffer import MAX_NAME, EscapeMask, decode_string

#: The types of the tool begin so: `web_search`, `web_search_20250305`, `web_search_preview`.
_PREFIX = "web_search"
#: Where the wanted keys are: `tools` in the outermost object, `type` in an object of its list.
_TOOLS_DEPTH, _TYPE_DEPTH = 1, 3
_TOKENS = re.compile(rb'"[^"]*"|[",:{}\[\]]')
_QUOTE, _COLON = b'":'
_OPENING, _CLOSING = b"{[", b"}]"


class WebSearchSniffer:
    """Finds out whether a tool of a request has a type that begins with `web_search`.

    A type that cannot be read counts as one. `is_settled` is true when more of the body cannot
    change the result.
    """

    def __init__(self) -> None:
        self.is_settled = False
        self.has_web_search = False
        self._mask = EscapeMask()
        self._depth = 0
        self._keys = {_TOOLS_DEPTH: "", _TYPE_DEPTH: ""}
        self._is_value = False
        self._is_in_string = False
        self._text = bytearray()  # the part of a string that was read

    def feed(self, data: bytes) -> None:
        """Scan more of the body."""
        plain = self._mask.apply(data)
        start = self._continue_string(data, plain) if self._is_in_string else 0
        for token in _TOKENS.finditer(plain, start):
            if self.is_settled:
                return
            first, end = token.span()
            if plain[first] != _QUOTE:
                self._read_mark(plain[first])
            elif end - first > 1:
                self._end_string(data[first + 1 : end - 1])
            else:
                self._is_in_string = True
                self._text[:] = data[end : end + MAX_NAME + 1]
                return

    def _continue_string(self, data: bytes, plain: bytes) -> int:
        """Read the rest of a string; return where it ends."""
        end = plain.find(b'"')
        part = data if end < 0 else data[:end]
        self._text += part[: MAX_NAME + 1 - len(self._text)]
        if end < 0:
            return len(data)
        self._is_in_string = False
        self._end_string(self._text)
        return end + 1

    def _read_mark(self, mark: int) -> None:
        self._is_value = mark == _COLON
        if mark in _OPENING:
            self._depth += 1
        elif mark in _CLOSING:
            self._depth -= 1
            self.is_settled = self._depth <= 0

    def _end_string(self, raw: bytes | bytearray) -> None:
        depth = self._depth
        if depth not in self._keys:
            return
        if not self._is_value:
            self._keys[depth] = (decode_string(raw) or "").casefold()
        elif depth == _TYPE_DEPTH and self._is_type_of_tool:
            text = decode_string(raw)
            if text is None or text.strip().startswith(_PREFIX):
                self.has_web_search = self.is_settled = True

    @property
    def _is_type_of_tool(self) -> bool:
        return self._keys == {_TOOLS_DEPTH: "tools", _TYPE_DEPTH: "type"}

"""What a client accepts (RFC 9110, section 12.5), as far as the page depends on it."""

from __future__ import annotations

import re

_NOT_ACCEPTABLE = re.compile(rb"q=0(\.0{0,3})?", re.IGNORECASE)


def accepts_html(accept: bytes | None) -> bool:
    """Return whether an `Accept` header names text/html.

    A wildcard does not count: curl and Ollama's clients send one and expect Ollama's response.
    """
    return _names(accept, b"text/html")


def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Return whether an `Accept-Encoding` header names gzip."""
    return _names(accept_encoding, b"gzip")


def _names(field: bytes | None, wanted: bytes) -> bool:
    for element in (field or b"").split(b","):
        name, *parameters = (part.strip() for part in element.split(b";"))
        if name.lower() == wanted:
            return not any(map(_NOT_ACCEPTABLE.fullmatch, parameters))
    return False

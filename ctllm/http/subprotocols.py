"""Tokens among the subprotocols of a WebSocket: a script can add no other header (RFC 6455).

A browser opens the WebSocket with two subprotocols: the one that it speaks, which the server
selects, and `ctllm.bearer.` with the token in base64url without padding, which no server selects,
forwards or logs.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode

from ctllm.errors import BadRequest
from ctllm.http.message.head import Headers, RequestHead, get_header

BEARER_PREFIX = b"ctllm.bearer."
_HEADER = b"sec-websocket-protocol"


def subprotocol_token(head: RequestHead) -> bytes:
    """Return the token among the subprotocols of a WebSocket handshake, or nothing.

    Raises BadRequest for several: two servers might verify different ones.
    """
    if (get_header(head.headers, b"upgrade") or b"").lower() != b"websocket":
        return b""
    tokens = [
        each[len(BEARER_PREFIX) :]
        for name, value in head.headers
        if name.lower() == _HEADER
        for each in _elements(value)
        if _is_bearer(each)
    ]
    if len(tokens) > 1:
        raise BadRequest("There are several tokens in Sec-WebSocket-Protocol; send one.")
    return _decode(tokens[0]) if tokens else b""


def without_subprotocol_token(headers: Headers) -> Headers:
    """Return `headers` without tokens among the subprotocols."""
    kept = []
    for name, value in headers:
        if name.lower() != _HEADER:
            kept.append((name, value))
        elif others := [each for each in _elements(value) if not _is_bearer(each)]:
            kept.append((name, b", ".join(others)))
    return tuple(kept)


def _elements(value: bytes) -> list[bytes]:
    return [element.strip() for element in value.split(b",")]


def _is_bearer(subprotocol: bytes) -> bool:
    return subprotocol.lower().startswith(BEARER_PREFIX)


def _decode(token: bytes) -> bytes:
    try:
        return urlsafe_b64decode(token + b"=" * (-len(token) % 4))
    except binascii.Error:
        return b""

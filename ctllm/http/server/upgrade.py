"""Requests that ask for a WebSocket (RFC 6455, section 4.2.1), checked before they leave HTTP."""

from __future__ import annotations

import re

from ctllm.errors import BadRequest, UpgradeRequired
from ctllm.http.message.body import content_length, is_chunked
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.server.request import ServerRequest

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


def require_websocket(request: ServerRequest) -> None:
    """Raise BadRequest unless this request can turn its connection into a WebSocket."""
    asked = request.head
    version_1_1 = request.raw_head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")
    if asked.method != b"GET" or not version_1_1:
        raise BadRequest("a WebSocket begins with a GET of HTTP/1.1")
    if (get_header(asked.headers, b"upgrade") or b"").lower() != b"websocket":
        raise BadRequest("a WebSocket begins with Upgrade: websocket")
    if b"upgrade" not in {each.lower() for each in header_elements(asked.headers, b"connection")}:
        raise BadRequest("a WebSocket begins with Connection: Upgrade")
    if get_header(asked.headers, b"sec-websocket-version") != b"13":
        raise BadRequest("only version 13 of WebSockets is spoken here")
    keys = [value for name, value in asked.headers if name.lower() == b"sec-websocket-key"]
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise BadRequest("a WebSocket begins with one Sec-WebSocket-Key of 16 bytes in base64")
    if is_chunked(asked.headers) or content_length(asked.headers):
        raise BadRequest("a request with a body cannot become a WebSocket")


def refuse_websocket(head: RequestHead) -> None:
    """Raise UpgradeRequired where a WebSocket is wanted: Ollama has none.

    Codex opens one for `/v1/responses`. It takes 426, and only that, as the word to go on without,
    at once.
    """
    if (get_header(head.headers, b"upgrade") or b"").lower() == b"websocket":
        raise UpgradeRequired("There is no WebSocket here; send the same by POST over HTTP/1.1.")


def header_elements(headers: Headers, wanted: bytes) -> list[bytes]:
    """The elements of all headers called `wanted` (lower case), as of one list."""
    return [
        element.strip()
        for name, value in headers
        if name.lower() == wanted
        for element in value.split(b",")
    ]

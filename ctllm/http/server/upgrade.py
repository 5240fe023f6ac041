"""Checks of WebSocket handshakes (RFC 6455, section 4.2.1)."""

from __future__ import annotations

import re

from ctllm.errors import BadRequest, UpgradeRequired
from ctllm.http.message.body import content_length, is_chunked
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.server.request import ServerRequest

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


def require_websocket(request: ServerRequest) -> None:
    """Raise BadRequest unless the request is a valid WebSocket handshake."""
    head = request.head
    is_http_1_1 = request.raw_head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")
    if head.method != b"GET" or not is_http_1_1:
        raise BadRequest("A WebSocket handshake must be a GET request of HTTP/1.1.")
    if not requests_websocket(head):
        raise BadRequest("A WebSocket handshake must have the header Upgrade: websocket.")
    options = {option.lower() for option in header_elements(head.headers, b"connection")}
    if b"upgrade" not in options:
        raise BadRequest("A WebSocket handshake must have the header Connection: Upgrade.")
    if get_header(head.headers, b"sec-websocket-version") != b"13":
        raise BadRequest("The Sec-WebSocket-Version must be 13.")
    keys = [value for name, value in head.headers if name.lower() == b"sec-websocket-key"]
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise BadRequest("There must be one Sec-WebSocket-Key, of 16 bytes in base64.")
    if is_chunked(head.headers) or content_length(head.headers):
        raise BadRequest("A WebSocket handshake must not have a body.")


def refuse_websocket(head: RequestHead) -> None:
    """Raise UpgradeRequired for a WebSocket handshake: Ollama has no WebSockets.

    Codex opens one for `/v1/responses`. Only after 426 does it use POST at once.
    """
    if requests_websocket(head):
        raise UpgradeRequired("There is no WebSocket here. Send the same by POST over HTTP/1.1.")


def requests_websocket(head: RequestHead) -> bool:
    """Whether the request's Upgrade header is for a WebSocket."""
    return (get_header(head.headers, b"upgrade") or b"").lower() == b"websocket"


def header_elements(headers: Headers, name: bytes) -> list[bytes]:
    """Return the elements of all headers called `name` (lower case), as of one list."""
    return [
        element.strip()
        for key, value in headers
        if key.lower() == name
        for element in value.split(b",")
    ]

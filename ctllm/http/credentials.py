"""The tokens of a request, which clients send in different headers."""

from __future__ import annotations

import binascii
from base64 import b64decode

from ctllm.errors import BadRequest
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.subprotocols import subprotocol_token

#: Headers whose value is an API key: of Anthropic's clients, and of Azure's.
_KEY_HEADERS = (b"x-api-key", b"api-key")


def presented_tokens(head: RequestHead) -> tuple[str, ...]:
    """Return the tokens of `head`: that of Authorization first, then those of other headers.

    There may be several: many clients send a made-up Bearer token beside the key that they are
    configured to send in a header. A browser opens a WebSocket with a token among the subprotocols.
    What is no token, such as `Bearer` without one, is ignored.
    Raises BadRequest where one of these headers occurs more than once: two servers might verify
    different ones.
    """
    values = [
        _authorization_token(_single_header(head, b"authorization"), head),
        subprotocol_token(head),
        *(_single_header(head, name) for name in _KEY_HEADERS),
    ]
    tokens = (value.strip().decode("latin-1") for value in values)
    return tuple(dict.fromkeys(token for token in tokens if token))


def _single_header(head: RequestHead, name: bytes) -> bytes:
    """Return the value of a header, or nothing without it; raises BadRequest for several."""
    values = [value for key, value in head.headers if key.lower() == name]
    if len(values) > 1:
        raise BadRequest(f"There are several {name.decode().title()} headers; send one.")
    return values[0] if values else b""


def _authorization_token(value: bytes, head: RequestHead) -> bytes:
    """Return the token of an Authorization header, or nothing for an unknown scheme."""
    scheme, _, token = value.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return token
    if scheme.lower() == b"basic" and not _is_from_page(head):
        return _basic_password(token)
    return b""


def _basic_password(encoded: bytes) -> bytes:
    """Return the password of Basic credentials (RFC 7617), which is the key for any user name."""
    try:
        return b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _is_from_page(head: RequestHead) -> bool:
    """Whether a web page sent this: a browser may add Basic credentials by itself."""
    site = get_header(head.headers, b"sec-fetch-site")
    return site is not None and site.lower() not in (b"same-origin", b"none")

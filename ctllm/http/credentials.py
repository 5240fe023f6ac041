"""The tokens that a request presents, in whichever header its client puts them."""

from __future__ import annotations

import binascii
from base64 import b64decode

from ctllm.errors import BadRequest
from ctllm.http.message.head import RequestHead, get_header

#: Headers whose whole value is the key: Anthropic's clients send the one, Azure's the other.
_KEY_HEADERS = (b"x-api-key", b"api-key")


def presented_tokens(head: RequestHead) -> tuple[str, ...]:
    """Give the tokens of `asked`, the one of Authorization in front; none where it has none.

    Several may be there: many clients send a made-up Bearer token beside the key that they are
    told to send in a header. What is no credential of ours, such as `Bearer` alone, counts as none.
    Raises BadRequest where one of these headers comes several times: two servers might believe
    different ones.
    """
    found = [
        _authorized(_only(head, b"authorization"), head),
        *(_only(head, name) for name in _KEY_HEADERS),
    ]
    tokens = (value.strip().decode("latin-1") for value in found)
    return tuple(dict.fromkeys(token for token in tokens if token))


def _only(asked: RequestHead, wanted: bytes) -> bytes:
    """The value of a header that comes once; empty where it does not come."""
    values = [value for name, value in asked.headers if name.lower() == wanted]
    if len(values) > 1:
        raise BadRequest(f"There are several {wanted.decode().title()} headers; send one.")
    return values[0] if values else b""


def _authorized(value: bytes, asked: RequestHead) -> bytes:
    """The token of an Authorization header; nothing where there is none that we know."""
    scheme, _, token = value.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return token
    if scheme.lower() == b"basic" and not _from_page(asked):
        return _password(token)
    return b""


def _password(encoded: bytes) -> bytes:
    """The password of RFC 7617's credentials: the key, whatever the user's name is."""
    try:
        return b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _from_page(asked: RequestHead) -> bool:
    """Whether a web page is behind this: a browser may add Basic credentials by itself."""
    site = get_header(asked.headers, b"sec-fetch-site")
    return site is not None and site.lower() not in (b"same-origin", b"none")

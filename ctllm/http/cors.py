"""CORS: what browsers are told about pages of other origins (the Fetch standard, section 3.2).

Ollama hears nothing of origins, so this is answered here and never by Ollama. An origin that is
let in may do whatever a program with the same key may: any method, any header.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ctllm.errors import Forbidden
from ctllm.http.message.head import Headers, RequestHead, get_header

#: What pages may read of an answer besides what they always may.
_EXPOSED = (
    b"Ctllm-Request-Id, Ctllm-Desktop, Ctllm-Route, Ctllm-Model, Retry-After, WWW-Authenticate, "
    b"X-Request-Id, X-Should-Retry"
)
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: For a browser that names no headers; `*` would not stand for Authorization.
_USUAL = b"Authorization, Content-Type, X-Api-Key, Api-Key"
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{1,8192}")
#: What a key may be in.
_KEYS = (b"authorization", b"x-api-key", b"api-key")
#: Seconds that a browser remembers the answer.
_MAX_AGE = b"600"


def is_preflight(head: RequestHead) -> bool:
    """Whether a browser asks whether it may ask."""
    return (
        head.method == b"OPTIONS"
        and get_header(head.headers, b"origin") is not None
        and get_header(head.headers, b"access-control-request-method") is not None
    )


class CorsPolicy:
    """The rule of one door. `allows` says of an Origin header whether its pages are let in.

    Without `credentials`, browsers send no cookies along with what such a page asks.
    """

    def __init__(self, allows: Callable[[bytes], bool], credentials: bool = True) -> None:
        self._allows = allows
        self._credentials: Headers = (
            ((b"Access-Control-Allow-Credentials", b"true"),) if credentials else ()
        )

    def response_headers(self, head: RequestHead) -> Headers:
        """What every answer to this request says to the browser; nothing to foreign pages."""
        origin = get_header(head.headers, b"origin")
        if origin is None or not self._allows(origin):
            return ()
        return (
            (b"Access-Control-Allow-Origin", origin),
            *self._credentials,
            (b"Access-Control-Expose-Headers", _EXPOSED),
            (b"Vary", b"Origin"),
        )

    def preflight_headers(self, head: RequestHead) -> Headers:
        """What the answer to a preflight says besides; raises Forbidden for foreign pages."""
        if not self.response_headers(head):
            raise Forbidden("pages of that site may not use this cloud (see cloud.cors_origins)")
        wanted = get_header(head.headers, b"access-control-request-headers") or b""
        return (
            (b"Access-Control-Allow-Methods", _METHODS),
            (b"Access-Control-Allow-Headers", wanted if _NAMES.fullmatch(wanted) else _USUAL),
            (b"Access-Control-Max-Age", _MAX_AGE),
            (b"Vary", b"Access-Control-Request-Headers"),
        )


def requests_api_key(head: RequestHead) -> bool:
    """Whether a preflight is for a request that carries an API key."""
    wanted = get_header(head.headers, b"access-control-request-headers") or b""
    return not {each.strip().lower() for each in wanted.split(b",")}.isdisjoint(_KEYS)

"""CORS: which web pages may read the responses (the Fetch standard, section 3.2).

Requests reach Ollama without their Origin, so ctllm answers preflights and adds the headers itself.
A page of an allowed origin may use any method and header, as a program with the same key may.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ctllm.errors import Forbidden
from ctllm.http.message.head import Headers, RequestHead, get_header

#: The headers of a response that pages may read, besides the safelisted ones.
_EXPOSED = (
    b"Ctllm-Request-Id, Ctllm-Desktop, Ctllm-Route, Ctllm-Model, Retry-After, WWW-Authenticate, "
    b"X-Request-Id, X-Should-Retry"
)
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: For a preflight without a list of headers; `*` would not include Authorization.
_DEFAULT_HEADERS = b"Authorization, Content-Type, X-Api-Key, Api-Key"
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{1,8192}")
#: The headers that may have an API key.
_KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
#: How many seconds a browser may cache the response to a preflight.
_MAX_AGE = b"600"


def is_preflight(head: RequestHead) -> bool:
    """Whether this is a preflight: a browser asks whether a page may send a request."""
    return (
        head.method == b"OPTIONS"
        and get_header(head.headers, b"origin") is not None
        and get_header(head.headers, b"access-control-request-method") is not None
    )


class CorsPolicy:
    """The policy of one server. `is_allowed` says whether an Origin is allowed.

    Without `credentials`, browsers send no cookies with the requests of a page.
    """

    def __init__(self, is_allowed: Callable[[bytes], bool], credentials: bool = True) -> None:
        self._is_allowed = is_allowed
        self._credentials: Headers = (
            ((b"Access-Control-Allow-Credentials", b"true"),) if credentials else ()
        )

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers of any response to this request; none if its origin is not allowed."""
        origin = get_header(head.headers, b"origin")
        if origin is None or not self._is_allowed(origin):
            return ()
        return (
            (b"Access-Control-Allow-Origin", origin),
            *self._credentials,
            (b"Access-Control-Expose-Headers", _EXPOSED),
            (b"Vary", b"Origin"),
        )

    def preflight_headers(self, head: RequestHead) -> Headers:
        """Return the other headers of a preflight's response; raises Forbidden if not allowed."""
        if not self.response_headers(head):
            raise Forbidden(
                "Web pages of this origin may not use this cloud. Its owner can add the origin to "
                "cloud.cors_origins."
            )
        requested = get_header(head.headers, b"access-control-request-headers") or b""
        return (
            (b"Access-Control-Allow-Methods", _METHODS),
            (
                b"Access-Control-Allow-Headers",
                requested if _NAMES.fullmatch(requested) else _DEFAULT_HEADERS,
            ),
            (b"Access-Control-Max-Age", _MAX_AGE),
            (b"Vary", b"Access-Control-Request-Headers"),
        )


def requests_api_key(head: RequestHead) -> bool:
    """Whether a preflight is for a request with an API key."""
    requested = get_header(head.headers, b"access-control-request-headers") or b""
    names = {name.strip().lower() for name in requested.split(b",")}
    return not names.isdisjoint(_KEY_HEADERS)

"""The web page of the cloud, and response headers that let it run only its own script."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

from ctllm.http.message.head import Headers

PAGE = resources.files("ctllm.cloud").joinpath("page.html").read_bytes()
"""The HTML of the page, in UTF-8."""


def _csp_source(element: bytes) -> bytes:
    """Return the CSP source that allows the page's only inline `element`."""
    (text,) = re.findall(b"<%b>(.*?)</%b>" % (element, element), PAGE, re.DOTALL)
    return b"'sha256-%b'" % b64encode(sha256(text).digest())


_POLICY = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src " + _csp_source(b"script"),
        b"style-src " + _csp_source(b"style"),
        b"connect-src 'self'",
        b"img-src 'self' data:",  # the icon is a data: URL
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
    )
)

HEADERS: Headers = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"Vary", b"Accept"),  # other clients get Ollama's response at the same path
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
"""The headers of the response with the page."""

_NOT_ACCEPTABLE = re.compile(rb"q=0(\.0{0,3})?", re.IGNORECASE)


def accepts_html(accept: bytes | None) -> bool:
    """Return whether an `Accept` header names text/html.

    A wildcard does not count: curl and Ollama's clients send one and expect Ollama's response.
    """
    for media_range in (accept or b"").split(b","):
        media_type, *parameters = (part.strip() for part in media_range.split(b";"))
        if media_type.lower() == b"text/html":
            return not any(map(_NOT_ACCEPTABLE.fullmatch, parameters))
    return False

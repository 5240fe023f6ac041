"""The plain first page: one file, and headers that let the browser run just what is in it."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

from ctllm.http.message.head import Headers

PAGE = resources.files("ctllm.cloud").joinpath("page.html").read_bytes()
"""The page itself, UTF-8."""


def _csp_source(element: bytes) -> bytes:
    """Give the CSP source that allows the one inline `element` of the page."""
    (text,) = re.findall(b"<%b>(.*?)</%b>" % (element, element), PAGE, re.DOTALL)
    return b"'sha256-%b'" % b64encode(sha256(text).digest())


_POLICY = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src " + _csp_source(b"script"),
        b"style-src " + _csp_source(b"style"),
        b"connect-src 'self'",
        b"img-src 'self' data:",  # its icon is a data: URL
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
    )
)

HEADERS: Headers = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"Vary", b"Accept"),  # other clients get Ollama's answer at the same address
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
"""All that the answer with the page says, the policy made for exactly these bytes."""

_REFUSED = re.compile(rb"q=0(\.0{0,3})?", re.IGNORECASE)


def accepts_html(accept: bytes | None) -> bool:
    """Whether a `GET /` with this `Accept` wants the page; only who names HTML does.

    Ollama's clients and curl accept anything, and want Ollama's own answer.
    """
    for choice in (accept or b"").split(b","):
        kind, *parameters = (part.strip() for part in choice.split(b";"))
        if kind.lower() == b"text/html":
            return not any(map(_REFUSED.fullmatch, parameters))
    return False

"""Which headers go on to the next stage, and which end here.

Hop-by-hop headers (RFC 9110, section 7.6.1) never go on, but for ``Transfer-Encoding: chunked``
on a request: it is how the next stage knows of a body whose length nobody said.
"""

from __future__ import annotations

from ctllm.wire.heads import AnswerHead, Headers, RequestHead, without

ASSERTION = b"Ctllm-Assertion"
DESKTOP = b"Ctllm-Desktop"
EXCHANGE = b"Ctllm-Exchange"
RESUME = b"Ctllm-Resume"

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"expect",
    )
)
#: Whoever sees these could act for the user; they end where they are checked.
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"x-api-key", b"api-key", b"set-cookie"))
#: Who the client is and which way it came: nobody's business but the front's.
_ORIGINS = frozenset((b"host", b"origin", b"referer", b"forwarded", b"via", b"x-real-ip"))
#: Chrome's and proxies' hints about the browser and the address it has.
_ORIGIN_PREFIXES = (b"x-forwarded-", b"sec-", b"cf-", b"ctllm-")
_ORIGIN_SUFFIXES = (b"-client-ip", b"-forwarded-for")


def _hops(headers: Headers) -> frozenset[bytes]:
    named = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == b"connection"
        for name in value.split(b",")
    }
    # A client may not have its framing or its host taken away by naming them.
    return _HOP_BY_HOP | (named - {b"content-length", b"host", b"content-type"})


def end_to_end(headers: Headers) -> Headers:
    """Less what concerns one connection only."""
    hops = _hops(headers)
    return tuple(header for header in headers if header[0].lower() not in hops)


def _framed(kept: Headers, headers: Headers) -> Headers:
    """`kept` with one framing: of a body whose length nobody said, if that was how it came."""
    if not any(key.lower() == b"transfer-encoding" for key, _ in headers):
        return kept
    return (*without(kept, (b"content-length",)), (b"Transfer-Encoding", b"chunked"))


def for_proxy(head: RequestHead, assertion: bytes) -> RequestHead:
    """What the front sends to a user's proxy: no credentials, nobody's word but the assertion."""
    kept = tuple(
        header
        for header in end_to_end(head.headers)
        if header[0].lower() not in _CREDENTIALS and header[0].lower() != ASSERTION.lower()
    )
    headers = (*_framed(kept, head.headers), (ASSERTION, assertion))
    return RequestHead(head.method, head.target, headers)


def for_ollama(head: RequestHead, host: bytes) -> RequestHead:
    """What the desktop sends to Ollama: its own Host, and nothing about who asked from where.

    Ollama refuses foreign hosts and origins with 403, and models named ``…:cloud`` forward the
    headers they are given to a third party.
    """
    kept = tuple(
        header
        for header in end_to_end(head.headers)
        if header[0].lower() not in _CREDENTIALS
        and header[0].lower() not in _ORIGINS
        and not header[0].lower().startswith(_ORIGIN_PREFIXES)
        and not header[0].lower().endswith(_ORIGIN_SUFFIXES)
    )
    headers = ((b"Host", host), *_framed(kept, head.headers))
    return RequestHead(head.method, head.target, headers)


def for_client(head: AnswerHead) -> AnswerHead:
    """What goes back towards whoever asked."""
    return AnswerHead(head.status, head.reason, end_to_end(head.headers))

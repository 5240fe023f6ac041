"""Which headers go on to the next stage, and which end here.

Hop-by-hop headers (RFC 9110, section 7.6.1) never go on, but for ``Transfer-Encoding: chunked``
on a request: it is how the next stage knows of a body whose length nobody said.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from ctllm.http.message.head import Headers, RequestHead, ResponseHead, without_headers
from ctllm.http.request_timeout import timeout_headers

ASSERTION = b"Ctllm-Assertion"
#: In a request, the desktop that is to answer, by id or name; in an answer, the one that did.
DESKTOP = b"Ctllm-Desktop"
#: The id of a desktop that is not to answer: one that asks for itself has looked at home already.
EXCLUDE_DESKTOP = b"Ctllm-Exclude-Desktop"
REQUEST_ID = b"Ctllm-Request-Id"
#: In answers of a desktop's own endpoint: whether they came from here (local) or the cloud, and
#: the model that was asked for.
ROUTE = b"Ctllm-Route"
MODEL = b"Ctllm-Model"
RESUME = b"Ctllm-Resume"
#: From a proxy to a desktop: the scopes of whoever asks, which the cloud has verified.
SCOPE = b"Ctllm-Scope"
#: Between a proxy, its front and a desktop's endpoint: the answer has no end of its own but that
#: of its connection (RFC 9112, section 6.3), and so gets no other end on its way.
FRAMING = b"Ctllm-Framing"
CLOSE_DELIMITED = b"close-delimited"

#: What a name may have in a header as it is; the rest is quoted as in URLs.
_PLAIN = " !#$&'()*+,/:;=?@[]"

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
_CREDENTIALS = frozenset(
    (b"authorization", b"api-key", b"cookie", b"cookie2", b"set-cookie", b"dpop", b"client-cert")
)
_CREDENTIAL_PREFIXES = (b"client-cert-", b"ssl-client-", b"x-ssl-", b"x-client-cert")
_CREDENTIAL_SUFFIXES = (
    b"-authorization", b"-api-key", b"-token", b"-secret", b"-password", b"-cookie",
    b"-subscription-key",
)  # fmt: skip
#: Who the client is and which way it came: nobody's business but the front's.
_ORIGINS = frozenset(
    (
        b"host",
        b"origin",
        b"referer",
        b"http-referer",
        b"forwarded",
        b"via",
        b"from",
        b"alt-used",
        b"cdn-loop",
        b"remote-user",
        b"x-host",
        b"x-via",
        b"x-rewrite-url",
    )
)
#: Browsers' hints about themselves and the page, and what proxies of many makes add.
_ORIGIN_PREFIXES = (
    b"sec-", b"access-control-request-", b"ctllm-", b"x-forwarded", b"x-original-", b"x-real-",
    b"x-remote-", b"x-proxy", b"x-auth-", b"x-authenticated-", b"x-webauth-", b"x-envoy-",
    b"x-arr-", b"x-azure-", b"x-appengine-", b"x-amz-cf-", b"x-amzn-", b"x-cluster-", b"x-vercel-",
    b"x-akamai-", b"akamai-", b"cf-", b"cloudfront-", b"fastly-", b"fly-", b"tailscale-",
)  # fmt: skip
_ORIGIN_SUFFIXES = (b"-client-ip", b"-clientip", b"-forwarded-for", b"-forwarded-proto")
#: What an answer may say: what Ollama and the dialects that it speaks have, and clients read. All
#: else ends here: servers and browsers on the way take orders by headers.
_ANSWER = frozenset(
    (
        b"content-type", b"content-length", b"content-encoding", b"content-language",
        b"content-range", b"accept-ranges", b"date", b"etag", b"last-modified", b"vary", b"allow",
        b"location", b"cache-control", b"retry-after", b"retry-after-ms", b"x-should-retry",
        b"x-request-id", b"request-id", b"openai-processing-ms", b"openai-version",
        b"openai-model", b"openai-organization", b"anthropic-organization-id",
    )
)  # fmt: skip
_ANSWER_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit-")
#: Values that are let in. Ollama redirects to paths of its own, without slashes that are too many.
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_VALUES = {
    b"location": re.compile(
        rb"/(?:(?:api|v1)(?:/(?!(?:\.|%2e){1,2}(?:[/?]|$))[!-.0-9:-\[\]-~]*)*)?", re.IGNORECASE
    ),
    b"cache-control": re.compile(
        rb"(?:(?:no-cache|no-store|no-transform|private|must-revalidate|max-age=0)(?:, *|$))+"
    ),
}
#: What a proxy says of its answers, and those in front of it pass on.
_OF_PROXIES = frozenset((REQUEST_ID.lower(), DESKTOP.lower(), FRAMING.lower()))
#: Whatever a browser is given to show, it is text, and does nothing.
_INERT = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
)


def quote_name(name: str) -> bytes:
    """A name of any language as a header's value."""
    return quote(name, safe=_PLAIN).encode()


def _hops(headers: Headers) -> frozenset[bytes]:
    named = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == b"connection"
        for name in value.split(b",")
    }
    # A client may not have its framing or its host taken away by naming them.
    return _HOP_BY_HOP | (named - {b"content-length", b"host", b"content-type"})


def end_to_end_headers(headers: Headers) -> Headers:
    """Less what concerns one connection only."""
    hops = _hops(headers)
    return tuple(header for header in headers if header[0].lower() not in hops)


def _framed(kept: Headers, headers: Headers) -> Headers:
    """`kept` with one framing: of a body whose length nobody said, if that was how it came."""
    if not any(key.lower() == b"transfer-encoding" for key, _ in headers):
        return kept
    return (*without_headers(kept, (b"content-length",)), (b"Transfer-Encoding", b"chunked"))


def _folded(name: bytes) -> bytes:
    """Give `name` in lower case with hyphens: CGI and WSGI read underscores as the same header."""
    return name.lower().replace(b"_", b"-")


def _is_credential(name: bytes) -> bool:
    return (
        name in _CREDENTIALS
        or name.startswith(_CREDENTIAL_PREFIXES)
        or name.endswith(_CREDENTIAL_SUFFIXES)
    )


def request_to_proxy(head: RequestHead, assertion: bytes) -> RequestHead:
    """What the front sends to a user's proxy: no credentials, nobody's word but the assertion."""
    kept = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if not _is_credential(name := _folded(header[0])) and name != ASSERTION.lower()
    )
    headers = (*_framed(kept, head.headers), (ASSERTION, assertion))
    return RequestHead(head.method, head.target, headers)


def request_to_tunnel(head: RequestHead, assertion: bytes) -> RequestHead:
    """What the front sends to a user's proxy to have a bridge's WebSocket opened."""
    kept = tuple(header for header in head.headers if _is_handshake(header[0].lower()))
    own = ((b"Host", b"localhost"), *_UPGRADE, (ASSERTION, assertion))
    return RequestHead(head.method, b"/ws/tunnel", (*own, *kept))


def switching_protocols(head: ResponseHead) -> bytes:
    """The 101 that a client gets when the next stage has given `head` for one."""
    kept = tuple(header for header in head.headers if _is_handshake(header[0].lower()))
    lines = [b"%b: %b\r\n" % header for header in (*_UPGRADE, *kept)]
    return b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % b"".join(lines)


def _is_handshake(name: bytes) -> bool:
    return name.startswith(b"sec-websocket-")


_UPGRADE = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))


def request_to_ollama(head: RequestHead, host: bytes) -> RequestHead:
    """What the desktop sends to Ollama: its own Host, and nothing about who asked from where.

    Ollama refuses foreign hosts and origins with 403, and models named ``…:cloud`` forward the
    headers they are given to a third party.
    """
    kept = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if not _is_credential(name := _folded(header[0]))
        and name not in _ORIGINS
        and not name.startswith(_ORIGIN_PREFIXES)
        and not name.endswith(_ORIGIN_SUFFIXES)
    )
    headers = ((b"Host", host), *_framed(kept, head.headers))
    return RequestHead(head.method, head.target, headers)


def request_to_cloud(head: RequestHead, host: bytes, token: str, desktop: str) -> RequestHead:
    """What a desktop asks its cloud for one of its own apps: as the user, of another desktop."""
    bare = request_to_ollama(head, host)
    own = ((b"Authorization", f"Bearer {token}".encode()), (EXCLUDE_DESKTOP, desktop.encode()))
    headers = (*bare.headers, *own, *timeout_headers(head))
    return RequestHead(head.method, head.target, headers)


def response_from_ollama(head: ResponseHead) -> ResponseHead:
    """What of an answer of Ollama's, or of what calls itself so, goes back to whoever asked."""
    return _answer(head, frozenset())


def response_from_desktop(head: ResponseHead) -> ResponseHead:
    """What of a desktop's answer its proxy passes on: a desktop may be anything, too."""
    return _answer(head, frozenset((FRAMING.lower(),)))


def response_from_proxy(head: ResponseHead) -> ResponseHead:
    """What of a proxy's answer goes back to whoever asked its front."""
    return _answer(head, _OF_PROXIES)


def _answer(head: ResponseHead, own: frozenset[bytes]) -> ResponseHead:
    kept = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if _may_pass(header[0].lower(), header[1], own)
    )
    return ResponseHead(head.status, head.reason, (*kept, *_INERT))


def _may_pass(name: bytes, value: bytes, own: frozenset[bytes]) -> bool:
    known = name in _ANSWER or name in own or name.startswith(_ANSWER_PREFIXES)
    return known and _VALUES.get(name, _VALUE).fullmatch(value) is not None

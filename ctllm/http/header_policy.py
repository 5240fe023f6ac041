"""Which headers a stage forwards, in requests and in responses.

Hop-by-hop headers (RFC 9110, section 7.6.1) are removed, except ``Transfer-Encoding: chunked`` of a
request, which announces a body of unknown length to the next stage.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from ctllm.errors import BadRequest
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    ResponseHead,
    encode_field_value,
    get_header,
    without_headers,
)
from ctllm.http.request_timeout import timeout_headers
from ctllm.http.subprotocols import without_subprotocol_token

ASSERTION = b"Ctllm-Assertion"
#: In a request, the id or name of the desktop to use; in a response, the desktop that was used.
DESKTOP = b"Ctllm-Desktop"
#: The id of a desktop not to use: that which sends the request, because its own Ollama cannot.
EXCLUDE_DESKTOP = b"Ctllm-Exclude-Desktop"
#: In a response, the id of its request: that of the stream in the tunnel, for logs and resumption.
#: From the cloud to a proxy, the id that the stream of a request shall have.
REQUEST_ID = b"Ctllm-Request-Id"
#: In responses of a desktop's loopback endpoint: the route (local or cloud), and the model of the
#: request.
ROUTE = b"Ctllm-Route"
MODEL = b"Ctllm-Model"
RESUME = b"Ctllm-Resume"
#: From a proxy to a desktop: the scopes of the client, which the cloud has verified.
SCOPE = b"Ctllm-Scope"
#: From a proxy to a desktop: the patterns of the models that the client may use, separated by
#: commas. Without this header it may use all.
ALLOWED_MODELS = b"Ctllm-Allowed-Models"
#: From a reverse proxy to a streaming proxy: the request's head, as the cloud has authorized it
#: (`ctllm.http.request_envelope`).
ENVELOPE = b"Ctllm-Request"
#: From a reverse proxy that asks for an authorization: the client's Connection header. Its own is
#: about the connection on which it asks.
CLIENT_CONNECTION = b"Ctllm-Client-Connection"
#: Between the cloud and a reverse proxy: the ticket of a refusal.
REFUSAL = b"Ctllm-Refusal"
#: From the cloud to a reverse proxy: the address of a streaming proxy.
UPSTREAM = b"Ctllm-Upstream"
#: In an envelope, and in a request for a tunnel: the grant of the client, sealed by the cloud. It
#: alone can read it.
SEALED_GRANT = b"Ctllm-Grant"
#: Between desktop, proxy and gateway: the response ended with its connection at Ollama (RFC 9112,
#: section 6.3), and is delimited so for the client, too.
FRAMING = b"Ctllm-Framing"
CLOSE_DELIMITED = b"close-delimited"

#: Headers that were renamed: the old name in lower case and the new name.
RENAMED_HEADERS = {
    b"ctllm-elsewhere": EXCLUDE_DESKTOP,
    b"ctllm-exchange": REQUEST_ID,
    b"ctllm-side": ROUTE,
}

#: The characters of a name that are not percent-encoded in a header.
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
#: Credentials of the user, which are removed where they are verified.
_CREDENTIALS = frozenset(
    (
        b"authorization", b"api-key", b"cookie", b"cookie2", b"set-cookie", b"dpop",
        b"client-cert", b"sec-websocket-protocol",
    )
)  # fmt: skip
_CREDENTIAL_PREFIXES = (b"client-cert-", b"ssl-client-", b"x-ssl-", b"x-client-cert")
_CREDENTIAL_SUFFIXES = (
    b"-authorization", b"-api-key", b"-token", b"-secret", b"-password", b"-cookie",
    b"-subscription-key",
)  # fmt: skip
#: What identifies the client and its way to the gateway, which Ollama does not receive.
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
#: What browsers add about the page, and what reverse proxies and CDNs add.
_ORIGIN_PREFIXES = (
    b"sec-", b"access-control-request-", b"ctllm-", b"x-forwarded", b"x-original-", b"x-real-",
    b"x-remote-", b"x-proxy", b"x-auth-", b"x-authenticated-", b"x-webauth-", b"x-envoy-",
    b"x-arr-", b"x-azure-", b"x-appengine-", b"x-amz-cf-", b"x-amzn-", b"x-cluster-", b"x-vercel-",
    b"x-akamai-", b"akamai-", b"cf-", b"cloudfront-", b"fastly-", b"fly-", b"tailscale-",
)  # fmt: skip
_ORIGIN_SUFFIXES = (b"-client-ip", b"-clientip", b"-forwarded-for", b"-forwarded-proto")
#: The headers that a response may have: those of the APIs that clients read. Others are removed, as
#: reverse proxies and browsers obey many headers.
_RESPONSE_HEADERS = frozenset(
    (
        b"content-type", b"content-length", b"content-encoding", b"content-language",
        b"content-range", b"accept-ranges", b"date", b"etag", b"last-modified", b"vary", b"allow",
        b"location", b"cache-control", b"retry-after", b"retry-after-ms", b"x-should-retry",
        b"x-request-id", b"request-id", b"openai-processing-ms", b"openai-version",
        b"openai-model", b"openai-organization", b"anthropic-organization-id",
    )
)  # fmt: skip
_RESPONSE_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit-")
#: The values that are forwarded. Ollama redirects to its own paths, without superfluous slashes.
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_VALUES = {
    b"location": re.compile(
        rb"/(?:(?:api|v1)(?:/(?!(?:\.|%2e){1,2}(?:[/?]|$))[!-.0-9:-\[\]-~]*)*)?", re.IGNORECASE
    ),
    b"cache-control": re.compile(
        rb"(?:(?:no-cache|no-store|no-transform|private|must-revalidate|max-age=0)(?:, *|$))+"
    ),
}
_REQUEST_ID = re.compile(rb"[0-9a-f]{32}")
_CLIENT_CONNECTION = CLIENT_CONNECTION.lower()
#: Headers that a proxy believes, because the cloud removes those of clients.
_FROM_CLOUD = frozenset(
    name.lower()
    for name in (
        ASSERTION,
        REQUEST_ID,
        ENVELOPE,
        SEALED_GRANT,
        REFUSAL,
        UPSTREAM,
        CLIENT_CONNECTION,
    )
)
#: What a proxy adds to a response, and the gateway forwards.
_PROXY_HEADERS = frozenset((REQUEST_ID.lower(), DESKTOP.lower(), FRAMING.lower()))
#: Has browsers show a response as inert text.
_INERT_CONTENT = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
)


def refuse_renamed_headers(headers: Headers) -> None:
    """Raise BadRequest if a header has the old name of a renamed one."""
    for name, _ in headers:
        new_name = RENAMED_HEADERS.get(name.lower())
        if new_name is not None:
            raise BadRequest(
                f"The header {name.decode('latin-1')} is now called {new_name.decode()}."
            )


def quote_name(name: str) -> bytes:
    """Encode a name as a header's value."""
    return encode_field_value(quote(name, safe=_PLAIN).encode())


def _hop_by_hop_names(headers: Headers) -> frozenset[bytes]:
    named = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == b"connection"
        for name in value.split(b",")
    }
    # A client cannot have these removed by listing them in Connection.
    return _HOP_BY_HOP | (named - {b"content-length", b"host", b"content-type"})


def end_to_end_headers(headers: Headers) -> Headers:
    """Return `headers` without hop-by-hop headers."""
    removed = _hop_by_hop_names(headers)
    return tuple(header for header in headers if header[0].lower() not in removed)


def _with_framing(forwarded: Headers, headers: Headers) -> Headers:
    """Return `forwarded` with the framing of `headers`: a length, or chunks."""
    if not any(key.lower() == b"transfer-encoding" for key, _ in headers):
        return forwarded
    return (*without_headers(forwarded, (b"content-length",)), (b"Transfer-Encoding", b"chunked"))


def _normalize(name: bytes) -> bytes:
    """Return `name` in lower case, with hyphens for underscores, which CGI and WSGI equate."""
    return name.lower().replace(b"_", b"-")


def _is_credential(name: bytes) -> bool:
    return (
        name in _CREDENTIALS
        or name.startswith(_CREDENTIAL_PREFIXES)
        or name.endswith(_CREDENTIAL_SUFFIXES)
    )


def request_to_proxy(head: RequestHead, assertion: bytes, id: bytes = b"") -> RequestHead:
    """Return what the gateway sends to a proxy: an assertion in place of the credentials.

    `id` (16 bytes) is that of the request. Without it, the proxy chooses one.
    """
    forwarded = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if not _is_credential(name := _normalize(header[0])) and name not in _FROM_CLOUD
    )
    given_id = ((REQUEST_ID, id.hex().encode()),) if id else ()
    own = ((ASSERTION, assertion), *given_id)
    headers = (*_with_framing(forwarded, head.headers), *own)
    return RequestHead(head.method, head.target, headers)


def take_request_id(head: RequestHead) -> tuple[bytes | None, RequestHead]:
    """Return the id that the cloud gave a request, and the request without it."""
    given = get_header(head.headers, REQUEST_ID.lower()) or b""
    headers = without_headers(head.headers, (REQUEST_ID.lower(),))
    id = bytes.fromhex(given.decode()) if _REQUEST_ID.fullmatch(given) else None
    return id, RequestHead(head.method, head.target, headers)


def take_client_connection(head: RequestHead) -> RequestHead:
    """Return the request of a client that a reverse proxy asks about, with its own Connection."""
    values = [value for name, value in head.headers if name.lower() == _CLIENT_CONNECTION]
    if not values:
        return head
    headers = without_headers(head.headers, (b"connection", _CLIENT_CONNECTION))
    own = tuple((b"Connection", value) for value in values)
    return RequestHead(head.method, head.target, (*headers, *own))


def request_to_tunnel(head: RequestHead, assertion: bytes) -> RequestHead:
    """Return what the gateway sends to a proxy to open the WebSocket of a desktop."""
    headers = without_subprotocol_token(head.headers)
    forwarded = tuple(header for header in headers if _is_websocket_header(header[0].lower()))
    own = ((b"Host", b"localhost"), *_UPGRADE, (ASSERTION, assertion))
    return RequestHead(head.method, b"/ws/tunnel", (*own, *forwarded))


def switching_protocols(head: ResponseHead) -> bytes:
    """Return the head of a 101 response, encoded, after the upstream responded with `head`."""
    forwarded = tuple(header for header in head.headers if _is_websocket_header(header[0].lower()))
    lines = [b"%b: %b\r\n" % header for header in (*_UPGRADE, *forwarded)]
    return b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % b"".join(lines)


def _is_websocket_header(name: bytes) -> bool:
    return name.startswith(b"sec-websocket-")


_UPGRADE = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))


def request_to_ollama(head: RequestHead, host: bytes) -> RequestHead:
    """Return what a desktop sends to Ollama: its own Host, and nothing that identifies the client.

    Ollama refuses a foreign Host or Origin with 403, and forwards headers to a third party for
    models named ``…:cloud``.
    """
    forwarded = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if not _is_credential(name := _normalize(header[0]))
        and name not in _ORIGINS
        and not name.startswith(_ORIGIN_PREFIXES)
        and not name.endswith(_ORIGIN_SUFFIXES)
    )
    headers = ((b"Host", host), *_with_framing(forwarded, head.headers))
    return RequestHead(head.method, head.target, headers)


def request_to_cloud(head: RequestHead, host: bytes, token: str, desktop: str) -> RequestHead:
    """Return what a desktop sends to the cloud: as its user, and for another desktop."""
    anonymous = request_to_ollama(head, host)
    own = ((b"Authorization", f"Bearer {token}".encode()), (EXCLUDE_DESKTOP, desktop.encode()))
    headers = (*anonymous.headers, *own, *timeout_headers(head))
    return RequestHead(head.method, head.target, headers)


def response_from_ollama(head: ResponseHead) -> ResponseHead:
    """Return what a desktop forwards of a response of Ollama."""
    return _filter_response(head, frozenset())


def response_from_desktop(head: ResponseHead) -> ResponseHead:
    """Return what a proxy forwards of a response of a desktop, which is not trusted either."""
    return _filter_response(head, frozenset((FRAMING.lower(),)))


def response_from_proxy(head: ResponseHead) -> ResponseHead:
    """Return what the gateway forwards of a response of a proxy."""
    return _filter_response(head, _PROXY_HEADERS)


def _filter_response(head: ResponseHead, own: frozenset[bytes]) -> ResponseHead:
    forwarded = tuple(
        header
        for header in end_to_end_headers(head.headers)
        if _is_forwarded(header[0].lower(), header[1], own)
    )
    return ResponseHead(head.status, head.reason, (*forwarded, *_INERT_CONTENT))


def _is_forwarded(name: bytes, value: bytes, own: frozenset[bytes]) -> bool:
    known = name in _RESPONSE_HEADERS or name in own or name.startswith(_RESPONSE_PREFIXES)
    return known and _VALUES.get(name, _VALUE).fullmatch(value) is not None

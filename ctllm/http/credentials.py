"""The tokens of a request, which clients send in different headers."""

from __future__ import annotations

import binascii
from base64 import b64decode

from ctllm.errors import BadRequest
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.subprotocols import subprotocol_token

#: Headers whose value is an API key: of Anthropic's clients, and of Azure's.
_KEY_HEADERS = (b"x-api-key", b"api-key")
_AUTHORIZATION = b"authorization"
_CREDENTIAL_HEADERS = frozenset((_AUTHORIZATION, *_KEY_HEADERS))


def presented_tokens(head: RequestHead) -> tuple[str, ...]:
    """Return the tokens of `head`: that of Authorization first, then those of other headers.

    There may be several: many clients send a made-up Bearer token beside the key that they are
    configured to send in a header. A browser opens a WebSocket with a token among the subprotocols.
    What is no token, such as `Bearer` without one, is ignored.
    Raises BadRequest where one of these headers occurs more than once: two servers might verify
    different ones.
    """
    found = _credential_headers(head)
    values = [
        _authorization_token(found.get(_AUTHORIZATION, b""), head),
        subprotocol_token(head),
        *(found.get(name, b"") for name in _KEY_HEADERS),
    ]
    tokens = [value.strip().decode("latin-1") for value in values if value]
    return tuple(dict.fromkeys(filter(None, tokens)))


def presented_signature(head: RequestHead) -> str:
    """Return what Authorization has instead of a scheme and a token: `<key>:<signature>`, or "".

    The `ollama` command signs requests so (see `ctllm.auth.request_signatures`). A browser tells
    that a page sent a request, and no page has a machine's key. Raises BadRequest as
    `presented_tokens` does.
    """
    value = _credential_headers(head).get(_AUTHORIZATION, b"").strip()
    is_signature = b":" in value and b" " not in value and b"\t" not in value
    return value.decode("latin-1") if is_signature and not _is_of_browser(head) else ""


def without_signature_time(head: RequestHead) -> RequestHead:
    """Return a signed `head` without `ts`, the time in the query: Ollama does not know it."""
    if not presented_signature(head):
        return head
    path, _, query = head.target.partition(b"?")
    others = [each for each in query.split(b"&") if each and not each.startswith(b"ts=")]
    target = path + b"?" * bool(others) + b"&".join(others)
    return RequestHead(head.method, target, head.headers)


def _is_of_browser(head: RequestHead) -> bool:
    """Whether a browser says that it sent this for a page."""
    names = (b"origin", b"sec-fetch-site")
    return any(get_header(head.headers, name) is not None for name in names)


def _credential_headers(head: RequestHead) -> dict[bytes, bytes]:
    """Return the values of the headers that may have a credential; raises BadRequest for two."""
    found: dict[bytes, bytes] = {}
    for key, value in head.headers:
        name = key.lower()
        if name not in _CREDENTIAL_HEADERS:
            continue
        if name in found:
            raise BadRequest(f"There are several {name.decode().title()} headers; send one.")
        found[name] = value
    return found


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

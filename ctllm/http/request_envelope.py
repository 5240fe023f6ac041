"""The head of a request in one header, for a reverse proxy that asks the cloud where it may go.

The cloud gives a reverse proxy (nginx) the head that a streaming proxy shall receive: without the
credentials, and with a session assertion. nginx sends it on as one header, and no header of the
client, so that nothing but what the cloud has written reaches the streaming proxy. The header is
the JSON of a tunnel's OPEN frame, in base64url. The body is framed by the request that carries it.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from ctllm.errors import BadRequest
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    decode_request,
    encode_request,
    without_headers,
)

#: What frames a body, or concerns one connection only.
_FRAMING = (b"content-length", b"transfer-encoding")


def seal_envelope(head: RequestHead) -> bytes:
    """Return the value of the header for `head`, whose framing is left out."""
    headers = without_headers(head.headers, _FRAMING)
    return urlsafe_b64encode(encode_request(RequestHead(head.method, head.target, headers), 0))


def open_envelope(value: bytes, outer: RequestHead) -> RequestHead:
    """Return the head in an envelope that `outer` carries, with the framing of `outer`.

    Raises BadRequest if it is not valid, has a framing of its own, or another method.
    """
    try:
        head, _ = decode_request(urlsafe_b64decode(value))
    except (ValueError, binascii.Error) as error:
        raise BadRequest("The envelope of this request is not valid.") from error
    if head.method != outer.method or head.headers != without_headers(head.headers, _FRAMING):
        raise BadRequest("The envelope of this request does not fit the request.")
    return RequestHead(head.method, head.target, (*head.headers, *_framing(outer.headers)))


def _framing(headers: Headers) -> Headers:
    return tuple(each for each in headers if each[0].lower() in _FRAMING)

"""The loopback endpoint, where apps of this machine find Ollama's API at a fixed address."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from ctllm.errors import Forbidden
from ctllm.http.cors import CorsPolicy, is_preflight
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.origins import (
    OLLAMA_ORIGINS,
    is_local_host,
    is_loopback_host,
    origin_matcher,
    parse_host,
)
from ctllm.http.server.request import ServerRequest

#: Handles a request that has passed the checks.
Handler = Callable[[RequestHead, ServerRequest], Awaitable[None]]

_is_ollama_default = origin_matcher(OLLAMA_ORIGINS)


class LoopbackEndpoint:
    """Refuses requests of foreign web pages; `handler` gets the others.

    The Host header is checked while `is_on_loopback` returns true. An endpoint that listens for
    other machines is reached under names that are not known here.
    """

    def __init__(self, handler: Handler, is_on_loopback: Callable[[], bool] = lambda: True) -> None:
        self._handler = handler
        self._is_on_loopback = is_on_loopback
        self._hostname = socket.gethostname()

    async def __call__(self, request: ServerRequest) -> None:
        """Handle a request; raises CtllmError."""
        head = request.head
        if self._is_on_loopback():
            self._refuse_foreign_host(head)
        refuse_cross_site(head)
        request.mark_authenticated()
        if is_preflight(head):
            request.respond(204, None, _CORS.preflight_headers(head))
        else:
            await self._handler(head, request)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the CORS headers of any response to `head`."""
        return _CORS.response_headers(head)

    def _refuse_foreign_host(self, head: RequestHead) -> None:
        """Raise Forbidden for a Host that is not of this machine or its network.

        This replaces Ollama's own protection against DNS rebinding: requests to Ollama have its
        own Host. HTTP/1.0 requests may lack the header.
        """
        host = get_header(head.headers, b"host")
        if host is None:
            return
        try:
            name = parse_host(host.decode("latin-1"))
        except ValueError:
            name = ""
        if not is_local_host(name, self._hostname):
            raise Forbidden(
                "This endpoint is for this machine only: the Host header must be localhost."
            )


def refuse_cross_site(head: RequestHead) -> None:
    """Raise Forbidden for a request of a page of another site.

    Browsers send no Origin for requests whose response a page cannot read (images, navigation);
    those have Sec-Fetch-Site: cross-site.
    """
    origins = [value for name, value in head.headers if name.lower() == b"origin"]
    site = get_header(head.headers, b"sec-fetch-site") or b""
    is_foreign = site.strip().lower() == b"cross-site" and not origins
    if is_foreign or not all(map(_is_local_origin, origins)):
        raise Forbidden("Pages of other sites must not use this endpoint.")


def _is_local_origin(origin: bytes) -> bool:
    """Return whether an Origin is a page of this machine, or an app that is installed on it."""
    if _is_ollama_default(origin):
        return True
    scheme, separator, authority = origin.decode("latin-1").partition("://")
    if not separator or scheme not in ("http", "https"):
        return False
    try:
        return is_loopback_host(parse_host(authority))
    except ValueError:
        return False


_CORS = CorsPolicy(_is_local_origin)

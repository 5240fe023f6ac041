"""The loopback endpoint: Ollama for the apps of this machine, always at the same place."""

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

Handler = Callable[[RequestHead, ServerRequest], Awaitable[None]]

_is_ollama_default = origin_matcher(OLLAMA_ORIGINS)


class LoopbackEndpoint:
    """Has `answer` do the rest, once sure that no web page of elsewhere is behind a request.

    `on_loopback` says whether the endpoint listens for this machine alone. Where it does not,
    its owner has opened it to others, who reach it by names that only they know.
    """

    def __init__(self, handler: Handler, is_on_loopback: Callable[[], bool] = lambda: True) -> None:
        self._handler = handler
        self._is_on_loopback = is_on_loopback
        self._hostname = socket.gethostname()

    async def __call__(self, request: ServerRequest) -> None:
        """Answer one request; raises CtllmError."""
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
        """Return the headers of CORS that any response to `head` has."""
        return _CORS.response_headers(head)

    def _refuse_foreign_host(self, head: RequestHead) -> None:
        """Raise Forbidden for a Host that is not of this machine or its network.

        What goes on to Ollama has Ollama's own, so Ollama's guard against names that were made to
        point here has to stand at this door. Programs of HTTP/1.0 need not name one.
        """
        host = get_header(head.headers, b"host")
        if host is None:
            return
        try:
            name = parse_host(host.decode("latin-1"))
        except ValueError:
            name = ""
        if not is_local_host(name, self._hostname):
            raise Forbidden("this endpoint is for this machine; its Host must be localhost")


def refuse_cross_site(head: RequestHead) -> None:
    """Raise Forbidden where a page of elsewhere is behind this, as far as browsers say so.

    Of requests that a page cannot read (images, navigation) they tell no Origin, but that the page
    is of another site.
    """
    origins = [value for name, value in head.headers if name.lower() == b"origin"]
    site = get_header(head.headers, b"sec-fetch-site") or b""
    foreign = site.strip().lower() == b"cross-site" and not origins
    if foreign or not all(map(_is_local_origin, origins)):
        raise Forbidden("pages of other sites may not use this endpoint")


def _is_local_origin(origin: bytes) -> bool:
    """Whether an Origin is a page that this machine serves, or an app that is installed on it."""
    if _is_ollama_default(origin):
        return True
    scheme, found, authority = origin.decode("latin-1").partition("://")
    try:
        return (
            bool(found) and scheme in ("http", "https") and is_loopback_host(parse_host(authority))
        )
    except ValueError:
        return False


_CORS = CorsPolicy(_is_local_origin)

"""The loopback endpoint, where apps of this machine find Ollama's API at a fixed address."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from ctllm.desktop.loopback.api import is_own_path
from ctllm.desktop.loopback.local_requests import may_load_page
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
from ctllm.ollama.endpoints import canonical_request
from ctllm.web_ui.page_files import PageFiles

#: Handles a request that has passed the checks.
Handler = Callable[[RequestHead, ServerRequest], Awaitable[None]]
#: Handles a request for a path of `is_own_path`, which it has to check itself.
OwnHandler = Callable[[ServerRequest], Awaitable[None]]

_is_ollama_default = origin_matcher(OLLAMA_ORIGINS)


class LoopbackEndpoint:
    """Refuses requests of foreign web pages; `handler` gets those that are for Ollama.

    Browsers of this machine get the page (`page_files`), and `own_handler` the paths below /ctllm/.
    The Host header is checked while `is_on_loopback` returns true. An endpoint that listens for
    other machines is reached under names that are not known here.
    """

    def __init__(
        self,
        handler: Handler,
        is_on_loopback: Callable[[], bool] = lambda: True,
        own_handler: OwnHandler | None = None,
        page_files: PageFiles | None = None,
    ) -> None:
        self._handler = handler
        self._own_handler = own_handler
        self._page_files = page_files
        self._is_on_loopback = is_on_loopback
        self._hostname = socket.gethostname()

    async def __call__(self, request: ServerRequest) -> None:
        """Handle a request; raises CtllmError."""
        head = request.head = canonical_request(request.head)
        if self._is_on_loopback():
            self._refuse_foreign_host(head)
        if self._page_files is not None and self._loads_page(self._page_files, request):
            self._page_files.respond(request)
            return
        refuse_cross_site(head)
        request.mark_authenticated()
        if self._own_handler is not None and is_own_path(head.path):
            await self._own_handler(request)
        elif is_preflight(head):
            request.respond(204, None, _CORS.preflight_headers(head))
        else:
            await self._handler(head, request)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the CORS headers of any response to `head`: none for the paths of the page."""
        if self._own_handler is not None and is_own_path(canonical_request(head).path):
            return ()
        return _CORS.response_headers(head)

    def _loads_page(self, page_files: PageFiles, request: ServerRequest) -> bool:
        head = request.head
        return page_files.serves(head) and may_load_page(head, request.client_address)

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

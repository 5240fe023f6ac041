"""Small requests to servers on the network: the cloud and OpenID providers."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from ctllm import __version__
from ctllm.errors import BadGateway
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.message.head import RequestHead
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds for a request, until its response is complete.
REQUEST_TIMEOUT = 30


async def send_request(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
    clock: Clock,
    endpoint_for: Callable[[str], Endpoint],
    max_response: int,
    *,
    name: str = "",
    timeout: float = REQUEST_TIMEOUT,
) -> tuple[int, bytes]:
    """Send a request on a connection of its own; return the status and body of the response.

    Redirects are not followed. Raises BadGateway, whose message has `name`, by default the scheme
    and host of the URL.
    """
    parts = urlsplit(url)
    name = name or f"{parts.scheme}://{parts.netloc}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {
        "User-Agent": f"ctllm/{__version__}",
        "Accept": "application/json",
        # Responses are decoded as JSON, so they must not be compressed.
        "Accept-Encoding": "identity",
        "Connection": "close",
        **headers,
        "Content-Length": str(len(body)),
    }
    lines = tuple((name.encode(), value.encode()) for name, value in fields.items())
    head = RequestHead(method.encode(), target.encode(), lines)
    pool = ConnectionPool(endpoint_for(url), clock, name, BadGateway, parts.netloc.encode())
    try:
        return await fetch(pool, head, clock, timeout, max_response, body)
    except BadGateway as error:
        message = error.message if name in error.message else f"{name}: {error.message}"
        raise BadGateway(message) from error
    finally:
        pool.close()

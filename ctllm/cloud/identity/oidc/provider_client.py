"""Requests to an OpenID provider, with limits of time and size, without redirects and cookies.

They are sent with ctllm's own HTTP client and not with treq, which decompresses responses: there, a
small response of a malicious provider becomes a large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from ctllm import __version__
from ctllm.cloud.identity.oidc.key_set import PublicKey, parse_key_set
from ctllm.cloud.identity.oidc.metadata import ProviderMetadata, metadata_url, parse_metadata
from ctllm.errors import BadGateway
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import exchange
from ctllm.http.client.url_endpoint import endpoint_for_url
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, get_header
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds for a whole request.
REQUEST_TIMEOUT = 10.0
#: The most bytes of a response. Microsoft's keys, with their certificates, have 20 kB.
MAX_RESPONSE = 256 * 1024
#: Seconds after which the discovery document is read again.
METADATA_TTL = 3600.0


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A provider's keys, and the entity tag with which it says later that they are the same."""

    keys: tuple[PublicKey, ...]
    entity_tag: bytes = b""


class ProviderClient:
    """The client of the provider with `issuer`.

    `endpoint_for` returns the endpoint of a URL: by default through the HTTP proxy that the
    environment names, with a verified certificate if it is https.
    """

    def __init__(
        self,
        issuer: str,
        clock: Clock,
        endpoint_for: Callable[[str], Endpoint] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        self._issuer = issuer
        self._clock = clock
        self._endpoint_for = endpoint_for or (lambda url: endpoint_for_url(url, clock))
        self._timeout = timeout
        self._metadata: ProviderMetadata | None = None
        self._metadata_read = 0.0
        self._have_keys_failed = False

    async def metadata(self) -> ProviderMetadata:
        """Return the provider's metadata, at most an hour old; raises BadGateway."""
        is_old = self._clock.seconds() - self._metadata_read >= METADATA_TTL
        if self._metadata is None or is_old:
            return await self._read_metadata()
        return self._metadata

    async def _read_metadata(self) -> ProviderMetadata:
        _, body = await self._get(metadata_url(self._issuer), ())
        self._metadata = parse_metadata(body, self._issuer)
        self._metadata_read = self._clock.seconds()
        return self._metadata

    async def fetch_keys(self, known: FetchedKeys | None) -> FetchedKeys:
        """Return the provider's keys now; `known` if they have not changed. Raises BadGateway."""
        tag = known.entity_tag if known else b""
        condition = ((b"If-None-Match", tag),) if tag else ()
        # After a failure the keys may be at another address.
        metadata = await (self._read_metadata() if self._have_keys_failed else self.metadata())
        self._have_keys_failed = True
        head, body = await self._get(metadata.jwks_uri, condition)
        self._have_keys_failed = False
        if head.status == 304 and known:
            return known
        return FetchedKeys(parse_key_set(body), get_header(head.headers, b"etag") or b"")

    async def request(
        self, method: str, url: str, headers: Headers = (), body: bytes = b""
    ) -> tuple[ResponseHead, bytes]:
        """Send a request to an endpoint of the metadata; return its response, whatever the status.

        A redirect is not followed. Raises BadGateway.
        """
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        own: Headers = (
            (b"User-Agent", f"ctllm/{__version__}".encode()),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
            (b"Connection", b"close"),
            (b"Content-Length", b"%d" % len(body)),
        )
        sent = own if body else own[:-1]
        head = RequestHead(method.encode(), target.encode(), (*sent, *headers))
        pool = self._pool(url, parts.netloc.encode())
        try:
            return await exchange(pool, head, self._clock, self._timeout, MAX_RESPONSE, body)
        finally:
            pool.close()

    def _pool(self, url: str, host: bytes) -> ConnectionPool:
        endpoint = self._endpoint_for(url)
        return ConnectionPool(
            endpoint, self._clock, url, BadGateway, host, filter_head=lambda head: head
        )

    async def _get(self, url: str, headers: Headers) -> tuple[ResponseHead, bytes]:
        head, body = await self.request("GET", url, headers)
        if head.status != 200 and (head.status != 304 or not headers):
            raise BadGateway(f"{url} responded with the status {head.status}.")
        if (get_header(head.headers, b"content-encoding") or b"identity") != b"identity":
            raise BadGateway(f"{url} responded in another coding than was asked for.")
        return head, body

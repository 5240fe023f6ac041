"""Sends the requests of `ctllm.desktop.oauth` to a provider."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.desktop.http_request import REQUEST_TIMEOUT, send_request
from ctllm.desktop.oauth.provider import (
    MAX_DOCUMENT,
    Provider,
    ProviderMetadata,
    discovery_url,
    parse_metadata,
)
from ctllm.desktop.oauth.tokens import MAX_RESPONSE, FormRequest
from ctllm.http.client.url_endpoint import endpoint_for_url
from ctllm.reactor.interfaces import Clock, Endpoint


class OAuthClient:
    """Sends requests to providers, through the HTTP proxy of the environment.

    `endpoint_for` returns the endpoint of a URL; by default it is `endpoint_for_url`.
    """

    def __init__(
        self,
        clock: Clock,
        endpoint_for: Callable[[str], Endpoint] | None = None,
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        self._clock = clock
        self._endpoint_for = endpoint_for or (lambda url: endpoint_for_url(url, clock))
        self._timeout = timeout

    async def discover(self, provider: Provider) -> ProviderMetadata:
        """Return the metadata of a provider (OpenID Connect Discovery); raises BadGateway."""
        url = discovery_url(provider.issuer)
        status, body = await self._send("GET", url, {}, b"", MAX_DOCUMENT)
        return parse_metadata(provider.issuer, status, body)

    async def post(self, request: FormRequest) -> tuple[int, bytes]:
        """Send a form; return the status and body of the response. Raises BadGateway."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if request.authorization:
            headers["Authorization"] = request.authorization
        return await self._send("POST", request.url, headers, request.body, MAX_RESPONSE)

    async def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, max_response: int
    ) -> tuple[int, bytes]:
        return await send_request(
            method, url, headers, body, self._clock, self._endpoint_for, max_response,
            timeout=self._timeout,
        )  # fmt: skip

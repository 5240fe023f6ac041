"""The sign-in of this desktop at a provider: by the device grant, or in a browser of this machine.

The device grant works without a browser here. Where the provider lacks it, the browser is
redirected to this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from ctllm.desktop.loopback_redirect import LoopbackRedirect
from ctllm.desktop.oauth.authorization_code import AuthorizationCodeGrant
from ctllm.desktop.oauth.device_grant import (
    DeviceCode,
    DeviceGrant,
    device_code_request,
    parse_device_code,
)
from ctllm.desktop.oauth.provider import Provider, ProviderMetadata
from ctllm.desktop.oauth.tokens import OAuthClientId, ProviderTokens
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.errors import BadGateway, BadRequest
from ctllm.reactor.deferred_tools import sleep


class LoginMethod(Enum):
    """How the user signs in; `AUTO` is the device grant where the provider has it."""

    AUTO = "auto"
    DEVICE = "device"
    BROWSER = "browser"


class LoginPrompt(Protocol):
    """Shows the user what to do, and does not wait until it is done."""

    def show_code(self, code: DeviceCode) -> None:
        """Show the code of the device grant, and open its link."""

    def show_link(self, url: str) -> None:
        """Open the URL at which the user signs in, in a browser of this machine."""


@dataclass(frozen=True)
class ProviderGrant:
    """What a sign-in at a provider results in."""

    provider: Provider
    metadata: ProviderMetadata
    tokens: ProviderTokens


class ProviderLogin:
    """Signs the user in at a provider. `wall_clock` returns the seconds since the epoch."""

    def __init__(
        self,
        reactor: Any,
        oauth: OAuthClient,
        prompt: LoginPrompt,
        *,
        wall_clock: Callable[[], float] = time.time,
        make_redirect: Callable[[Any], LoopbackRedirect] = LoopbackRedirect,
    ) -> None:
        self._reactor = reactor
        self._oauth = oauth
        self._prompt = prompt
        self._wall_clock = wall_clock
        self._make_redirect = make_redirect

    async def run(
        self, provider: Provider, method: LoginMethod = LoginMethod.AUTO
    ) -> ProviderGrant:
        """Return the user's grant; raises CtllmError. Cancelling closes everything."""
        metadata = await self._oauth.discover(provider)
        client = client_id_of(provider, metadata)
        if _uses_device_grant(provider, metadata, method):
            tokens = await self._run_device_grant(client, provider, metadata)
        else:
            tokens = await self._run_browser_login(client, provider, metadata)
        return ProviderGrant(provider, metadata, tokens)

    async def _run_device_grant(
        self, client: OAuthClientId, provider: Provider, metadata: ProviderMetadata
    ) -> ProviderTokens:
        response = await self._oauth.post(device_code_request(client, provider, metadata))
        code = parse_device_code(*response, metadata.issuer)
        grant = DeviceGrant(client, provider, metadata, code, self._reactor.seconds())
        self._prompt.show_code(code)
        while True:
            await sleep(self._reactor, grant.delay)
            try:
                status, body = await self._oauth.post(grant.request)
            except BadGateway as error:
                grant.connection_failed(error, self._reactor.seconds())
                continue
            tokens = grant.receive(status, body, self._reactor.seconds(), self._wall_clock())
            if tokens is not None:
                return tokens

    async def _run_browser_login(
        self, client: OAuthClientId, provider: Provider, metadata: ProviderMetadata
    ) -> ProviderTokens:
        redirect = self._make_redirect(self._reactor)
        try:
            grant = await redirect.listen(
                lambda uri: AuthorizationCodeGrant(client, provider, metadata, uri)
            )
            self._prompt.show_link(grant.url)
            code = await redirect.wait()
        finally:
            await redirect.close()
        response = await self._oauth.post(grant.token_request(code))
        return grant.parse_tokens(*response, self._wall_clock())


def client_id_of(provider: Provider, metadata: ProviderMetadata) -> OAuthClientId:
    """Return how this desktop names itself to the provider."""
    uses_post = "client_secret_post" in metadata.token_endpoint_auth_methods_supported
    return OAuthClientId(provider.client_id, provider.client_secret, uses_post)


def _uses_device_grant(provider: Provider, metadata: ProviderMetadata, method: LoginMethod) -> bool:
    """Raises BadRequest where the provider does not have the method that was chosen."""
    has_device = bool(metadata.device_authorization_endpoint)
    has_browser = bool(metadata.authorization_endpoint)
    if method is LoginMethod.DEVICE and not has_device:
        raise BadRequest(
            f"The provider {provider.label} has no device login. Use: ctllm login --browser"
        )
    if not has_browser and (method is LoginMethod.BROWSER or not has_device):
        raise BadRequest(f"The provider {provider.label} has no login in a browser.")
    return has_device and method is not LoginMethod.BROWSER

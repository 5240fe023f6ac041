"""A provider at which the cloud signs in browsers: its endpoints, and its tokens verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from twisted.logger import Logger

from ctllm.cloud.browser_login.id_token import check_id_token
from ctllm.cloud.browser_login.interfaces import LoginProvider, ProviderLogin
from ctllm.cloud.browser_login.messages import (
    Callback,
    OAuthClient,
    TokenResponse,
    authorization_url,
    code_parameters,
    decode_token_error,
    decode_token_response,
    form_request,
    refresh_parameters,
    revocation_parameters,
)
from ctllm.cloud.browser_login.outcomes import LoginError, LoginFailed, callback_error
from ctllm.cloud.browser_login.transactions import LoginTransaction
from ctllm.cloud.identity import AccessGrant
from ctllm.cloud.identity.oidc.metadata import ProviderMetadata
from ctllm.cloud.identity.oidc.token_parser import parse_token
from ctllm.cloud.identity.oidc.verifier import ConfiguredProvider, OidcVerifier
from ctllm.common.json_decoder import InvalidJson
from ctllm.common.ttl_cache import TtlCache
from ctllm.config import Provider
from ctllm.errors import BadConfiguration, BadGateway, ServiceUnavailable, Unauthorized
from ctllm.http.message.head import get_header

#: Rotated refresh tokens that are remembered, and for how many seconds: until the file of their
#: session has been written, which may fail.
MAX_ROTATED = 1024
ROTATED_TTL = 3600.0
#: Seconds between two lines of the log about one provider.
LOG_INTERVAL = 60.0

_ERROR_WORD = re.compile(r"[a-z_]{1,40}")


def create_login_providers(
    verifier: OidcVerifier, redirect_uri: str, now: Callable[[], float]
) -> Mapping[str, LoginProvider]:
    """Return the providers of `verifier` for browsers; raises BadConfiguration."""
    return {
        name: OidcLogin(provider, verifier, _oauth_client(provider.settings, redirect_uri), now)
        for name, provider in verifier.providers.items()
    }


def _oauth_client(settings: Provider, redirect_uri: str) -> OAuthClient:
    scopes = settings.scope.split()
    return OAuthClient(
        settings.issuer,
        settings.page_client_id or settings.client_id,
        redirect_uri,
        # Without this scope there is no ID token, which has the nonce.
        " ".join(scopes if "openid" in scopes else ("openid", *scopes)),
        settings.audience,
        _read_secret(settings.page_client_secret_file),
    )


def _read_secret(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(
            f"The client secret in {path} (page_client_secret_file) cannot be read."
        ) from error


class OidcLogin:
    """Implements LoginProvider with the OpenID provider `provider`. `now` returns epoch seconds."""

    _log = Logger()

    def __init__(
        self,
        provider: ConfiguredProvider,
        verifier: OidcVerifier,
        oauth: OAuthClient,
        now: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._verifier = verifier
        self._oauth = oauth
        self._now = now
        self._next_log = 0.0
        self._rotated: TtlCache[bytes, str] = TtlCache(MAX_ROTATED, now)

    async def authorization_url(self, transaction: LoginTransaction, fresh: bool) -> str:
        """Return the URL that signs in a person; with `fresh`, also one who is signed in there."""
        with self._logged():
            metadata = await self._provider.client.metadata()
            endpoint = _require(metadata.authorization_endpoint, "authorization_endpoint")
        return authorization_url(endpoint, self._oauth, transaction, fresh)

    async def redeem(self, transaction: LoginTransaction, callback: Callback) -> ProviderLogin:
        """Redeem the code of a callback, and verify all that it gives; raises CtllmError."""
        with self._logged():
            metadata = await self._provider.client.metadata()
            _check_callback(callback, metadata)
            parameters = code_parameters(self._oauth, transaction, callback.code)
            tokens = await self._request_tokens(metadata, parameters)
            await self._verify_id_token(tokens.id_token, transaction.nonce)
            return ProviderLogin(await self._verify(tokens), tokens.refresh_token)

    async def refresh(self, refresh_token: str) -> ProviderLogin:
        """Use a refresh token, once; raises CtllmError.

        If the result of an earlier use was not stored, its refresh token is used instead: the
        provider would take a second use for theft.
        """
        with self._logged():
            metadata = await self._provider.client.metadata()
            latest = self._latest(refresh_token)
            tokens = await self._request_tokens(metadata, refresh_parameters(self._oauth, latest))
            latest = tokens.refresh_token or latest
            self._rotated.put(_digest(refresh_token), latest, self._now() + ROTATED_TTL)
            return ProviderLogin(await self._verify(tokens), latest)

    async def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token, if the provider supports that; raises CtllmError."""
        metadata = await self._provider.client.metadata()
        if metadata.revocation_endpoint:
            parameters = revocation_parameters(self._latest(refresh_token))
            await self._post(metadata.revocation_endpoint, metadata, parameters)

    def _latest(self, refresh_token: str) -> str:
        return self._rotated.get(_digest(refresh_token)) or refresh_token

    async def _verify_id_token(self, id_token: str, nonce: str) -> None:
        parsed = parse_token(id_token)
        settings = self._provider.settings
        if parsed.algorithm not in settings.algorithms:
            raise Unauthorized("The ID token has a signature algorithm that is not accepted.")
        check_id_token(parsed.claims, settings.issuer, self._oauth.client_id, nonce, self._now())
        await self._provider.verify_signature(parsed)

    async def _verify(self, tokens: TokenResponse) -> AccessGrant:
        is_access_token = self._provider.settings.token == "access_token"  # noqa: S105
        token = tokens.access_token if is_access_token else tokens.id_token
        return await self._verifier.verify_as(self._provider.name, token)

    async def _request_tokens(
        self, metadata: ProviderMetadata, parameters: Mapping[str, str]
    ) -> TokenResponse:
        """Raise Unauthorized if the code or refresh token is not valid, else BadGateway."""
        endpoint = _require(metadata.token_endpoint, "token_endpoint")
        body = await self._post(endpoint, metadata, parameters)
        try:
            return decode_token_response(body)
        except InvalidJson as error:
            raise BadGateway("The provider's token endpoint sent no valid tokens.") from error

    async def _post(
        self, url: str, metadata: ProviderMetadata, parameters: Mapping[str, str]
    ) -> bytes:
        methods = metadata.token_endpoint_auth_methods_supported
        headers, form = form_request(self._oauth, parameters, methods)
        head, body = await self._provider.client.request("POST", url, headers, form)
        if head.status != 200:
            raise self._refusal(head.status, body)
        if get_header(head.headers, b"content-encoding") not in (None, b"identity"):
            raise BadGateway("The provider responded in a coding that was not asked for.")
        return body

    def _refusal(self, status: int, body: bytes) -> Unauthorized | BadGateway:
        """Return the error for a refusal of an endpoint (RFC 6749, section 5.2)."""
        try:
            word = decode_token_error(body).error
        except InvalidJson:
            word = ""
        if word == "invalid_grant":
            return Unauthorized("Your sign-in with the provider has ended. Sign in again.")
        known = word if _ERROR_WORD.fullmatch(word) else "without an OAuth error"
        return BadGateway(f"The provider responded with the status {status} ({known}).")

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Log the error that the body raises, at most once a minute: strangers can cause some."""
        try:
            yield
        except (Unauthorized, BadGateway, ServiceUnavailable) as error:
            if self._now() >= self._next_log:
                self._next_log = self._now() + LOG_INTERVAL
                self._log.warn(
                    "A sign-in or renewal with the provider {name} failed: {error}",
                    name=self._provider.name,
                    error=error.message,
                )
            raise


def _check_callback(callback: Callback, metadata: ProviderMetadata) -> None:
    """Raise LoginFailed unless the callback has a code of this provider (RFC 9207, section 2.4)."""
    is_required = metadata.authorization_response_iss_parameter_supported
    if callback.iss and callback.iss != metadata.issuer:
        raise LoginFailed(LoginError.FAILED, "The callback is of another provider.")
    if is_required and not callback.iss:
        raise LoginFailed(LoginError.FAILED, "The callback does not say of which provider it is.")
    if callback.error:
        raise callback_error(callback.error)
    if not callback.code:
        raise LoginFailed(LoginError.FAILED, "The callback has no code.")


def _require(endpoint: str, name: str) -> str:
    if not endpoint:
        raise BadGateway(f"The provider's discovery document has no {name}.")
    return endpoint


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()

"""The device grant (RFC 8628): the user approves a code in any browser, the client polls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.oauth.provider import (
    Provider,
    ProviderMetadata,
    Url,
    check_url,
    is_local,
)
from ctllm.desktop.oauth.tokens import (
    MAX_RESPONSE,
    FormRequest,
    GrantRefused,
    OAuthClientId,
    ProviderTokens,
    Token,
    error_of,
    make_form,
    parse_error,
    parse_tokens,
)
from ctllm.errors import BadGateway, CtllmError

#: Seconds by which `slow_down` increases the interval (RFC 8628, section 3.5).
SLOW_DOWN_STEP = 5.0
#: The longest interval, in seconds: a provider cannot make a client wait without end.
MAX_INTERVAL = 60.0
#: The longest time for which a code is polled, in seconds.
MAX_LIFETIME = 1800.0
_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"

_EXPIRED = "The code has expired before it was approved. Run `ctllm login` again."
_DENIED = "The login was denied in the browser."


class _DeviceResponse(msgspec.Struct, frozen=True):
    device_code: Token
    user_code: Annotated[str, Meta(min_length=1, max_length=64)]
    verification_uri: Url = ""
    verification_url: Url = ""  # Google's name for it
    verification_uri_complete: Url = ""
    expires_in: Annotated[float, Meta(gt=0)] = 600.0
    interval: Annotated[float, Meta(ge=0)] = 5.0


@dataclass(frozen=True)
class DeviceCode:
    """What the user needs: the code, where to enter it, and a link that has it already.

    `link` is `url` where the provider gives no such link.
    """

    user_code: str
    url: str
    link: str
    expires_in: float
    interval: float
    device_code: str = field(repr=False)


def device_code_request(
    client: OAuthClientId, provider: Provider, metadata: ProviderMetadata
) -> FormRequest:
    """Return the request for a code."""
    return make_form(
        client,
        metadata.device_authorization_endpoint,
        ("scope", provider.scope),
        ("audience", provider.audience),
    )


def parse_device_code(status: int, body: bytes, issuer: str) -> DeviceCode:
    """Return the code in the provider's response; raises BadGateway and GrantRefused."""
    if status != 200:
        raise error_of(status, body)
    try:
        found = decode_json(body, _DeviceResponse, MAX_RESPONSE)
    except InvalidJson as error:
        raise BadGateway(f"The device code of the provider is not valid: {error}.") from error
    url = found.verification_uri or found.verification_url
    link = found.verification_uri_complete or url
    for each in (url, link):
        check_url("link", each, allows_http=is_local(issuer))
    if not found.user_code.isprintable():
        raise BadGateway("The device code of the provider has control characters.")
    return DeviceCode(
        found.user_code, url, link,
        min(found.expires_in, MAX_LIFETIME), min(found.interval, MAX_INTERVAL), found.device_code,
    )  # fmt: skip


class DeviceGrant:
    """Polls for the tokens of a code. `now` is in seconds, of any clock.

    Wait for `delay` seconds, send `request`, and pass its response to `receive`, or call
    `connection_failed`; repeat until there are tokens.
    """

    def __init__(
        self,
        client: OAuthClientId,
        provider: Provider,
        metadata: ProviderMetadata,
        code: DeviceCode,
        now: float,
    ) -> None:
        self.delay = max(1.0, code.interval)
        self._provider = provider
        self._deadline = now + code.expires_in
        self.request = make_form(
            client,
            metadata.token_endpoint,
            ("grant_type", _GRANT_TYPE),
            ("device_code", code.device_code),
        )

    def receive(
        self, status: int, body: bytes, now: float, wall_time: float
    ) -> ProviderTokens | None:
        """Return the tokens, or None if the user has not decided yet.

        `wall_time` is in epoch seconds. Raises GrantRefused if the user denied or the code expired,
        and BadGateway.
        """
        error, _ = parse_error(status, body)
        if error in ("authorization_pending", "slow_down"):
            if error == "slow_down":
                self._slow_down()
            self._check_deadline(now)
            return None
        if error == "expired_token":
            raise GrantRefused(_EXPIRED, error)
        if error == "access_denied":
            raise GrantRefused(_DENIED, error)
        if status == 429 or status >= 500:
            self._try_later(error_of(status, body), now)
            return None
        return parse_tokens(status, body, self._provider.token, wall_time)

    def connection_failed(self, error: CtllmError, now: float) -> None:
        """Poll less often; raises `error` once the code has expired."""
        self._try_later(error, now)

    def _try_later(self, error: CtllmError, now: float) -> None:
        self.delay = min(self.delay * 2, MAX_INTERVAL)
        if now >= self._deadline:
            raise error

    def _slow_down(self) -> None:
        self.delay = min(self.delay + SLOW_DOWN_STEP, MAX_INTERVAL)

    def _check_deadline(self, now: float) -> None:
        if now >= self._deadline:
            raise GrantRefused(_EXPIRED, "expired_token")

"""The token endpoint: its requests, and the tokens or the error of its responses (RFC 6749)."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Annotated
from urllib.parse import quote_plus, urlencode

import msgspec
from msgspec import Meta

from ctllm.auth.jws import decode_base64url
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.oauth.provider import TokenKind
from ctllm.errors import BadGateway, Unauthorized

#: The most bytes of a response with tokens.
MAX_RESPONSE = 64 * 1024
#: The most characters of a provider's error that are shown.
MAX_ERROR_LENGTH = 200
#: Seconds that a token is taken to last if the provider does not say.
DEFAULT_LIFETIME = 300.0
_MAX_LIFETIME = 366 * 86400.0

#: A JWT in compact form: three parts of base64url.
Jwt = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z", max_length=8192)
]
Token = Annotated[str, Meta(pattern=r"^[!-~]+\Z", max_length=8192)]

#: The errors after which the same grant will be refused again.
_PERMANENT_ERRORS = frozenset({
    "invalid_grant", "invalid_client", "unauthorized_client", "access_denied", "login_required",
    "interaction_required", "consent_required", "account_selection_required",
})  # fmt: skip


class GrantRefused(Unauthorized):
    """The provider refuses the grant, and will refuse it again. `error` is OAuth's code."""

    def __init__(self, message: str, error: str) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class OAuthClientId:
    """How the client names itself: `secret` is empty for a public client.

    `uses_post` is for a provider that takes the secret in the form (RFC 6749, section 2.3.1).
    """

    client_id: str
    secret: str = field(default="", repr=False)
    uses_post: bool = False


@dataclass(frozen=True)
class FormRequest:
    """A POST request with a form. `authorization` is the value of the header, or empty."""

    url: str
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    authorization: str = field(default="", repr=False)

    @property
    def body(self) -> bytes:
        """The form, encoded."""
        return urlencode(self.fields).encode()


@dataclass(frozen=True)
class ProviderTokens:
    """What the provider grants: the token for the cloud, and the refresh token if there is one.

    `expires_at` is when the token for the cloud expires, in seconds since the epoch.
    """

    token: str = field(repr=False)
    expires_at: float
    refresh_token: str = field(default="", repr=False)


class _TokenResponse(msgspec.Struct, frozen=True):
    access_token: Token
    token_type: str = "bearer"  # noqa: S105
    expires_in: Annotated[float, Meta(gt=0)] | None = None
    refresh_token: Token | None = None
    id_token: Jwt | None = None


class _RefreshTokenResponse(msgspec.Struct, frozen=True):
    refresh_token: Token = ""


class _ErrorResponse(msgspec.Struct, frozen=True):
    error: Annotated[str, Meta(pattern=r"^[ -~]{1,128}\Z")]
    error_description: str | None = None


class _Claims(msgspec.Struct, frozen=True):
    """The claims of an ID token that a client checks; the cloud verifies the signature."""

    iss: str = ""
    nonce: str = ""
    exp: float | None = None


def make_form(client: OAuthClientId, url: str, *fields: tuple[str, str]) -> FormRequest:
    """Return a request in the name of `client`; fields without a value are left out."""
    form = [("client_id", client.client_id), *(each for each in fields if each[1])]
    if not client.secret:
        return FormRequest(url, tuple(form))
    if client.uses_post:
        return FormRequest(url, (*form, ("client_secret", client.secret)))
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.secret)}"
    return FormRequest(url, tuple(form), f"Basic {b64encode(pair.encode()).decode()}")


def refresh_request(client: OAuthClientId, url: str, refresh_token: str) -> FormRequest:
    """Return the request for new tokens (RFC 6749, section 6)."""
    return make_form(client, url, ("grant_type", "refresh_token"), ("refresh_token", refresh_token))


def revocation_request(client: OAuthClientId, url: str, refresh_token: str) -> FormRequest:
    """Return the request to revoke a refresh token (RFC 7009, section 2.1)."""
    return make_form(client, url, ("token", refresh_token), ("token_type_hint", "refresh_token"))


def parse_error(status: int, body: bytes) -> tuple[str, str]:
    """Return the code and the description of an error response; empty if it is none of OAuth."""
    if status == 200:
        return "", ""
    try:
        found = decode_json(body, _ErrorResponse, MAX_RESPONSE)
    except InvalidJson:
        return "", ""
    return found.error, sanitize_line(found.error_description or "", MAX_ERROR_LENGTH)


def error_of(status: int, body: bytes) -> BadGateway | GrantRefused:
    """Return the error that an error response means: BadGateway if it may pass by itself."""
    code, description = parse_error(status, body)
    said = f"{code}: {description}" if description else code
    if code in _PERMANENT_ERRORS and status < 500:
        return GrantRefused(f"The provider refused the login ({said}).", code)
    return BadGateway(f"The provider responded with status {status}{said and f' ({said})'}.")


def parse_tokens(
    status: int, body: bytes, kind: TokenKind, now: float, *, nonce: str = "", issuer: str = ""
) -> ProviderTokens:
    """Return the tokens in a response of the token endpoint.

    With `nonce`, an ID token must have that nonce and `issuer`. Raises BadGateway and GrantRefused.
    """
    if status != 200:
        raise error_of(status, body)
    try:
        found = decode_json(body, _TokenResponse, MAX_RESPONSE)
    except InvalidJson as error:
        raise BadGateway(f"The tokens of the provider are not valid: {error}.") from error
    if found.token_type.lower() != "bearer":
        raise BadGateway("The provider's tokens are of a type that ctllm does not know.")
    if nonce and found.id_token is not None:
        _check_id_token(found.id_token, nonce, issuer)
    token = found.access_token if kind == "access_token" else found.id_token
    return ProviderTokens(
        _require_jwt(token, kind),
        now + _lifetime(found, token or "", kind, now),
        found.refresh_token or "",
    )


def parse_refresh_token(status: int, body: bytes) -> str:
    """Return the refresh token in a response whose other tokens are of no use; empty without."""
    if status != 200:
        return ""
    try:
        return decode_json(body, _RefreshTokenResponse, MAX_RESPONSE).refresh_token
    except InvalidJson:
        return ""


def _require_jwt(token: str | None, kind: TokenKind) -> str:
    """Return the token if the cloud can verify it; raises BadGateway."""
    try:
        return msgspec.convert(token, Jwt)
    except msgspec.ValidationError:
        name = "access token" if kind == "access_token" else "ID token"
        hint = (
            'Its sysadmin must set an audience, or `token = "id_token"`, for the provider.'
            if kind == "access_token"
            else "Its sysadmin must add openid to the provider's scope."
        )
        raise BadGateway(
            f"The provider gave no {name} that the cloud can verify (a JWT). {hint}"
        ) from None


def _lifetime(found: _TokenResponse, token: str, kind: TokenKind, now: float) -> float:
    """Return for how many seconds the token for the cloud is valid."""
    if kind == "access_token" and found.expires_in is not None:
        return min(found.expires_in, _MAX_LIFETIME)
    expires_at = _claims(token).exp
    lifetime = DEFAULT_LIFETIME if expires_at is None else expires_at - now
    return min(max(lifetime, 0.0), _MAX_LIFETIME)


def _check_id_token(token: str, nonce: str, issuer: str) -> None:
    claims = _claims(token)
    if not compare_digest(claims.nonce.encode(), nonce.encode()):
        raise BadGateway("The provider's ID token is that of another login.")
    if issuer and claims.iss.removesuffix("/") != issuer.removesuffix("/"):
        raise BadGateway("The provider's ID token is that of another issuer.")


def _claims(token: str) -> _Claims:
    try:
        return decode_json(decode_base64url(token.split(".")[1]), _Claims, MAX_RESPONSE)
    except (ValueError, IndexError):  # includes InvalidJson
        return _Claims()

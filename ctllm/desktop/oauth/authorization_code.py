"""The authorization code grant with PKCE (RFC 7636) and a redirect to this machine (RFC 8252)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from hmac import compare_digest
from urllib.parse import parse_qsl, urlencode, urlsplit

from ctllm.auth.jws import encode_base64url
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.oauth.provider import Provider, ProviderMetadata
from ctllm.desktop.oauth.tokens import (
    MAX_ERROR_LENGTH,
    FormRequest,
    GrantRefused,
    OAuthClientId,
    ProviderTokens,
    make_form,
    parse_tokens,
)
from ctllm.errors import BadGateway, BadRequest, CtllmError, NotFound

#: The path of the redirect, which must be registered at the provider with the host 127.0.0.1.
REDIRECT_PATH = "/callback"
#: The longest query of a redirect that is parsed.
MAX_QUERY = 8192
_MAX_FIELDS = 32


@dataclass(frozen=True)
class AuthorizationCodeGrant:
    """One login: its redirect, and the secrets that bind the redirect and the tokens to it."""

    client: OAuthClientId
    provider: Provider
    metadata: ProviderMetadata
    redirect_uri: str
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """The URL at which the user signs in."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        scope = self.provider.scope
        fields = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": scope,
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": encode_base64url(digest),
            "code_challenge_method": "S256",
            "audience": self.provider.audience,
            # OpenID Connect Core, section 11: without it, offline access is not granted.
            "prompt": "consent" if "offline_access" in scope.split() else "",
        }
        given = self.metadata.authorization_endpoint
        query = urlencode({name: value for name, value in fields.items() if value})
        return f"{given}{'&' if urlsplit(given).query else '?'}{query}"

    def token_request(self, code: str) -> FormRequest:
        """Return the request that exchanges `code` for tokens."""
        return make_form(
            self.client,
            self.metadata.token_endpoint,
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.redirect_uri),
            ("code_verifier", self.verifier),
        )

    def parse_tokens(self, status: int, body: bytes, wall_time: float) -> ProviderTokens:
        """Return the tokens of the response to `token_request`; raises as `tokens.parse_tokens`."""
        return parse_tokens(
            status, body, self.provider.token, wall_time,
            nonce=self.nonce, issuer=self.metadata.issuer,
        )  # fmt: skip

    def receive(self, method: str, host: str, target: str) -> str | CtllmError:
        """Return the code in a redirect, or the error with which the provider ended the login.

        Any program of this machine can send requests to the redirect's port. Raises NotFound and
        BadRequest for a request that is not the redirect of this login, which goes on.
        """
        path, _, query = target.partition("?")
        if method != "GET" or path != REDIRECT_PATH or host != urlsplit(self.redirect_uri).netloc:
            raise NotFound("There is nothing here but the end of a login.")
        fields = _parse_query(query)
        if not compare_digest(fields.get("state", "").encode(), self.state.encode()):
            raise BadRequest("This is not the login that ctllm waits for. Run `ctllm login` again.")
        return self._check_issuer(fields) or self._code_of(fields)

    def _check_issuer(self, fields: dict[str, str]) -> CtllmError | None:
        """Return an error for a redirect of another provider (RFC 9207)."""
        given = fields.get("iss", "")
        is_missing = not given and self.metadata.authorization_response_iss_parameter_supported
        issuer = self.metadata.issuer.removesuffix("/")
        if is_missing or (given and given.removesuffix("/") != issuer):
            return BadGateway("The login was completed by another provider. It was not accepted.")
        return None

    def _code_of(self, fields: dict[str, str]) -> str | CtllmError:
        if error := fields.get("error", ""):
            said = sanitize_line(fields.get("error_description") or error, MAX_ERROR_LENGTH)
            what = "was denied" if error == "access_denied" else "failed"
            return GrantRefused(f"The login {what} at the provider: {said}", error[:64])
        code = fields.get("code", "")
        if not code or not code.isascii() or not code.isprintable():
            return BadGateway("The provider gave no code. Run `ctllm login` again.")
        return code


def _parse_query(query: str) -> dict[str, str]:
    """Return the fields of a query; raises BadRequest if it has one twice or is too long."""
    if len(query) > MAX_QUERY:
        raise BadRequest("The redirect is too long.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadRequest("The redirect has too many fields.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("The redirect has a field twice.")
    return fields

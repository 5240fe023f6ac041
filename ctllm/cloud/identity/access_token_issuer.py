"""The built-in issuer of access tokens: signed JWTs (RFC 9068) that are valid for minutes."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import TokenKind, decode_public_key, encode_public_key
from ctllm.auth.session_assertions import ISSUER
from ctllm.cloud.identity.grants import SCOPES, AccessGrant, User
from ctllm.common.json_decoder import InvalidJson, decode_json

ACCESS_TOKEN = TokenKind("ctllm-access+jwt", "access token")
AUDIENCE = "ctllm-cloud"


class AccessTokenClaims(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The claims of an access token. `auth_time` and `sid` are those of OpenID Connect.

    `iss` is always this cloud. `sub_iss` is the issuer within which `sub` is unique: the user's
    OpenID provider, or empty for a built-in user.
    """

    iss: str
    aud: str
    sub: str
    name: str
    scope: str
    iat: int
    exp: int
    jti: str
    auth_time: float | None = None
    sid: str = ""
    parent_sid: str = ""
    sub_iss: str = ""
    tier: str = ""


class AccessTokenIssuer:
    """Issues and verifies access tokens that are valid for `lifetime` seconds.

    `now` returns epoch seconds. `on_issue` is called with each token.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        now: Callable[[], float],
        lifetime: int = 600,
        on_issue: Callable[[str], None] = lambda token: None,
    ) -> None:
        self._key = key
        self._public_key = decode_public_key(encode_public_key(key))
        self._now = now
        self.lifetime = lifetime
        self._on_issue = on_issue

    def issue(
        self,
        user: User,
        scopes: frozenset[str],
        auth_time: float | None = None,
        session_ids: tuple[str, ...] = (),
        tier: str = "",
    ) -> str:
        """Return an access token; raises ValueError for an unknown scope.

        `auth_time` (now, by default), `session_ids` and `tier` are those of the token's grant.
        """
        if not scopes <= SCOPES:
            raise ValueError("An access token cannot have a scope that does not exist.")
        issued_at = int(self._now())
        sid, parent_sid = (*session_ids, "", "")[:2]
        claims = AccessTokenClaims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=user.subject,
            name=user.name,
            scope=" ".join(sorted(scopes)),
            iat=issued_at,
            exp=issued_at + self.lifetime,
            jti=token_urlsafe(12),
            auth_time=self._now() if auth_time is None else auth_time,
            sid=sid,
            parent_sid=parent_sid,
            sub_iss="" if user.issuer == ISSUER else user.issuer,
            tier=tier,
        )
        token = ACCESS_TOKEN.sign(self._key, msgspec.json.encode(claims))
        self._on_issue(token)
        return token

    def matches(self, token: str) -> bool:
        """Return whether `token` has the type of an access token of a ctllm cloud."""
        return ACCESS_TOKEN.matches(token)

    async def verify(self, token: str) -> AccessGrant:
        """Return what `token` grants; raises Unauthorized."""
        try:
            claims = decode_json(ACCESS_TOKEN.verify(self._public_key, token), AccessTokenClaims)
        except InvalidJson as error:
            raise ACCESS_TOKEN.invalid_token() from error
        scopes = frozenset(claims.scope.split())
        is_ours = claims.iss == ISSUER and claims.aud == AUDIENCE
        # A built-in user has one form only, and no issuer can make two users have one id.
        is_canonical = claims.sub_iss != ISSUER and "|" not in claims.sub_iss
        if not is_ours or not is_canonical or not claims.sub or not scopes <= SCOPES:
            raise ACCESS_TOKEN.invalid_token()
        ACCESS_TOKEN.check_times(claims.iat, claims.exp, self._now())
        return AccessGrant(
            User(claims.sub_iss or ISSUER, claims.sub, claims.name),
            scopes,
            expires_at=claims.exp,
            auth_time=claims.iat if claims.auth_time is None else claims.auth_time,
            session_ids=tuple(filter(None, (claims.sid, claims.parent_sid))),
            tier=claims.tier,
        )

"""The built-in issuer, for those who have no identity provider: short-lived access tokens."""

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
    """The JSON inside an access token. `auth_time` and `sid` are as in OpenID Connect."""

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


class AccessTokenIssuer:
    """An Identity that makes its own tokens, good for `token_seconds`; `now` is epoch seconds."""

    def __init__(
        self, key: Ed25519PrivateKey, now: Callable[[], float], lifetime: int = 600
    ) -> None:
        self._key = key
        self._public = decode_public_key(encode_public_key(key))
        self._now = now
        self.lifetime = lifetime

    def issue(
        self,
        user: User,
        scopes: frozenset[str],
        auth_time: float | None = None,
        session_ids: tuple[str, ...] = (),
    ) -> str:
        """Give an access token; ValueError if `user` is another issuer's or a scope unknown.

        `auth_time` (by default now) and `sessions` are those of the grant that it stands for.
        """
        if user.issuer != ISSUER or not scopes <= SCOPES:
            raise ValueError("not a user or a scope of the built-in issuer")
        issued = int(self._now())
        sid, parent_sid = (*session_ids, "", "")[:2]
        body = AccessTokenClaims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=user.subject,
            name=user.name,
            scope=" ".join(sorted(scopes)),
            iat=issued,
            exp=issued + self.lifetime,
            jti=token_urlsafe(12),
            auth_time=self._now() if auth_time is None else auth_time,
            sid=sid,
            parent_sid=parent_sid,
        )
        return ACCESS_TOKEN.sign(self._key, msgspec.json.encode(body))

    def matches(self, token: str) -> bool:
        """Whether `token` calls itself an access token of a ctllm cloud."""
        return ACCESS_TOKEN.matches(token)

    async def verify(self, token: str) -> AccessGrant:
        """Give what `token` grants; Unauthenticated if it is not ours, too old or too new."""
        return self._read(token)

    def _read(self, token: str) -> AccessGrant:
        try:
            body = decode_json(ACCESS_TOKEN.verify(self._public, token), AccessTokenClaims)
        except InvalidJson as error:
            raise ACCESS_TOKEN.invalid_token() from error
        scopes = frozenset(body.scope.split())
        if body.iss != ISSUER or body.aud != AUDIENCE or not body.sub or not scopes <= SCOPES:
            raise ACCESS_TOKEN.invalid_token()
        ACCESS_TOKEN.check_times(body.iat, body.exp, self._now())
        auth_time = body.iat if body.auth_time is None else body.auth_time
        sessions = tuple(filter(None, (body.sid, body.parent_sid)))
        return AccessGrant(User(ISSUER, body.sub, body.name), scopes, body.exp, auth_time, sessions)

"""The endpoints that create sessions, renew access tokens, and log out.

A browser has its refresh token in a cookie that scripts cannot read, a desktop in a file. A refresh
token is never part of a URL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.auth.session_assertions import ISSUER
from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.identity import (
    CONVERSATIONS,
    SERVE,
    AccessGrant,
    AccessTokenIssuer,
    Authentication,
    ClientType,
    Invites,
    KnownUsers,
    LoginCodes,
    ProviderProof,
    Session,
    Sessions,
    User,
    session_id_of,
)
from ctllm.cloud.identity.login_codes import LIFETIME, PAIRING_LIFETIME
from ctllm.cloud.limits.sessions import SessionLimits
from ctllm.cloud.session_renewer import SessionRenewer, UserAccess
from ctllm.errors import CtllmError, Forbidden, NoCredentials
from ctllm.http.cookies import CookieKind
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.same_site import is_from_other_site
from ctllm.http.server.json_body import decode_json_body
from ctllm.http.server.request import ServerRequest

REFRESH_HEADER = b"ctllm-refresh"

#: What a client of the wrong kind is told that logs in with a login code.
_WRONG_CLIENT: Mapping[ClientType, str] = MappingProxyType(
    {
        "browser": "This link logs in a browser only. To log in a desktop, create an invite with "
        "`ctllm invite` on the server.",
        "desktop": "This link logs in a desktop only. Run `ctllm login` on the machine with "
        "Ollama, and paste the link there.",
    }
)
#: The secret of an invite or a login code.
Secret = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$", max_length=43)]


#: A token of an OpenID provider.
ProviderToken = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._~+/-]+=*\Z", min_length=1, max_length=MAX_TOKEN_SIZE)
]


class CreateSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to redeem an invite or a login code, or a provider token of a desktop.

    `client` is what logs in.
    """

    client: Literal["browser", "desktop"]
    invite: Secret | msgspec.UnsetType = msgspec.UNSET
    provider_token: ProviderToken | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        """Refuse both or neither; msgspec turns a ValueError into a ValidationError."""
        if (self.invite is msgspec.UNSET) == (self.provider_token is msgspec.UNSET):
            raise ValueError("either an invite or a provider token is needed")
        if self.provider_token is not msgspec.UNSET and self.client != "desktop":
            raise ValueError("a browser logs in with a provider at /ctllm/login")


class IntrospectInvite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to describe an invite or a login code without redeeming it."""

    invite: Secret


class RenewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request for an access token. `scope` restricts the token to that scope.

    A desktop sends its refresh token in `refresh`, a browser in its cookie. If a provider
    authenticated the desktop, it sends a fresh `provider_token` when the last one has expired.
    """

    refresh: (
        Annotated[str, Meta(pattern="^ctllm-r-[A-Za-z0-9_-]{43}$", max_length=51)]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    scope: Literal["use"] | msgspec.UnsetType = msgspec.UNSET
    provider_token: ProviderToken | msgspec.UnsetType = msgspec.UNSET


class AccessControl(UserAccess, Protocol):
    """What ends access before it expires. Implemented by AccessEnforcer."""

    def apply_new(self) -> None:
        """Enforce what other processes have changed."""


class SessionApi:
    """The handlers of `/ctllm/session` and the paths below it.

    `url` is the public URL of the cloud. `provider_names` are the names of OpenID providers, by the
    issuers of their users.
    """

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        invites: Invites,
        login_codes: LoginCodes,
        sessions: Sessions,
        renewer: SessionRenewer,
        access: AccessControl,
        known_users: KnownUsers,
        audit: AuditLog,
        limits: SessionLimits,
        now: Callable[[], float],
        session_days: int,
        url: str,
        provider_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._issuer = issuer
        self._invites = invites
        self._login_codes = login_codes
        self._sessions = sessions
        self._renewer = renewer
        self._access = access
        self._known_users = known_users
        self._audit = audit
        self._limits = limits
        self._provider_names = provider_names
        self._now = now
        self._url = url
        self._cookie_max_age = session_days * 24 * 3600
        self._cookie = CookieKind(b"ctllm-session", b"/ctllm/session", url.startswith("https:"))

    async def create_session(self, request: ServerRequest, body: bytes) -> None:
        """Redeem an invite, a login code or a provider token; respond with an access token.

        A browser gets its refresh token as a cookie. The session of the cookie that it sent ends.
        """
        parameters = decode_json_body(body, CreateSession)
        _require_same_site(request.head)
        if parameters.provider_token is not msgspec.UNSET:
            self._limits.admit_token(request, parameters.provider_token)
            authentication, proof = await self._renewer.verify_desktop(parameters.provider_token)
            refresh_token = self._start_session(authentication, "desktop", proof)
            method = self._provider_names.get(authentication.user.issuer, "provider")
        else:
            assert parameters.invite is not msgspec.UNSET
            refresh_token, method = self._redeem(parameters.invite, parameters.client)
        session = self._sessions.read(refresh_token)
        self._record(request, "session.created", session, method)
        token = self._issue_token(refresh_token, session)
        if parameters.client == "desktop":
            request.respond(201, {**token, "refresh": refresh_token})
        else:
            request.respond(201, token, self._replace_cookie(request.head, refresh_token))

    def create_browser_session(
        self, head: RequestHead, grant: AccessGrant, sealed_refresh: str, ask_at: float = 0.0
    ) -> Headers:
        """Create the session of a browser that an OpenID provider authenticated.

        `grant` is that of the provider's token, `sealed_refresh` and `ask_at` as in ProviderProof.
        Returns the header with the session's cookie. The session of the cookie in `head`, which
        must be of this site or a redirection by the provider, ends. Raises Unauthorized or
        UserDisabled.
        """
        authentication = Authentication(grant.user, grant.auth_time, tier=grant.tier)
        proof = ProviderProof(grant.expires_at, sealed_refresh, ask_at)
        return self._replace_cookie(head, self._start_session(authentication, "browser", proof))

    def _start_session(
        self,
        authentication: Authentication,
        client: ClientType,
        proof: ProviderProof | None = None,
    ) -> str:
        """Create a session and return its refresh token.

        Raises Unauthorized, UserDisabled or RateLimited.
        """
        # A new session must not share a proxy with sessions that were just revoked.
        self._access.apply_new()
        self._access.check_user(authentication.user, authentication.auth_time)
        self._limits.admit_credential(authentication.user)
        refresh_token = self._sessions.create(authentication, client, proof)
        self._known_users.record(authentication.user, is_sign_in=True)
        if proof is not None:
            self._known_users.confirm(authentication.user)
        return refresh_token

    def _redeem(self, secret: str, client: ClientType) -> tuple[str, str]:
        """Create a session; return its refresh token, and what was redeemed for the audit log.

        The secret remains valid if the session cannot be stored.
        """
        wanted = self._login_codes.client_of(secret)
        if wanted is not None and wanted != client:
            raise Forbidden(_WRONG_CLIENT[wanted])
        authentication = self._verify_invite(secret)
        if client == "desktop":  # it stays logged in when the browser that paired it logs out
            authentication = replace(authentication, parent_session_id="")
        refresh_token = self._start_session(authentication, client)
        try:
            if self._login_codes.redeem(secret) is not None:
                return refresh_token, "login_code" if client == "browser" else "pairing"
            self._invites.redeem(secret)
        except CtllmError:  # redeemed by another request, or its file cannot be removed
            self._sessions.close(refresh_token)
            raise
        return refresh_token, "invite"

    def _verify_invite(self, secret: str) -> Authentication:
        """Verify an invite or a login code without redeeming it; raises Unauthorized."""
        authentication = self._login_codes.verify(secret) or self._invites.verify(secret)
        self._access.apply_new()
        self._access.check_user(authentication.user, authentication.auth_time)
        if authentication.parent_session_id:
            self._sessions.check_active_with_parent(authentication.parent_session_id)
        return authentication

    def introspect_invite(self, request: ServerRequest, body: bytes) -> None:
        """Respond with the user of an invite, as RFC 7662 does for tokens. Do not redeem it."""
        parameters = decode_json_body(body, IntrospectInvite)
        _require_same_site(request.head)
        user = self._verify_invite(parameters.invite).user
        request.respond(200, {"user": _user_json(user)})

    def create_login_code(self, request: ServerRequest, grant: AccessGrant) -> None:
        """Create a login code, with which a desktop logs in its user's browser, once.

        The browser's session ends with the session of the desktop.
        """
        grant.require_scope(SERVE)  # scripts in a browser must not create further sessions
        parent = grant.session_ids[0] if grant.session_ids else ""
        code = self._login_codes.create(
            Authentication(grant.user, grant.auth_time, parent, grant.tier)
        )
        request.respond(201, {"invite": code, "expires_in": int(LIFETIME)})

    def create_pairing(self, request: ServerRequest, grant: AccessGrant) -> None:
        """Respond with the command that logs in a desktop of the same user, once.

        Where an OpenID provider authenticates the user, it also has to authenticate the desktop.
        """
        require_browser_session(grant)
        if grant.user.issuer != ISSUER:
            request.respond(201, {"command": f"ctllm login {self._url}", "expires_in": None})
            return
        self._limits.admit_credential(grant.user)
        code = self._login_codes.create(
            Authentication(grant.user, grant.auth_time, grant.session_ids[0], grant.tier),
            "desktop",
            PAIRING_LIFETIME,
        )
        self._audit.record_identity(
            "pairing.created", grant.user.id, address=request.client_address
        )
        command = f"ctllm login {self._url}/#invite={code}"
        request.respond(201, {"command": command, "expires_in": int(PAIRING_LIFETIME)})

    async def renew_token(self, request: ServerRequest, body: bytes) -> None:
        """Renew the session; respond with an access token."""
        parameters = decode_json_body(body, RenewToken)
        refresh_token, scope = parameters.refresh, parameters.scope
        if refresh_token is not msgspec.UNSET:
            token = parameters.provider_token
            provider_token = None if token is msgspec.UNSET else token
            session = await self._renewer.renew(refresh_token, "desktop", provider_token)
            self._limits.admit_renewal(session.user)
            request.respond(200, self._issue_token(refresh_token, session, scope))
            return
        _require_same_site(request.head)
        cookie = self._cookie.read(request.head)
        if cookie is None:
            raise NoCredentials("You are not logged in. Open an invite link to log in.")
        session = await self._renewer.renew(cookie, "browser")
        self._limits.admit_renewal(session.user)
        set_cookie = self._cookie.set(cookie.encode(), self._cookie_max_age)
        request.respond(200, self._issue_token(cookie, session, scope), set_cookie)

    def delete_session(self, request: ServerRequest) -> None:
        """End the session of the `Ctllm-Refresh` header or of the cookie, if there is one."""
        _require_same_site(request.head)
        header = get_header(request.head.headers, REFRESH_HEADER)
        refresh_token = header.decode("latin-1") if header else self._cookie.read(request.head)
        session = self._renewer.close(refresh_token) if refresh_token is not None else None
        if session is not None:
            self._record(request, "session.closed", session)
        request.respond(204, None, self._cookie.set(b"", 0))

    def _record(
        self, request: ServerRequest, event: IdentityEvent, session: Session, method: str = ""
    ) -> None:
        self._audit.record_identity(
            event, session.user.id, address=request.client_address, method=method
        )

    def get_session(self, request: ServerRequest, grant: AccessGrant) -> None:
        """Respond with the user, the scopes and the remaining time of `grant`."""
        request.respond(
            200,
            {
                "user": _user_json(grant.user),
                "scopes": sorted(grant.scopes),
                "expires_in": max(0, int(grant.expires_at - self._now())),
            },
        )

    def _issue_token(
        self,
        refresh_token: str,
        session: Session,
        scope: str | msgspec.UnsetType = msgspec.UNSET,
    ) -> dict[str, object]:
        """Return the JSON of a new access token.

        The token has the scopes of the session, restricted to `scope` if that is set.
        """
        scopes = session.scopes if scope is msgspec.UNSET else session.scopes & {scope}
        session_ids = (session_id_of(refresh_token), session.parent)
        token = self._issuer.issue(
            session.user, scopes, session.auth_time, session_ids, session.tier
        )
        return {
            "user": _user_json(session.user),
            "token": token,
            "expires_in": self._issuer.lifetime,
        }

    def _replace_cookie(self, head: RequestHead, refresh_token: str) -> Headers:
        """End the session of the cookie in `head` and return the header with the new cookie."""
        previous = self._cookie.read(head)
        if previous is not None:
            self._renewer.close(previous)
        return self._cookie.set(refresh_token.encode(), self._cookie_max_age)


def require_browser_session(grant: AccessGrant) -> None:
    """Raise Forbidden unless `grant` is that of a browser in which a person has signed in."""
    if CONVERSATIONS not in grant.scopes or not grant.session_ids:
        raise Forbidden("Only a browser in which you have signed in may do that.")


def _user_json(user: User) -> dict[str, str]:
    return {"name": user.name, "id": user.id}


def _require_same_site(head: RequestHead) -> None:
    """Raise Forbidden for a request that a page of another site makes."""
    if is_from_other_site(head):
        raise Forbidden("Pages of other sites may not log in here.")

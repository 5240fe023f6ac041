"""Signing in with an invitation or a pass, staying signed in, signing out.

A browser keeps what renews its tokens in a cookie that no script can read; a desktop keeps it in
a file. Either way it never travels in a URL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.cloud.identity import (
    SERVE,
    AccessGrant,
    AccessTokenIssuer,
    Authentication,
    ClientType,
    Invites,
    LoginCodes,
    Revocations,
    Sessions,
    User,
    session_id_of,
)
from ctllm.cloud.identity.login_codes import LIFETIME
from ctllm.errors import CtllmError, Forbidden, Unauthorized
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.server.json_body import decode_json_body
from ctllm.http.server.request import ServerRequest

#: The cookie's name where people come by https. With this prefix (RFC 6265bis, 4.1.3.2) browsers
#: take it from this host alone, by https, for all paths: no other host or answer can set another.
HTTPS_COOKIE = b"__Host-ctllm-session"
#: Where they come by http, for which browsers do not take the other name.
HTTP_COOKIE = b"ctllm-session"
REFRESH_HEADER = b"ctllm-refresh"


class CreateSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation, and what signs in with it."""

    invite: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$", max_length=43)]
    client: Literal["browser", "desktop"]


class IntrospectInvite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation that is not to be spent."""

    invite: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$", max_length=43)]


class RenewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What renews; a browser's is in its cookie instead. `scope` narrows the token to it."""

    refresh: (
        Annotated[str, Meta(pattern="^ctllm-r-[A-Za-z0-9_-]{43}$", max_length=51)]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    scope: Literal["use"] | msgspec.UnsetType = msgspec.UNSET


class SessionApi:
    """The sign-in calls. `secure` says whether people reach the cloud by https."""

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        invites: Invites,
        login_codes: LoginCodes,
        sessions: Sessions,
        revocations: Revocations,
        apply_revocations: Callable[[], None],
        now: Callable[[], float],
        session_days: int,
    ) -> None:
        self._issuer = issuer
        self._invites = invites
        self._login_codes = login_codes
        self._sessions = sessions
        self._revocations = revocations
        self._apply_revocations = apply_revocations
        self._now = now
        self._cookie_seconds = session_days * 24 * 3600
        self.secure = False

    def create_session(self, incoming: ServerRequest, raw: bytes) -> None:
        """Turn an invitation into a session and a first token.

        The session that a browser had before ends: its cookie makes room for the new one.
        """
        asked = decode_json_body(raw, CreateSession)
        _require_same_site(incoming.head)
        refresh = self._redeem(asked)
        told = self._issue_token(refresh, asked.client)
        if asked.client == "desktop":
            incoming.respond(201, {**told, "refresh": refresh})
            return
        before = self._session_cookie(incoming.head)
        if before is not None:
            self._sessions.close(before)
        incoming.respond(201, told, self._set_cookie(refresh.encode(), self._cookie_seconds))

    def _redeem(self, asked: CreateSession) -> str:
        """Spend the invitation for a session; where that cannot be kept, it is not spent."""
        if self._login_codes.verify(asked.invite) is not None and asked.client != "browser":
            raise Forbidden(
                "This link signs a browser in and nothing else. A desktop needs one that "
                "`ctllm invite` prints on the server."
            )
        refresh = self._sessions.create(self._verify_invite(asked.invite), asked.client)
        try:
            if self._login_codes.redeem(asked.invite) is None:
                self._invites.redeem(asked.invite)
        except CtllmError:  # another was quicker, or it could not be removed
            self._sessions.close(refresh)
            raise
        return refresh

    def _verify_invite(self, secret: str) -> Authentication:
        """Give whom a pass or an invitation signs in, unspent; Unauthenticated if nobody."""
        # Who signs in anew must not meet anything of what was revoked a moment ago.
        self._apply_revocations()
        found = self._login_codes.verify(secret) or self._invites.verify(secret)
        self._revocations.check(found.user, found.auth_time)
        if found.parent_session_id:
            self._sessions.check_active((found.parent_session_id,))
        return found

    def introspect_invite(self, incoming: ServerRequest, raw: bytes) -> None:
        """Say whom an invitation would sign in, and spend nothing (as RFC 7662 does of tokens)."""
        asked = decode_json_body(raw, IntrospectInvite)
        _require_same_site(incoming.head)
        incoming.respond(200, {"user": _user_json(self._verify_invite(asked.invite).user)})

    def create_login_code(self, incoming: ServerRequest, grant: AccessGrant) -> None:
        """Give a desktop what signs its user's browser in, once.

        The browser's sign-in belongs to the desktop's, and ends with it.
        """
        grant.require_scope(SERVE)  # what a page can read does not make sign-ins that last
        parent = grant.session_ids[0] if grant.session_ids else ""
        made = self._login_codes.create(Authentication(grant.user, grant.auth_time, parent))
        incoming.respond(201, {"invite": made, "expires_in": int(LIFETIME)})

    def renew_token(self, incoming: ServerRequest, raw: bytes) -> None:
        """Give another short token."""
        asked = decode_json_body(raw, RenewToken)
        refresh, only = asked.refresh, asked.scope
        if refresh is not msgspec.UNSET:
            incoming.respond(200, self._issue_token(refresh, "desktop", only))
            return
        _require_same_site(incoming.head)
        kept = self._session_cookie(incoming.head)
        if kept is None:
            raise Unauthorized("nobody is signed in here; open a sign-in link")
        told = self._issue_token(kept, "browser", only)
        incoming.respond(200, told, self._set_cookie(kept.encode(), self._cookie_seconds))

    def delete_session(self, incoming: ServerRequest) -> None:
        """End the session of the cookie or of the `Ctllm-Refresh` header, if there is one."""
        _require_same_site(incoming.head)
        header = get_header(incoming.head.headers, REFRESH_HEADER)
        refresh = header.decode("latin-1") if header else self._session_cookie(incoming.head)
        if refresh is not None:
            self._sessions.close(refresh)
        incoming.respond(204, None, self._set_cookie(b"", 0))

    def get_session(self, incoming: ServerRequest, grant: AccessGrant) -> None:
        """Say who is signed in."""
        told = {
            "user": _user_json(grant.user),
            "scopes": sorted(grant.scopes),
            "expires_in": max(0, int(grant.expires_at - self._now())),
        }
        incoming.respond(200, told)

    def _issue_token(
        self, refresh: str, client: ClientType, only: str | msgspec.UnsetType = msgspec.UNSET
    ) -> dict[str, object]:
        """Renew a session, and give a token of it; Unauthenticated if it is over.

        What renews it works only in the form that this kind of client keeps: a cookie or a body.
        The token has the scopes of the session, or of them with `only` that one.
        """
        session = self._sessions.renew(refresh)
        if session.client != client:
            raise Unauthorized(f"This sign-in is not a {client}'s: sign in again.")
        self._revocations.check(session.user, session.auth_time)
        scopes = session.scopes if only is msgspec.UNSET else session.scopes & {only}
        sessions = (session_id_of(refresh), session.parent)
        return {
            "user": _user_json(session.user),
            "token": self._issuer.issue(session.user, scopes, session.auth_time, sessions),
            "expires_in": self._issuer.lifetime,
        }

    def _set_cookie(self, value: bytes, seconds: int) -> Headers:
        where = b"/; Secure" if self.secure else b"/ctllm/session"
        cookie = b"%s=%s; Path=%s; HttpOnly; SameSite=Strict; Max-Age=%d" % (
            self._cookie_name, value, where, seconds,
        )  # fmt: skip
        return ((b"Set-Cookie", cookie),)

    @property
    def _cookie_name(self) -> bytes:
        return HTTPS_COOKIE if self.secure else HTTP_COOKIE

    def _session_cookie(self, asked: RequestHead) -> str | None:
        """Give the session's cookie. Of two, one was set by somebody else: then none counts."""
        pairs = [
            pair.strip().partition(b"=")
            for key, value in asked.headers
            if key.lower() == b"cookie"
            for pair in value.split(b";")
        ]
        values = [value for name, _, value in pairs if name == self._cookie_name and value]
        return values[0].decode("latin-1") if len(values) == 1 else None


def _user_json(user: User) -> dict[str, str]:
    return {"name": user.name, "id": user.id}


def _require_same_site(asked: RequestHead) -> None:
    """Raise Forbidden when a page of another site is behind this: cookies are not for it."""
    origin = get_header(asked.headers, b"origin")
    host = get_header(asked.headers, b"host") or b""
    foreign = origin is not None and origin.partition(b"://")[2].lower() != host.lower()
    site = get_header(
        asked.headers, b"sec-fetch-site"
    )  # Fetch Metadata Request Headers, section 2.4
    if foreign or site not in (None, b"same-origin", b"none"):
        raise Forbidden("pages of other sites may not sign in here")

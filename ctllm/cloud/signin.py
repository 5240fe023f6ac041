"""Signing in with an invitation, staying signed in, signing out.

A browser keeps what renews its tokens in a cookie that no script can read; a desktop keeps it in
a file. Either way it never travels in a URL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.cloud.identity import SERVE, Grant, Invites, Issuer, Passes, Session, Sessions, User
from ctllm.cloud.identity.passes import LIFE
from ctllm.errors import CtllmError, Forbidden, Unauthenticated
from ctllm.http.bodies import decoded
from ctllm.http.incoming import Incoming
from ctllm.wire.heads import Headers, RequestHead, first

COOKIE = b"ctllm-session"
REFRESH = b"ctllm-refresh"


class Redeem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation, and what signs in with it."""

    invite: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$", max_length=43)]
    client: Literal["browser", "desktop"]


class Renew(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What renews; a browser's is in its cookie instead. `scope` narrows the token to it."""

    refresh: (
        Annotated[str, Meta(pattern="^ctllm-r-[A-Za-z0-9_-]{43}$", max_length=51)]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    scope: Literal["use"] | msgspec.UnsetType = msgspec.UNSET


class SignIn:
    """The sign-in calls. `secure` says whether people reach the cloud by https."""

    def __init__(
        self,
        issuer: Issuer,
        invites: Invites,
        passes: Passes,
        sessions: Sessions,
        now: Callable[[], float],
        days: int,
    ) -> None:
        self._issuer = issuer
        self._invites = invites
        self._passes = passes
        self._sessions = sessions
        self._now = now
        self._cookie_seconds = days * 24 * 3600
        self.secure = False

    def redeem(self, incoming: Incoming, raw: bytes) -> None:
        """Turn an invitation into a session and a first token."""
        asked = decoded(raw, Redeem)
        _same_site(incoming.asked)
        refresh = self._opened(asked)
        session = self._sessions.renew(refresh)
        told = self._token(session)
        if asked.client == "desktop":
            incoming.reply(201, {**told, "refresh": refresh})
        else:
            incoming.reply(201, told, self._cookie(refresh.encode(), self._cookie_seconds))

    def _opened(self, asked: Redeem) -> str:
        """Spend the invitation for a session; where that cannot be kept, it is not spent."""
        user = self._passes.redeem(asked.invite)
        if user is not None:
            return self._sessions.open(user, asked.client)
        refresh = self._sessions.open(self._invites.user(asked.invite), asked.client)
        try:
            self._invites.redeem(asked.invite)
        except CtllmError:  # another was quicker, or it could not be removed
            self._sessions.close(refresh)
            raise
        return refresh

    def invite(self, incoming: Incoming, grant: Grant) -> None:
        """Give a desktop what signs its user's browser in, once."""
        grant.require(SERVE)  # what a page can read does not make sign-ins that last
        incoming.reply(201, {"invite": self._passes.create(grant.user), "expires_in": int(LIFE)})

    def renew(self, incoming: Incoming, raw: bytes) -> None:
        """Give another short token."""
        asked = decoded(raw, Renew)
        refresh, only = asked.refresh, asked.scope
        if refresh is not msgspec.UNSET:
            incoming.reply(200, self._token(self._sessions.renew(refresh), only))
            return
        _same_site(incoming.asked)
        kept = _cookie_of(incoming.asked)
        if kept is None:
            raise Unauthenticated("nobody is signed in here; open a sign-in link")
        told = self._token(self._sessions.renew(kept), only)
        incoming.reply(200, told, self._cookie(kept.encode(), self._cookie_seconds))

    def sign_out(self, incoming: Incoming) -> None:
        """End the session of the cookie or of the `Ctllm-Refresh` header, if there is one."""
        _same_site(incoming.asked)
        header = first(incoming.asked.headers, REFRESH)
        refresh = header.decode("latin-1") if header else _cookie_of(incoming.asked)
        if refresh is not None:
            self._sessions.close(refresh)
        incoming.reply(204, None, self._cookie(b"", 0))

    def who(self, incoming: Incoming, grant: Grant) -> None:
        """Say who is signed in."""
        told = {
            "user": _user(grant.user),
            "scopes": sorted(grant.scopes),
            "expires_in": max(0, int(grant.expires - self._now())),
        }
        incoming.reply(200, told)

    def _token(
        self, session: Session, only: str | msgspec.UnsetType = msgspec.UNSET
    ) -> dict[str, object]:
        """An access token with the scopes of `session`, or of them with `only` that one."""
        scopes = session.scopes if only is msgspec.UNSET else session.scopes & {only}
        return {
            "user": _user(session.user),
            "token": self._issuer.issue(session.user, scopes),
            "expires_in": self._issuer.token_seconds,
        }

    def _cookie(self, value: bytes, seconds: int) -> Headers:
        secure = b"; Secure" if self.secure else b""
        cookie = b"%s=%s; Path=/ctllm/session; HttpOnly; SameSite=Strict; Max-Age=%d%s" % (
            COOKIE, value, seconds, secure,
        )  # fmt: skip
        return ((b"Set-Cookie", cookie),)


def _user(user: User) -> dict[str, str]:
    return {"name": user.name, "id": user.key}


def _cookie_of(asked: RequestHead) -> str | None:
    for pair in (first(asked.headers, b"cookie") or b"").split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name == COOKIE and value:
            return value.decode("latin-1")
    return None


def _same_site(asked: RequestHead) -> None:
    """Raise Forbidden when a page of another site is behind this: cookies are not for it."""
    origin = first(asked.headers, b"origin")
    host = first(asked.headers, b"host") or b""
    if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
        raise Forbidden("pages of other sites may not sign in here")

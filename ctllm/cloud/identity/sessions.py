"""Sessions: a refresh token for each browser or desktop that signed in, kept as its hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from secrets import token_urlsafe
from types import MappingProxyType
from typing import Literal

from ctllm.auth.session_assertions import MANAGE, SERVE, USE
from ctllm.cloud.identity.grants import Authentication, User
from ctllm.cloud.identity.hashed_store import HashedStore, entry_id_of
from ctllm.errors import Unauthorized
from ctllm.system.private_dir import PrivateDirectory

PREFIX = "ctllm-r-"
ClientType = Literal["browser", "desktop"]

CLIENT_SCOPES: Mapping[ClientType, frozenset[str]] = MappingProxyType(
    {"browser": frozenset({USE, MANAGE}), "desktop": frozenset({USE, MANAGE, SERVE})}
)

_DAY = 86400.0
_RENEWAL_STEP = 3600.0
"""A session slides in steps of an hour: else every renewal would wait for the disk."""


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in of one client; times in epoch seconds.

    `auth_time` and `parent` are as in `Authentication`.
    """

    user: User
    client: ClientType
    scopes: frozenset[str]
    created: float
    expires: float
    auth_time: float = 0.0
    parent: str = ""


class Sessions:
    """The sessions in `folder`, each good for `days` after it was last renewed; `now` epoch s."""

    def __init__(
        self, folder: PrivateDirectory, now: Callable[[], float], days: float = 30
    ) -> None:
        self._store = HashedStore(folder, Session)
        self._now = now
        self._lifetime = days * _DAY

    def create(self, authentication: Authentication, client: ClientType) -> str:
        """Give a refresh token for a new session; it is kept nowhere here."""
        refresh = PREFIX + token_urlsafe(32)
        now = self._now()
        session = Session(
            authentication.user, client, CLIENT_SCOPES[client], now, now + self._lifetime,
            authentication.auth_time, authentication.parent_session_id,
        )  # fmt: skip
        self._store.put(refresh, session)
        return refresh

    def renew(self, refresh_token: str) -> Session:
        """Give the session behind `refresh`, its end put off; Unauthenticated if it is over."""
        session = self._store.get(refresh_token)
        if session is None or not self._is_active(session):
            raise _logged_out_error()
        slid = replace(session, expires=self._now() + self._lifetime)
        if slid.expires < session.expires + _RENEWAL_STEP:
            return session
        if not self._store.update(refresh_token, slid):
            raise _logged_out_error()  # it was ended between our reading and our writing
        return slid

    def _is_active(self, session: Session) -> bool:
        """Whether neither `session` nor the one that vouched for it is over."""
        if self._now() >= session.expires:
            return False
        if not session.parent:
            return True
        parent = self._store.get_by_id(session.parent)
        return parent is not None and self._now() < parent.expires

    def check_active(self, session_ids: Iterable[str]) -> None:
        """Raise Unauthenticated unless there are all of these, by `session_id`."""
        if not all(map(self._store.contains_id, session_ids)):
            raise _logged_out_error()

    def close(self, refresh_token: str) -> None:
        """End the session behind `refresh`, if there is one."""
        self._store.remove(refresh_token)

    def close_all(self, user: User) -> int:
        """End every session of `user`; give how many."""
        return self._store.remove_where(
            lambda session: session is not None and session.user.id == user.id
        )

    def remove_expired(self) -> int:
        """Remove sessions that are over or damaged; give how many."""
        return self._store.remove_where(
            lambda session: session is None or not self._is_active(session)
        )


def session_id_of(refresh_token: str) -> str:
    """Give what a session is known by in tokens; nobody can renew it with that."""
    return entry_id_of(refresh_token)


def _logged_out_error() -> Unauthorized:
    return Unauthorized("You are signed out: sign in again.")

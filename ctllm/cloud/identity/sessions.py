"""Sessions: the login of a browser or desktop, renewed with a refresh token (RFC 6749)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_urlsafe
from types import MappingProxyType
from typing import Literal

from ctllm.auth.session_assertions import CONVERSATIONS, MANAGE, SERVE, USE
from ctllm.cloud.identity.grants import Authentication, User
from ctllm.cloud.identity.hashed_store import HashedStore, entry_id_of
from ctllm.errors import Unauthorized
from ctllm.system.directory_monitor import DirectoryMonitor
from ctllm.system.private_dir import PrivateDirectory

PREFIX = "ctllm-r-"
"""The prefix of a refresh token."""

ClientType = Literal["browser", "desktop"]

CLIENT_SCOPES: Mapping[ClientType, frozenset[str]] = MappingProxyType(
    {
        "browser": frozenset({USE, MANAGE, CONVERSATIONS}),
        "desktop": frozenset({USE, MANAGE, SERVE}),
    }
)

MAX_PER_USER = 256
"""Sessions of one user. A further one ends that which was not renewed for longest."""

_DAY = 86400.0
#: A renewal is stored if it extends the session by at least so many seconds. Storing every one
#: would make each renewal wait for the disk.
_RENEWAL_STEP = 3600.0


@dataclass(frozen=True, slots=True)
class ProviderProof:
    """What the user's OpenID provider confirmed last, valid until `expires_at` (epoch seconds).

    A browser's session asks the provider again from `ask_at`, or shortly before `expires_at` if
    that is 0.
    `sealed_refresh` is the provider's refresh token of a browser's session, encrypted by whoever
    renews it. A desktop keeps its own.
    """

    expires_at: float
    sealed_refresh: str = field(default="", repr=False)
    ask_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """The stored part of a session. Field names are the JSON keys; times are epoch seconds.

    `parent` is the id of the session that created this one with a login code, if any. `tier` is the
    name of the user's limits. `proof` is None unless an OpenID provider authenticated the session.
    """

    user: User
    client: ClientType
    scopes: frozenset[str]
    created: float
    expires: float
    auth_time: float = 0.0
    parent: str = ""
    tier: str = ""
    proof: ProviderProof | None = None


class Sessions:
    """The sessions in `directory`. Each expires `days` after its last renewal.

    `now` returns epoch seconds. Only hashes of refresh tokens are stored.
    """

    def __init__(
        self, directory: PrivateDirectory, now: Callable[[], float], days: float = 30
    ) -> None:
        self._store = HashedStore(directory, Session)
        self._monitor = DirectoryMonitor(directory)
        self._stored_ids: frozenset[str] = frozenset()  # as of the last `find_ended`
        self._expiries: dict[str, float] = {}  # of sessions that were used, by id
        self._renewals: dict[str, float] = {}
        #: The ids of sessions by the user's id, the least recently renewed first.
        self._of_users: dict[str, dict[str, None]] = {}
        self._now = now
        self._lifetime = days * _DAY

    def create(
        self,
        authentication: Authentication,
        client: ClientType,
        proof: ProviderProof | None = None,
    ) -> str:
        """Create a session and return its refresh token. Ends one of more than MAX_PER_USER.

        `proof` is that of the OpenID provider that authenticated the user, if one did.
        """
        refresh_token = PREFIX + token_urlsafe(32)
        now = self._now()
        session = Session(
            authentication.user,
            client,
            CLIENT_SCOPES[client],
            created=now,
            expires=now + self._lifetime,
            auth_time=authentication.auth_time,
            parent=authentication.parent_session_id,
            tier=authentication.tier,
            proof=proof,
        )
        self._store.put(refresh_token, session)
        self._note_renewal(refresh_token, session)
        self._end_surplus(session.user)
        return refresh_token

    def _end_surplus(self, user: User) -> None:
        of_user = self._of_users[user.id]
        while len(of_user) > MAX_PER_USER:
            session_id = next(iter(of_user))
            del of_user[session_id]
            self._store.remove_id(session_id)

    def read(self, refresh_token: str) -> Session:
        """Return an active session; raises Unauthorized.

        One that a login code created has the tier of the session that created the code.
        """
        session = self._store.get(refresh_token)
        if session is None or not self._is_active(session):
            raise _logged_out_error()
        parent = self.parent_of(session)
        return session if parent is None else replace(session, tier=parent.tier)

    def parent_of(self, session: Session) -> Session | None:
        """Return the session that created `session` with a login code, if there is one."""
        return self._store.get_by_id(session.parent) if session.parent else None

    def renew(self, refresh_token: str, session: Session | None = None) -> Session:
        """Extend a session and return it; raises Unauthorized.

        `session` is what `read` returned, possibly with another user, tier or proof to be stored.
        """
        session = session or self.read(refresh_token)
        known = self._store.get(refresh_token)
        renewed = replace(session, expires=self._now() + self._lifetime)
        is_unchanged = known is not None and replace(renewed, expires=known.expires) == known
        if is_unchanged and renewed.expires < session.expires + _RENEWAL_STEP:
            renewed = session
        elif not self._store.update(refresh_token, renewed):
            raise _logged_out_error()  # the session was closed after it was read
        self._note_renewal(refresh_token, renewed)
        return renewed

    def _note_renewal(self, refresh_token: str, session: Session) -> None:
        session_id = session_id_of(refresh_token)
        self._expiries[session_id] = session.expires
        self._renewals[session_id] = self._now()
        self._add_as_latest(session_id, session.user)

    def _add_as_latest(self, session_id: str, user: User) -> None:
        of_user = self._of_users.setdefault(user.id, {})
        of_user.pop(session_id, None)
        of_user[session_id] = None

    def last_renewal(self, session_id: str) -> float:
        """Return when a session was last renewed since this process started; else 0."""
        return self._renewals.get(session_id, 0.0)

    def _is_active(self, session: Session) -> bool:
        """Return whether neither `session` nor its parent has expired or was closed."""
        if self._now() >= session.expires:
            return False
        if not session.parent:
            return True
        parent = self._store.get_by_id(session.parent)
        return parent is not None and self._now() < parent.expires

    def check_active(self, session_ids: Iterable[str]) -> None:
        """Raise Unauthorized if one of the sessions has expired or was closed."""
        for session_id in session_ids:
            if not self._store.contains_id(session_id) or self._has_expired(session_id):
                raise _logged_out_error()

    def check_active_with_parent(self, session_id: str) -> None:
        """Raise Unauthorized if a session or its parent has expired or was closed."""
        session = self._store.get_by_id(session_id)
        if session is None or not self._is_active(session):
            raise _logged_out_error()

    def _has_expired(self, session_id: str) -> bool:
        """Whether a session has expired. Its file is read once: this process renews it."""
        if session_id not in self._expiries:
            session = self._store.get_by_id(session_id)
            if session is None:
                return True
            self._expiries[session_id] = session.expires
        return self._now() >= self._expiries[session_id]

    def find_ended(self, session_ids: Iterable[str]) -> set[str]:
        """Return those of the sessions that have expired or were closed by any process.

        Cheap: the directory is listed only when it has changed, and no file is read.
        """
        if self._monitor.has_changed():
            self._stored_ids = self._store.list_ids()
            self._monitor.mark_read()
        now, never = self._now(), math.inf
        return {
            session_id
            for session_id in session_ids
            if session_id not in self._stored_ids or now >= self._expiries.get(session_id, never)
        }

    def close(self, refresh_token: str) -> Session | None:
        """Close a session, if there is one with this refresh token, and return it.

        Of several concurrent calls, only one returns it.
        """
        session = self._store.get(refresh_token)
        return session if self._store.remove(refresh_token) else None

    def close_all(self, user: User) -> int:
        """Close every session of `user` and return their number."""
        return self._store.remove_where(
            lambda session: session is not None and session.user.id == user.id
        )

    def remove_expired(self, is_void: Callable[[Session], bool] = lambda session: False) -> int:
        """Remove sessions that are damaged or no longer active, and return their number.

        Those for which `is_void` returns True are removed too.
        """
        removed, stored = 0, dict[str, Session]()
        for session_id, session in self._store.read_all():
            if session is None or not self._is_active(session) or is_void(session):
                removed += self._store.remove_id(session_id)
            else:
                stored[session_id] = session
        for known in (self._expiries, self._renewals):
            for session_id in known.keys() - stored.keys():
                del known[session_id]
        self._of_users.clear()

        def renewed_at(session_id: str) -> float:  # by this process, or by an earlier one
            stored_at = stored[session_id].expires - self._lifetime
            return max(self.last_renewal(session_id), stored_at)

        for session_id in sorted(stored, key=renewed_at):
            self._add_as_latest(session_id, stored[session_id].user)
        return removed

    def list_all(self) -> list[Session]:
        """Return every session that is stored, whoever's it is. Reads every file."""
        return self._store.list_values()


def session_id_of(refresh_token: str) -> str:
    """Return the id of a session, with which it cannot be renewed."""
    return entry_id_of(refresh_token)


def _logged_out_error() -> Unauthorized:
    return Unauthorized("You are logged out. Log in again.")

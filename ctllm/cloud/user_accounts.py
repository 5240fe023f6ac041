"""What the cloud stores of its users, for the commands `ctllm revoke` and `ctllm users`.

The commands change files, and a running cloud notices. What ends access is written first: it holds
even if the rest fails.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ctllm.cloud.audit import AUDIT_FILE, AuditEntry, AuditFile, AuditLog
from ctllm.cloud.identity import (
    ISSUER,
    DisabledUsers,
    Invites,
    KnownUser,
    KnownUsers,
    Machines,
    PrivateDirectory,
    Revocations,
    Session,
    Sessions,
    User,
    load_signing_keys,
    parse_user_name,
    user_hash,
)
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, NotFound

#: The longest line of the audit log that is read, in bytes.
_MAX_AUDIT_LINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class UserAccount:
    """A user and how much there is of the user. Times are epoch seconds, 0 if unknown.

    `sessions` counts those that are signed in.
    """

    user: User
    first_seen: float
    last_seen: float
    sessions: int
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """How many things of a user were removed."""

    sessions: int = 0
    invites: int = 0
    machines: int = 0


class UserAccounts:
    """The users in `state`, the cloud's directory in `state_dir`. `now` returns epoch seconds."""

    def __init__(self, state: PrivateDirectory, now: Callable[[], float] = time.time) -> None:
        secret = load_signing_keys(state).instance_secret
        self._secret = secret
        self._now = now
        self._known = KnownUsers(state.subdirectory("users"), secret, now)
        self._sessions = Sessions(state.subdirectory("sessions"), now)
        self._invites = Invites(state.subdirectory("invites"), now)
        self._machines = Machines(state.subdirectory("machines"), now)
        self._disabled = DisabledUsers(state.subdirectory("disabled-users"), secret, now)
        self._revocations = Revocations(state.subdirectory("revocations"), secret, now)
        self._audit_path = state.path.parent / AUDIT_FILE
        self._audit = AuditLog(state.path.parent, now, self._hash_of)
        self._disabled.read_changes()
        self._revocations.read_changes()

    def _hash_of(self, user_id: str) -> str:
        return user_hash(self._secret, user_id)

    # -- finding users

    def list_all(self) -> list[UserAccount]:
        """Return the users of whom something is stored, by name. Reads every file."""
        known = {each.user.id: each for each in self._known.list_all()}
        stored = self._sessions.list_all()
        active = Counter(each.user.id for each in stored if self._is_active(each))
        accounts = []
        for user in self._all_users(known.values(), stored):
            seen = known.get(user.id)
            accounts.append(
                UserAccount(
                    user,
                    seen.first_seen if seen else 0.0,
                    seen.last_seen if seen else 0.0,
                    active[user.id],
                    self._disabled.is_disabled(self._hash_of(user.id)),
                )
            )
        return sorted(accounts, key=lambda account: (account.user.name.casefold(), account.user.id))

    def _is_active(self, session: Session) -> bool:
        is_revoked = self._revocations.is_revoked(session.user, session.auth_time)
        return self._now() < session.expires and not is_revoked

    def _all_users(self, known: Iterable[KnownUser], sessions: Iterable[Session]) -> list[User]:
        """Return each user of whom something is stored, once."""
        users = [each.user for each in known]
        users += [session.user for session in sessions]
        users += [machine.user for machine in self._machines.list_all()]
        users += [User(ISSUER, invite.name, invite.name) for invite in self._invites.list_all()]
        return list({user.id: user for user in reversed(users)}.values())

    def resolve(self, text: str) -> User:
        """Return the user with this id, name or subject, which may be an e-mail address.

        An id has a bar, and may be that of a user of whom nothing is stored. Raises NotFound, and
        BadRequest with the ids if several users have the name.
        """
        users = self._all_users(self._known.list_all(), self._sessions.list_all())
        if "|" in text:
            return next((user for user in users if user.id == text), None) or _user_of_id(text)
        found = [user for user in users if text.casefold() == user.name.casefold()]
        found += [user for user in users if text == user.subject and user not in found]
        if not found:
            raise NotFound(
                f"No user is called {text}. `ctllm users` lists those who have signed in. For "
                f"another one give the id, such as {ISSUER}|alice or https://login.example|1234."
            )
        if len(found) > 1:
            ids = "\n".join(f"  {user.id}" for user in found)
            raise BadRequest(f"Several users are called {text}. Give the id of one:\n{ids}")
        return found[0]

    # -- ending access

    def revoke(self, user: User) -> Removed:
        """End every session, machine and invite of `user`, who may sign in again."""
        removed = self._end_access(user)
        self._audit.record_identity("user.revoked", user.id)
        return removed

    def _end_access(self, user: User) -> Removed:
        self._revocations.revoke(user)
        return Removed(
            self._sessions.close_all(user),
            self._invites.remove_all(user),
            self._machines.remove_all(user),
        )

    def disable(self, user: User) -> None:
        """Give `user` no access, whatever it presents, until it is enabled."""
        self._disabled.disable(user.id)
        self._audit.record_identity("user.disabled", user.id)

    def enable(self, user: User) -> bool:
        """Let `user` in again. Returns False if the user was not disabled."""
        was_disabled = self._disabled.enable(user.id)
        if was_disabled:
            self._audit.record_identity("user.enabled", user.id)
        return was_disabled

    def forget(self, user: User, wait: Callable[[], None] = lambda: None) -> Removed:
        """End the access of `user` and remove all that is stored of the user.

        `wait` returns when a running cloud has ended the user's access: until then it could store
        something again. A revocation and lines of the audit log remain, under a hash.
        """
        self._revocations.revoke(user)
        wait()
        removed = self._end_access(user)
        self._known.remove(user.id)
        self._audit.record_identity("user.forgotten", user.id)
        return removed

    # -- what is stored

    def export(self, user: User) -> dict[str, Any]:
        """Return all that is stored of `user`, as JSON: no secrets, hashes of secrets or seals."""
        known = self._known.find(user.id)
        mine = [each for each in self._sessions.list_all() if each.user.id == user.id]
        invites = self._invites.list_all() if user.issuer == ISSUER else []
        revoked = self._revocations.not_before(self._hash_of(user.id))
        return {
            "id": user.id,
            "issuer": user.issuer,
            "subject": user.subject,
            "name": user.name,
            "first_seen": format_time(known.first_seen) if known else None,
            "last_seen": format_time(known.last_seen) if known else None,
            "confirmed": format_time(known.confirmed) if known and known.confirmed else None,
            "disabled": self._disabled.is_disabled(self._hash_of(user.id)),
            "revoked_until": format_time(revoked) if revoked > 0 else None,
            "sessions": [_session_json(session) for session in mine],
            "invites": [
                {"created": format_time(invite.created), "expires": format_time(invite.expires)}
                for invite in invites
                if invite.name == user.subject
            ],
            "machines": [
                msgspec.to_builtins(machine) for machine in self._machines.of_user(user).values()
            ],
            "audit": list(self._audit_lines(user)),
        }

    def _audit_lines(self, user: User) -> Iterator[dict[str, Any]]:
        hash_of_user = self._hash_of(user.id)
        for path in AuditFile(self._audit_path).files():
            yield from _read_audit_lines(path, hash_of_user)


def _read_audit_lines(path: Path, hash_of_user: str) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        while line := file.readline(_MAX_AUDIT_LINE):
            try:
                entry = decode_json(line, AuditEntry)
            except InvalidJson:
                continue  # an empty line, or one that a full disk cut off
            if entry.user_hash == hash_of_user:
                yield msgspec.to_builtins(entry)


def _user_of_id(user_id: str) -> User:
    """Return the user with an id of whom nothing is stored; raises BadRequest."""
    issuer, _, subject = user_id.partition("|")
    if issuer == ISSUER:
        subject = parse_user_name(subject)
    try:
        return User(issuer, subject, subject)
    except ValueError as error:
        raise BadRequest(
            f"An id is the issuer, a bar and the subject, such as {ISSUER}|alice."
        ) from error


def _session_json(session: Session) -> dict[str, Any]:
    return {
        "client": session.client,
        "scopes": sorted(session.scopes),
        "created": format_time(session.created),
        "expires": format_time(session.expires),
        "signed_in": format_time(session.auth_time),
        "tier": session.tier,
        "provider": session.proof is not None,
    }


def format_time(epoch_seconds: float) -> str:
    """Return a time as ISO 8601, in UTC and whole seconds."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="seconds")

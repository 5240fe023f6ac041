"""The users who have signed in: for `ctllm users`, and for what privacy laws ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from twisted.logger import Logger

from ctllm.cloud.identity.grants import User
from ctllm.cloud.identity.signing_keys import user_hash
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import CtllmError
from ctllm.system.private_dir import PrivateDirectory

WRITE_INTERVAL = 3600.0
"""Seconds between two writes of when a user was last seen."""

CHECK_INTERVAL = 300.0
"""Seconds for which a user who was seen is not looked up again."""

_SUFFIX = ".json"
_log = Logger()


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A user who has signed in, and when: first, and last to within an hour (epoch seconds).

    `confirmed` is when the user's OpenID provider said last, to within an hour, that the user may
    sign in; 0 without a provider.
    """

    user: User
    first_seen: float
    last_seen: float
    confirmed: float = 0.0


class KnownUsers:
    """The users in `directory`, a file for each, named by the hash of the user.

    `instance_secret` is the key of the hashes; `now` returns epoch seconds. The last `cache_size`
    users are not looked up again within CHECK_INTERVAL.
    """

    def __init__(
        self,
        directory: PrivateDirectory,
        instance_secret: bytes,
        now: Callable[[], float] = time.time,
        cache_size: int = 65536,
    ) -> None:
        self._directory = directory
        self._instance_secret = instance_secret
        self._now = now
        self._recent: TtlCache[tuple[str, str], bool] = TtlCache(cache_size, now)
        self._confirmed: TtlCache[str, float] = TtlCache(cache_size, now)  # by the id of the user

    def record(self, user: User, is_sign_in: bool = False) -> None:
        """Note that `user` was authenticated, or has signed in. A failure to store it is logged."""
        key = user.id, user.name
        if self._recent.get(key) and not is_sign_in:
            return
        self._recent.put(key, True, self._now() + CHECK_INTERVAL)
        try:
            self._store(user)
        except CtllmError as error:
            _log.warn("That a user was seen was not stored: {reason}", reason=error.message)

    def _store(self, user: User) -> None:
        now, file = self._now(), self._file_of(user.id)
        known = self._read(file)
        if known is None:
            self._directory.replace(file, msgspec.json.encode(KnownUser(user, now, now)))
        elif now - known.last_seen >= WRITE_INTERVAL or known.user != user:
            seen = replace(known, user=user, last_seen=now)
            # If it was forgotten meanwhile, it stays so.
            self._directory.update(file, msgspec.json.encode(seen))

    def confirm(self, user: User) -> None:
        """Note that the provider of a known user says that the user may sign in."""
        now, file = self._now(), self._file_of(user.id)
        self._confirmed.put(user.id, now, now + WRITE_INTERVAL)
        try:
            known = self._read(file)
            if known is not None and now - known.confirmed >= WRITE_INTERVAL:
                self._directory.update(file, msgspec.json.encode(replace(known, confirmed=now)))
        except CtllmError as error:
            _log.warn("What a provider confirmed was not stored: {reason}", reason=error.message)

    def confirmed_at(self, user_id: str) -> float:
        """Return `KnownUser.confirmed` of the user, or 0."""
        confirmed = self._confirmed.get(user_id)
        if confirmed is None:
            known = self.find(user_id)
            confirmed = known.confirmed if known is not None else 0.0
            self._confirmed.put(user_id, confirmed, self._now() + CHECK_INTERVAL)
        return confirmed

    def find(self, user_id: str) -> KnownUser | None:
        """Return the user with this id, or None."""
        return self._read(self._file_of(user_id))

    def list_all(self) -> list[KnownUser]:
        """Return all users. Reads every file."""
        files = [name for name in self._directory.list_files() if name.endswith(_SUFFIX)]
        return [known for known in map(self._read, files) if known is not None]

    def remove(self, user_id: str) -> bool:
        """Forget a user; return whether the user was known."""
        return self._directory.remove(self._file_of(user_id))

    def _file_of(self, user_id: str) -> str:
        return f"{user_hash(self._instance_secret, user_id)}{_SUFFIX}"

    def _read(self, file: str) -> KnownUser | None:
        data = self._directory.read(file)
        try:
            return None if data is None else decode_json(data, KnownUser)
        except InvalidJson:
            _log.warn("The file {file} of a known user is damaged; it is replaced.", file=file)
            return None

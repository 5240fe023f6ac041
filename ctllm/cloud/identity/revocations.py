"""Revocations: for each user the time before which nothing counts that signed that user in.

`ctllm revoke` writes a file for each user. A running cloud polls the folder. A file is named by
the user's hash, which is also in the name of the user's streaming proxy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from ctllm.cloud.identity.grants import User
from ctllm.cloud.identity.signing_keys import user_hash
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import CtllmError, Unauthorized
from ctllm.system.private_dir import PrivateDirectory

POLL_INTERVAL = 0.5
"""Seconds between two looks of a running cloud at the folder."""

_SUFFIX = ".json"
_log = Logger()


class _Revocation(msgspec.Struct, frozen=True):
    not_before: float


class Revocations:
    """The revocations in `folder`, which the service and `ctllm revoke` share.

    `instance` is the secret behind the hashes of users; `now` gives epoch seconds.
    """

    def __init__(
        self, folder: PrivateDirectory, instance_secret: bytes, now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._instance_secret = instance_secret
        self._now = now
        self._not_before: dict[str, float] = {}
        self._versions: dict[str, tuple[int, ...]] = {}

    def revoke(self, user: User) -> None:
        """End all that `user` signed in with until now, wherever it is held."""
        name = user_hash(self._instance_secret, user.id)
        self._folder.replace(f"{name}{_SUFFIX}", msgspec.json.encode(_Revocation(self._now())))

    def read_changes(self) -> list[str]:
        """Read what changed; give the hashes of the users whose revocation is new."""
        moved = []
        for file, version in self._folder.file_versions().items():
            name = file.removesuffix(_SUFFIX)
            if name == file or self._versions.get(name) == version:
                continue
            try:
                if self._read_file(name):
                    moved.append(name)
                self._versions[name] = version
            except CtllmError as error:
                _log.warn("{why} It is read again.", why=error.message)
        return moved

    def _read_file(self, name: str) -> bool:
        """Read one file; whether it moved the time forward. It never moves it back."""
        data = self._folder.read(f"{name}{_SUFFIX}")
        if data is None:
            return False
        try:
            told = decode_json(data, _Revocation).not_before
        except InvalidJson:
            told = self._now()
            _log.warn("{file} is damaged: its user has to sign in anew after each start", file=name)
        if told <= self.not_before(name):
            return False
        self._not_before[name] = told
        return True

    def not_before(self, user_hash: str) -> float:
        """The time that is the last which does not count, for the user with this hash."""
        return self._not_before.get(user_hash, -math.inf)

    def check(self, user: User, auth_time: float) -> None:
        """Raise Unauthenticated where what authenticated `user` at `auth_time` is revoked."""
        if self._not_before and self.is_revoked(user, auth_time):
            raise revoked_error()

    def is_revoked(self, user: User, auth_time: float) -> bool:
        """Whether what authenticated `user` at `auth_time` does not count any more."""
        return auth_time <= self.not_before(user_hash(self._instance_secret, user.id))


def revoked_error() -> Unauthorized:
    """Give the error of who was signed out by `ctllm revoke`."""
    return Unauthorized("You were signed out by whoever runs this cloud: sign in again.")

"""Revocations: for each user, the time until which authentications are void.

`ctllm revoke` writes a file for each user, and a running cloud polls the directory. The name of a
file is the hash of the user that is also in the id of the user's proxy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from ctllm.auth.session_assertions import ISSUER
from ctllm.cloud.identity.grants import User
from ctllm.cloud.identity.signing_keys import user_hash
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import CtllmError, Unauthorized
from ctllm.system.directory_monitor import DirectoryMonitor
from ctllm.system.private_dir import PrivateDirectory

POLL_INTERVAL = 0.5
"""Seconds between two polls of the directory by a running cloud."""

_SUFFIX = ".json"
_log = Logger()


class _Revocation(msgspec.Struct, frozen=True):
    not_before: float


class Revocations:
    """The revocations in `directory`, which the service and `ctllm revoke` share.

    `instance_secret` is the key of the hashes of users; `now` returns epoch seconds.
    """

    def __init__(
        self,
        directory: PrivateDirectory,
        instance_secret: bytes,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._instance_secret = instance_secret
        self._now = now
        self._not_before: dict[str, float] = {}
        self._versions: dict[str, tuple[int, ...]] = {}
        self._monitor = DirectoryMonitor(directory)

    def revoke(self, user: User) -> None:
        """Revoke every authentication of `user` until now.

        It holds in this process even if it cannot be stored, which raises CtllmError.
        """
        name, now = user_hash(self._instance_secret, user.id), self._now()
        self._not_before[name] = max(now, self.not_before(name))
        self._directory.replace(f"{name}{_SUFFIX}", msgspec.json.encode(_Revocation(now)))

    def read_changes(self) -> list[str]:
        """Read the files that changed; return the hashes of the users with a new revocation."""
        if not self._monitor.has_changed():
            return []
        revoked, failed = [], False
        for file, version in self._directory.file_versions().items():
            name = file.removesuffix(_SUFFIX)
            if name == file or self._versions.get(name) == version:
                continue
            try:
                if self._read_file(name):
                    revoked.append(name)
                self._versions[name] = version
            except CtllmError as error:
                failed = True
                _log.warn("{message} Trying again.", message=error.message)
        if not failed:
            self._monitor.mark_read()
        return revoked

    def _read_file(self, name: str) -> bool:
        """Read one file and return whether the time is later than the known one.

        A time is never replaced by an earlier one.
        """
        data = self._directory.read(f"{name}{_SUFFIX}")
        if data is None:
            return False
        try:
            not_before = decode_json(data, _Revocation).not_before
        except InvalidJson:
            not_before = self._now()
            _log.warn(
                "The revocation {file} is damaged. Its user must log in again after each start "
                "of the cloud.",
                file=name,
            )
        if not_before <= self.not_before(name):
            return False
        self._not_before[name] = not_before
        return True

    def not_before(self, user_hash: str) -> float:
        """Return the time, in epoch seconds, up to which authentications of the user are void."""
        return self._not_before.get(user_hash, -math.inf)

    def check(self, user: User, auth_time: float) -> None:
        """Raise Unauthorized if the authentication of `user` at `auth_time` is revoked."""
        if self._not_before and self.is_revoked(user, auth_time):
            raise _revoked_error(user)

    def is_revoked(self, user: User, auth_time: float) -> bool:
        """Return whether the authentication of `user` at `auth_time` is revoked."""
        return auth_time <= self.not_before(user_hash(self._instance_secret, user.id))


def _revoked_error(user: User) -> Unauthorized:
    """Return the error for a user whose access was revoked."""
    if user.issuer == ISSUER:
        again = "Log in again with a new invite."
    else:
        again = f"Log in again at {user.issuer}, which must ask you who you are."
    return Unauthorized(f"An administrator has logged you out. {again}")

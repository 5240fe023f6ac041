"""Users whom an administrator has disabled: nothing gives them access, until they are enabled.

`ctllm users disable` writes a file for each, and a running cloud polls the directory. The name of a
file is the hash of the user, as for revocations; that it exists is what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from ctllm.cloud.identity.grants import User
from ctllm.cloud.identity.signing_keys import user_hash
from ctllm.errors import UserDisabled
from ctllm.system.directory_monitor import DirectoryMonitor
from ctllm.system.private_dir import PrivateDirectory

_SUFFIX = ".json"


class DisabledUsers:
    """The disabled users in `directory`, which the service and `ctllm users` share.

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
        self._monitor = DirectoryMonitor(directory)
        self._disabled: frozenset[str] = frozenset()

    def disable(self, user_id: str) -> None:
        """Refuse the user with this id from now on."""
        content = msgspec.json.encode({"since": self._now()})
        self._directory.replace(self._file_of(user_id), content)

    def enable(self, user_id: str) -> bool:
        """Let the user sign in again. Returns whether the user was disabled."""
        return self._directory.remove(self._file_of(user_id))

    def read_changes(self) -> list[str]:
        """Read the directory if it changed; return the hashes of users disabled since."""
        if not self._monitor.has_changed():
            return []
        files = self._directory.list_files()
        disabled = frozenset(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))
        added = disabled - self._disabled
        self._disabled = disabled
        self._monitor.mark_read()
        return sorted(added)

    def is_disabled(self, user_hash: str) -> bool:
        """Whether the user with this hash is disabled, as of the last `read_changes`."""
        return user_hash in self._disabled

    def check(self, user: User) -> None:
        """Raise UserDisabled if `user` is disabled, as of the last `read_changes`."""
        if self._disabled and self.is_disabled(user_hash(self._instance_secret, user.id)):
            raise UserDisabled(
                "An administrator has disabled your account. Only an administrator can enable it "
                "again, with `ctllm users enable`.",
                user=user,
            )

    def _file_of(self, user_id: str) -> str:
        return f"{user_hash(self._instance_secret, user_id)}{_SUFFIX}"

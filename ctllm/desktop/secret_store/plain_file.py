"""Secrets in a JSON file that only its owner can read. Nothing else protects them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ctllm.desktop.secret_store.private_file import LOCK_TIMEOUT, OnDamage, PrivateFile

#: The name of this store.
PLAIN_FILE = "file"


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secrets: dict[str, str] = {}

    def __repr__(self) -> str:
        return "_Content(…)"


class PlainFileStore:
    """The file `desktop/secrets.json` in the folder `state_dir`.

    `on_damage` is called with an error message if it is damaged; by default that is logged.
    """

    name = PLAIN_FILE

    def __init__(
        self,
        state_dir: Path,
        on_damage: OnDamage | None = None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        path = state_dir / "desktop" / "secrets.json"
        self._file = PrivateFile(path, _Content, on_damage, lock_timeout)

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._file.path

    @property
    def description(self) -> str:
        """Where the secrets are."""
        return f"in {self.path}, which is protected by its permissions only"

    async def check(self, *, may_prompt: bool = False) -> None:
        """Do nothing: a process of the file's owner can always try."""

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        """Return the secret called `name`, or None if the file has none."""
        return (self._file.load() or _Content()).secrets.get(name)

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        """Store a secret."""
        self.write(name, secret)

    async def delete(self, name: str) -> None:
        """Delete the secret called `name`, if there is one."""

        def change(known: _Content | None) -> _Content | None:
            if known is None or name not in known.secrets:
                return None
            return _Content({each: known.secrets[each] for each in known.secrets if each != name})

        self._file.update(change)

    def write(self, name: str, secret: str) -> None:
        """Store a secret, without a coroutine."""
        self._file.update(lambda known: _Content({**(known or _Content()).secrets, name: secret}))

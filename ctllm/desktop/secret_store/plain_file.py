"""Secrets in a JSON file that only its owner can read. Nothing else protects them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration, SecretStoreUnavailable
from ctllm.system.atomic_write import rename_damaged, write_atomically
from ctllm.system.file_lock import locked

#: The name of this store.
PLAIN_FILE = "file"
#: Seconds to wait for the lock, which another process holds for milliseconds.
LOCK_TIMEOUT = 5.0
#: The most bytes of the file.
MAX_FILE_SIZE = 1024 * 1024


class PlainFileStore:
    """The file `desktop/secrets.json` in the folder `state_dir`, replaced atomically under a lock.

    A damaged file is renamed. `on_damage` is called with an error message; by default it is
    logged.
    """

    _log = Logger()

    name = PLAIN_FILE

    def __init__(
        self,
        state_dir: Path,
        on_damage: Callable[[str], None] | None = None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = state_dir / "desktop" / "secrets.json"
        self._on_damage = on_damage or self._log_damage
        self._lock_timeout = lock_timeout

    @property
    def description(self) -> str:
        """Where the secrets are."""
        return f"in {self.path}, which is protected by its permissions only"

    async def check(self) -> None:
        """Do nothing: the file is there for every process of its owner."""

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        """Return the secret called `name`, or None if the file has none."""
        try:
            return self._read().get(name)
        except InvalidJson:
            with self._locked():
                return self._read_or_set_aside().get(name)

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        """Store a secret."""
        self.write(name, secret)

    async def delete(self, name: str) -> None:
        """Delete the secret called `name`, if there is one."""
        with self._locked():
            known = self._read_or_set_aside()
            if known.pop(name, None) is not None:
                self._replace(known)

    def write(self, name: str, secret: str) -> None:
        """Store a secret, without a coroutine."""
        with self._locked():
            self._replace({**self._read_or_set_aside(), name: secret})

    def _log_damage(self, message: str) -> None:
        self._log.error("{message}", message=message)

    def _replace(self, secrets: dict[str, str]) -> None:
        try:
            write_atomically(self.path, msgspec.json.encode(secrets))
        except BadConfiguration as error:
            raise SecretStoreUnavailable(error.message) from None

    def _read(self) -> dict[str, str]:
        """Raises InvalidJson for a damaged file."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SecretStoreUnavailable(f"Cannot read {self.path}: {error.strerror}.") from error
        kind: Any = dict[str, str]
        secrets: dict[str, str] = decode_json(content, kind, MAX_FILE_SIZE)
        return secrets

    def _read_or_set_aside(self) -> dict[str, str]:
        """Must be called under the lock."""
        try:
            return self._read()
        except InvalidJson:
            return self._set_aside()

    def _set_aside(self) -> dict[str, str]:
        """Rename the damaged file and report that. The reason could quote a secret: not told."""
        try:
            kept = rename_damaged(self.path)
        except BadConfiguration as error:
            raise SecretStoreUnavailable(error.message) from None
        self._on_damage(
            f"{self.path} was damaged; it is now called {kept.name}. Run `ctllm login`. "
            "Or repair that file and rename it back."
        )
        return {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path.with_suffix(".lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = locked(path, self._lock_timeout)
            lock.__enter__()
        except TimeoutError as error:
            raise SecretStoreUnavailable(f"Cannot lock {path}: {error}.") from error
        except OSError as error:
            raise SecretStoreUnavailable(f"Cannot open {path}: {error.strerror}.") from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

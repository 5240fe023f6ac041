"""A JSON file that only its owner can read, replaced atomically and changed under a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration, SecretStoreUnavailable
from ctllm.system.atomic_write import rename_damaged, write_atomically
from ctllm.system.file_lock import locked

T = TypeVar("T", bound=msgspec.Struct)

#: Seconds to wait for the lock, which another process holds for milliseconds.
LOCK_TIMEOUT = 5.0
#: The most bytes of the file.
MAX_FILE_SIZE = 1024 * 1024

OnDamage = Callable[[str], None]


class PrivateFile(Generic[T]):
    """The file at `path`, of the type `kind`. Every method raises SecretStoreUnavailable.

    A damaged file is renamed. `on_damage` is called with an error message, which quotes nothing of
    the file; by default it is logged.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        kind: type[T],
        on_damage: OnDamage | None = None,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = path
        self._kind = kind
        self._on_damage = on_damage or self._log_damage
        self._lock_timeout = lock_timeout

    def load(self) -> T | None:
        """Return the content, or None if there is no file, or a damaged one, which is renamed."""
        try:
            return self._read()
        except InvalidJson:
            with self._locked():
                return self._read_or_set_aside()

    def update(self, change: Callable[[T | None], T | None]) -> None:
        """Replace the content by what `change` makes of it; None leaves it."""
        with self._locked():
            changed = change(self._read_or_set_aside())
            if changed is not None:
                self._replace(changed)

    def _log_damage(self, message: str) -> None:
        self._log.error("{message}", message=message)

    def _replace(self, content: T) -> None:
        try:
            write_atomically(self.path, msgspec.json.encode(content))
        except BadConfiguration as error:
            raise SecretStoreUnavailable(error.message) from None

    def _read(self) -> T | None:
        """Raises InvalidJson for a damaged file."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SecretStoreUnavailable(f"Cannot read {self.path}: {error.strerror}.") from error
        return decode_json(content, self._kind, MAX_FILE_SIZE)

    def _read_or_set_aside(self) -> T | None:
        """Must be called under the lock."""
        try:
            return self._read()
        except InvalidJson:
            self._set_aside()
            return None

    def _set_aside(self) -> None:
        try:
            kept = rename_damaged(self.path)
        except BadConfiguration as error:
            raise SecretStoreUnavailable(error.message) from None
        self._on_damage(
            f"{self.path} was damaged; it is now called {kept.name}. Run `ctllm login`. "
            "Or repair that file and rename it back."
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path.with_suffix(".lock")
        lock = locked(path, self._lock_timeout)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.__enter__()
        except TimeoutError as error:
            raise SecretStoreUnavailable(f"Cannot lock {path}: {error}.") from error
        except OSError as error:
            raise SecretStoreUnavailable(f"Cannot open {path}: {error.strerror}.") from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

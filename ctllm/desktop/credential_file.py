"""What a desktop keeps on disk: where it signed in, its id, the keys it made. Nothing anyone said.

One JSON file, readable by its owner alone, replaced atomically. Several processes change it: the
daemon, `ctllm login`, `ctllm keys`. So each change is made under a lock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import rename_damaged, write_atomically
from ctllm.system.file_lock import locked

#: Seconds to wait for another process that is changing the file, which takes it milliseconds.
LOCK_TIMEOUT = 5.0
#: The id in a file of which the rest may be damaged: the cloud knows this desktop by it.
_DESKTOP_ID = re.compile(rb'"desktop_id"\s*:\s*"([0-9a-f]{32})"')


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and as whom this desktop is signed in; `refresh` renews its short tokens."""

    cloud_url: str
    user_id: str
    user_name: str
    refresh_token: str = msgspec.field(name="refresh")


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is kept. `keys` maps the names of API keys to the keys.

    `managing` has the names of those that may change models.
    """

    desktop_id: str
    login: Login | None = msgspec.field(default=None, name="sign_in")
    api_keys: dict[str, str] = msgspec.field(default_factory=dict, name="keys")
    manage_keys: tuple[str, ...] = msgspec.field(default=(), name="managing")


Update = Callable[[Credentials], Credentials]


class CredentialFile:
    """The file in the `state` folder; every read sees what another process wrote last.

    A file that is damaged is set aside, and a new one begun: `on_damage` is told, in a sentence
    that stays in `damage` until somebody signs in.
    """

    _log = Logger()

    def __init__(self, state: Path) -> None:
        self.path = state / "desktop" / "credentials.json"
        self.damage = ""
        self.on_damage: Callable[[str], None] = lambda said: self._log.error("{said}", said=said)

    def load(self) -> Credentials:
        """Read it, or begin one; BadConfiguration where it cannot be read or written."""
        try:
            return self._read()
        except (FileNotFoundError, InvalidJson):
            with self._locked():
                return self._read_or_create()

    def update(self, change: Update) -> Credentials:
        """Replace what is in it by what `change` makes of that, and give it.

        No other process changes it meanwhile. Raises what `change` raises, and BadConfiguration.
        """
        with self._locked():
            known = self._read_or_create()
            changed = change(known)
            if changed != known:
                self.save(changed)
        if changed.login is not None:
            self.damage = ""
        return changed

    def save(self, credentials: Credentials) -> None:
        """Replace the file, whatever is in it; BadConfiguration where that cannot be."""
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(credentials)))

    def version(self) -> int:
        """A number that changes whenever the file does; 0 without one."""
        try:
            found = self.path.stat()
        except OSError:
            return 0
        # The clock of a file system stands still for milliseconds, hence more than the time.
        return hash((found.st_mtime_ns, found.st_ino, found.st_size)) or 1

    def _read(self) -> Credentials:
        """Raises FileNotFoundError, InvalidJson, and BadConfiguration for what else is wrong."""
        try:
            return decode_json(self.path.read_bytes(), Credentials)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadConfiguration(f"{self.path}: cannot be read ({error.strerror})") from error

    def _read_or_create(self) -> Credentials:
        """Under the lock."""
        desktop_id = ""
        try:
            return self._read()
        except FileNotFoundError:
            pass
        except InvalidJson as error:
            desktop_id = self._set_damaged_aside(error)
        fresh = Credentials(desktop_id or secrets.token_hex(16))
        self.save(fresh)
        return fresh

    def _set_damaged_aside(self, error: InvalidJson) -> str:
        """Set the file aside, and say so; gives the desktop's id as far as it can be made out."""
        found = _DESKTOP_ID.search(self.path.read_bytes())
        kept = rename_damaged(self.path)
        self.damage = (
            f"{self.path} was damaged ({error}) and is kept as {kept.name}. "
            "Sign in again with: ctllm login; or mend that file and put it back"
        )
        self.on_damage(self.damage)
        return "" if found is None else found[1].decode()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path.with_suffix(".lock")
        with ExitStack() as held:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(locked(path, LOCK_TIMEOUT))
            except TimeoutError as error:
                raise BadConfiguration(f"{path}: {error}; end it, then try again") from error
            except OSError as error:
                raise BadConfiguration(
                    f"{path}: cannot be used ({error.strerror}); "
                    "make its folder writable or choose another one with --state-dir"
                ) from error
            yield

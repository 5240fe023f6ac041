"""The desktop's credentials on disk: its id, its login, the records of its API keys.

They are one JSON file, readable by its owner alone and replaced atomically. Several processes
change it (the daemon, `ctllm login`, `ctllm keys`), each under a lock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.auth.api_keys import KeyRecord, record_key
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import rename_damaged, write_atomically
from ctllm.system.file_lock import locked

#: Seconds to wait for the lock, which another process holds for milliseconds.
LOCK_TIMEOUT = 5.0
#: The desktop's id in a damaged file, which is kept: the cloud knows the desktop by it.
_DESKTOP_ID = re.compile(rb'"desktop_id"\s*:\s*"([0-9a-f]{32})"')


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cloud and the user of a login, and the refresh token."""

    cloud_url: str
    user_id: str
    user_name: str
    refresh_token: str = msgspec.field(name="refresh")


class ApiKey(KeyRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of an API key, its name, and when it was created (epoch seconds; 0: unknown)."""

    name: str
    created: int = 0

    @property
    def record(self) -> KeyRecord:
        """What is announced to the cloud: all but the name."""
        return KeyRecord(*(getattr(self, each) for each in KeyRecord.__struct_fields__))


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file; each API key has another name."""

    desktop_id: str
    login: Login | None = msgspec.field(default=None, name="sign_in")
    api_keys: tuple[ApiKey, ...] = ()

    def find_key(self, name: str) -> ApiKey | None:
        """Return the API key called `name`, or None."""
        return next((key for key in self.api_keys if key.name == name), None)


def name_key(name: str, record: KeyRecord, created: int = 0) -> ApiKey:
    """Return `record` with a name and the time of its creation."""
    return ApiKey(**msgspec.structs.asdict(record), name=name, created=created)


_NO_RAW, _NO_RAW_LIST = msgspec.Raw(b"{}"), msgspec.Raw(b"[]")

Update = Callable[[Credentials], Credentials]


class CredentialFile:
    """The credentials file in the folder `state_dir`.

    A damaged file is renamed and a new one created. `on_damage` is called with an error message,
    which stays in `damage` until the next login; by default it is logged.
    """

    _log = Logger()

    def __init__(
        self,
        state_dir: Path,
        on_damage: Callable[[str], None] | None = None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = state_dir / "desktop" / "credentials.json"
        self.damage = ""
        self._on_damage = on_damage or self._log_damage
        self._lock_timeout = lock_timeout

    def load(self) -> Credentials:
        """Return the credentials; raises BadConfiguration if the file cannot be read or created."""
        try:
            return self._read()
        except (FileNotFoundError, InvalidJson):
            with self._locked():
                return self._read_or_create()

    def update(self, change: Update) -> Credentials:
        """Apply `change` to the credentials under the lock, and return the result.

        Raises what `change` raises, and BadConfiguration.
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
        """Replace the file; raises BadConfiguration."""
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(credentials)))

    def version(self) -> int:
        """Return a number that changes with the file; 0 without one."""
        try:
            found = self.path.stat()
        except OSError:
            return 0
        # Two changes within the resolution of the file system's clock have the same time.
        return hash((found.st_mtime_ns, found.st_ino, found.st_size)) or 1

    def _log_damage(self, message: str) -> None:
        self._log.error("{message}", message=message)

    def _read(self) -> Credentials:
        """Raises FileNotFoundError, InvalidJson, or BadConfiguration for other errors."""
        try:
            return decode_json(self.path.read_bytes(), Credentials)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadConfiguration(f"Cannot read {self.path}: {error.strerror}.") from error

    def _read_or_create(self) -> Credentials:
        """Must be called under the lock."""
        desktop_id = ""
        try:
            return self._read()
        except FileNotFoundError:
            pass
        except InvalidJson as error:
            if (converted := self._convert_plain_keys()) is not None:
                return converted
            desktop_id = self._set_damaged_aside(error)
        fresh = Credentials(desktop_id or secrets.token_hex(16))
        self.save(fresh)
        return fresh

    def _convert_plain_keys(self) -> Credentials | None:
        """Replace the keys of an earlier version, which are in clear text, by records of them.

        Returns None for any other file. The keys remain valid.
        """
        try:
            members = decode_json(self.path.read_bytes(), dict[str, msgspec.Raw])
            keys = decode_json(members.pop("keys", _NO_RAW), dict[str, str])
            managing = decode_json(members.pop("managing", _NO_RAW_LIST), tuple[str, ...])
            rest = decode_json(msgspec.json.encode(members), Credentials)
        except InvalidJson:
            return None
        converted = msgspec.structs.replace(
            rest,
            api_keys=tuple(
                name_key(name, record_key(key, "manage" if name in managing else "use"))
                for name, key in keys.items()
            ),
        )
        self.save(converted)
        return converted

    def _set_damaged_aside(self, error: InvalidJson) -> str:
        """Rename the file and report that; return the desktop's id if it can be found in it."""
        found = _DESKTOP_ID.search(self.path.read_bytes())
        kept = rename_damaged(self.path)
        self.damage = (
            f"{self.path} was damaged ({error}); it is now called {kept.name}. Run `ctllm login`. "
            "Or repair that file and rename it back."
        )
        self._on_damage(self.damage)
        return "" if found is None else found[1].decode()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path.with_suffix(".lock")
        with ExitStack() as held:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(locked(path, self._lock_timeout))
            except TimeoutError as error:
                raise BadConfiguration(
                    f"Cannot lock {path}: {error}. End it, then try again."
                ) from error
            except OSError as error:
                raise BadConfiguration(
                    f"Cannot open {path}: {error.strerror}. Make its folder writable, or choose "
                    "another one with `--state-dir`."
                ) from error
            yield

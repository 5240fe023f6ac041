"""The desktop's credentials on disk: its id, its login, the records of its API keys.

They are one JSON file, readable by its owner alone and replaced atomically. Several processes
change it (the daemon, `ctllm login`, `ctllm keys`), each under a lock. The tokens of the login are
not in it, but in the store of secrets that it names (`LoginStore`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.auth.api_keys import KeyRecord
from ctllm.common.json_decoder import InvalidJson, JsonObject, decode_json
from ctllm.desktop.credential_upgrade import convert_plain_keys, remove_refresh_token
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.secret_store import PlainFileStore, SecretReference
from ctllm.desktop.secret_store.plain_file import PLAIN_FILE
from ctllm.errors import BadConfiguration, SecretStoreUnavailable
from ctllm.system.atomic_write import rename_damaged, write_atomically
from ctllm.system.file_lock import locked

#: Seconds to wait for the lock, which another process holds for milliseconds.
LOCK_TIMEOUT = 5.0
#: The desktop's id in a damaged file, which is kept: the cloud knows the desktop by it.
_DESKTOP_ID = re.compile(rb'"desktop_id"\s*:\s*"([0-9a-f]{32})"')


class LoginProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The OpenID provider of a login, as far as its tokens are renewed and revoked there.

    `client_secret` is one that everybody can read, of a native app; `uses_post` tells to send it in
    the form. An empty `revocation_endpoint` means that the provider has none.
    """

    issuer: str
    client_id: str
    token_endpoint: str
    revocation_endpoint: str = ""
    client_secret: str = ""
    uses_post: bool = False
    scope: str = ""
    audience: str = ""
    token: Literal["access_token", "id_token"] = "access_token"  # noqa: S105


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The cloud and the user of a login. `id` differs between two logins of the same user.

    `provider` is None for a login with an invite. `ended` is why the provider or the cloud ended
    the login; it is empty until then.
    """

    cloud_url: str
    user_id: str
    user_name: str
    id: str = ""
    provider: LoginProvider | None = None
    ended: str = ""


def describe_end(login: Login) -> str:
    """Return why a login has ended and what to do, for people."""
    return f"{login.ended} Log in again: ctllm login {login.cloud_url}"


class ApiKey(KeyRecord, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The record of an API key, its name, and when it was created (epoch seconds; 0: unknown).

    `added_by` is the URL of the cloud on whose page it was created; empty: it was created here. The
    key is of no use in another cloud.
    """

    name: str
    created: int = 0
    added_by: str = ""

    @property
    def record(self) -> KeyRecord:
        """What is announced to the cloud: all but the name."""
        return KeyRecord(*(getattr(self, each) for each in KeyRecord.__struct_fields__))


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file; each API key has another name.

    `secret` is where the tokens of the login are: it changes when they do. `unused_secrets` are to
    be deleted. `daemon_store` is the store of secrets that the daemon chose.
    """

    desktop_id: str
    login: Login | None = msgspec.field(default=None, name="sign_in")
    api_keys: tuple[ApiKey, ...] = ()
    secret: SecretReference | None = None
    unused_secrets: tuple[SecretReference, ...] = ()
    daemon_store: str = ""

    def find_key(self, name: str) -> ApiKey | None:
        """Return the API key called `name`, or None."""
        return next((key for key in self.api_keys if key.name == name), None)


def name_key(name: str, record: KeyRecord, created: int = 0, added_by: str = "") -> ApiKey:
    """Return `record` with a name, the time of its creation, and the cloud that added it."""
    fields = {each: getattr(record, each) for each in KeyRecord.__struct_fields__}
    return ApiKey(**fields, name=name, created=created, added_by=added_by)


Update = Callable[[Credentials], Credentials]

#: Where the token of an earlier version goes; a second attempt replaces the first.
_UPGRADED = SecretReference(PLAIN_FILE, "login")


class _OldFormat(Exception):
    """The file is of an earlier version. `refresh_token` was in it; None: there was none."""

    def __init__(self, credentials: Credentials, refresh_token: str | None) -> None:
        super().__init__()
        self.credentials = credentials
        self.refresh_token = refresh_token


def _decode(content: bytes) -> Credentials:
    """Raises InvalidJson, or _OldFormat."""
    kind: Any = JsonObject
    document: JsonObject = decode_json(content, kind)
    refresh_token = remove_refresh_token(document)
    had_plain_keys = convert_plain_keys(document)
    try:
        credentials = msgspec.convert(document, Credentials)
    except ValueError as error:
        raise InvalidJson(str(error)) from error
    if refresh_token is not None or had_plain_keys:
        raise _OldFormat(credentials, refresh_token)
    return credentials


class CredentialFile:
    """The credentials file in the folder `state_dir`.

    A damaged file is renamed and a new one created. `on_damage` is called with an error message,
    which stays in `damage` until the next login; by default it is logged. A refresh token that an
    earlier version stored in the file moves to the plain file of secrets; its API keys become
    records.
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
        self._plain_file = PlainFileStore(state_dir, self._on_damage, lock_timeout=lock_timeout)

    def load(self) -> Credentials:
        """Return the credentials; raises BadConfiguration if the file cannot be read or created."""
        try:
            return self._read()
        except (FileNotFoundError, InvalidJson, _OldFormat):
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
        """Raises FileNotFoundError, InvalidJson, _OldFormat, or BadConfiguration."""
        try:
            return _decode(self.path.read_bytes())
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
        except _OldFormat as old:
            return self._upgrade(old)
        except InvalidJson as error:
            desktop_id = self._set_damaged_aside(error)
        fresh = Credentials(desktop_id or secrets.token_hex(16))
        self.save(fresh)
        return fresh

    def _upgrade(self, old: _OldFormat) -> Credentials:
        """Move the refresh token. It is in both files for a moment, and never in none.

        Raises BadConfiguration.
        """
        upgraded = old.credentials
        if old.refresh_token is not None:
            tokens = LoginSecrets(old.refresh_token)
            try:
                self._plain_file.write(_UPGRADED.name, msgspec.json.encode(tokens).decode())
            except SecretStoreUnavailable as error:
                raise BadConfiguration(error.message) from None
            upgraded = replace(upgraded, secret=_UPGRADED)
        self.save(upgraded)
        return upgraded

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

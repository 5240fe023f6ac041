"""The profiles of a desktop: what belongs to one of the users who have logged in on it.

The file `desktop/profiles.json` in the state folder lists them, the last user first. While nobody
is logged in, the desktop keeps the last user's profile: the page of this machine goes on with it.
The first login takes over what was stored before it, also by an earlier version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.credential_file import Login
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import write_atomically

#: The name of the first profile.
DEFAULT = "default"


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs to one user of one cloud; or to nobody yet, where `user_id` is empty.

    Two clouds may have different users with the same id.
    """

    name: Annotated[str, Meta(pattern=r"^(default|[0-9a-f]{16})\Z")]
    cloud_url: str = ""
    user_id: str = ""

    def belongs_to(self, login: Login) -> bool:
        """Whether this is the profile of the user of `login`."""
        return (self.cloud_url, self.user_id) == (login.cloud_url, login.user_id)

    @property
    def suffix(self) -> str:
        """What is added to names of which each profile has one; empty for the first profile."""
        return "" if self.name == DEFAULT else f"-{self.name}"


Profiles = tuple[Profile, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profiles: Profiles


def with_current(profiles: Profiles, login: Login | None) -> Profiles:
    """Return the profiles after `login`, with that of its user first; there is at least one."""
    if not profiles:
        profiles = (Profile(DEFAULT),)
    if login is None:
        return profiles
    current = next((each for each in profiles if each.belongs_to(login)), None)
    if current is None and not profiles[0].user_id:
        owned = replace(profiles[0], cloud_url=login.cloud_url, user_id=login.user_id)
        return (owned, *profiles[1:])
    if current is None:
        current = Profile(token_hex(8), login.cloud_url, login.user_id)
    return (current, *(each for each in profiles if each is not current))


class CurrentProfile:
    """The profile of the user who is logged in, or was last.

    `get_login` returns the present login, as it is stored.
    """

    _log = Logger()

    def __init__(self, state_dir: Path, get_login: Callable[[], Login | None]) -> None:
        self._path = state_dir / "desktop" / "profiles.json"
        self._get_login = get_login
        self._profiles: Profiles | None = None
        self._observers: list[Callable[[], None]] = []

    def add_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` when another user has logged in, before `get` returns that profile."""
        self._observers.append(observer)

    def get(self) -> Profile:
        """Return the profile; raises BadConfiguration if nobody knows which one it is."""
        known = self._profiles
        if known is None:
            known = self._read()
        changed = with_current(known, self._get_login())
        if changed != known:
            self._save(changed)
        is_other = self._profiles is not None and self._profiles[0].name != changed[0].name
        self._profiles = changed
        if is_other:
            self._report_other()
        return changed[0]

    def _report_other(self) -> None:
        self._log.info(
            "Another user has logged in. What is stored for the former one is hidden until the "
            "next login of that user."
        )
        for observer in self._observers:
            observer()

    def _read(self) -> Profiles:
        try:
            return decode_json(self._path.read_bytes(), _File).profiles
        except FileNotFoundError:
            return ()
        except InvalidJson as error:
            raise BadConfiguration(
                f"{self._path} is damaged ({error}). Nobody knows whose conversations are whose. "
                "Restore or repair it. To begin without them, remove it, and move the folders "
                f"{self._path.parent.parent}/conversations* away."
            ) from error
        except OSError as error:
            raise BadConfiguration(f"Cannot read {self._path}: {error.strerror}.") from error

    def _save(self, profiles: Profiles) -> None:
        """Store the profiles, unless there is nothing to say but that there is the first."""
        if profiles != (Profile(DEFAULT),):
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(_File(profiles))))

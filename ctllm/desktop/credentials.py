"""What a desktop keeps on disk: where it signed in, its id, the keys it made. Nothing anyone said.

One JSON file, readable by its owner alone, replaced atomically.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from ctllm.desktop.saving import save
from ctllm.errors import BadConfiguration
from ctllm.wire.json_decoder import decode_json


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and as whom this desktop is signed in; `refresh` renews its short tokens."""

    cloud_url: str
    user_id: str
    user_name: str
    refresh: str


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is kept. `keys` maps the names of API keys to the keys.

    `managing` has the names of those that may change models.
    """

    desktop_id: str
    sign_in: SignIn | None = None
    keys: dict[str, str] = {}
    managing: tuple[str, ...] = ()


class CredentialFile:
    """The file in the `state` folder; every read sees what another process wrote last."""

    def __init__(self, state: Path) -> None:
        self.path = state / "desktop" / "credentials.json"

    def load(self) -> Credentials:
        """Read it, or make one with a new desktop id; BadConfiguration where it is broken."""
        try:
            return decode_json(self.path.read_bytes(), Credentials)
        except FileNotFoundError:
            fresh = Credentials(secrets.token_hex(16))
            self.save(fresh)
            return fresh
        except (OSError, ValueError) as error:  # not JSON, not these fields, not UTF-8
            raise BadConfiguration(
                f"{self.path}: cannot be read as credentials ({error}); "
                "mend it, or remove it and sign in again with: ctllm login LINK"
            ) from error

    def save(self, credentials: Credentials) -> None:
        """Replace the file; raises BadConfiguration where the folder cannot be written."""
        save(self.path, msgspec.json.format(msgspec.json.encode(credentials)))

    def version(self) -> int:
        """Changes whenever the file does: nanoseconds of its last change, 0 without one."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

"""The preference as it was changed at run time, kept over restarts.

The configuration says what it is until somebody changes it; when the configuration is changed
after that, it counts again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.broker.routing_policy import Preference
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import rename_damaged, write_atomically

_UNTIL = "Requests stay on this machine until: ctllm prefer auto (or another)"


class _Kept(msgspec.Struct, frozen=True):
    preference: Preference
    configured: Preference  # what the configuration said then


class KeptPreference:
    """The file in the `state` folder.

    Where it cannot be read, somebody may have said that nothing leaves this machine: so nothing
    does, and the log says what to do.
    """

    _log = Logger()

    def __init__(self, state: Path, configured: Preference) -> None:
        self._path = state / "desktop" / "preference.json"
        self._configured = configured

    def load(self) -> Preference:
        """What counts now."""
        try:
            kept = decode_json(self._path.read_bytes(), _Kept)
        except FileNotFoundError:
            return self._configured
        except InvalidJson as error:
            self._log.error("{said}", said=f"{self._path} was damaged ({error}). {_UNTIL}")
            self._begin_anew()
            return Preference.NEVER
        except OSError as error:
            said = f"{self._path} cannot be read ({error.strerror}). {_UNTIL}"
            self._log.error("{said}", said=said)
            return Preference.NEVER
        return kept.preference if kept.configured is self._configured else self._configured

    def save(self, preference: Preference) -> None:
        """Keep it; raises BadConfiguration where that cannot be."""
        write_atomically(self._path, msgspec.json.encode(_Kept(preference, self._configured)))

    def _begin_anew(self) -> None:
        """Set the file aside, and keep what counts instead of it."""
        try:
            rename_damaged(self._path)
            self.save(Preference.NEVER)
        except BadConfiguration as error:
            self._log.error("{why}", why=error.message)

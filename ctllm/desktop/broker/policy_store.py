"""The preference as it was changed at run time, kept over restarts.

The configuration says what it is until somebody changes it; when the configuration is changed
after that, it counts again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import rename_damaged, write_atomically

_UNTIL = "Requests stay on this machine until: ctllm prefer auto (or another)"


class _StoredPolicy(msgspec.Struct, frozen=True):
    preference: RoutingPolicy
    configured: RoutingPolicy  # what the configuration said then


class PolicyStore:
    """The file in the `state` folder.

    Where it cannot be read, somebody may have said that nothing leaves this machine: so nothing
    does, and the log says what to do.
    """

    _log = Logger()

    def __init__(self, state: Path, configured: RoutingPolicy) -> None:
        self._path = state / "desktop" / "preference.json"
        self._configured = configured

    def load(self) -> RoutingPolicy:
        """What counts now."""
        try:
            kept = decode_json(self._path.read_bytes(), _StoredPolicy)
        except FileNotFoundError:
            return self._configured
        except InvalidJson as error:
            self._log.error("{said}", said=f"{self._path} was damaged ({error}). {_UNTIL}")
            self._replace_damaged_file()
            return RoutingPolicy.NEVER
        except OSError as error:
            said = f"{self._path} cannot be read ({error.strerror}). {_UNTIL}"
            self._log.error("{said}", said=said)
            return RoutingPolicy.NEVER
        return kept.preference if kept.configured is self._configured else self._configured

    def save(self, policy: RoutingPolicy) -> None:
        """Keep it; raises BadConfiguration where that cannot be."""
        write_atomically(self._path, msgspec.json.encode(_StoredPolicy(policy, self._configured)))

    def _replace_damaged_file(self) -> None:
        """Set the file aside, and keep what counts instead of it."""
        try:
            rename_damaged(self._path)
            self.save(RoutingPolicy.NEVER)
        except BadConfiguration as error:
            self._log.error("{why}", why=error.message)

"""The routing policy that was set at run time, stored across restarts.

It takes precedence over the configuration until the configured policy changes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import rename_damaged, write_atomically

_HINT = "Requests stay on this machine until you set a policy, for example: ctllm prefer auto"


class _StoredPolicy(msgspec.Struct, frozen=True):
    policy: RoutingPolicy = msgspec.field(name="preference")
    configured: RoutingPolicy  # the policy in the configuration when this one was set


class PolicyStore:
    """The file `desktop/preference.json` in the state folder.

    If the file cannot be read, the policy is NEVER: the user may have chosen that nothing leaves
    this machine.
    """

    _log = Logger()

    def __init__(self, state: Path, configured: RoutingPolicy) -> None:
        self._path = state / "desktop" / "preference.json"
        self._configured = configured

    def load(self) -> RoutingPolicy:
        """Return the policy in effect."""
        try:
            stored = decode_json(self._path.read_bytes(), _StoredPolicy)
        except FileNotFoundError:
            return self._configured
        except InvalidJson as error:
            self._log.error(
                "{path} is damaged ({reason}). {hint}", path=self._path, reason=error, hint=_HINT
            )
            self._replace_damaged_file()
            return RoutingPolicy.NEVER
        except OSError as error:
            reason = error.strerror
            self._log.error(
                "{path} cannot be read ({reason}). {hint}",
                path=self._path,
                reason=reason,
                hint=_HINT,
            )
            return RoutingPolicy.NEVER
        return stored.policy if stored.configured is self._configured else self._configured

    def save(self, policy: RoutingPolicy) -> None:
        """Store `policy`; raises BadConfiguration if the file cannot be written."""
        stored = _StoredPolicy(policy, self._configured)
        write_atomically(self._path, msgspec.json.encode(stored))

    def _replace_damaged_file(self) -> None:
        """Set the damaged file aside, and store NEVER in its place."""
        try:
            rename_damaged(self._path)
            self.save(RoutingPolicy.NEVER)
        except BadConfiguration as error:
            self._log.error("{reason}", reason=error.message)

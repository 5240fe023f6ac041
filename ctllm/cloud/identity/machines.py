"""Machines: registered keys of the `ollama` command, each with its user and scopes.

A file for each machine is named by the SHA-256 of its public key. It is read for each request, so
that a removal by another process counts at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from twisted.logger import Logger

from ctllm.auth.request_signatures import PublicKey
from ctllm.cloud.identity.grants import AccessGrant, User
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import CtllmError, Forbidden, NotFound, Unauthorized
from ctllm.system.private_dir import PrivateDirectory

#: Seconds for which the grant of a request is valid at least, if nothing ends it before. The
#: requests of a minute have equal grants: each different one that is in use takes memory.
GRANT_LIFETIME, GRANT_GRANULARITY = 300.0, 60.0
#: The beginning of the `credential_id` of a machine's grant; its id follows.
CREDENTIAL_PREFIX = "machine:"
MAX_NAME_LENGTH = 64

_SUFFIX = ".json"
_FILE = re.compile(r"[0-9a-f]{64}\.json")
_log = Logger()


@dataclass(frozen=True, slots=True)
class Machine:
    """A registered machine. Field names are the JSON keys; times are epoch seconds.

    `auth_time` is that of the sign-in with which a person approved the machine. `last_used` is 0
    and `last_address` empty before the first use.
    """

    user: User
    name: str
    fingerprint: str
    scopes: frozenset[str]
    created: float
    auth_time: float
    tier: str = ""
    last_used: float = 0.0
    last_address: str = ""

    def grant(self, machine_id: str, now: float) -> AccessGrant:
        """Return what a request that this machine signs `now` is granted."""
        expires_at = math.ceil((now + GRANT_LIFETIME) / GRANT_GRANULARITY) * GRANT_GRANULARITY
        return AccessGrant(
            self.user,
            self.scopes,
            expires_at,
            self.auth_time,
            tier=self.tier,
            credential_id=machine_credential(machine_id),
        )


def machine_credential(machine_id: str) -> str:
    """Return the `credential_id` of the grants of a machine."""
    return f"{CREDENTIAL_PREFIX}{machine_id}"


def is_machine(grant: AccessGrant) -> bool:
    """Return whether a machine has signed the request of `grant`."""
    return grant.credential_id.startswith(CREDENTIAL_PREFIX)


class Machines:
    """The machines in `directory`; `now` returns epoch seconds.

    A user may have `max_per_user`. The time and address of the last use are stored at most once in
    `use_interval` seconds.
    """

    def __init__(
        self,
        directory: PrivateDirectory,
        now: Callable[[], float],
        max_per_user: int = 50,
        use_interval: float = 600.0,
    ) -> None:
        self._directory = directory
        self._now = now
        self._max_per_user = max_per_user
        self._use_interval = use_interval
        # By file: its version and content, for lists.
        self._known: dict[str, tuple[tuple[int, ...], Machine | None]] = {}

    def find(self, machine_id: str) -> Machine | None:
        """Return the machine with this `PublicKey.id`, or None."""
        return self._read(f"{machine_id}{_SUFFIX}")

    def list_all(self) -> list[Machine]:
        """Return the machines of all users; reads every file."""
        return [machine for machine in self._read_all().values() if machine is not None]

    def of_user(self, user: User) -> dict[str, Machine]:
        """Return the machines of `user` by their ids, the oldest first."""
        found = [
            (file.removesuffix(_SUFFIX), machine)
            for file, machine in self._read_all().items()
            if machine is not None and machine.user.id == user.id
        ]
        return dict(sorted(found, key=lambda item: item[1].created))

    def register(
        self, key: PublicKey, grant: AccessGrant, name: str, scopes: frozenset[str]
    ) -> Machine:
        """Register the key as a machine of the user of `grant`, and return the machine.

        It replaces an earlier registration by the same user. Raises Forbidden for the key of
        another user's machine, a scope that `grant` does not have, and too many machines.
        """
        if not scopes <= grant.scopes:
            raise Forbidden("You cannot give a machine a scope that you do not have.")
        known = self.of_user(grant.user)
        if key.id not in known and len(known) >= self._max_per_user:
            raise Forbidden(
                f"You have {len(known)} machines, which is the maximum. Remove one that you no "
                "longer use."
            )
        machine = Machine(
            grant.user, name, key.fingerprint, scopes, self._now(), grant.auth_time, grant.tier
        )
        self._store(key.id, machine)
        return machine

    def _store(self, machine_id: str, machine: Machine) -> None:
        file, data = f"{machine_id}{_SUFFIX}", msgspec.json.encode(machine)
        if self._directory.create(file, data):
            return
        registered = self._read(file)
        if registered is not None and registered.user.id != machine.user.id:
            raise Forbidden(
                "This machine is registered already, by somebody else. Remove it there, or create "
                "another key with: ssh-keygen -t ed25519 -f ~/.ollama/id_ed25519"
            )
        self._directory.replace(file, data)

    def rename(self, user: User, machine_id: str, name: str) -> Machine:
        """Rename a machine of `user` and return it; raises NotFound."""
        renamed = replace(self._require(user, machine_id), name=name)
        if not self._directory.update(f"{machine_id}{_SUFFIX}", msgspec.json.encode(renamed)):
            raise _not_found_error()  # it was removed meanwhile
        return renamed

    def remove(self, user: User, machine_id: str) -> None:
        """Remove a machine of `user`; raises NotFound."""
        self._require(user, machine_id)
        self._directory.remove(f"{machine_id}{_SUFFIX}")

    def remove_all(self, user: User) -> int:
        """Remove every machine of `user` and return their number."""
        files = (f"{machine_id}{_SUFFIX}" for machine_id in self.of_user(user))
        return sum(map(self._directory.remove, files))

    def check_active(self, grant: AccessGrant) -> None:
        """Raise Unauthorized if `grant` is that of a machine that was removed."""
        if not is_machine(grant):
            return
        machine = self.find(grant.credential_id.removeprefix(CREDENTIAL_PREFIX))
        if machine is None or machine.user.id != grant.user.id:
            raise Unauthorized("This machine was removed from the account that it used.")

    def record_use(self, machine_id: str, machine: Machine, address: str) -> None:
        """Store the time and the truncated address of a use, unless that was done recently.

        A failure is logged: a full disk does not end the use of models.
        """
        now = self._now()
        if now - machine.last_used < self._use_interval:
            return
        used = replace(machine, last_used=now, last_address=address)
        try:
            self._directory.update(f"{machine_id}{_SUFFIX}", msgspec.json.encode(used))
        except CtllmError as error:
            _log.warn("The use of a machine was not stored: {reason}", reason=error.message)

    def _require(self, user: User, machine_id: str) -> Machine:
        machine = self.find(machine_id)
        if machine is None or machine.user.id != user.id:
            raise _not_found_error()
        return machine

    def _read_all(self) -> dict[str, Machine | None]:
        versions = self._directory.file_versions()
        self._known = {
            file: known
            if (known := self._known.get(file)) is not None and known[0] == version
            else (version, self._read(file))
            for file, version in versions.items()
            if _FILE.fullmatch(file)
        }
        return {file: machine for file, (_, machine) in self._known.items()}

    def _read(self, file: str) -> Machine | None:
        data = self._directory.read(file)
        try:
            return None if data is None else decode_json(data, Machine)
        except InvalidJson:
            _log.warn(
                "The file {file} in {directory} is damaged, so its machine has to be approved "
                "again.",
                file=file,
                directory=self._directory.path,
            )
            return None


def _not_found_error() -> NotFound:
    return NotFound("You have no such machine.")

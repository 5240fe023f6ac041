"""When and from where each API key was last used: a small file beside the credentials.

It is no secret and not important. It is a file of its own because it changes while keys are used,
and a change of the credentials makes the desktop ask for a new token.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.auth.api_keys import KeyUse
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration
from ctllm.system.atomic_write import write_atomically

#: The number of requests at which counting ends.
MAX_REQUESTS = 2**53
#: The most bytes of the file that are read.
_MAX_SIZE = 1024 * 1024


class KeyUsageFile:
    """The file in the folder `state_dir`. A file that cannot be read counts as empty."""

    _log = Logger()

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "desktop" / "key-usage.json"

    def load(self) -> dict[str, KeyUse]:
        """Return the use of each key, by its id."""
        try:
            uses = decode_json(self.path.read_bytes(), list[KeyUse], _MAX_SIZE)
        except (OSError, InvalidJson):
            return {}
        return {use.id: use for use in uses}

    def save(self, uses: Iterable[KeyUse]) -> None:
        """Replace the file. A failure is logged."""
        try:
            write_atomically(self.path, msgspec.json.encode(list(uses)))
        except BadConfiguration as error:
            self._log.warn("Cannot store when API keys were used: {why}", why=error.message)


class KeyUsage:
    """The use of the keys, as the cloud reports it, written at most every `interval` seconds."""

    def __init__(self, file: KeyUsageFile, interval: float = 60.0) -> None:
        self._file = file
        self._interval = interval
        self._known: dict[str, KeyUse] | None = None
        self._is_changed = False
        self._saved_at: float | None = None

    def add(self, uses: Iterable[KeyUse], ids: frozenset[str], now: float) -> None:
        """Add what the cloud reports of the keys with `ids`; `now` is in seconds of any clock."""
        known = self.known()
        for use in uses:
            if use.id in ids:
                before = known.get(use.id)
                requests = min(use.requests + (before.requests if before else 0), MAX_REQUESTS)
                known[use.id] = msgspec.structs.replace(use, requests=requests)
                self._is_changed = True
        self._known = {id: use for id, use in known.items() if id in ids}
        if self._saved_at is None or now >= self._saved_at + self._interval:
            self.save(now)

    def known(self) -> dict[str, KeyUse]:
        """Return the use of each key, by its id."""
        if self._known is None:
            self._known = self._file.load()
        return self._known

    def save(self, now: float) -> None:
        """Write what is not written yet."""
        if self._is_changed and self._known is not None:
            self._is_changed, self._saved_at = False, now
            self._file.save(self._known.values())

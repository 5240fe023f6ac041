"""The preference as it was changed at run time, kept over restarts.

The configuration says what it is until somebody changes it; when the configuration is changed
after that, it counts again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ctllm.desktop.broker.choice import Preference
from ctllm.desktop.saving import save
from ctllm.wire.json_decoder import decode_json


class _Kept(msgspec.Struct, frozen=True):
    preference: Preference
    configured: Preference  # what the configuration said then


class KeptPreference:
    """The file in the `state` folder. What cannot be read counts as not there."""

    def __init__(self, state: Path, configured: Preference) -> None:
        self._path = state / "desktop" / "preference.json"
        self._configured = configured

    def load(self) -> Preference:
        """What counts now."""
        try:
            kept = decode_json(self._path.read_bytes(), _Kept)
        except (OSError, ValueError):
            return self._configured
        return kept.preference if kept.configured is self._configured else self._configured

    def save(self, preference: Preference) -> None:
        """Keep it; raises BadConfiguration where that cannot be."""
        save(self._path, msgspec.json.encode(_Kept(preference, self._configured)))

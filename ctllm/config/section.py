"""What all sections of the configuration share."""

from __future__ import annotations

from msgspec import Struct


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share. A `check` in a field's `extra` judges the texts that it holds."""

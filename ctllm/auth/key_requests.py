"""API keys in the requests and responses of `/ctllm/keys`, in the cloud and on loopback."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.auth.api_keys import (
    MAX_KEY_NAME,
    MAX_REQUESTS_PER_MINUTE,
    KeyRecord,
    KeyScope,
    NamedKeyRecord,
    check_key_name,
    record_key,
)
from ctllm.auth.model_patterns import MAX_PATTERNS, ModelPattern

#: Seconds that a key lasts.
MIN_LIFETIME, MAX_LIFETIME = 60, 100 * 365 * 86400


class CreateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request for a key. Without `models` it may use all. Numbers are whole.

    The scope `use` is always included.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_NAME)]
    scopes: Annotated[list[Literal["use", "manage"]], Meta(min_length=1, max_length=2)]
    models: Annotated[tuple[ModelPattern, ...], Meta(max_length=MAX_PATTERNS)] = ()
    expires_in: Annotated[float, Meta(ge=MIN_LIFETIME, le=MAX_LIFETIME, multiple_of=1)] | None = (
        None
    )
    requests_per_minute: Annotated[float, Meta(ge=0, le=MAX_REQUESTS_PER_MINUTE, multiple_of=1)] = 0
    desktop: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None

    def __post_init__(self) -> None:
        """Refuse other names."""
        check_key_name(self.name)

    @property
    def scope(self) -> KeyScope:
        """The scope in the record of the key."""
        return "manage" if "manage" in self.scopes else "use"

    @property
    def rate(self) -> int:
        """The requests a minute in the record of the key."""
        return int(self.requests_per_minute or 0)

    def expiry(self, now: float) -> int | None:
        """Return when the key expires, in epoch seconds, as `now` is; None: never."""
        return None if self.expires_in is None else int(now + self.expires_in)

    def record(self, key: str, now: float) -> NamedKeyRecord:
        """Return the record of `key`; `now` is in epoch seconds."""
        record = record_key(key, self.scope, self.expiry(now), self.models, self.rate)
        return NamedKeyRecord(**msgspec.structs.asdict(record), name=self.name)


def describe_key(
    record: KeyRecord,
    name: str,
    desktop_id: str,
    state: str,
    last_use: tuple[int, str],
    message: str = "",
) -> dict[str, object]:
    """Return the JSON of a key. `last_use` is when and from where; 0 and empty: never."""
    return {
        "id": record.id,
        "name": name,
        "scopes": ["use", "manage"] if record.scope == "manage" else ["use"],
        "models": list(record.models),
        "requests_per_minute": int(record.requests_per_minute) or None,
        "expires_at": None if record.expires is None else int(record.expires),
        "last_used": last_use[0] or None,
        "last_address": last_use[1] or None,
        "desktop": desktop_id,
        "state": state,
        "message": message or None,
    }

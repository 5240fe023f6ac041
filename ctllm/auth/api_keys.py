"""API keys: `ctllm-k-<owner tag>-<secret>`, and the records by which they are recognised.

A desktop makes a key, shows it once, and keeps a record with a salted digest. It announces the
record to the cloud, so neither has the key. A salted SHA-256 is enough, because the secret is 32
random bytes: there is nothing to guess.

The owner tag in the key prevents that the desktop of another user, which learnt the record of a key
and announces it, receives the requests that are sent with the key.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.auth.model_patterns import MAX_PATTERNS, ModelPattern

PREFIX = "ctllm-k-"
MAX_KEYS = 100
"""Maximum number of keys of one desktop."""

MAX_REQUESTS_PER_MINUTE = 1_000_000
MAX_KEY_NAME = 64
"""Maximum number of characters of a key's name."""

KeyScope = Literal["use", "manage"]

_KEY = re.compile(PREFIX + r"([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept and announced of an API key.

    `id` follows from the key; `salt` and `digest` are hexadecimal. `expires` is in epoch seconds,
    or None. A key with `models` may only use the models that match one of these patterns.
    `requests_per_minute` is 0 without a limit. Both numbers are whole, and may be written as 60.0,
    which is an integer of JSON Schema. A field that a cloud does not know may be a
    restriction, so the cloud refuses it.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scope: KeyScope = "use"
    expires: Annotated[float, Meta(ge=0, le=2**52, multiple_of=1)] | None = None
    models: Annotated[tuple[ModelPattern, ...], Meta(max_length=MAX_PATTERNS)] = ()
    requests_per_minute: Annotated[float, Meta(ge=0, le=MAX_REQUESTS_PER_MINUTE, multiple_of=1)] = 0

    def matches(self, key: str) -> bool:
        """Return whether this is the record of `key`, in a time that tells nothing about it."""
        return hmac.compare_digest(self.digest, salted_digest(self.salt, key))

    def is_expired(self, now: float) -> bool:
        """Return whether the key has expired at `now`, in epoch seconds."""
        return self.expires is not None and now >= self.expires


KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class NamedKeyRecord(KeyRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of a key that was created on the page, which a desktop is to store."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_NAME)]

    def __post_init__(self) -> None:
        """Refuse names that a terminal or a page would show as something else."""
        check_key_name(self.name)


class KeyDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a desktop tells of a key beside its record: for the page.

    `last_used` is in epoch seconds, 0 if it was never used; like all numbers here it may be written
    as 60.0. `address` is truncated.
    """

    id: KeyId
    name: Annotated[str, Meta(max_length=4 * MAX_KEY_NAME)] = ""
    last_used: Annotated[float, Meta(ge=0, le=2**52, multiple_of=1)] = 0
    address: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:/]*\Z", max_length=64)] = ""


class KeyRefusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a desktop did not store a key that was created on the page."""

    id: KeyId
    reason: Annotated[str, Meta(max_length=300)]


class KeyReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a desktop adds to its lease if it knows keys that are created on the page.

    `accepts` tells whether it stores them. A key that it has stored is in the lease itself.
    """

    accepts: bool
    keys: Annotated[tuple[KeyDescription, ...], Meta(max_length=MAX_KEYS)] = ()
    refused: Annotated[tuple[KeyRefusal, ...], Meta(max_length=MAX_KEYS)] = ()


class KeyChanges(msgspec.Struct, frozen=True):
    """What a desktop is to do with its keys: until its lease shows that, each response repeats it.

    A record that the desktop does not understand is no error of the others.
    """

    added: Annotated[tuple[msgspec.Raw, ...], Meta(max_length=MAX_KEYS)] = ()
    removed: Annotated[tuple[KeyId, ...], Meta(max_length=2 * MAX_KEYS)] = ()


class KeyUse(msgspec.Struct, frozen=True):
    """The use of the key with this `id` since the cloud last told it to the desktop.

    `last_used` is in epoch seconds; `address` is the truncated address of the last client.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    last_used: Annotated[int, Meta(ge=0, le=2**53)]
    address: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:/]*\Z", max_length=64)] = ""
    requests: Annotated[int, Meta(ge=0, le=2**53)] = 0


def check_key_name(name: str) -> None:
    """Raise ValueError unless `name` can name a key."""
    if not 0 < len(name) <= MAX_KEY_NAME or not name.isprintable() or name.strip() != name:
        raise ValueError(
            f"The name of an API key has 1 to {MAX_KEY_NAME} printable characters, and neither "
            "begins nor ends with a space."
        )


def owner_tag(user_key: str) -> str:
    """Return the 16 hexadecimal digits in all keys of the user with the identity `user_key`."""
    return sha256(user_key.encode("utf-8")).hexdigest()[:16]


def generate_key(user_key: str) -> str:
    """Generate a key for the user with the identity `user_key`, of which only a digest is kept."""
    return f"{PREFIX}{owner_tag(user_key)}-{token_urlsafe(32)}"


def key_id(key: str) -> str:
    """Return the id of `key`, by which its record is found; the key cannot be computed from it."""
    return sha256(b"ctllm API key\0" + key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def salted_digest(salt: str, key: str) -> str:
    """Return the hexadecimal SHA-256 of the bytes of `salt`, which is hexadecimal, and `key`."""
    return sha256(bytes.fromhex(salt) + key.encode("utf-8", "surrogatepass")).hexdigest()


def record_key(
    key: str,
    scope: KeyScope = "use",
    expires: int | None = None,
    models: tuple[str, ...] = (),
    requests_per_minute: int = 0,
) -> KeyRecord:
    """Return a record of `key`, with a new salt."""
    salt = token_hex(16)
    digest = salted_digest(salt, key)
    return KeyRecord(key_id(key), salt, digest, scope, expires, models, requests_per_minute)


def parse_owner_tag(key: str) -> str | None:
    """Return the owner tag in `key`, or None if `key` does not have the format of a key."""
    match = _KEY.fullmatch(key)
    return match and match[1]

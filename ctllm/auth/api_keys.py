"""The format of API keys: `ctllm-k-<owner tag>-<secret>`.

The owner tag in the key prevents that the desktop of another user, which learnt the hash of a key
and registers it, receives the requests that are sent with the key.
"""

from __future__ import annotations

import re
from hashlib import sha256
from secrets import token_urlsafe

PREFIX = "ctllm-k-"
_KEY = re.compile(PREFIX + r"([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


def owner_tag(user_key: str) -> str:
    """Return the 16 hexadecimal digits in all keys of the user with the identity `user_key`."""
    return sha256(user_key.encode("utf-8")).hexdigest()[:16]


def generate_key(user_key: str) -> str:
    """Generate a key for the user with the identity `user_key`, of which only a hash is stored."""
    return f"{PREFIX}{owner_tag(user_key)}-{token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Return the hexadecimal SHA-256 of `key`; its 32 random bytes need no salt."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def parse_owner_tag(key: str) -> str | None:
    """Return the owner tag in `key`, or None if `key` does not have the format of a key."""
    match = _KEY.fullmatch(key)
    return match and match[1]

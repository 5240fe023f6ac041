"""API keys for programs, as text: `ctllm-k-<owner tag>-<secret>`.

The owner's tag lies inside the key, so that a desktop of somebody else that learnt a key's hash
and claims it for itself still does not receive what is sent with the key.
"""

from __future__ import annotations

import re
from hashlib import sha256
from secrets import token_urlsafe

PREFIX = "ctllm-k-"
_KEY = re.compile(PREFIX + r"([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


def owner_tag(user_key: str) -> str:
    """Give the 16 hex digits that mark the keys of the user whose identity is `user_key`."""
    return sha256(user_key.encode("utf-8")).hexdigest()[:16]


def generate_key(user_key: str) -> str:
    """Make a key for the user whose identity is `user_key`; show it once, keep only its hash."""
    return f"{PREFIX}{owner_tag(user_key)}-{token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Give the hex SHA-256 of `key`: 32 random bytes inside, so neither salt nor stretching."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def parse_owner_tag(key: str) -> str | None:
    """Give the owner's tag inside `key`, or None if this is not the text of a key."""
    match = _KEY.fullmatch(key)
    return match and match[1]

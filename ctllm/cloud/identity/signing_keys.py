"""What makes this cloud itself: its signing key and its secret, made on the first start."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import from_text, public_text, to_text
from ctllm.errors import BadConfiguration
from ctllm.system.private_dir import PrivateDirectory

PROXY_PREFIX = "ctllm-proxy-"
"""What stands before the user's hash in the name of a proxy."""

_SIZE = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The key that signs tokens, and the secret (32 bytes) behind the names of proxies."""

    signing: Ed25519PrivateKey = field(repr=False)
    instance: bytes = field(repr=False)

    @property
    def public_text(self) -> str:
        """The public half of the signing key, base64url of 32 bytes: what proxies are given."""
        return public_text(self.signing)


def load_keys(folder: PrivateDirectory) -> Keys:
    """Read the keys in `folder`, having made those that are missing.

    BadConfiguration names the file that cannot be used and says what to do about it.
    """
    signing = _load(
        folder, "signing-key", "tokens in use are refused; clients fetch new ones by themselves"
    )
    instance = _load(folder, "instance-secret", "all streaming proxies are started anew")
    return Keys(Ed25519PrivateKey.from_private_bytes(signing), instance)


def _load(folder: PrivateDirectory, name: str, price: str) -> bytes:
    text = folder.read(name)
    if text is None:
        folder.create(name, to_text(token_bytes(_SIZE)).encode("ascii") + b"\n")
        # Read again, made or not: another process may have been the one that made it.
        text = folder.read(name) or b""
    path = folder.path / name
    if not folder.is_private(name):
        raise BadConfiguration(f"Others can read the key in {path}. Run: chmod 600 {path}")
    try:
        return _sized(from_text(text.removesuffix(b"\n")))
    except ValueError as error:
        raise BadConfiguration(
            f"The key in {path} is damaged. Restore it from a backup, or remove the file to get "
            f"a new one ({price})."
        ) from error


def _sized(key: bytes) -> bytes:
    if len(key) != _SIZE:
        raise ValueError("not 32 bytes")
    return key


def user_hash(instance: bytes, user_key: str) -> str:
    """Give the user as 32 hex digits that nobody without the `instance` secret can guess."""
    return hmac.digest(instance, user_key.encode("utf-8"), "sha256").hex()[:32]


def proxy_id(instance: bytes, user_key: str) -> str:
    """Give the name of this user's streaming proxy: `ctllm-proxy-<user_hash>`."""
    return f"{PROXY_PREFIX}{user_hash(instance, user_key)}"

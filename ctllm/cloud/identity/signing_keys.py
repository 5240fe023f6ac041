"""What makes this cloud itself: its signing key and its secret, made on the first start."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import decode_base64url, encode_base64url, encode_public_key
from ctllm.errors import BadConfiguration
from ctllm.system.private_dir import PrivateDirectory

PROXY_PREFIX = "ctllm-proxy-"
"""What stands before the user's hash in the name of a proxy."""

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that signs tokens, and the secret (32 bytes) behind the names of proxies."""

    signing_key: Ed25519PrivateKey = field(repr=False)
    instance_secret: bytes = field(repr=False)

    @property
    def public_key_text(self) -> str:
        """The public half of the signing key, base64url of 32 bytes: what proxies are given."""
        return encode_public_key(self.signing_key)


def load_signing_keys(folder: PrivateDirectory) -> SigningKeys:
    """Read the keys in `folder`, having made those that are missing.

    BadConfiguration names the file that cannot be used and says what to do about it.
    """
    signing = _load(
        folder, "signing-key", "tokens in use are refused; clients fetch new ones by themselves"
    )
    instance = _load(folder, "instance-secret", "all streaming proxies are started anew")
    return SigningKeys(Ed25519PrivateKey.from_private_bytes(signing), instance)


def _load(folder: PrivateDirectory, name: str, consequence: str) -> bytes:
    text = folder.read(name)
    if text is None:
        folder.create(name, encode_base64url(token_bytes(_KEY_BYTES)).encode("ascii") + b"\n")
        # Read again, made or not: another process may have been the one that made it.
        text = folder.read(name) or b""
    path = folder.path / name
    if not folder.is_private(name):
        raise BadConfiguration(f"Others can read the key in {path}. Run: chmod 600 {path}")
    try:
        return _check_size(decode_base64url(text.removesuffix(b"\n")))
    except ValueError as error:
        raise BadConfiguration(
            f"The key in {path} is damaged. Restore it from a backup, or remove the file to get "
            f"a new one ({consequence})."
        ) from error


def _check_size(key: bytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError("not 32 bytes")
    return key


def user_hash(instance_secret: bytes, user_id: str) -> str:
    """Give the user as 32 hex digits that nobody without the `instance` secret can guess."""
    return hmac.digest(instance_secret, user_id.encode("utf-8"), "sha256").hex()[:32]


def proxy_id(instance_secret: bytes, user_id: str) -> str:
    """Give the name of this user's streaming proxy: `ctllm-proxy-<user_hash>`."""
    return f"{PROXY_PREFIX}{user_hash(instance_secret, user_id)}"

"""The keys of a cloud, created at its first start: its signing key and its instance secret."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import decode_base64url, encode_base64url, encode_public_key
from ctllm.errors import BadConfiguration
from ctllm.system.private_dir import PrivateDirectory

PROXY_PREFIX = "ctllm-proxy-"
"""The prefix of a proxy's id, before the hash of its user."""

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that signs tokens, and the secret (32 bytes) with which users are hashed."""

    signing_key: Ed25519PrivateKey = field(repr=False)
    instance_secret: bytes = field(repr=False)

    @property
    def public_key_text(self) -> str:
        """The public key for proxies: 32 bytes in base64url."""
        return encode_public_key(self.signing_key)


def load_signing_keys(directory: PrivateDirectory) -> SigningKeys:
    """Read the keys in `directory`, and create those that are missing; raises BadConfiguration."""
    signing_key = _load(
        directory,
        "signing-key",
        "tokens in use become invalid, and clients fetch new ones automatically",
    )
    instance_secret = _load(directory, "instance-secret", "all streaming proxies are restarted")
    return SigningKeys(Ed25519PrivateKey.from_private_bytes(signing_key), instance_secret)


def _load(directory: PrivateDirectory, name: str, consequence: str) -> bytes:
    text = directory.read(name)
    if text is None:
        directory.create(name, encode_base64url(token_bytes(_KEY_BYTES)).encode("ascii") + b"\n")
        # Read it even if `create` did not: another process may have created it.
        text = directory.read(name) or b""
    path = directory.path / name
    if not directory.is_private(name):
        raise BadConfiguration(f"Other users can read the key in {path}. Run: chmod 600 {path}")
    try:
        return _check_size(decode_base64url(text.removesuffix(b"\n")))
    except ValueError as error:
        raise BadConfiguration(
            f"The key in {path} is damaged. Restore it from a backup, or remove the file to create "
            f"a new one ({consequence})."
        ) from error


def _check_size(key: bytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError(f"A key must have {_KEY_BYTES} bytes.")
    return key


def user_hash(instance_secret: bytes, user_id: str) -> str:
    """Return a hash of the user, in 32 hex digits, that needs `instance_secret` to compute."""
    return hmac.digest(instance_secret, user_id.encode("utf-8"), "sha256").hex()[:32]


def proxy_id(instance_secret: bytes, user_id: str) -> str:
    """Return the id of the user's streaming proxy: `ctllm-proxy-<user_hash>`."""
    return f"{PROXY_PREFIX}{user_hash(instance_secret, user_id)}"

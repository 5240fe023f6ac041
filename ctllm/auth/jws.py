"""Signed tokens: JWS in compact form (RFC 7515), with Ed25519 and one fixed header for each kind.

A token whose header differs from that of its kind by a byte is rejected. So no other algorithm is
possible, and a token of one kind does not pass for another.

PyJWT could verify these tokens, but would cost each streaming proxy 13 MB to import; `cryptography`
would cost 8 MB and is only imported to sign, in the cloud. PyNaCl's binding of libsodium costs
0.3 MB; its `nacl.signing` would cost as much again.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nacl.bindings.crypto_sign import (
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_PUBLICKEYBYTES,
)
from nacl.exceptions import BadSignatureError

from ctllm.errors import BadConfiguration, Unauthorized

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_TOKEN_SIZE = 8 * 1024
"""Maximum bytes of a token."""

LEEWAY = 5.0
"""Seconds for which a token is accepted after `exp`, because the verifier's clock may be fast."""

MAX_TIMESTAMP = 2**53
"""Maximum time in a token, in epoch seconds: a float represents it exactly."""

FUTURE_LEEWAY = 30.0
"""Seconds for which a token is accepted before `iat` and `nbf`, because the verifier's clock may be
slow or was set back."""


def encode_base64url(data: bytes) -> str:
    """Encode `data` as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str | bytes) -> bytes:
    """Decode canonical base64url without padding; raises ValueError."""
    given = text if isinstance(text, bytes) else text.encode("ascii")
    data = urlsafe_b64decode(given + b"=" * (-len(given) % 4))
    # Python's decoder ignores invalid characters and spare bits, so that encodings were not unique.
    if encode_base64url(data).encode("ascii") != given:
        raise ValueError("not canonical base64url")
    return data


def encode_public_key(key: Ed25519PrivateKey) -> str:
    """Encode the public key of `key` as base64url of its 32 bytes."""
    return encode_base64url(key.public_key().public_bytes_raw())


@dataclass(frozen=True)
class VerifyKey:
    """An Ed25519 public key (RFC 8032); raises ValueError unless it has 32 bytes."""

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != crypto_sign_PUBLICKEYBYTES:
            raise ValueError(f"a public key has {crypto_sign_PUBLICKEYBYTES} bytes")

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Verify the `signature` of `signed`; raises BadSignatureError or ValueError."""
        if len(signature) != crypto_sign_BYTES:
            raise ValueError(f"a signature has {crypto_sign_BYTES} bytes")
        crypto_sign_open(signature + signed, self.data)


def decode_public_key(text: str) -> VerifyKey:
    """Decode the result of `encode_public_key`; raises BadConfiguration."""
    try:
        return VerifyKey(decode_base64url(text))
    except ValueError as error:
        raise BadConfiguration(
            "The cloud's public key must be 32 bytes in base64url (43 characters)."
        ) from error


@dataclass(frozen=True)
class TokenKind:
    """A kind of token: `typ` is in its header, `title` in messages for people."""

    typ: str
    title: str

    @cached_property
    def header(self) -> bytes:
        """The first segment of every token of this kind, with its dot."""
        return (
            encode_base64url(b'{"alg":"EdDSA","typ":"%s"}' % self.typ.encode("ascii")).encode()
            + b"."
        )

    def matches(self, token: str) -> bool:
        """Return whether `token` has the header of this kind; the signature is not verified."""
        return token.startswith(self.header.decode("ascii"))

    def sign(self, key: Ed25519PrivateKey, claims: bytes) -> str:
        """Return a token with `claims` (JSON)."""
        signed = self.header + encode_base64url(claims).encode("ascii")
        return f"{signed.decode('ascii')}.{encode_base64url(key.sign(signed))}"

    def verify(self, key: VerifyKey, token: str | bytes) -> bytes:
        """Return the claims (JSON) of a `token` that `key` verifies; raises Unauthorized."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthorized(f"The {self.title} is longer than {MAX_TOKEN_SIZE} bytes.")
        try:
            return self._verify(key, token if isinstance(token, bytes) else token.encode("ascii"))
        except (BadSignatureError, ValueError) as error:
            raise self.invalid_token() from error

    def _verify(self, key: VerifyKey, token: bytes) -> bytes:
        signed, _, signature = token.rpartition(b".")
        if not signed.startswith(self.header):
            raise ValueError("another kind of token")
        key.verify(signed, decode_base64url(signature))
        return decode_base64url(signed.removeprefix(self.header))

    def invalid_token(self) -> Unauthorized:
        """Return the error for an invalid token; it does not say what is wrong."""
        return Unauthorized(f"The {self.title} is not valid here: log in again.")

    def check_times(self, issued: float, expires: float, now: float) -> None:
        """Raise Unauthorized unless `now` is between `issued` and `expires` (epoch seconds)."""
        if max(issued, expires) > MAX_TIMESTAMP:
            raise self.invalid_token()
        if now >= expires + LEEWAY:
            raise Unauthorized(f"The {self.title} has expired: log in again.")
        if issued > now + FUTURE_LEEWAY:
            raise Unauthorized(f"The {self.title} is from the future: check the clocks.")

"""Signed tokens: JWS in compact form (RFC 7515), Ed25519 only, one fixed header for each kind.

A token whose first segment is not byte for byte its kind's header is read no further. So there is
no algorithm to choose and none to confuse, and a token of one kind never passes for another.
PyJWT would read these tokens too; it would cost every streaming proxy 13 MB to import. So would
`cryptography` with 8 MB: it signs, in the cloud, which needs it anyway. PyNaCl, that is libsodium,
verifies and costs less than one.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ctllm.errors import BadConfiguration, Unauthorized

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_TOKEN_SIZE = 8 * 1024
"""Bytes; a longer token is refused unread."""

LEEWAY = 5.0
"""Seconds after its end for which a token is taken: the verifier's clock may be fast."""

MAX_TIMESTAMP = 2**53
"""The latest time that a token may name, in epoch seconds: a float holds it exactly."""

FUTURE_LEEWAY = 30.0
"""Seconds before its beginning (`iat`, `nbf`) for which a token is taken: the verifier's clock may
be slow, or was set back since. A token that is taken early ends no later for it."""


def encode_base64url(data: bytes) -> str:
    """Give `data` as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str | bytes) -> bytes:
    """Give the bytes behind base64url `text`; ValueError unless it is their one exact spelling."""
    given = text if isinstance(text, bytes) else text.encode("ascii")
    data = urlsafe_b64decode(given + b"=" * (-len(given) % 4))
    # Python's decoder skips foreign characters and spare bits; then many texts mean one value.
    if encode_base64url(data).encode("ascii") != given:
        raise ValueError("not base64url in its shortest form")
    return data


def encode_public_key(key: Ed25519PrivateKey) -> str:
    """Give the public half of `key` as base64url of its 32 raw bytes."""
    return encode_base64url(key.public_key().public_bytes_raw())


def decode_public_key(text: str) -> VerifyKey:
    """Read what `public_text` gave; BadConfiguration if that is not what it is."""
    try:
        return VerifyKey(decode_base64url(text))
    except ValueError as error:
        raise BadConfiguration(
            "The cloud's public key must be 32 bytes in base64url (43 characters)."
        ) from error


@dataclass(frozen=True)
class TokenKind:
    """A kind of token: `typ` stands in its header, `title` in sentences for people."""

    typ: str
    title: str

    @cached_property
    def header(self) -> bytes:
        """The first segment, with its dot, of every token of this kind."""
        return (
            encode_base64url(b'{"alg":"EdDSA","typ":"%s"}' % self.typ.encode("ascii")).encode()
            + b"."
        )

    def matches(self, token: str) -> bool:
        """Whether `token` calls itself one of this kind; says nothing about its signature."""
        return token.startswith(self.header.decode("ascii"))

    def sign(self, key: Ed25519PrivateKey, claims: bytes) -> str:
        """Give the token that carries `claims` (JSON)."""
        signed = self.header + encode_base64url(claims).encode("ascii")
        return f"{signed.decode('ascii')}.{encode_base64url(key.sign(signed))}"

    def verify(self, key: VerifyKey, token: str | bytes) -> bytes:
        """Give the claims (JSON) of a `token` that `key` signed; Unauthenticated otherwise."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthorized(f"The {self.title} is too long to be one.")
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
        """Give the one answer to all that is wrong with a token, save its age and length."""
        return Unauthorized(f"The {self.title} is not valid here: sign in again.")

    def check_times(self, issued: float, expires: float, now: float) -> None:
        """Raise Unauthenticated unless `now` lies within a token's life (epoch seconds)."""
        if max(issued, expires) > MAX_TIMESTAMP:
            raise self.invalid_token()
        if now >= expires + LEEWAY:
            raise Unauthorized(f"The {self.title} has expired: sign in again.")
        if issued > now + FUTURE_LEEWAY:
            raise Unauthorized(f"The {self.title} is from the future: check the clocks.")

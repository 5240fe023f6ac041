"""Texts that the cloud stores or gives away, encrypted: only it can read them.

Such are refresh tokens of providers, in the files of sessions.

The key is derived from the instance secret, so a copy of the sessions alone discloses no token.
"""

from __future__ import annotations

from hashlib import blake2b

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from ctllm.auth.jws import decode_base64url, encode_base64url


class TokenSealer:
    """Encrypts and decrypts texts with XSalsa20-Poly1305 (PyNaCl's SecretBox).

    Each is bound to a context, which names what it belongs to: elsewhere it cannot be opened.
    """

    def __init__(self, instance_secret: bytes) -> None:
        self._secret = instance_secret

    def seal(self, text: str, context: str) -> str:
        """Return `text`, encrypted, in base64url."""
        return encode_base64url(self._box(context).encrypt(text.encode()))

    def unseal(self, sealed: str, context: str) -> str | None:
        """Return the text, or None if it was not sealed with this key and `context`."""
        try:
            return self._box(context).decrypt(decode_base64url(sealed)).decode()
        except (CryptoError, ValueError):
            return None

    def _box(self, context: str) -> SecretBox:
        # A key for each context, as SecretBox authenticates no further data.
        return SecretBox(
            blake2b(
                context.encode(), key=self._secret, person=b"ctllm-seal", digest_size=32
            ).digest()
        )

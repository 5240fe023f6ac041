"""The format of the files: a header in clear, and content that is encrypted and authenticated.

`CTLLMCV1 | revision (8 bytes) | nonce (24) | XChaCha20-Poly1305 of the content`. The name of the
file and the revision are authenticated with the content. So no file opens under another name, and
none with the revision of another version. Sans-IO.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from secrets import token_bytes

from nacl.exceptions import CryptoError
from nacl.secret import Aead

#: Bytes of a key, a nonce and a tag of XChaCha20-Poly1305. `Aead` has them, but takes 0.5 MB.
KEY_SIZE, _NONCE_SIZE, _TAG_SIZE = 32, 24, 16
MAX_REVISION = 2**53 - 1
"""The largest integer that JavaScript represents exactly."""

_MAGIC = b"CTLLMCV1"
_HEADER = struct.Struct(">8sQ")
HEADER_SIZE = _HEADER.size
OVERHEAD = HEADER_SIZE + _NONCE_SIZE + _TAG_SIZE
"""How much longer a file is than its content, in bytes."""


class DamagedFile(Exception):
    """A file that was changed, is incomplete, or was encrypted with another key."""


def generate_key() -> bytes:
    """Return a new key."""
    return token_bytes(KEY_SIZE)


def key_fingerprint(key: bytes) -> str:
    """Return what recognises `key` and does not disclose it."""
    return blake2b(b"", key=key, person=b"ctllm-conv-key", digest_size=16).hexdigest()


def seal(key: bytes, name: str, revision: int, content: bytes) -> bytes:
    """Return the bytes of the file called `name`."""
    nonce = token_bytes(_NONCE_SIZE)
    header = _HEADER.pack(_MAGIC, revision)
    return header + Aead(key).encrypt(content, _associated(header, name), nonce)


def read_revision(start: bytes) -> int:
    """Return the revision in the first bytes of a file, unverified; raises DamagedFile."""
    if len(start) < HEADER_SIZE:
        raise DamagedFile("it is incomplete")
    magic, revision = _HEADER.unpack_from(start)
    if magic != _MAGIC or revision > MAX_REVISION:
        raise DamagedFile("it does not begin as a file of this ctllm does")
    return int(revision)


def unseal(key: bytes, name: str, sealed: bytes) -> tuple[int, bytes]:
    """Return revision and content of the file called `name`; raises DamagedFile."""
    revision = read_revision(sealed)
    if len(sealed) < OVERHEAD:
        raise DamagedFile("it is incomplete")
    associated = _associated(sealed[:HEADER_SIZE], name)
    try:
        return revision, Aead(key).decrypt(sealed[HEADER_SIZE:], associated)
    except CryptoError:
        raise DamagedFile("it was changed since it was written") from None


def _associated(header: bytes, name: str) -> bytes:
    return header + name.encode()

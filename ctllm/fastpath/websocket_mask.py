"""The masking of WebSocket frames by clients (RFC 6455, section 5.3).

autobahn has a masker in C. It is called here without the autobahn module around it, which copies
the payload three times and imports a parser of C (1.5 MB). Without it, Python's integers do.
"""

from __future__ import annotations

import os
from typing import Any

#: The `ffi` and `lib` of a module that cffi compiled.
NativeMasker = tuple[Any, Any]

_native_masker: NativeMasker | None
try:
    from _nvx_xormasker import ffi, lib

    _native_masker = ffi, lib
except ImportError:  # some packages of autobahn lack it
    _native_masker = None

#: The bytes of a masking key.
KEY_LENGTH = 4

#: From this many bytes on, the call to C is cheaper than one long integer.
MIN_NATIVE_LENGTH = 512

#: Random bytes that are read at once: a system call for each message costs as much as its mask.
RANDOM_BYTES = 4096


class KeySource:
    """A source of masking keys, as unpredictable as those of `os.urandom`."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def next_key(self) -> bytes:
        """Return a key that was not returned before."""
        start = self._used
        if start == len(self._bytes):
            self._bytes, start = os.urandom(RANDOM_BYTES), 0
        self._used = start + KEY_LENGTH
        return self._bytes[start : self._used]

    def forget(self) -> None:
        """Read new random bytes for the next key: a forked process must not use its parent's."""
        self._bytes, self._used = b"", 0


key_source = KeySource()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=key_source.forget)


def apply_mask(payload: bytes, key: bytes, native: NativeMasker | None = _native_masker) -> bytes:
    """XOR `payload` with the repeated `key`; masking and unmasking are the same."""
    if native is not None and len(payload) >= MIN_NATIVE_LENGTH:
        return _mask_natively(payload, key, *native)
    size = len(payload)
    keys = int.from_bytes((key * (size // KEY_LENGTH + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ keys).to_bytes(size, "little")


def _mask_natively(payload: bytes, key: bytes, ffi: Any, lib: Any) -> bytes:
    masked = bytearray(payload)
    masker = lib.nvx_xormask_new(ffi.from_buffer("uint8_t[]", key))
    if not masker:
        raise MemoryError
    lib.nvx_xormask_process(masker, ffi.from_buffer("uint8_t[]", masked), len(masked))
    lib.nvx_xormask_free(masker)
    return bytes(masked)

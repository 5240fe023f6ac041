"""The masking of WebSocket frames by clients (RFC 6455, section 5.3).

autobahn has a masker in C. It is called here without the autobahn module around it, which copies
the payload three times and imports a parser of C (1.5 MB). Without it, Python's integers do.
"""

from __future__ import annotations

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

"""The mask that WebSocket clients put on what they send (RFC 6455, section 5.3).

autobahn brings a masker in C. It is called without autobahn's module around it, which copies three
times where once will do and imports a parser of C (1.5 MB).
"""

from __future__ import annotations

from typing import Any

_in_c: tuple[Any, Any] | None
try:
    from _nvx_xormasker import ffi, lib

    _in_c = ffi, lib
except ImportError:  # not in every autobahn's package
    _in_c = None

KEY_LENGTH = 4
"""Bytes of a key."""

#: From here on the call to C is cheaper than one long integer.
_MIN_NATIVE_LENGTH = 512


def apply_mask(payload: bytes, key: bytes) -> bytes:
    """XOR each byte with its byte of the `key` (4 bytes), over and over; its own reverse."""
    if _in_c is not None and len(payload) >= _MIN_NATIVE_LENGTH:
        return _mask_natively(payload, key, *_in_c)
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

"""Content codings of request bodies, which are decoded for a scanner while they pass.

Ollama accepts one coding, zstd (RFC 8878), which Codex sends. What is decoded is limited, as a few
bytes may decode to gigabytes. It is not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ctllm.http.message.head import RequestHead, get_header

if TYPE_CHECKING:
    from ctllm.common.memory_budget import BufferBudget

ZSTD = b"zstd"
#: How many bytes of a body are decoded, and how many of them at a time.
MAX_DECODED = 1024 * 1024
_CHUNK = 64 * 1024
#: The largest window that a frame may need, as a power of two: 8 MiB, as in Ollama.
_MAX_WINDOW_LOG = 23
_DECODER_SIZE = (1 << _MAX_WINDOW_LOG) + 256 * 1024
#: The frames of one body at most: each needs a decoder of its own.
_MAX_FRAMES = 16
#: The first byte of a frame, and those of frames without content (RFC 8878, section 3.1). JSON
#: begins with none of them.
_FIRST_BYTES = frozenset((0x28, *range(0x50, 0x60)))


class BodyScanner(Protocol):
    """Reads a body as it arrives."""

    @property
    def is_settled(self) -> bool:
        """Whether more data would change nothing."""

    def feed(self, data: bytes) -> None:
        """Read the next part of the body."""


class _Decompressor(Protocol):
    """The decompressor of a zstd module."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return what `data` decodes to, at most `max_length` bytes of it."""


def is_zstd(head: RequestHead) -> bool:
    """Whether the body of this request is compressed with zstd."""
    coding = get_header(head.headers, b"content-encoding")
    return coding is not None and coding.strip().lower() == ZSTD


def starts_as_zstd(data: bytes) -> bool:
    """Whether a body that begins with `data`, which is not empty, may be zstd and is not JSON."""
    return data[0] in _FIRST_BYTES


def load_zstd() -> Any:
    """Import the zstd module: the standard library's from Python 3.14 on, before that its backport.

    It takes a megabyte and few requests need it, so it is imported for the first of them.
    """
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd


class ZstdDecoder:
    """Decodes a zstd body for `scanner`.

    A decompressor that waits for more data is reserved in `budget`. The decoder gives up, and
    `is_settled` is true, if the body is not zstd, needs too large a window, has too many frames or
    too much content, or if the budget is exhausted.
    """

    def __init__(self, scanner: BodyScanner, budget: BufferBudget) -> None:
        self.is_settled = False
        self._scanner = scanner
        self._budget = budget
        self._remaining = MAX_DECODED
        self._frames = 0
        self._decompressor: _Decompressor | None = None
        self._reserved = 0

    def feed(self, data: bytes) -> None:
        """Decode the next part of the body."""
        if self.is_settled or not data:
            return
        try:
            self._decode(data)
        except load_zstd().ZstdError:
            self.is_settled = True
        if self.is_settled or self._scanner.is_settled or not self._reserve_decompressor():
            self.close()

    def close(self) -> None:
        """Stop decoding, and release what is reserved."""
        self.is_settled = True
        self._decompressor = None
        self._budget.release(self._reserved)
        self._reserved = 0

    def _decode(self, data: bytes) -> None:
        """Decode `data` to its end, or until the scanner or this decoder is settled."""
        while not (self.is_settled or self._scanner.is_settled):
            decompressor = self._decompressor
            if decompressor is None:
                if not data:
                    return
                decompressor = self._decompressor = self._start_frame()
            content = decompressor.decompress(data, min(_CHUNK, self._remaining))
            data = b""
            self._scanner.feed(content)
            self._remaining -= len(content)
            self.is_settled = self.is_settled or self._remaining <= 0
            if decompressor.eof:
                data = decompressor.unused_data
                self._decompressor = None
            elif decompressor.needs_input:
                return

    def _start_frame(self) -> _Decompressor:
        zstd = load_zstd()
        self._frames += 1
        self.is_settled = self._frames > _MAX_FRAMES
        options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        decompressor: _Decompressor = zstd.ZstdDecompressor(options=options)
        return decompressor

    def _reserve_decompressor(self) -> bool:
        """Reserve the memory of a decompressor that waits; return False if the budget is full."""
        if self._decompressor is None or self._reserved:
            return True
        if self._budget.is_full:
            return False
        self._reserved = _DECODER_SIZE
        self._budget.reserve(_DECODER_SIZE)
        return True

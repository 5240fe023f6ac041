"""Request bodies with a content coding, read in passing: decoded for a reader, and never kept.

Ollama takes one coding, zstd (RFC 8878), which Codex sends. What is decoded here is bounded: a few
bytes may stand for gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ctllm.http.message.head import RequestHead, get_header

if TYPE_CHECKING:
    from ctllm.common.memory_budget import BufferBudget

ZSTD = b"zstd"
#: Most bytes of one body that are decoded, and most of them at a time.
MAX_DECODED = 1024 * 1024
_CHUNK = 64 * 1024
#: The largest window that a frame may need, as a power of two: that of Ollama, 8 MiB.
_MAX_WINDOW_LOG = 23
_DECODER_SIZE = (1 << _MAX_WINDOW_LOG) + 256 * 1024
#: Most frames of one body: each needs a decoder of its own.
_MAX_FRAMES = 16
#: The first byte of a frame, and those of frames that hold no content (RFC 8878, section 3.1).
#: No JSON begins with one of them.
_FIRST_BYTES = frozenset((0x28, *range(0x50, 0x60)))


class BodyScanner(Protocol):
    """Reads a body as it comes; `settled` when more would change nothing."""

    is_settled: bool

    def feed(self, piece: bytes) -> None:
        """The body goes on with `piece`."""


def is_zstd(head: RequestHead) -> bool:
    """Whether the body of this request is compressed with zstd."""
    coding = get_header(head.headers, b"content-encoding")
    return coding is not None and coding.strip().lower() == ZSTD


def starts_as_zstd(piece: bytes) -> bool:
    """Whether a body that begins with `piece`, which has a byte, may be zstd (and is no JSON)."""
    return piece[0] in _FIRST_BYTES


def load_zstd() -> Any:
    """Import the zstd module: the standard library's from Python 3.14 on, before that its backport.

    Few requests need it, and it takes a megabyte: it is imported when the first one comes.
    """
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd


class ZstdDecoder:
    """Decodes a zstd body for `reader`.

    A decoder that is kept until more of the body comes counts in `room`. It gives up, and `settled`
    is true, where the body is no zstd, needs too large a window, has more frames or more content
    than is decoded, or where there is no room.
    """

    def __init__(self, reader: BodyScanner, room: BufferBudget) -> None:
        self.is_settled = False
        self._reader = reader
        self._room = room
        self._left = MAX_DECODED
        self._frames = 0
        self._decompressor: Any = None
        self._reserved = 0

    def feed(self, piece: bytes) -> None:
        """The body goes on with `piece`."""
        if self.is_settled or not piece:
            return
        try:
            self._decode(piece)
        except load_zstd().ZstdError:
            self.is_settled = True
        if self.is_settled or self._reader.is_settled or not self._reserve():
            self.close()

    def close(self) -> None:
        """Nothing more is read of the body."""
        self.is_settled = True
        self._decompressor = None
        self._room.release(self._reserved)
        self._reserved = 0

    def _decode(self, piece: bytes) -> None:
        """Decode `piece`, until it is used up, the reader is settled or this gives up."""
        while not (self.is_settled or self._reader.is_settled):
            if self._decompressor is None:
                if not piece:
                    return
                self._decompressor = self._next_frame()
            content = self._decompressor.decompress(piece, min(_CHUNK, self._left))
            piece = b""
            self._reader.feed(content)
            self._left -= len(content)
            self.is_settled = self.is_settled or self._left <= 0
            if self._decompressor.eof:
                piece = self._decompressor.unused_data
                self._decompressor = None
            elif self._decompressor.needs_input:
                return

    def _next_frame(self) -> Any:
        zstd = load_zstd()
        self._frames += 1
        self.is_settled = self._frames > _MAX_FRAMES
        largest = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        return zstd.ZstdDecompressor(options=largest)

    def _reserve(self) -> bool:
        """Count the decoder that is kept; whether there is room for it."""
        if self._decompressor is None or self._reserved:
            return True
        if self._room.is_full:
            return False
        self._reserved = _DECODER_SIZE
        self._room.reserve(_DECODER_SIZE)
        return True

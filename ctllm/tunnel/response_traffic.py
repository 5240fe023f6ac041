"""How much of responses came through tunnels."""

from __future__ import annotations


class ResponseTraffic:
    """Counts the bytes and chunks of responses since the process began.

    A chunk is what one DATA frame has. A model that streams sends each line or event in a chunk of
    its own, unless several are ready at the same time. Lines are not counted: that would cost more
    for each byte than relaying it.
    """

    __slots__ = ("bytes", "chunks")

    def __init__(self) -> None:
        self.bytes = 0
        self.chunks = 0

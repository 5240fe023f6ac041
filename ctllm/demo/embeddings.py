"""Embeddings that mean nothing: the same text always has the same vector, of length one."""

from __future__ import annotations

from hashlib import shake_128
from math import sqrt
from struct import unpack

USUAL_DIMENSIONS = 64


def embedding_of(text: str, dimensions: int | None = None) -> list[float]:
    """Make the vector of a text."""
    count = dimensions or USUAL_DIMENSIONS
    numbers = unpack(f"<{count}h", shake_128(text.encode(errors="replace")).digest(2 * count))
    length = sqrt(sum(n * n for n in numbers)) or 1.0
    return [n / length for n in numbers]

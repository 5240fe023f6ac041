"""Embeddings for the demo: the same text always has the same unit vector, without a meaning."""

from __future__ import annotations

from hashlib import shake_128
from math import sqrt
from struct import unpack

DEFAULT_DIMENSIONS = 64


def embedding_of(text: str, dimensions: int | None = None) -> list[float]:
    """Return the vector of a text."""
    count = dimensions or DEFAULT_DIMENSIONS
    numbers = unpack(f"<{count}h", shake_128(text.encode(errors="replace")).digest(2 * count))
    length = sqrt(sum(n * n for n in numbers)) or 1.0
    return [n / length for n in numbers]

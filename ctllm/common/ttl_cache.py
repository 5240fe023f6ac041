"""A least recently used (LRU) cache whose entries expire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """A cache of at most `size` values; `now` returns the time in seconds, of any clock.

    Each `put` removes the least recently used values that have expired. So if all values live
    equally long, each is removed at most that long after its expiry, while there are others.
    """

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self._size = size
        self._now = now
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None if there is none or it has expired."""
        if key not in self._entries:
            return None
        value, expires = self._entries[key]
        if self._now() >= expires:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def pop(self, key: K) -> V | None:
        """Remove `key`; return what `get` would have."""
        value = self.get(key)
        self._entries.pop(key, None)
        return value

    def put(self, key: K, value: V, expires: float) -> None:
        """Store `value` until the time `expires`, or until it is evicted."""
        self._remove_expired()
        self._entries[key] = value, expires
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def _remove_expired(self) -> None:
        """Remove expired values, up to the first that is valid: few at a time."""
        now = self._now()
        while self._entries:
            key, (_, expires) = next(iter(self._entries.items()))
            if now < expires:
                return
            del self._entries[key]

"""Locks by name."""

from __future__ import annotations

from weakref import WeakValueDictionary

from twisted.internet.defer import DeferredLock


class KeyedLocks:
    """One lock for each key, which is forgotten when nobody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()

    def __getitem__(self, key: str) -> DeferredLock:
        return self._locks.setdefault(key, DeferredLock())

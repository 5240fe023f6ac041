"""`ctllm.tap`: how much garbage a cloud has before it is collected."""

from __future__ import annotations

import gc
import weakref
from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from ctllm.tap import GC_THRESHOLDS

#: The objects of a connection, and the connections at a time.
OBJECTS, CONNECTIONS = 60, 500


class _Connection:
    """A cycle of objects."""

    def __init__(self) -> None:
        self.objects: list[object] = [[self] for _ in range(OBJECTS)]


class GarbageCollectionTests(SynchronousTestCase):
    """The thresholds of a cloud."""

    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        gc.collect()
        gc.freeze()
        self.addCleanup(gc.unfreeze)
        gc.set_threshold(*GC_THRESHOLDS)

    def test_connections_that_last_do_not_become_much_garbage(self) -> None:
        """They outlive the collections of new objects."""
        current: deque[_Connection] = deque(maxlen=CONNECTIONS)
        existing: weakref.WeakSet[_Connection] = weakref.WeakSet()
        most = 0
        for _ in range(12_000):
            connection = _Connection()
            current.append(connection)
            existing.add(connection)
            most = max(most, len(existing))
        self.assertLess((most - CONNECTIONS) * OBJECTS, 250_000)

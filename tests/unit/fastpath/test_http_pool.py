"""Connection pools that do not log each connection."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import HTTPConnectionPool

from ctllm.fastpath.http_pool import quiet_pool


class QuietPoolTests(SynchronousTestCase):
    def test_silences_the_factory(self) -> None:
        self.assertFalse(quiet_pool(MemoryReactorClock())._factory.noisy)

    def test_is_not_persistent(self) -> None:
        self.assertFalse(quiet_pool(MemoryReactorClock()).persistent)

    def test_returns_a_pool_if_twisted_has_no_such_attribute(self) -> None:
        self.patch(HTTPConnectionPool, "_factory", None)
        self.assertFalse(quiet_pool(MemoryReactorClock()).persistent)

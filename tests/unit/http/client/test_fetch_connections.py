"""`ctllm.http.client.fetch` over a connection pool: what becomes of the connection."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import get
from tests.unit.cloud.proxies.manager_case import FakeProxy


class FetchConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = FakeProxy(True)
        self.pool = ConnectionPool(self.proxy, self.clock, "the test", ProxyUnavailable)

    def get(self, limit: int = 100) -> Deferred[tuple[int, bytes]]:
        fetching = Deferred.fromCoroutine(get(self.pool, b"/", self.clock, 5, limit))
        self.flush()
        return fetching

    def flush(self) -> None:
        for pump in self.proxy.pumps:
            pump.flush()

    def test_returns_status_and_body_and_keeps_the_connection(self) -> None:
        self.proxy.status = 404
        status, body = self.successResultOf(self.get())
        self.assertEqual((status, msgspec.json.decode(body)), (404, self.proxy.health))
        self.assertEqual((self.proxy.open_connections, len(self.clock.getDelayedCalls())), (1, 1))

    def test_closes_the_connection_of_a_body_over_the_limit(self) -> None:
        self.assertIn("10 bytes", str(self.failureResultOf(self.get(10), BadGateway).value))
        self.assertEqual(self.proxy.open_connections, 0)

    def test_closes_the_connection_after_the_timeout(self) -> None:
        self.proxy.is_hanging = True
        fetching = self.get()
        self.clock.advance(4.9)
        self.assertNoResult(fetching)
        self.clock.advance(0.1)
        self.failureResultOf(fetching, BadGateway)
        self.flush()
        self.assertEqual(self.proxy.open_connections, 0)

    def test_cancelling_closes_the_connection(self) -> None:
        self.proxy.is_hanging = True
        fetching = self.get()
        fetching.cancel()
        self.flush()
        self.failureResultOf(fetching, CancelledError)
        self.assertEqual((self.proxy.open_connections, self.clock.getDelayedCalls()), (0, []))

    def test_raises_the_error_of_the_pool_if_it_cannot_connect(self) -> None:
        self.proxy.is_listening = False
        self.failureResultOf(self.get(), ProxyUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

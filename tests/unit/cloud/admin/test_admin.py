"""`ctllm.cloud.admin` and `ctllm proxies`: listing, stopping and draining proxies."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.proxies import format_table
from ctllm.cloud.admin.client import OfflineAdmin
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.proxies.health import HEALTH_TIMEOUT
from ctllm.cloud.proxies.info import ProxyInfo
from ctllm.cloud.spawners.interfaces import ResourceUsage
from ctllm.errors import ServiceUnavailable
from tests.unit.cloud.proxies.manager_case import START, A, B, C, ProxyManagerCase


class ListProxiesTests(ProxyManagerCase):
    """The proxies of a running cloud."""

    def rows(self) -> dict[str, ProxyInfo]:
        return {
            row.id: row
            for row in self.successResultOf(self.run_coroutine(self.manager.list_proxies()))
        }

    def test_lists_health_and_resource_usage(self) -> None:
        """Unknown values are None."""
        self.start(A)
        self.spawner.slow_starts[B] = Deferred()
        self.ensure_running(B).addErrback(lambda _: None)
        self.spawner.usages = {A: ResourceUsage(21_000_000, 1.5)}
        self.spawner.proxies[A].health.update(exchanges=2, desktops=1, idle_seconds=0,
                                              response_bytes=900, response_chunks=9)  # fmt: skip
        self.clock.advance(7)
        rows = self.rows()
        wanted = ProxyInfo(id=A, state="running", age=7, idle=0, active_requests=2, desktops=1,
                     memory=21_000_000, cpu=1.5, response_bytes=900,
                     response_chunks=9)  # fmt: skip
        self.assertEqual(rows, {A: wanted, B: ProxyInfo(id=B, state="starting", age=7)})

    def test_lists_a_proxy_that_does_not_respond(self) -> None:
        self.start(A)
        self.spawner.proxies[A].is_hanging = True
        asking = self.run_coroutine(self.manager.list_proxies())
        self.assertNoResult(asking)
        self.wait(HEALTH_TIMEOUT)
        (row,) = self.successResultOf(asking)
        self.assertEqual((row.state, row.active_requests), ("running", None))

    def test_waits_no_longer_than_it_shall(self) -> None:
        self.start(A)
        self.spawner.proxies[A].is_hanging = True
        asking = self.run_coroutine(self.manager.list_proxies(2.0))
        self.wait(2)
        (row,) = self.successResultOf(asking)
        self.assertIsNone(row.active_requests)

    def test_lists_a_proxy_with_an_invalid_health_response(self) -> None:
        self.start(A)
        self.start(B)
        deep = b'{"exchanges": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for lie in (deep, b"[]", b"\xff", {"exchanges": -1, "desktops": 0, "idle_seconds": 0}):
            self.spawner.proxies[A].health = lie  # type: ignore[assignment]
            rows = self.rows()
            self.assertEqual((rows[A].state, rows[A].active_requests), ("running", None))
            self.assertEqual(rows[B].active_requests, 0)


class DrainTests(ProxyManagerCase):
    """A cloud that is draining."""

    def test_refuses_new_requests_and_tunnels_that_need_a_proxy(self) -> None:
        self.start(A)
        self.manager.draining = True
        for asking in (self.ensure_running(A), self.ensure_running(B)):
            error = self.failure(asking, ServiceUnavailable)
            self.assertEqual(error.retry_after, 60)
        self.successResultOf(
            self.run_coroutine(self.manager.ensure_running(A, is_new_request=False))
        )
        self.failure(
            self.run_coroutine(self.manager.ensure_running(B, is_new_request=False)),
            ServiceUnavailable,
        )
        self.assertEqual(self.spawner.starts[B], 0)
        refusals = [
            line for line in self.audited("event", "reason") if line[0] == "proxy.start_refused"
        ]
        self.assertEqual(refusals, [("proxy.start_refused", "draining")] * 2)  # once a user
        self.manager.draining = False
        self.start(B)

    def test_does_not_restart_a_proxy_that_is_stopping(self) -> None:
        self.start(A)
        self.manager.draining = True
        slow: Deferred[None] = Deferred()
        self.spawner.slow_removals[A] = slow
        ending = self.run_coroutine(self.manager.remove(A, "x"))
        self.failure(
            self.run_coroutine(self.manager.ensure_running(A, is_new_request=False)),
            ServiceUnavailable,
        )
        slow.callback(None)
        self.flush()
        self.successResultOf(ending)
        self.assertEqual(self.spawner.starts[A], 1)


class OfflineAdminTests(ProxyManagerCase):
    """The proxies that a stopped cloud left."""

    proxies_survive_restart = True

    def test_lists_and_stops_proxies_by_the_spawner(self) -> None:
        self.start(A)
        self.spawner.usages = {A: ResourceUsage(1, 2)}
        audit = AuditLog(self.state, self.now)
        local: Any = OfflineAdmin(
            self.spawner, self.clock, self.spawner.connect, audit, lambda: START + 60
        )
        (row,) = self.successResultOf(self.run_coroutine(local.list_proxies()))
        expected = ProxyInfo(
            id=A,
            state="running",
            age=60,
            idle=0,
            active_requests=0,
            desktops=0,
            memory=1,
            cpu=2,
        )
        self.assertEqual(row, expected)
        self.successResultOf(self.run_coroutine(local.remove_proxy(A)))
        self.assertEqual((self.spawner.removals[A], self.spawner.proxies), (1, {}))
        self.assertIn(("proxy.stopped", "requested"), self.audited("event", "reason"))


class TableTests(SynchronousTestCase):
    """The table of `ctllm proxies`."""

    def test_sorts_by_age_and_aligns_numbers(self) -> None:
        young = ProxyInfo(id=B, state="starting", age=3.4)
        old = ProxyInfo(id=A, state="running", age=7300, idle=61, active_requests=1000, desktops=2,
                  memory=21_340_000, cpu=4.72)  # fmt: skip
        older = ProxyInfo(id=C, state="running", age=200_000, idle=0, active_requests=0, desktops=0,
                    memory=1_000_000, cpu=100)  # fmt: skip
        self.assertEqual(format_table([young, old, older]).splitlines(), [
            "PROXY         STATE     AGE   IDLE  REQUESTS  DESKTOPS   MEMORY      CPU",
            "cccccccccccc  running   2 d    0 s         0         0   1.0 MB  100.0 s",
            "aaaaaaaaaaaa  running   2 h  1 min      1000         2  21.3 MB    4.7 s",
            "bbbbbbbbbbbb  starting  3 s      -         -         -        -        -",
        ])  # fmt: skip

    def test_shows_that_a_proxy_does_not_respond(self) -> None:
        silent = ProxyInfo(id=A, state="running", age=60, memory=1_000_000, cpu=1)
        self.assertIn("aaaaaaaaaaaa  not responding  1 min     -", format_table([silent]))

    def test_says_that_there_are_no_proxies(self) -> None:
        self.assertEqual(format_table([]), "No streaming proxy runs.")

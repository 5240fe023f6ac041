"""What whoever runs a cloud is told, and what draining it does."""

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
from tests.unit.proxies_case import START, A, B, C, ProxyManagerCase


class RosterTests(ProxyManagerCase):
    """Of a cloud that runs."""

    def rows(self) -> dict[str, ProxyInfo]:
        return {
            row.id: row
            for row in self.successResultOf(self.run_coroutine(self.manager.list_proxies()))
        }

    def test_rows(self) -> None:
        """What each proxy says of itself, and the system of it; what is unknown is None."""
        self.start(A)
        self.spawner.slow_starts[B] = Deferred()
        self.ensure_running(B).addErrback(lambda _: None)
        self.spawner.usages = {A: ResourceUsage(21_000_000, 1.5)}
        self.spawner.proxies[A].health.update(exchanges=2, desktops=1, idle_seconds=0)
        self.clock.advance(7)
        rows = self.rows()
        wanted = ProxyInfo(id=A, state="running", age=7, idle=0, active_requests=2, desktops=1,
                     memory=21_000_000, cpu=1.5)  # fmt: skip
        self.assertEqual(rows, {A: wanted, B: ProxyInfo(id=B, state="starting", age=7)})

    def test_one_that_hangs(self) -> None:
        """It is shown all the same, a little later."""
        self.start(A)
        self.spawner.proxies[A].is_hanging = True
        asking = self.run_coroutine(self.manager.list_proxies())
        self.assertNoResult(asking)
        self.wait(HEALTH_TIMEOUT)
        (row,) = self.successResultOf(asking)
        self.assertEqual((row.state, row.active_requests), ("running", None))

    def test_one_that_lies(self) -> None:
        """What is no health, nested without end or out of range, is no answer; others are shown."""
        self.start(A)
        self.start(B)
        deep = b'{"exchanges": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for lie in (deep, b"[]", b"\xff", {"exchanges": -1, "desktops": 0, "idle_seconds": 0}):
            self.spawner.proxies[A].health = lie  # type: ignore[assignment]
            rows = self.rows()
            self.assertEqual((rows[A].state, rows[A].active_requests), ("running", None))
            self.assertEqual(rows[B].active_requests, 0)


class DrainTests(ProxyManagerCase):
    """Nothing new begins."""

    def test_what_is_refused(self) -> None:
        """New exchanges of anybody, also tunnels that need a proxy; what began goes on."""
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

    def test_one_that_was_ended_does_not_come_back(self) -> None:
        """Not for whoever asked while it was leaving."""
        self.start(A)
        self.manager.draining = True
        self.spawner.slow_removals[A] = slow = Deferred()
        ending = self.run_coroutine(self.manager.remove(A, "x"))
        self.failure(
            self.run_coroutine(self.manager.ensure_running(A, is_new_request=False)),
            ServiceUnavailable,
        )
        slow.callback(None)
        self.flush()
        self.successResultOf(ending)
        self.assertEqual(self.spawner.starts[A], 1)


class LocalTests(ProxyManagerCase):
    """What a cloud that does not run has left."""

    proxies_survive_restart = True

    def test_rows_and_ends(self) -> None:
        """The same rows, from the runtime; ending is audited."""
        self.start(A)
        self.spawner.usages = {A: ResourceUsage(1, 2)}
        audit = AuditLog(self.state, self.now)
        local: Any = OfflineAdmin(self.spawner, self.clock, self.spawner.connect, audit,
                           lambda: START + 60)  # fmt: skip
        (row,) = self.successResultOf(self.run_coroutine(local.list_proxies()))
        self.assertEqual(row, ProxyInfo(id=A, state="running", age=60, idle=0, active_requests=0, desktops=0,
                                  memory=1, cpu=2))  # fmt: skip
        self.successResultOf(self.run_coroutine(local.remove_proxy(A)))
        self.assertEqual((self.spawner.removals[A], self.spawner.proxies), (1, {}))
        self.assertIn(("proxy.stopped", "requested"), self.audited("event", "reason"))


class TableTests(SynchronousTestCase):
    """For people."""

    def test_columns(self) -> None:
        """The oldest first; figures end under each other, what is unknown is a dash."""
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

    def test_one_that_does_not_answer(self) -> None:
        """Its row says so."""
        silent = ProxyInfo(id=A, state="running", age=60, memory=1_000_000, cpu=1)
        self.assertIn("aaaaaaaaaaaa  not responding  1 min     -", format_table([silent]))

    def test_none(self) -> None:
        """A sentence."""
        self.assertEqual(format_table([]), "No streaming proxy runs.")

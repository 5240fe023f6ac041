"""What whoever runs a cloud is told, and what draining it does."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.proxies import table
from ctllm.cloud.admin.client import OfflineAdmin
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.proxies.health import TIMEOUT
from ctllm.cloud.proxies.info import ProxyInfo
from ctllm.cloud.spawners.interfaces import Usage
from ctllm.errors import ServiceUnavailable
from tests.unit.proxies_case import START, A, B, C, Case


class RosterTests(Case):
    """Of a cloud that runs."""

    def rows(self) -> dict[str, ProxyInfo]:
        return {
            row.id: row for row in self.successResultOf(self.begin(self.proxies.list_proxies()))
        }

    def test_rows(self) -> None:
        """What each proxy says of itself, and the system of it; what is unknown is None."""
        self.up(A)
        self.runtime.slow[B] = Deferred()
        self.ensure(B).addErrback(lambda _: None)
        self.runtime.used = {A: Usage(21_000_000, 1.5)}
        self.runtime.proxies[A].figures.update(exchanges=2, desktops=1, idle_seconds=0)
        self.clock.advance(7)
        rows = self.rows()
        wanted = ProxyInfo(id=A, state="running", age=7, idle=0, exchanges=2, desktops=1,
                     memory=21_000_000, cpu=1.5)  # fmt: skip
        self.assertEqual(rows, {A: wanted, B: ProxyInfo(id=B, state="starting", age=7)})

    def test_one_that_hangs(self) -> None:
        """It is shown all the same, a little later."""
        self.up(A)
        self.runtime.proxies[A].hung = True
        asking = self.begin(self.proxies.list_proxies())
        self.assertNoResult(asking)
        self.wait(TIMEOUT)
        (row,) = self.successResultOf(asking)
        self.assertEqual((row.state, row.exchanges), ("running", None))

    def test_one_that_lies(self) -> None:
        """What is no health, nested without end or out of range, is no answer; others are shown."""
        self.up(A)
        self.up(B)
        deep = b'{"exchanges": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for lie in (deep, b"[]", b"\xff", {"exchanges": -1, "desktops": 0, "idle_seconds": 0}):
            self.runtime.proxies[A].figures = lie  # type: ignore[assignment]
            rows = self.rows()
            self.assertEqual((rows[A].state, rows[A].exchanges), ("running", None))
            self.assertEqual(rows[B].exchanges, 0)


class DrainTests(Case):
    """Nothing new begins."""

    def test_what_is_refused(self) -> None:
        """New exchanges of anybody, also tunnels that need a proxy; what began goes on."""
        self.up(A)
        self.proxies.draining = True
        for asking in (self.ensure(A), self.ensure(B)):
            error = self.refused(asking, ServiceUnavailable)
            self.assertEqual(error.retry_after, 60)
        self.successResultOf(self.begin(self.proxies.ensure(A, begins=False)))
        self.refused(self.begin(self.proxies.ensure(B, begins=False)), ServiceUnavailable)
        self.assertEqual(self.runtime.starts[B], 0)
        refusals = [
            line for line in self.audited("event", "reason") if line[0] == "proxy.start_refused"
        ]
        self.assertEqual(refusals, [("proxy.start_refused", "draining")] * 2)  # once a user
        self.proxies.draining = False
        self.up(B)

    def test_one_that_was_ended_does_not_come_back(self) -> None:
        """Not for whoever asked while it was leaving."""
        self.up(A)
        self.proxies.draining = True
        self.runtime.stubborn[A] = slow = Deferred()
        ending = self.begin(self.proxies.remove(A, "x"))
        self.refused(self.begin(self.proxies.ensure(A, begins=False)), ServiceUnavailable)
        slow.callback(None)
        self.flush()
        self.successResultOf(ending)
        self.assertEqual(self.runtime.starts[A], 1)


class LocalTests(Case):
    """What a cloud that does not run has left."""

    outlives = True

    def test_rows_and_ends(self) -> None:
        """The same rows, from the runtime; ending is audited."""
        self.up(A)
        self.runtime.used = {A: Usage(1, 2)}
        audit = AuditLog(self.state, self.now)
        local: Any = OfflineAdmin(self.runtime, self.clock, self.runtime.connect, audit,
                           lambda: START + 60)  # fmt: skip
        (row,) = self.successResultOf(self.begin(local.list_proxies()))
        self.assertEqual(row, ProxyInfo(id=A, state="running", age=60, idle=0, exchanges=0, desktops=0,
                                  memory=1, cpu=2))  # fmt: skip
        self.successResultOf(self.begin(local.remove_proxy(A)))
        self.assertEqual((self.runtime.removals[A], self.runtime.proxies), (1, {}))
        self.assertIn(("proxy.stopped", "requested"), self.audited("event", "reason"))


class TableTests(SynchronousTestCase):
    """For people."""

    def test_columns(self) -> None:
        """The oldest first; figures end under each other, what is unknown is a dash."""
        young = ProxyInfo(id=B, state="starting", age=3.4)
        old = ProxyInfo(id=A, state="running", age=7300, idle=61, exchanges=1000, desktops=2,
                  memory=21_340_000, cpu=4.72)  # fmt: skip
        older = ProxyInfo(id=C, state="running", age=200_000, idle=0, exchanges=0, desktops=0,
                    memory=1_000_000, cpu=100)  # fmt: skip
        self.assertEqual(table([young, old, older]).splitlines(), [
            "PROXY         STATE     AGE   IDLE  EXCHANGES  DESKTOPS   MEMORY      CPU",
            "cccccccccccc  running   2 d    0 s          0         0   1.0 MB  100.0 s",
            "aaaaaaaaaaaa  running   2 h  1 min       1000         2  21.3 MB    4.7 s",
            "bbbbbbbbbbbb  starting  3 s      -          -         -        -        -",
        ])  # fmt: skip

    def test_one_that_does_not_answer(self) -> None:
        """Its row says so."""
        silent = ProxyInfo(id=A, state="running", age=60, memory=1_000_000, cpu=1)
        self.assertIn("aaaaaaaaaaaa  does not answer  1 min     -", table([silent]))

    def test_none(self) -> None:
        """A sentence."""
        self.assertEqual(table([]), "No streaming proxy runs.")

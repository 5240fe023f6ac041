"""Proxies that outlive the cloud are adopted, and what runs is compared with what should."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ctllm.config import Cloud
from ctllm.errors import ProxyUnavailable
from tests.unit.proxies_case import A, B, C, FakeProxy, ProxyManagerCase


class AdoptionTests(ProxyManagerCase):
    """A cloud that starts, A and B run already; B does not answer."""

    proxies_survive_restart = True
    settings = Cloud(max_proxies=2, proxy_start_timeout_seconds=5)

    def before_start(self) -> None:
        for proxy_id, up in ((A, True), (B, False)):
            self.spawner.proxies[proxy_id] = FakeProxy(up)
            self.spawner.started.append(self.spawner.proxies[proxy_id])

    def test_who_answers_is_adopted(self) -> None:
        """It runs without having been asked for, was not started, and the audit says so."""
        self.flush()
        self.assertEqual(self.status(A), "running")
        self.assertEqual(self.audited("event", "proxy"), [("proxy.adopted", A)])
        self.start(A)
        self.assertEqual((self.spawner.ensure_calls[A], self.spawner.starts[A]), (1, 0))
        self.assertTrue(self.has_metric("ctllm_proxy_adoptions_total 1.0"))
        self.assertTrue(self.has_metric("ctllm_proxy_starts_total 0.0"))

    def test_who_does_not_answer_is_removed(self) -> None:
        """After the time that a start may take; then its user gets another one."""
        self.wait(5.5)
        self.assertEqual((self.status(B), self.spawner.removals[B]), ("failed", 1))
        self.assertEqual(self.spawner.removals[A], 0)
        self.start(B)
        self.assertEqual(self.spawner.starts[B], 1)

    def test_who_was_idle_all_the_time_is_removed_at_once(self) -> None:
        """Its idle time began before the cloud did."""
        self.flush()
        self.spawner.proxies[A].health["idle_seconds"] = 600
        self.wait(31)
        self.assertEqual(self.status(A), "absent")
        self.assertIn(("proxy.stopped", "idle"), self.audited("event", "reason"))

    def test_adopted_ones_count(self) -> None:
        """Against the most that there may be at once."""
        self.flush()
        self.assertIn(
            "maximum number of users", self.failureResultOf(self.ensure_running(C)).value.message
        )

    def test_a_cloud_that_stops_leaves_them(self) -> None:
        """Nothing is removed, and nothing is said to have stopped."""
        self.flush()
        self.successResultOf(self.manager.stopService())
        self.assertEqual(sum(self.spawner.removals.values()), 0)
        self.assertEqual(self.audited("event"), [("proxy.adopted",)])


class ReconcileTests(ProxyManagerCase):
    """Each minute, with nothing there at first."""

    proxies_survive_restart = True

    def test_one_that_appears(self) -> None:
        """Somebody started it behind our back: it is adopted within a minute."""
        self.start(A)
        self.spawner.proxies[B] = FakeProxy(True)
        self.spawner.started.append(self.spawner.proxies[B])
        self.wait(61)
        self.assertEqual((self.status(A), self.status(B)), ("running", "running"))

    def test_one_that_vanished(self) -> None:
        """It is given up though nobody told of its end, and comes back when it is wanted."""
        self.start(A)
        self.spawner.proxies.pop(A)
        self.wait(61)
        self.assertEqual(self.status(A), "failed")
        self.assertEqual(
            self.audited("event", "detail")[-1],
            ("proxy.died", "exited unexpectedly: it no longer exists"),
        )
        self.start(A)
        self.assertEqual(self.spawner.starts[A], 2)

    def test_one_that_starts_while_the_list_is_made(self) -> None:
        """The list is older than it: it stays."""
        self.start(A)
        self.spawner.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "asked")))
        listed, self.spawner.slow_list = self.spawner.slow_list, None
        proxies, self.spawner.proxies = self.spawner.proxies, {}
        self.wait(1)
        self.start(A)
        started, self.spawner.proxies = self.spawner.proxies, proxies
        listed.callback(None)
        self.spawner.proxies = started
        self.assertEqual((self.status(A), self.spawner.removals[A]), ("running", 1))

    def test_one_that_was_removed_while_the_list_was_made(self) -> None:
        """The list has it still; nobody wants it, and nothing is started."""
        self.start(A)
        self.spawner.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "asked")))
        gone, self.spawner.listed = self.spawner.slow_list, [A]
        gone.callback(None)
        self.flush()
        self.assertEqual((self.status(A), self.spawner.starts[A]), ("absent", 1))

    def test_a_list_that_takes_for_ever(self) -> None:
        """There is one question at a time, and stopping waits for no answer."""
        self.spawner.slow_list = Deferred()
        self.wait(200)
        self.assertEqual(self.spawner.list_calls, 2)
        self.successResultOf(self.manager.stopService())
        self.assertTrue(self.spawner.slow_list.called)

    def test_a_runtime_that_does_not_answer(self) -> None:
        """Those that run go on; a minute later it is asked again."""
        self.start(A)
        self.spawner.error = ProxyUnavailable("Docker does not answer.")
        self.wait(61)
        self.assertEqual(self.status(A), "running")
        self.spawner.error = None
        self.wait(61)
        self.assertEqual((self.status(A), self.spawner.list_calls), ("running", 3))

    def test_a_fault_is_logged(self) -> None:
        """And does not end the looking."""
        self.spawner.error = RuntimeError("a fault")
        self.wait(121)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)


class MortalTests(ProxyManagerCase):
    """Proxies that end with the cloud."""

    def test_nobody_looks(self) -> None:
        """There can be none that is not known."""
        self.wait(200)
        self.assertEqual(self.spawner.list_calls, 0)

"""Proxies that outlive the cloud are adopted, and what runs is compared with what should."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ctllm.config import Cloud
from ctllm.errors import ProxyUnavailable
from tests.unit.proxies_case import A, B, C, Case, PretendProxy


class AdoptionTests(Case):
    """A cloud that starts, A and B run already; B does not answer."""

    outlives = True
    settings = Cloud(max_proxies=2, proxy_start_timeout_seconds=5)

    def prepare(self) -> None:
        for proxy_id, up in ((A, True), (B, False)):
            self.runtime.proxies[proxy_id] = PretendProxy(up)
            self.runtime.all.append(self.runtime.proxies[proxy_id])

    def test_who_answers_is_adopted(self) -> None:
        """It runs without having been asked for, was not started, and the audit says so."""
        self.flush()
        self.assertEqual(self.word(A), "running")
        self.assertEqual(self.audited("event", "proxy"), [("proxy.adopted", A)])
        self.up(A)
        self.assertEqual((self.runtime.asked[A], self.runtime.starts[A]), (1, 0))
        self.assertTrue(self.metric("ctllm_proxy_adoptions_total 1.0"))
        self.assertTrue(self.metric("ctllm_proxy_starts_total 0.0"))

    def test_who_does_not_answer_is_removed(self) -> None:
        """After the time that a start may take; then its user gets another one."""
        self.wait(5.5)
        self.assertEqual((self.word(B), self.runtime.removals[B]), ("failed", 1))
        self.assertEqual(self.runtime.removals[A], 0)
        self.up(B)
        self.assertEqual(self.runtime.starts[B], 1)

    def test_who_was_idle_all_the_time_is_removed_at_once(self) -> None:
        """Its idle time began before the cloud did."""
        self.flush()
        self.runtime.proxies[A].figures["idle_seconds"] = 600
        self.wait(31)
        self.assertEqual(self.word(A), "absent")
        self.assertIn(("proxy.stopped", "idle"), self.audited("event", "reason"))

    def test_adopted_ones_count(self) -> None:
        """Against the most that there may be at once."""
        self.flush()
        self.assertIn("as many users", self.failureResultOf(self.ensure(C)).value.message)

    def test_a_cloud_that_stops_leaves_them(self) -> None:
        """Nothing is removed, and nothing is said to have stopped."""
        self.flush()
        self.successResultOf(self.proxies.stopService())
        self.assertEqual(sum(self.runtime.removals.values()), 0)
        self.assertEqual(self.audited("event"), [("proxy.adopted",)])


class ReconcileTests(Case):
    """Each minute, with nothing there at first."""

    outlives = True

    def test_one_that_appears(self) -> None:
        """Somebody started it behind our back: it is adopted within a minute."""
        self.up(A)
        self.runtime.proxies[B] = PretendProxy(True)
        self.runtime.all.append(self.runtime.proxies[B])
        self.wait(61)
        self.assertEqual((self.word(A), self.word(B)), ("running", "running"))

    def test_one_that_vanished(self) -> None:
        """It is given up though nobody told of its end, and comes back when it is wanted."""
        self.up(A)
        self.runtime.proxies.pop(A)
        self.wait(61)
        self.assertEqual(self.word(A), "failed")
        self.assertEqual(
            self.audited("event", "detail")[-1],
            ("proxy.died", "ended unexpectedly: it is not there any more"),
        )
        self.up(A)
        self.assertEqual(self.runtime.starts[A], 2)

    def test_one_that_starts_while_the_list_is_made(self) -> None:
        """The list is older than it: it stays."""
        self.up(A)
        self.runtime.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.begin(self.proxies.remove(A, "asked")))
        listed, self.runtime.slow_list = self.runtime.slow_list, None
        proxies, self.runtime.proxies = self.runtime.proxies, {}
        self.wait(1)
        self.up(A)
        started, self.runtime.proxies = self.runtime.proxies, proxies
        listed.callback(None)
        self.runtime.proxies = started
        self.assertEqual((self.word(A), self.runtime.removals[A]), ("running", 1))

    def test_one_that_was_removed_while_the_list_was_made(self) -> None:
        """The list has it still; nobody wants it, and nothing is started."""
        self.up(A)
        self.runtime.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.begin(self.proxies.remove(A, "asked")))
        gone, self.runtime.listed = self.runtime.slow_list, [A]
        gone.callback(None)
        self.flush()
        self.assertEqual((self.word(A), self.runtime.starts[A]), ("absent", 1))

    def test_a_list_that_takes_for_ever(self) -> None:
        """There is one question at a time, and stopping waits for no answer."""
        self.runtime.slow_list = Deferred()
        self.wait(200)
        self.assertEqual(self.runtime.lists, 2)
        self.successResultOf(self.proxies.stopService())
        self.assertTrue(self.runtime.slow_list.called)

    def test_a_runtime_that_does_not_answer(self) -> None:
        """Those that run go on; a minute later it is asked again."""
        self.up(A)
        self.runtime.refusal = ProxyUnavailable("Docker does not answer.")
        self.wait(61)
        self.assertEqual(self.word(A), "running")
        self.runtime.refusal = None
        self.wait(61)
        self.assertEqual((self.word(A), self.runtime.lists), ("running", 3))

    def test_a_fault_is_logged(self) -> None:
        """And does not end the looking."""
        self.runtime.refusal = RuntimeError("a fault")
        self.wait(121)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)


class MortalTests(Case):
    """Proxies that end with the cloud."""

    def test_nobody_looks(self) -> None:
        """There can be none that is not known."""
        self.wait(200)
        self.assertEqual(self.runtime.lists, 0)

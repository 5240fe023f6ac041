"""`ctllm.cloud.proxies.manager`: adoption and reconciliation of proxies that survive restarts."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ctllm.config import Cloud
from ctllm.errors import ProxyUnavailable
from tests.unit.cloud.proxies.manager_case import A, B, C, FakeProxy, ProxyManagerCase


class AdoptionTests(ProxyManagerCase):
    """A manager that starts when A and B run already; B does not listen."""

    proxies_survive_restart = True
    settings = Cloud(max_proxies=2, proxy_start_timeout_seconds=5)

    def before_start(self) -> None:
        for proxy_id, is_listening in ((A, True), (B, False)):
            self.spawner.proxies[proxy_id] = FakeProxy(is_listening)
            self.spawner.started.append(self.spawner.proxies[proxy_id])

    def test_adopts_a_healthy_proxy_without_starting_it(self) -> None:
        self.flush()
        self.assertEqual(self.status(A), "running")
        self.assertEqual(self.audited("event", "proxy"), [("proxy.adopted", A)])
        self.start(A)
        self.assertEqual((self.spawner.ensure_calls[A], self.spawner.starts[A]), (1, 0))
        self.assertTrue(self.has_metric("ctllm_proxy_adoptions_total 1.0"))
        self.assertTrue(self.has_metric("ctllm_proxy_starts_total 0.0"))

    def test_removes_a_proxy_that_is_not_healthy_within_the_start_timeout(self) -> None:
        self.wait(5.5)
        self.assertEqual((self.status(B), self.spawner.removals[B]), ("failed", 1))
        self.assertEqual(self.spawner.removals[A], 0)
        self.start(B)
        self.assertEqual(self.spawner.starts[B], 1)

    def test_idle_time_before_the_adoption_counts(self) -> None:
        self.flush()
        self.spawner.proxies[A].health["idle_seconds"] = 600
        self.wait(31)
        self.assertEqual(self.status(A), "absent")
        self.assertIn(("proxy.stopped", "idle"), self.audited("event", "reason"))

    def test_adopted_proxies_count_towards_the_maximum(self) -> None:
        self.flush()
        self.assertIn(
            "maximum number of users", self.failureResultOf(self.ensure_running(C)).value.message
        )

    def test_stopping_does_not_remove_proxies(self) -> None:
        self.flush()
        self.stop()
        self.assertEqual(sum(self.spawner.removals.values()), 0)
        self.assertEqual(self.audited("event"), [("proxy.adopted",)])


class ReconcileTests(ProxyManagerCase):
    proxies_survive_restart = True

    def test_adopts_a_proxy_that_appears_later(self) -> None:
        self.start(A)
        self.spawner.proxies[B] = FakeProxy(True)
        self.spawner.started.append(self.spawner.proxies[B])
        self.wait(61)
        self.assertEqual((self.status(A), self.status(B)), ("running", "running"))

    def test_marks_a_proxy_that_vanished_as_failed(self) -> None:
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

    def test_keeps_a_proxy_that_started_after_the_list_was_made(self) -> None:
        self.start(A)
        self.spawner.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        listed, self.spawner.slow_list = self.spawner.slow_list, None
        proxies, self.spawner.proxies = self.spawner.proxies, {}
        self.wait(1)
        self.start(A)
        started, self.spawner.proxies = self.spawner.proxies, proxies
        listed.callback(None)
        self.spawner.proxies = started
        self.assertEqual((self.status(A), self.spawner.removals[A]), ("running", 1))

    def test_does_not_adopt_a_proxy_removed_after_the_list_was_made(self) -> None:
        self.start(A)
        self.spawner.slow_list = Deferred()
        self.wait(61)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        gone, self.spawner.listed = self.spawner.slow_list, [A]
        gone.callback(None)
        self.flush()
        self.assertEqual((self.status(A), self.spawner.starts[A]), ("absent", 1))

    def test_sends_one_list_request_at_a_time_and_cancels_it_on_stop(self) -> None:
        self.spawner.slow_list = Deferred()
        self.wait(200)
        self.assertEqual(self.spawner.list_calls, 2)
        self.stop()
        self.assertTrue(self.spawner.slow_list.called)

    def test_keeps_proxies_while_the_spawner_fails(self) -> None:
        self.start(A)
        self.spawner.error = ProxyUnavailable("Docker does not answer.")
        self.wait(61)
        self.assertEqual(self.status(A), "running")
        self.spawner.error = None
        self.wait(61)
        self.assertEqual((self.status(A), self.spawner.list_calls), ("running", 3))

    def test_logs_an_unexpected_error_and_reconciles_again(self) -> None:
        self.spawner.error = RuntimeError("a fault")
        self.wait(121)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)


class WithoutSurvivalTests(ProxyManagerCase):
    def test_does_not_list_proxies_that_stop_with_the_cloud(self) -> None:
        self.wait(200)
        self.assertEqual(self.spawner.list_calls, 0)

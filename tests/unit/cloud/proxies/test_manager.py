"""`ctllm.cloud.proxies.manager` and `supervisor`: starts, health checks, limits and removal."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, fail

from ctllm.cloud.proxies.limiters import CONCURRENT_REMOVALS
from ctllm.cloud.proxies.supervisor import DESKTOP_TIMEOUT
from ctllm.config import Cloud
from ctllm.errors import ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.message.head import RequestHead
from tests.unit.cloud.proxies.manager_case import (
    START,
    A,
    B,
    C,
    D,
    ProxyManagerCase,
)
from tests.unit.fakes import FakeResponseSink


class StartTests(ProxyManagerCase):
    def test_concurrent_requests_share_one_start(self) -> None:
        self.spawner.slow_starts[A] = Deferred()
        starting = [self.ensure_running(A) for _ in range(10)]
        self.assertEqual(self.status(), "starting")
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        pools = {self.successResultOf(one) for one in starting}
        self.assertEqual(len(pools), 1)
        self.assertEqual(self.spawner.starts[A], 1)
        self.assertIs(self.start(A), pools.pop())
        self.assertEqual((self.status(), self.manager.active_count), ("running", 1))

    def test_a_proxy_that_starts_slowly_is_checked_less_often(self) -> None:
        """Many may start at once, on a machine that is busy with that."""
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.wait(0.2)
        proxy = self.spawner.proxies[A]
        self.assertGreater(proxy.connection_attempts, 8)
        self.wait(1.8)
        self.assertLess(proxy.connection_attempts, 40)
        proxy.is_listening = True
        self.wait(0.25)
        self.successResultOf(starting)

    def test_a_slow_start_does_not_delay_other_users(self) -> None:
        self.spawner.slow_starts[A] = Deferred()
        slow = self.ensure_running(A)
        self.start(B)
        self.assertNoResult(slow)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(slow)

    def test_requests_wait_until_the_proxy_is_healthy(self) -> None:
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.wait(0.4)
        self.spawner.proxies[A].is_listening = True
        self.spawner.proxies[A].status = 503
        self.wait(0.4)
        self.assertNoResult(starting)
        self.spawner.proxies[A].status = 200
        self.wait(0.25)
        self.successResultOf(starting)
        [(event, proxy, milliseconds)] = self.audited("event", "proxy", "milliseconds")
        self.assertEqual((event, proxy), ("proxy.started", A))
        self.assertTrue(800 <= milliseconds <= 1050, milliseconds)

    def test_removes_a_proxy_that_is_not_healthy_within_the_start_timeout(self) -> None:
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.wait(19.9)
        self.assertNoResult(starting)
        self.wait(0.2)
        self.assertIn("did not respond within 20 seconds", self.failure(starting).message)
        self.assertEqual(self.spawner.removals[A], 1)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "start_timeout")])
        status = self.manager.status(A)
        self.assertEqual((status.state, status.since), ("failed", START + 20))
        self.assertIn("did not respond", status.error or "")
        self.assertEqual(self.manager.active_count, 0)
        self.spawner.comes_up = True
        self.start(A)

    def test_nobody_uses_a_proxy_before_the_privileges_of_its_start_have_ended(self) -> None:
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.wait(1)
        self.assertEqual(self.spawner.completed_starts[A], 0)
        self.spawner.completion_error = ProxyUnavailable("Docker does not limit it.")
        self.spawner.proxies[A].is_listening = True
        self.wait(1)
        self.assertIn("does not limit", self.failure(starting).message)
        self.assertEqual(self.spawner.removals[A], 1)
        self.spawner.comes_up, self.spawner.completion_error = True, None
        self.start(A)
        self.assertEqual(self.spawner.completed_starts[A], 2)

    def test_reports_the_error_of_the_spawner_to_the_user(self) -> None:
        self.spawner.error = ProxyUnavailable("The system starts no more processes.")
        self.assertIn("no more processes", self.failure(self.ensure_running(A)).message)

    def test_logs_an_unexpected_error_and_fails_the_request(self) -> None:
        self.spawner.error = RuntimeError("a fault")
        self.assertIn("the log has details", self.failure(self.ensure_running(A)).message)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_fails_the_request_at_once_if_the_proxy_exits_while_starting(self) -> None:
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.spawner.exit(A)
        self.assertIn("SIGKILL", self.failure(starting).message)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "exited")])

    def test_cancelling_one_request_does_not_cancel_the_start(self) -> None:
        self.spawner.slow_starts[A] = Deferred()
        one, other = self.ensure_running(A), self.ensure_running(A)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(other)

    def test_forgets_a_failure_after_its_retention(self) -> None:
        self.spawner.error = ProxyUnavailable("no")
        self.failure(self.ensure_running(A))
        self.wait(121)
        self.assertEqual(self.status(), "absent")
        self.assertEqual(self.successResultOf(self.run_coroutine(self.manager.list_proxies())), [])


class ExitTests(ProxyManagerCase):
    def test_replaces_a_proxy_that_exited(self) -> None:
        pool = self.start(A)
        self.assertEqual(self.spawner.started[0].open_connections, 1)
        self.spawner.exit(A)
        self.flush()
        self.assertEqual(self.spawner.started[0].open_connections, 0)
        self.assertEqual((self.status(), self.manager.active_count), ("failed", 0))
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "exited")])
        self.assertIsNot(self.start(A), pool)
        self.assertEqual(self.spawner.starts[A], 2)

    def test_requests_to_one_on_a_machine_that_is_gone_end(self) -> None:
        """Nothing closes their connections."""
        self.spawner.is_remote = True
        pool, sink = self.start(A), FakeResponseSink()
        self.spawner.proxies[A].is_hanging = True
        pool.start_request(RequestHead(b"GET", b"/api/tags"), sink).finish()
        self.flush()
        self.assertIsNone(sink.outcome)
        self.spawner.exit(A)
        self.flush()
        self.assertIsInstance(sink.outcome, ProxyUnavailable)

    def test_what_is_left_of_it_is_kept_for_the_next_start(self) -> None:
        self.start(A)
        self.spawner.exit(A)
        self.flush()
        self.assertEqual(self.spawner.cleanups[A], 1)

    def test_nothing_is_kept_of_one_that_exits_again_soon_or_does_not_start(self) -> None:
        for _ in range(2):
            self.start(A)
            self.spawner.exit(A)
            self.flush()
        self.spawner.error = ProxyUnavailable("no")
        self.failure(self.ensure_running(B))
        self.assertEqual((self.spawner.cleanups[A], self.spawner.cleanups[B]), (1, 0))
        self.assertEqual((self.spawner.removals[A], self.spawner.removals[B]), (2, 1))

    def test_refuses_starts_for_longer_after_each_failure(self) -> None:
        for rest in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            self.start(A)
            self.wait(1)
            self.spawner.exit(A)
            if rest:
                error = self.failure(self.ensure_running(A))
                self.assertEqual(error.retry_after, rest)
                self.assertIn(f"SIGKILL. Try again in {rest} s.", error.message)
                self.wait(rest - 0.5)
                self.failure(self.ensure_running(A))
                self.wait(0.5)
        self.assertIn(("proxy.start_refused", "backoff"), self.audited("event", "reason"))

    def test_a_long_uptime_resets_the_backoff(self) -> None:
        for _ in range(4):
            self.wait(10)
            self.start(A)
            self.spawner.exit(A)
        self.wait(10)
        self.start(A)
        self.wait(31)
        self.spawner.exit(A)
        self.start(A)

    def test_ignores_the_exit_of_a_proxy_that_stops_or_is_unknown(self) -> None:
        self.start(A)
        gone: Deferred[None] = Deferred()
        self.spawner.slow_removals[A] = gone
        removing = self.run_coroutine(self.manager.remove(A, "was stopped by its user"))
        self.spawner.exit(A)
        self.spawner.exit_observers.notify(B, "it was never here")
        self.assertNoResult(removing)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual(self.status(), "absent")


class MonitorTests(ProxyManagerCase):
    def test_stops_an_idle_proxy(self) -> None:
        self.start(A)
        began = self.clock.seconds()
        self.spawner.proxies[A].since_idle = lambda: self.clock.seconds() - began
        self.wait(599)
        self.assertEqual(self.status(), "running")
        self.wait(10)
        self.assertEqual((self.status(), self.manager.active_count), ("absent", 0))
        self.assertEqual(self.spawner.removals[A], 1)
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.stopped", "idle")])
        self.assertTrue(self.has_metric('ctllm_proxy_terminations_total{reason="idle"} 1.0'))

    def test_does_not_stop_a_busy_proxy(self) -> None:
        self.start(A)
        self.wait(3600)
        self.assertEqual(self.status(), "running")
        self.assertGreaterEqual(self.spawner.proxies[A].request_count, 3600 / 30)

    def test_does_not_stop_a_proxy_that_was_requested_recently(self) -> None:
        pool = self.start(A)
        self.spawner.proxies[A].since_idle = self.clock.seconds
        self.wait(595)
        self.assertIs(self.start(A), pool)
        self.wait(595)
        self.assertEqual(self.status(), "running")
        self.wait(10)
        self.assertEqual(self.status(), "absent")

    def test_stops_an_outdated_proxy_without_requests_and_starts_another(self) -> None:
        self.start(A)
        old = self.spawner.proxies[A]
        self.spawner.outdated.add(A)
        self.wait(31)
        self.assertEqual(self.status(), "absent")
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.stopped", "outdated")])
        self.assertTrue(self.has_metric('ctllm_proxy_terminations_total{reason="outdated"} 1.0'))
        self.start(A)
        self.assertIsNot(self.spawner.proxies[A], old)
        self.wait(3600)
        self.assertEqual(self.spawner.removals[A], 1)

    def test_a_request_during_the_replacement_waits_for_the_other_proxy(self) -> None:
        self.start(A)
        self.spawner.outdated.add(A)
        self.spawner.slow_removals[A] = removed = Deferred[None]()
        self.wait(31)
        waiting = self.ensure_running(A)
        self.assertNoResult(waiting)
        removed.callback(None)
        self.flush()
        self.successResultOf(waiting)
        self.assertEqual(self.spawner.starts[A], 2)

    def test_a_request_waits_no_longer_for_a_removal_than_for_starts(self) -> None:
        self.start(A)
        self.spawner.slow_removals[A] = removed = Deferred[None]()
        stopping = self.run_coroutine(self.manager.remove(A, "by hand"))
        request = self.ensure_running(A)
        self.wait(self.settings.start_queue_timeout_seconds - 1)
        self.assertNoResult(request)
        self.wait(1)
        self.assertEqual(self.failure(request, ServiceUnavailable).retry_after, 10)
        removed.callback(None)
        self.successResultOf(stopping)

    def test_requests_wait_for_the_desktops_of_a_replaced_proxy_and_tunnels_do_not(self) -> None:
        for seconds, connect in ((1.0, True), (10.2, False)):
            self.start(A)
            self.spawner.proxies[A].health["desktops"] = 2
            self.spawner.outdated.add(A)
            self.spawner.slow_removals[A] = removed = Deferred[None]()
            self.wait(31)
            request = self.ensure_running(A)
            removed.callback(None)
            self.flush()
            late = self.ensure_running(A)
            tunnel = self.run_coroutine(self.manager.ensure_running(A, is_new_request=False))
            self.successResultOf(tunnel)
            self.spawner.proxies[A].health["desktops"] = 1
            self.wait(seconds)
            if connect:
                self.assertNoResult(request)
                self.assertNoResult(late)
                self.spawner.proxies[A].health["desktops"] = 2
                self.wait(0.2)
            self.successResultOf(request)
            self.successResultOf(late)
            self.successResultOf(self.ensure_running(A))

    def test_a_replaced_proxy_with_desktops_is_started_again_without_a_request(self) -> None:
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 1
        self.spawner.outdated.add(A)
        self.wait(31)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("running", 2))

    def test_a_replaced_proxy_that_is_stopped_or_fails_is_not_started_again(self) -> None:
        for fails in (False, True):
            self.start(A)
            starts = self.spawner.starts[A]
            self.spawner.proxies[A].health["desktops"] = 1
            self.spawner.outdated.add(A)
            self.spawner.slow_removals[A] = removed = Deferred[None]()
            self.wait(31)
            stopping = None if fails else self.run_coroutine(self.manager.remove(A, "by hand"))
            self.spawner.error = ProxyUnavailable("no") if fails else None
            removed.callback(None)
            self.wait(3600)
            if stopping is not None:
                self.successResultOf(stopping)
            self.assertEqual(self.spawner.starts[A], starts + fails)
            self.spawner.error = None

    def test_requests_do_not_wait_for_the_desktops_of_a_replaced_proxy_that_exits(self) -> None:
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 1
        self.spawner.outdated.add(A)
        self.wait(31)
        request = self.ensure_running(A)
        self.assertNoResult(request)
        self.spawner.exit(A)
        self.flush()
        self.successResultOf(request)  # its connections are closed, so it fails at once

    def test_requests_wait_for_the_desktops_of_a_proxy_that_died_and_tunnels_do_not(self) -> None:
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 1
        self.wait(31)
        self.spawner.exit(A)
        request = self.ensure_running(A)
        self.successResultOf(self.run_coroutine(self.manager.ensure_running(A, False)))
        self.wait(DESKTOP_TIMEOUT - 2)
        self.assertNoResult(request)
        self.spawner.proxies[A].health["desktops"] = 1
        self.wait(1)
        self.successResultOf(request)
        self.assertEqual(self.spawner.starts[A], 2)

    def test_requests_wait_for_desktops_that_do_not_come_back_for_some_seconds(self) -> None:
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 1
        self.wait(31)
        self.spawner.exit(A)
        request = self.ensure_running(A)
        self.wait(DESKTOP_TIMEOUT - 1)
        self.assertNoResult(request)
        self.wait(2)
        self.successResultOf(request)
        self.successResultOf(self.ensure_running(A))
        self.assertLess(self.spawner.proxies[A].request_count, 40, "checks become rarer")

    def test_a_proxy_that_died_is_not_started_again_without_a_request(self) -> None:
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 1
        self.wait(31)
        self.spawner.exit(A)
        self.wait(3600)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("absent", 1))

    def remove_one_too_many(self) -> tuple[list[str], list[Deferred[None]], list[Deferred[None]]]:
        """Remove proxies, of which one has to wait; return them, what ends each, and the calls."""
        names = [f"ctllm-proxy-{number:032x}" for number in range(CONCURRENT_REMOVALS + 1)]
        ends = [Deferred[None]() for _ in names]
        for name in names:
            self.start(name)
        self.spawner.slow_removals.update(zip(names, ends, strict=True))
        calls = [self.run_coroutine(self.manager.remove(name, "by hand")) for name in names]
        return names, ends, calls

    def test_removes_a_few_proxies_at_once(self) -> None:
        """All at once, each would take as long as all of them."""
        names, ends, calls = self.remove_one_too_many()
        self.assertEqual(sum(self.spawner.removals.values()), CONCURRENT_REMOVALS)
        ends[0].callback(None)
        self.flush()
        self.assertEqual(self.spawner.removals[names[-1]], 1)
        for end in ends[1:]:
            end.callback(None)
        for call in calls:
            self.successResultOf(call)

    def test_a_removal_that_fails_makes_room_for_another(self) -> None:
        names, ends, _ = self.remove_one_too_many()
        for end in ends:
            end.errback(ProxyUnavailable("Docker does not respond."))
        self.assertEqual(self.spawner.removals[names[-1]], 1)
        self.assertEqual(len(self.flushLoggedErrors(ProxyUnavailable)), len(names))

    def test_the_proxy_of_a_revoked_user_is_removed_before_others(self) -> None:
        names = [f"ctllm-proxy-{number:032x}" for number in range(CONCURRENT_REMOVALS + 2)]
        for name in names:
            self.start(name)
            self.spawner.slow_removals[name] = Deferred()
        revoked = names.pop()
        for name in names:
            self.run_coroutine(self.manager.remove(name, "by hand"))
        self.manager.revoke(revoked)
        self.assertEqual((self.spawner.removals[names[-1]], self.spawner.removals[revoked]), (0, 1))

    def test_does_not_stop_an_outdated_proxy_with_requests(self) -> None:
        for busy in ("exchanges", "open_requests"):
            self.start(A)
            self.spawner.outdated.add(A)
            self.spawner.proxies[A].health[busy] = 1
            self.wait(600)
            self.assertEqual(self.status(), "running", busy)
            self.spawner.proxies[A].health[busy] = 0
            self.wait(31)
            self.assertEqual(self.status(), "absent", busy)

    def test_does_not_stop_an_outdated_proxy_that_was_just_requested(self) -> None:
        self.start(A)
        self.spawner.outdated.add(A)
        self.wait(26)
        self.start(A)  # whoever asked may not have connected when the health is checked
        self.wait(5)
        self.assertEqual(self.status(), "running")
        self.wait(30)
        self.assertEqual(self.status(), "absent")

    def test_replaces_outdated_proxies_one_after_the_other(self) -> None:
        for each in (A, B, C):
            self.start(each)
        self.spawner.outdated |= {A, B, C}
        self.wait(31)
        self.assertEqual(self.manager.active_count, 2)
        self.wait(30)
        self.assertEqual(self.manager.active_count, 1)

    def test_replaces_a_proxy_after_three_missed_checks(self) -> None:
        pool = self.start(A)
        self.spawner.proxies[A].is_hanging = True
        self.wait(30 + 10 + 2 * (5 + 10) - 1)
        self.assertEqual(self.status(), "running")
        self.wait(2)
        self.assertEqual(self.spawner.removals[A], 1)
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "unresponsive")])
        self.assertIsNot(self.start(A), pool)

    def test_a_successful_check_resets_the_missed_checks(self) -> None:
        self.start(A)
        for _ in range(3):
            self.spawner.proxies[A].is_hanging = True
            self.wait(30 + 10 + 5 + 10)
            self.spawner.proxies[A].is_hanging = False
            self.wait(5)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("running", 1))

    def test_ignores_missed_checks_while_this_process_is_delayed(self) -> None:
        self.start(A)
        self.spawner.proxies[A].is_hanging = True
        for _ in range(20):
            self.clock.advance(40)
            self.wait(0)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("running", 1))

    def test_health_is_the_response_of_the_proxy(self) -> None:
        self.assertIsNone(self.successResultOf(self.run_coroutine(self.manager.health(A))))
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 2
        health = self.successResultOf(self.run_coroutine(self.manager.health(A)))
        self.assertEqual(health and health["desktops"], 2)


class LimitTests(ProxyManagerCase):
    settings = Cloud(max_proxies=3, max_concurrent_starts=2)

    def test_refuses_a_start_at_the_maximum_number_of_proxies(self) -> None:
        for proxy in (A, B, C):
            self.start(proxy)
        for _ in range(2):
            self.assertEqual(
                self.failure(self.ensure_running(D), ServiceUnavailable).retry_after, 60
            )
        self.start(A)
        refusals = [
            line for line in self.audited("event", "reason") if line[0] == "proxy.start_refused"
        ]
        self.assertEqual(refusals, [("proxy.start_refused", "at_capacity")])
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        self.start(D)

    def test_a_failed_proxy_needs_capacity_to_start_again(self) -> None:
        self.start(A)
        self.spawner.exit(A)
        for proxy in (B, C, D):
            self.start(proxy)
        self.failure(self.ensure_running(A), ServiceUnavailable)


class RemovalTests(ProxyManagerCase):
    def test_remove_waits_until_the_proxy_is_removed(self) -> None:
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        self.start(A)
        gone: Deferred[None] = Deferred()
        self.spawner.slow_removals[A] = gone
        removing = [
            self.run_coroutine(self.manager.remove(A, "was stopped by its user")) for _ in range(2)
        ]
        self.assertNoResult(removing[0])
        self.assertEqual((self.status(), self.manager.active_count), ("absent", 1))
        gone.callback(None)
        for one in removing:
            self.successResultOf(one)
        self.assertEqual((self.spawner.removals[A], self.manager.active_count), (1, 0))
        self.assertEqual(
            self.audited("event", "reason", "detail")[1:],
            [("proxy.stopped", "requested", "was stopped by its user")],
        )

    def test_a_request_while_stopping_starts_a_new_proxy(self) -> None:
        old = self.start(A)
        gone: Deferred[None] = Deferred()
        self.spawner.slow_removals[A] = gone
        removing, starting = (
            self.run_coroutine(self.manager.remove(A, "was stopped by its user")),
            self.ensure_running(A),
        )
        self.assertNoResult(starting)
        gone.callback(None)
        self.flush()
        self.successResultOf(removing)
        self.assertIsNot(self.successResultOf(starting), old)

    def test_a_cancelled_request_while_stopping_starts_none(self) -> None:
        self.start(A)
        gone: Deferred[None] = Deferred()
        self.spawner.slow_removals[A] = gone
        removing, starting = (
            self.run_coroutine(self.manager.remove(A, "was stopped by its user")),
            self.ensure_running(A),
        )
        starting.cancel()
        self.failureResultOf(starting, CancelledError)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("absent", 1))

    def test_removing_a_starting_proxy_fails_its_requests(self) -> None:
        self.spawner.comes_up = False
        starting = self.ensure_running(A)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        self.assertIn("was stopped by its user", self.failure(starting).message)
        self.assertEqual(self.status(), "absent")

    def test_a_failed_removal_does_not_prevent_a_new_proxy(self) -> None:
        self.start(A)
        self.spawner.slow_removals[A] = fail(RuntimeError("a fault"))
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.start(A)

    def test_remove_from_within_a_callback_of_the_start(self) -> None:

        async def use_once() -> None:
            await self.manager.ensure_running(A)
            await self.manager.remove(A, "was stopped by its user")

        self.spawner.slow_starts[A] = Deferred()
        using, other = self.run_coroutine(use_once()), self.ensure_running(A)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(using)
        self.successResultOf(other)
        self.assertEqual((self.status(), self.spawner.removals[A]), ("absent", 1))

    def test_request_from_within_a_callback_of_the_failure(self) -> None:

        async def persistent() -> ConnectionPool:
            try:
                return await self.manager.ensure_running(A)
            except ProxyUnavailable:
                self.spawner.comes_up = True
                return await self.manager.ensure_running(A)

        self.spawner.comes_up = False
        starting = self.run_coroutine(persistent())
        self.spawner.exit(A)
        self.flush()
        self.successResultOf(starting)
        self.assertEqual(self.spawner.starts[A], 2)


class ShutdownTests(ProxyManagerCase):
    def test_stopping_fails_waiting_and_later_requests(self) -> None:
        self.start(A)
        self.spawner.slow_starts[B] = Deferred()
        waiting = self.ensure_running(B)
        self.stop()
        self.assertIn("stopping", self.failure(waiting).message)
        self.assertIn("stopping", self.failure(self.ensure_running(A)).message)
        ends = [
            line for line in self.audited("event", "proxy", "reason") if line[0] == "proxy.stopped"
        ]
        self.assertEqual(ends, [("proxy.stopped", A, "shutdown"), ("proxy.stopped", B, "shutdown")])

    def test_stopping_from_within_a_callback_of_the_start_leaves_no_timer(self) -> None:
        starting = Deferred.fromCoroutine(self.manager.ensure_running(A))
        starting.addCallback(lambda _: self.manager.stopService())
        self.flush()
        self.successResultOf(starting)
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gauge_counts_the_proxies_in_each_state(self) -> None:
        self.start(A)
        self.start(B)
        self.assertTrue(self.has_metric('ctllm_proxies{state="running"} 2.0'))
        self.spawner.exit(A)
        self.assertTrue(self.has_metric('ctllm_proxies{state="running"} 1.0'))
        self.assertTrue(self.has_metric('ctllm_proxies{state="failed"} 1.0'))
        self.assertTrue(self.has_metric("ctllm_proxy_starts_total 2.0"))

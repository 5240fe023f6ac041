"""The life of streaming proxies: a runtime of pretence, a clock, and HTTP over memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.proxies.states import TRANSITIONS, Backoff, State
from ctllm.cloud.proxies.supervisor import STATE_TASKS
from ctllm.config import Cloud
from ctllm.errors import BadGateway, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import get
from tests.unit.proxies_case import START, A, B, C, D, E, F, FakeProxy, ProxyManagerCase


class StartTests(ProxyManagerCase):
    """Being started."""

    def test_ten_at_once(self) -> None:
        """Ten who ask at once share one start and get the same way to it."""
        self.spawner.slow_starts[A] = Deferred()
        asking = [self.ensure_running(A) for _ in range(10)]
        self.assertEqual(self.status(), "starting")
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        origins = {self.successResultOf(one) for one in asking}
        self.assertEqual(len(origins), 1)
        self.assertEqual(self.spawner.starts[A], 1)
        self.assertIs(self.start(A), origins.pop())
        self.assertEqual((self.status(), self.manager.active_count), ("running", 1))

    def test_slow_beside_fast(self) -> None:
        """One that takes its time delays nobody else."""
        self.spawner.slow_starts[A] = Deferred()
        slow = self.ensure_running(A)
        self.start(B)
        self.assertNoResult(slow)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(slow)

    def test_started_is_answering(self) -> None:
        """Nobody gets a proxy before it answers; then at once, and the audit says how long."""
        self.spawner.comes_up = False
        asking = self.ensure_running(A)
        self.wait(0.4)
        self.spawner.proxies[A].is_listening = True
        self.spawner.proxies[A].status = 503
        self.wait(0.4)
        self.assertNoResult(asking)
        self.spawner.proxies[A].status = 200
        self.wait(0.25)
        self.successResultOf(asking)
        [(event, proxy, milliseconds)] = self.audited("event", "proxy", "milliseconds")
        self.assertEqual((event, proxy), ("proxy.started", A))
        self.assertTrue(800 <= milliseconds <= 1050, milliseconds)

    def test_too_slow(self) -> None:
        """One that does not answer in time is removed; its user hears why and may try again."""
        self.spawner.comes_up = False
        asking = self.ensure_running(A)
        self.wait(19.9)
        self.assertNoResult(asking)
        self.wait(0.2)
        self.assertIn("did not respond within 20 seconds", self.failure(asking).message)
        self.assertEqual(self.spawner.removals[A], 1)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "start_timeout")])
        status = self.manager.status(A)
        self.assertEqual((status.state, status.since), ("failed", START + 20))
        self.assertIn("did not respond", status.error or "")
        self.assertEqual(self.manager.active_count, 0)
        self.spawner.comes_up = True
        self.start(A)

    def test_runtime_refuses(self) -> None:
        """What the runtime says against a start reaches the user."""
        self.spawner.error = ProxyUnavailable("The system starts no more processes.")
        self.assertIn("no more processes", self.failure(self.ensure_running(A)).message)

    def test_fault(self) -> None:
        """A fault of ours in a start is logged, and the user waits for nothing."""
        self.spawner.error = RuntimeError("a fault")
        self.assertIn("the log has details", self.failure(self.ensure_running(A)).message)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_dies_while_starting(self) -> None:
        """Who waits for one that dies hears so at once, not when the time is over."""
        self.spawner.comes_up = False
        asking = self.ensure_running(A)
        self.spawner.die(A)
        self.assertIn("SIGKILL", self.failure(asking).message)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "exited")])

    def test_one_gives_up(self) -> None:
        """Who gives up waiting takes the start from nobody."""
        self.spawner.slow_starts[A] = Deferred()
        one, other = self.ensure_running(A), self.ensure_running(A)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(other)

    def test_forgotten(self) -> None:
        """A failure is not remembered for ever."""
        self.spawner.error = ProxyUnavailable("no")
        self.failure(self.ensure_running(A))
        self.wait(121)
        self.assertEqual(self.status(), "absent")
        self.assertEqual(self.manager._supervisors, {})


class DeathTests(ProxyManagerCase):
    """Dying, once and again."""

    def test_new_one(self) -> None:
        """A death is noticed at once; whoever asks next gets another proxy without waiting."""
        origin = self.start(A)
        self.assertEqual(self.spawner.started[0].open_connections, 1)
        self.spawner.die(A)
        self.flush()
        self.assertEqual(self.spawner.started[0].open_connections, 0)
        self.assertEqual((self.status(), self.manager.active_count), ("failed", 0))
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "exited")])
        self.assertIsNot(self.start(A), origin)
        self.assertEqual(self.spawner.starts[A], 2)

    def test_again_and_again(self) -> None:
        """One that keeps dying rests for 1, 2, 4 … seconds, and its user hears for how long."""
        for rest in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            self.start(A)
            self.wait(1)
            self.spawner.die(A)
            if rest:
                error = self.failure(self.ensure_running(A))
                self.assertEqual(error.retry_after, rest)
                self.assertIn(f"SIGKILL. Try again in {rest} s.", error.message)
                self.wait(rest - 0.5)
                self.failure(self.ensure_running(A))
                self.wait(0.5)
        self.assertIn(("proxy.start_refused", "backoff"), self.audited("event", "reason"))

    def test_steady(self) -> None:
        """A death after a long life has nothing to do with those before."""
        for _ in range(4):
            self.wait(10)
            self.start(A)
            self.spawner.die(A)
        self.wait(10)
        self.start(A)
        self.wait(31)
        self.spawner.die(A)
        self.start(A)

    def test_late_word(self) -> None:
        """The death of one that is being removed, or of one unknown, changes nothing."""
        self.start(A)
        self.spawner.slow_removals[A] = gone = Deferred()
        removing = self.run_coroutine(self.manager.remove(A, "by request"))
        self.spawner.die(A)
        self.spawner.exit_observers.notify(B, "it was never here")
        self.assertNoResult(removing)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual(self.status(), "absent")


class WatchTests(ProxyManagerCase):
    """Being looked after while running."""

    def test_idle(self) -> None:
        """One that nobody uses for its time is removed and forgotten."""
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

    def test_busy(self) -> None:
        """One with an exchange or a tunnel is not removed, however long nobody else asks."""
        self.start(A)
        self.wait(3600)
        self.assertEqual(self.status(), "running")
        self.assertGreaterEqual(self.spawner.proxies[A].request_count, 3600 / 30)

    def test_just_wanted(self) -> None:
        """One that was just given to somebody stays, though it knows of no exchange yet."""
        origin = self.start(A)
        self.spawner.proxies[A].since_idle = self.clock.seconds
        self.wait(595)
        self.assertIs(self.start(A), origin)
        self.wait(595)
        self.assertEqual(self.status(), "running")
        self.wait(10)
        self.assertEqual(self.status(), "absent")

    def test_hung(self) -> None:
        """One that three times in a row does not answer within 10 s is replaced within 70 s."""
        origin = self.start(A)
        self.spawner.proxies[A].is_hanging = True
        self.wait(30 + 10 + 2 * (5 + 10) - 1)
        self.assertEqual(self.status(), "running")
        self.wait(2)
        self.assertEqual(self.spawner.removals[A], 1)
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "unresponsive")])
        self.assertIsNot(self.start(A), origin)

    def test_recovers(self) -> None:
        """Two questions unanswered and one answered count as none."""
        self.start(A)
        for _ in range(3):
            self.spawner.proxies[A].is_hanging = True
            self.wait(30 + 10 + 5 + 10)
            self.spawner.proxies[A].is_hanging = False
            self.wait(5)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("running", 1))

    def test_a_cloud_that_is_late_itself(self) -> None:
        """What it does not get to hear says nothing about its proxies."""
        self.start(A)
        self.spawner.proxies[A].is_hanging = True
        for _ in range(20):
            self.clock.advance(40)
            self.wait(0)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("running", 1))

    def test_health(self) -> None:
        """Health is what the proxy says now; one that is not there says nothing."""
        self.assertIsNone(self.successResultOf(self.run_coroutine(self.manager.health(A))))
        self.start(A)
        self.spawner.proxies[A].health["desktops"] = 2
        health = self.successResultOf(self.run_coroutine(self.manager.health(A)))
        self.assertEqual(health, {"exchanges": 0, "desktops": 2, "idle_seconds": 0})


class LimitTests(ProxyManagerCase):
    """So many, and no more."""

    settings = Cloud(max_proxies=3, max_concurrent_starts=2)

    def test_full(self) -> None:
        """Beyond the limit a start is refused with a time to come again; what runs goes on."""
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
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "by request")))
        self.start(D)

    def test_failed_ones_are_counted_again(self) -> None:
        """One that failed takes no place, so it needs one to come back."""
        self.start(A)
        self.spawner.die(A)
        for proxy in (B, C, D):
            self.start(proxy)
        self.failure(self.ensure_running(A), ServiceUnavailable)


class TurnTests(ProxyManagerCase):
    """How many start at once."""

    settings = Cloud(max_proxies=6, max_concurrent_starts=2)

    def test_turns(self) -> None:
        """No more start at once than may; the others take their turns."""
        for proxy in (A, B):
            self.spawner.slow_starts[proxy] = Deferred()
        first, second, third = (
            self.ensure_running(A),
            self.ensure_running(B),
            self.ensure_running(C),
        )
        self.assertEqual(self.spawner.starts[C], 0)
        self.assertEqual(self.status(C), "starting")
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertNoResult(second)
        second.addErrback(lambda _: None)

    def test_failed_turn(self) -> None:
        """A start that fails gives its turn on, whether it held it or not."""
        self.spawner.error = ProxyUnavailable("no")
        failing = self.ensure_running(A), self.ensure_running(B)
        self.spawner.error = None
        third = self.ensure_running(C)
        for each in failing:
            self.failure(each)
        self.successResultOf(third)

    def test_what_has_begun_is_finished_first(self) -> None:
        """However slow the starts are, no more are begun; in the end all have started."""
        proxies = (A, B, C, D, E, F)
        self.spawner.slow_starts.update({proxy: Deferred() for proxy in proxies})
        asking = [self.ensure_running(proxy) for proxy in proxies]
        for started in range(0, len(proxies), 2):
            self.wait(18)
            self.assertEqual(sum(self.spawner.starts.values()), started + 2)
            for proxy in proxies[started : started + 2]:
                self.spawner.slow_starts[proxy].callback(None)
            self.flush()
            if started < 4:  # who waited for too long for a turn comes again
                again = [self.ensure_running(proxy) for proxy in proxies[started + 2 :]]
                asking = [each.addErrback(lambda _: None) for each in asking] + again
            self.wait(0.1)
        self.assertEqual([self.status(proxy) for proxy in proxies], ["running"] * 6)
        for each in asking:
            each.addErrback(lambda _: None)

    def test_how_long_to_wait_for_a_turn(self) -> None:
        """By how long turns take, and how many wait for one."""
        turns = self.manager._context.start_limiter
        gives = [self.successResultOf(Deferred.fromCoroutine(turns.acquire())) for _ in range(2)]
        self.assertEqual(turns.expected_wait, 0)
        self.wait(40)
        gives[0]()
        gives[0]()
        for _ in range(31):
            Deferred.fromCoroutine(turns.acquire())
        self.assertEqual(turns.expected_wait, 31 * 10 // 2)

    def test_crowded(self) -> None:
        """Crowded is no failure of the proxy: it is absent, and there is a time to come again."""
        self.spawner.slow_starts.update({A: Deferred(), B: Deferred()})
        for proxy in (A, B):
            self.ensure_running(proxy).addErrback(lambda _: None)
        gives: list[Callable[[], None]] = []
        for _ in range(20):  # others, who are next in line
            Deferred.fromCoroutine(self.manager._context.start_limiter.acquire()).addCallback(
                gives.append
            )
        crowded = self.ensure_running(C)
        self.wait(20)
        error = self.failure(crowded, ServiceUnavailable)
        self.assertTrue(10 <= error.retry_after <= 120)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("absent", 0))
        for give in gives:  # each lets the next one in
            give()
        self.assertIn(("proxy.start_refused", "queue_timeout"), self.audited("event", "reason"))


class RemovalTests(ProxyManagerCase):
    """Being told to leave."""

    def test_waits(self) -> None:
        """Removing is done when it is gone, for all who asked; who is absent is gone."""
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "by request")))
        self.start(A)
        self.spawner.slow_removals[A] = gone = Deferred()
        removing = [self.run_coroutine(self.manager.remove(A, "by request")) for _ in range(2)]
        self.assertNoResult(removing[0])
        self.assertEqual((self.status(), self.manager.active_count), ("absent", 1))
        gone.callback(None)
        for one in removing:
            self.successResultOf(one)
        self.assertEqual((self.spawner.removals[A], self.manager.active_count), (1, 0))
        self.assertEqual(
            self.audited("event", "reason", "detail")[1:],
            [("proxy.stopped", "requested", "by request")],
        )

    def test_wanted_again(self) -> None:
        """Who asks for one that is leaving waits for it to be gone and gets a new one."""
        old = self.start(A)
        self.spawner.slow_removals[A] = gone = Deferred()
        removing, asking = (
            self.run_coroutine(self.manager.remove(A, "by request")),
            self.ensure_running(A),
        )
        self.assertNoResult(asking)
        gone.callback(None)
        self.flush()
        self.successResultOf(removing)
        self.assertIsNot(self.successResultOf(asking), old)

    def test_not_wanted_any_more(self) -> None:
        """Who asks for one that is leaving and gives up starts none."""
        self.start(A)
        self.spawner.slow_removals[A] = gone = Deferred()
        removing, asking = (
            self.run_coroutine(self.manager.remove(A, "by request")),
            self.ensure_running(A),
        )
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual((self.status(), self.spawner.starts[A]), ("absent", 1))

    def test_while_starting(self) -> None:
        """Who waits for one that is removed before it runs is told so."""
        self.spawner.comes_up = False
        asking = self.ensure_running(A)
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped by its user")))
        self.assertIn("was stopped by its user", self.failure(asking).message)
        self.assertEqual(self.status(), "absent")

    def test_cannot_be_removed(self) -> None:
        """A runtime that cannot remove is logged and keeps nobody from a new proxy."""
        self.start(A)
        self.spawner.slow_removals[A] = fail(RuntimeError("a fault"))
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "by request")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.start(A)

    def test_at_once_in_between(self) -> None:
        """Who has a proxy removed in the moment of getting it is obeyed, and so are the others."""

        async def use_once() -> None:
            await self.manager.ensure_running(A)
            await self.manager.remove(A, "by request")

        self.spawner.slow_starts[A] = Deferred()
        using, other = self.run_coroutine(use_once()), self.ensure_running(A)
        self.spawner.slow_starts[A].callback(None)
        self.flush()
        self.successResultOf(using)
        self.successResultOf(other)
        self.assertEqual((self.status(), self.spawner.removals[A]), ("absent", 1))

    def test_at_once_again(self) -> None:
        """Who asks again in the moment of a failure gets the next start, not a confusion."""

        async def persistent() -> ConnectionPool:
            try:
                return await self.manager.ensure_running(A)
            except ProxyUnavailable:
                self.spawner.comes_up = True
                return await self.manager.ensure_running(A)

        self.spawner.comes_up = False
        asking = self.run_coroutine(persistent())
        self.spawner.die(A)
        self.flush()
        self.successResultOf(asking)
        self.assertEqual(self.spawner.starts[A], 2)


class StopTests(ProxyManagerCase):
    """The cloud's own end; that it leaves no timer and no connection, every test here holds."""

    def test_stop(self) -> None:
        """Who waits is told, whoever comes later too, and the audit says why they ended."""
        self.start(A)
        self.spawner.slow_starts[B] = Deferred()
        waiting = self.ensure_running(B)
        self.successResultOf(self.manager.stopService())
        self.assertIn("stopping", self.failure(waiting).message)
        self.assertIn("stopping", self.failure(self.ensure_running(A)).message)
        ends = [
            line for line in self.audited("event", "proxy", "reason") if line[0] == "proxy.stopped"
        ]
        self.assertEqual(ends, [("proxy.stopped", A, "shutdown"), ("proxy.stopped", B, "shutdown")])

    def test_stop_in_between(self) -> None:
        """Stopping in the very moment in which a proxy is given out leaves nothing either."""
        asking = Deferred.fromCoroutine(self.manager.ensure_running(A))
        asking.addCallback(lambda _: self.manager.stopService())
        self.flush()
        self.successResultOf(asking)
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_metrics(self) -> None:
        """The gauge of states follows each proxy."""
        self.start(A)
        self.start(B)
        self.assertTrue(self.has_metric('ctllm_proxies{state="running"} 2.0'))
        self.spawner.die(A)
        self.assertTrue(self.has_metric('ctllm_proxies{state="running"} 1.0'))
        self.assertTrue(self.has_metric('ctllm_proxies{state="failed"} 1.0'))
        self.assertTrue(self.has_metric("ctllm_proxy_starts_total 2.0"))


class TableTests(SynchronousTestCase):
    """The decisions by themselves."""

    def test_table(self) -> None:
        """Every state can be reached, all but the last be left, and something is done in it."""
        self.assertEqual(set(TRANSITIONS.values()), set(State))
        self.assertEqual({state for state, _ in TRANSITIONS}, set(State) - {State.CLOSED})
        self.assertEqual(set(STATE_TASKS), set(State))

    def test_backoff(self) -> None:
        """Rests double from the second failure in a row, and one long life ends the row."""
        backoff, now, rests = Backoff(), 0.0, []
        for lived in (1, 1, 1, 1, 40, 1):
            backoff.record_failure(now, lived)
            rests.append(backoff.remaining(now))
            now += 100
        self.assertEqual(rests, [0, 1, 2, 4, 0, 1])

    def test_backoff_rounds_up(self) -> None:
        """Whoever comes back after the seconds that were said is not refused again."""
        backoff = Backoff()
        backoff.record_failure(0.0, 0)
        backoff.record_failure(0.0, 0)
        self.assertEqual([backoff.remaining(0.3), backoff.remaining(1.0)], [math.ceil(0.7), 0])


class AskingTests(SynchronousTestCase):
    """One small question by HTTP."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = FakeProxy(True)
        self.origin = ConnectionPool(self.proxy, self.clock, "the test", ProxyUnavailable)

    def get(self, limit: int = 100) -> Deferred[tuple[int, bytes]]:
        asking = Deferred.fromCoroutine(get(self.origin, b"/", self.clock, 5, limit))
        self.flush()
        return asking

    def flush(self) -> None:
        for pump in self.proxy.pumps:
            pump.flush()

    def test_answer(self) -> None:
        """Status and body come, the connection is kept, and no timer of the question is left."""
        self.proxy.status = 404
        status, body = self.successResultOf(self.get())
        self.assertEqual((status, msgspec.json.decode(body)), (404, self.proxy.health))
        self.assertEqual((self.proxy.open_connections, len(self.clock.getDelayedCalls())), (1, 1))

    def test_too_large(self) -> None:
        """An answer beyond the limit is not read to its end."""
        self.assertIn("10 bytes", str(self.failureResultOf(self.get(10), BadGateway).value))
        self.assertEqual(self.proxy.open_connections, 0)

    def test_too_late(self) -> None:
        """Without an answer in time the connection is closed."""
        self.proxy.is_hanging = True
        asking = self.get()
        self.clock.advance(4.9)
        self.assertNoResult(asking)
        self.clock.advance(0.1)
        self.failureResultOf(asking, BadGateway)
        self.flush()
        self.assertEqual(self.proxy.open_connections, 0)

    def test_cancelled(self) -> None:
        """Who waits no more leaves neither a connection nor a timer."""
        self.proxy.is_hanging = True
        asking = self.get()
        asking.cancel()
        self.flush()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual((self.proxy.open_connections, self.clock.getDelayedCalls()), (0, []))

    def test_nobody_there(self) -> None:
        """Without a connection the error is the origin's own."""
        self.proxy.is_listening = False
        self.failureResultOf(self.get(), ProxyUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

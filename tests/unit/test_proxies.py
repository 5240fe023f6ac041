"""The life of streaming proxies: a runtime of pretence, a clock, and HTTP over memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.proxies.states import NEXT, Backoff, State
from ctllm.cloud.proxies.supervisor import _TASKS
from ctllm.config import Cloud
from ctllm.errors import BadGateway, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import get
from tests.unit.proxies_case import START, A, B, C, Case, D, E, F, PretendProxy


class StartTests(Case):
    """Being started."""

    def test_ten_at_once(self) -> None:
        """Ten who ask at once share one start and get the same way to it."""
        self.runtime.slow[A] = Deferred()
        asking = [self.ensure(A) for _ in range(10)]
        self.assertEqual(self.word(), "starting")
        self.runtime.slow[A].callback(None)
        self.flush()
        origins = {self.successResultOf(one) for one in asking}
        self.assertEqual(len(origins), 1)
        self.assertEqual(self.runtime.starts[A], 1)
        self.assertIs(self.up(A), origins.pop())
        self.assertEqual((self.word(), self.proxies.count), ("running", 1))

    def test_slow_beside_fast(self) -> None:
        """One that takes its time delays nobody else."""
        self.runtime.slow[A] = Deferred()
        slow = self.ensure(A)
        self.up(B)
        self.assertNoResult(slow)
        self.runtime.slow[A].callback(None)
        self.flush()
        self.successResultOf(slow)

    def test_started_is_answering(self) -> None:
        """Nobody gets a proxy before it answers; then at once, and the audit says how long."""
        self.runtime.comes_up = False
        asking = self.ensure(A)
        self.wait(0.4)
        self.runtime.proxies[A].up = True
        self.runtime.proxies[A].status = 503
        self.wait(0.4)
        self.assertNoResult(asking)
        self.runtime.proxies[A].status = 200
        self.wait(0.25)
        self.successResultOf(asking)
        [(event, proxy, milliseconds)] = self.audited("event", "proxy", "milliseconds")
        self.assertEqual((event, proxy), ("proxy.started", A))
        self.assertTrue(800 <= milliseconds <= 1050, milliseconds)

    def test_too_slow(self) -> None:
        """One that does not answer in time is removed; its user hears why and may try again."""
        self.runtime.comes_up = False
        asking = self.ensure(A)
        self.wait(19.9)
        self.assertNoResult(asking)
        self.wait(0.2)
        self.assertIn("did not answer within 20 seconds", self.refused(asking).message)
        self.assertEqual(self.runtime.removals[A], 1)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "start_timeout")])
        status = self.proxies.status(A)
        self.assertEqual((status.state, status.since), ("failed", START + 20))
        self.assertIn("did not answer", status.error or "")
        self.assertEqual(self.proxies.count, 0)
        self.runtime.comes_up = True
        self.up(A)

    def test_runtime_refuses(self) -> None:
        """What the runtime says against a start reaches the user."""
        self.runtime.refusal = ProxyUnavailable("The system starts no more processes.")
        self.assertIn("no more processes", self.refused(self.ensure(A)).message)

    def test_fault(self) -> None:
        """A fault of ours in a start is logged, and the user waits for nothing."""
        self.runtime.refusal = RuntimeError("a fault")
        self.assertIn("the log says", self.refused(self.ensure(A)).message)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_dies_while_starting(self) -> None:
        """Who waits for one that dies hears so at once, not when the time is over."""
        self.runtime.comes_up = False
        asking = self.ensure(A)
        self.runtime.die(A)
        self.assertIn("SIGKILL", self.refused(asking).message)
        self.assertEqual(self.audited("event", "reason"), [("proxy.start_failed", "exited")])

    def test_one_gives_up(self) -> None:
        """Who gives up waiting takes the start from nobody."""
        self.runtime.slow[A] = Deferred()
        one, other = self.ensure(A), self.ensure(A)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.runtime.slow[A].callback(None)
        self.flush()
        self.successResultOf(other)

    def test_forgotten(self) -> None:
        """A failure is not remembered for ever."""
        self.runtime.refusal = ProxyUnavailable("no")
        self.refused(self.ensure(A))
        self.wait(121)
        self.assertEqual(self.word(), "absent")
        self.assertEqual(self.proxies._lives, {})


class DeathTests(Case):
    """Dying, once and again."""

    def test_new_one(self) -> None:
        """A death is noticed at once; whoever asks next gets another proxy without waiting."""
        origin = self.up(A)
        self.assertEqual(self.runtime.all[0].open_connections, 1)
        self.runtime.die(A)
        self.flush()
        self.assertEqual(self.runtime.all[0].open_connections, 0)
        self.assertEqual((self.word(), self.proxies.count), ("failed", 0))
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "exited")])
        self.assertIsNot(self.up(A), origin)
        self.assertEqual(self.runtime.starts[A], 2)

    def test_again_and_again(self) -> None:
        """One that keeps dying rests for 1, 2, 4 … seconds, and its user hears for how long."""
        for rest in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            self.up(A)
            self.wait(1)
            self.runtime.die(A)
            if rest:
                error = self.refused(self.ensure(A))
                self.assertEqual(error.retry_after, rest)
                self.assertIn(f"SIGKILL. Try again in {rest} s.", error.message)
                self.wait(rest - 0.5)
                self.refused(self.ensure(A))
                self.wait(0.5)
        self.assertIn(("proxy.start_refused", "backoff"), self.audited("event", "reason"))

    def test_steady(self) -> None:
        """A death after a long life has nothing to do with those before."""
        for _ in range(4):
            self.wait(10)
            self.up(A)
            self.runtime.die(A)
        self.wait(10)
        self.up(A)
        self.wait(31)
        self.runtime.die(A)
        self.up(A)

    def test_late_word(self) -> None:
        """The death of one that is being removed, or of one unknown, changes nothing."""
        self.up(A)
        self.runtime.stubborn[A] = gone = Deferred()
        removing = self.begin(self.proxies.remove(A, "by request"))
        self.runtime.die(A)
        self.runtime.on_exit(B, "it was never here")
        self.assertNoResult(removing)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual(self.word(), "absent")


class WatchTests(Case):
    """Being looked after while running."""

    def test_idle(self) -> None:
        """One that nobody uses for its time is removed and forgotten."""
        self.up(A)
        began = self.clock.seconds()
        self.runtime.proxies[A].since_idle = lambda: self.clock.seconds() - began
        self.wait(599)
        self.assertEqual(self.word(), "running")
        self.wait(10)
        self.assertEqual((self.word(), self.proxies.count), ("absent", 0))
        self.assertEqual(self.runtime.removals[A], 1)
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.stopped", "idle")])
        self.assertTrue(self.metric('ctllm_proxy_terminations_total{reason="idle"} 1.0'))

    def test_busy(self) -> None:
        """One with an exchange or a tunnel is not removed, however long nobody else asks."""
        self.up(A)
        self.wait(3600)
        self.assertEqual(self.word(), "running")
        self.assertGreaterEqual(self.runtime.proxies[A].asked, 3600 / 30)

    def test_just_wanted(self) -> None:
        """One that was just given to somebody stays, though it knows of no exchange yet."""
        origin = self.up(A)
        self.runtime.proxies[A].since_idle = self.clock.seconds
        self.wait(595)
        self.assertIs(self.up(A), origin)
        self.wait(595)
        self.assertEqual(self.word(), "running")
        self.wait(10)
        self.assertEqual(self.word(), "absent")

    def test_hung(self) -> None:
        """One that three times in a row does not answer within 10 s is replaced within 70 s."""
        origin = self.up(A)
        self.runtime.proxies[A].hung = True
        self.wait(30 + 10 + 2 * (5 + 10) - 1)
        self.assertEqual(self.word(), "running")
        self.wait(2)
        self.assertEqual(self.runtime.removals[A], 1)
        self.assertEqual(self.audited("event", "reason")[1:], [("proxy.died", "unresponsive")])
        self.assertIsNot(self.up(A), origin)

    def test_recovers(self) -> None:
        """Two questions unanswered and one answered count as none."""
        self.up(A)
        for _ in range(3):
            self.runtime.proxies[A].hung = True
            self.wait(30 + 10 + 5 + 10)
            self.runtime.proxies[A].hung = False
            self.wait(5)
        self.assertEqual((self.word(), self.runtime.starts[A]), ("running", 1))

    def test_a_cloud_that_is_late_itself(self) -> None:
        """What it does not get to hear says nothing about its proxies."""
        self.up(A)
        self.runtime.proxies[A].hung = True
        for _ in range(20):
            self.clock.advance(40)
            self.wait(0)
        self.assertEqual((self.word(), self.runtime.starts[A]), ("running", 1))

    def test_health(self) -> None:
        """Health is what the proxy says now; one that is not there says nothing."""
        self.assertIsNone(self.successResultOf(self.begin(self.proxies.health(A))))
        self.up(A)
        self.runtime.proxies[A].figures["desktops"] = 2
        health = self.successResultOf(self.begin(self.proxies.health(A)))
        self.assertEqual(health, {"exchanges": 0, "desktops": 2, "idle_seconds": 0})


class LimitTests(Case):
    """So many, and no more."""

    settings = Cloud(max_proxies=3, max_concurrent_starts=2)

    def test_full(self) -> None:
        """Beyond the limit a start is refused with a time to come again; what runs goes on."""
        for proxy in (A, B, C):
            self.up(proxy)
        for _ in range(2):
            self.assertEqual(self.refused(self.ensure(D), ServiceUnavailable).retry_after, 60)
        self.up(A)
        refusals = [
            line for line in self.audited("event", "reason") if line[0] == "proxy.start_refused"
        ]
        self.assertEqual(refusals, [("proxy.start_refused", "at_capacity")])
        self.successResultOf(self.begin(self.proxies.remove(A, "by request")))
        self.up(D)

    def test_failed_ones_are_counted_again(self) -> None:
        """One that failed takes no place, so it needs one to come back."""
        self.up(A)
        self.runtime.die(A)
        for proxy in (B, C, D):
            self.up(proxy)
        self.refused(self.ensure(A), ServiceUnavailable)


class TurnTests(Case):
    """How many start at once."""

    settings = Cloud(max_proxies=6, max_concurrent_starts=2)

    def test_turns(self) -> None:
        """No more start at once than may; the others take their turns."""
        for proxy in (A, B):
            self.runtime.slow[proxy] = Deferred()
        first, second, third = self.ensure(A), self.ensure(B), self.ensure(C)
        self.assertEqual(self.runtime.starts[C], 0)
        self.assertEqual(self.word(C), "starting")
        self.runtime.slow[A].callback(None)
        self.flush()
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertNoResult(second)
        second.addErrback(lambda _: None)

    def test_failed_turn(self) -> None:
        """A start that fails gives its turn on, whether it held it or not."""
        self.runtime.refusal = ProxyUnavailable("no")
        failing = self.ensure(A), self.ensure(B)
        self.runtime.refusal = None
        third = self.ensure(C)
        for each in failing:
            self.refused(each)
        self.successResultOf(third)

    def test_what_has_begun_is_finished_first(self) -> None:
        """However slow the starts are, no more are begun; in the end all have started."""
        proxies = (A, B, C, D, E, F)
        self.runtime.slow.update({proxy: Deferred() for proxy in proxies})
        asking = [self.ensure(proxy) for proxy in proxies]
        for started in range(0, len(proxies), 2):
            self.wait(18)
            self.assertEqual(sum(self.runtime.starts.values()), started + 2)
            for proxy in proxies[started : started + 2]:
                self.runtime.slow[proxy].callback(None)
            self.flush()
            if started < 4:  # who waited for too long for a turn comes again
                again = [self.ensure(proxy) for proxy in proxies[started + 2 :]]
                asking = [each.addErrback(lambda _: None) for each in asking] + again
            self.wait(0.1)
        self.assertEqual([self.word(proxy) for proxy in proxies], ["running"] * 6)
        for each in asking:
            each.addErrback(lambda _: None)

    def test_how_long_to_wait_for_a_turn(self) -> None:
        """By how long turns take, and how many wait for one."""
        turns = self.proxies._means.turns
        gives = [self.successResultOf(Deferred.fromCoroutine(turns.take())) for _ in range(2)]
        self.assertEqual(turns.expected_wait, 0)
        self.wait(40)
        gives[0]()
        gives[0]()
        for _ in range(31):
            Deferred.fromCoroutine(turns.take())
        self.assertEqual(turns.expected_wait, 31 * 10 // 2)

    def test_crowded(self) -> None:
        """Crowded is no failure of the proxy: it is absent, and there is a time to come again."""
        self.runtime.slow.update({A: Deferred(), B: Deferred()})
        for proxy in (A, B):
            self.ensure(proxy).addErrback(lambda _: None)
        gives: list[Callable[[], None]] = []
        for _ in range(20):  # others, who are next in line
            Deferred.fromCoroutine(self.proxies._means.turns.take()).addCallback(gives.append)
        crowded = self.ensure(C)
        self.wait(20)
        error = self.refused(crowded, ServiceUnavailable)
        self.assertTrue(10 <= error.retry_after <= 120)
        self.assertEqual((self.word(C), self.runtime.starts[C]), ("absent", 0))
        for give in gives:  # each lets the next one in
            give()
        self.assertIn(("proxy.start_refused", "queue_timeout"), self.audited("event", "reason"))


class RemovalTests(Case):
    """Being told to leave."""

    def test_waits(self) -> None:
        """Removing is done when it is gone, for all who asked; who is absent is gone."""
        self.successResultOf(self.begin(self.proxies.remove(A, "by request")))
        self.up(A)
        self.runtime.stubborn[A] = gone = Deferred()
        removing = [self.begin(self.proxies.remove(A, "by request")) for _ in range(2)]
        self.assertNoResult(removing[0])
        self.assertEqual((self.word(), self.proxies.count), ("absent", 1))
        gone.callback(None)
        for one in removing:
            self.successResultOf(one)
        self.assertEqual((self.runtime.removals[A], self.proxies.count), (1, 0))
        self.assertEqual(
            self.audited("event", "reason", "detail")[1:],
            [("proxy.stopped", "requested", "by request")],
        )

    def test_wanted_again(self) -> None:
        """Who asks for one that is leaving waits for it to be gone and gets a new one."""
        old = self.up(A)
        self.runtime.stubborn[A] = gone = Deferred()
        removing, asking = self.begin(self.proxies.remove(A, "by request")), self.ensure(A)
        self.assertNoResult(asking)
        gone.callback(None)
        self.flush()
        self.successResultOf(removing)
        self.assertIsNot(self.successResultOf(asking), old)

    def test_not_wanted_any_more(self) -> None:
        """Who asks for one that is leaving and gives up starts none."""
        self.up(A)
        self.runtime.stubborn[A] = gone = Deferred()
        removing, asking = self.begin(self.proxies.remove(A, "by request")), self.ensure(A)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        gone.callback(None)
        self.successResultOf(removing)
        self.assertEqual((self.word(), self.runtime.starts[A]), ("absent", 1))

    def test_while_starting(self) -> None:
        """Who waits for one that is removed before it runs is told so."""
        self.runtime.comes_up = False
        asking = self.ensure(A)
        self.successResultOf(self.begin(self.proxies.remove(A, "was stopped by its user")))
        self.assertIn("was stopped by its user", self.refused(asking).message)
        self.assertEqual(self.word(), "absent")

    def test_cannot_be_removed(self) -> None:
        """A runtime that cannot remove is logged and keeps nobody from a new proxy."""
        self.up(A)
        self.runtime.stubborn[A] = fail(RuntimeError("a fault"))
        self.successResultOf(self.begin(self.proxies.remove(A, "by request")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.up(A)

    def test_at_once_in_between(self) -> None:
        """Who has a proxy removed in the moment of getting it is obeyed, and so are the others."""

        async def use_once() -> None:
            await self.proxies.ensure(A)
            await self.proxies.remove(A, "by request")

        self.runtime.slow[A] = Deferred()
        using, other = self.begin(use_once()), self.ensure(A)
        self.runtime.slow[A].callback(None)
        self.flush()
        self.successResultOf(using)
        self.successResultOf(other)
        self.assertEqual((self.word(), self.runtime.removals[A]), ("absent", 1))

    def test_at_once_again(self) -> None:
        """Who asks again in the moment of a failure gets the next start, not a confusion."""

        async def persistent() -> ConnectionPool:
            try:
                return await self.proxies.ensure(A)
            except ProxyUnavailable:
                self.runtime.comes_up = True
                return await self.proxies.ensure(A)

        self.runtime.comes_up = False
        asking = self.begin(persistent())
        self.runtime.die(A)
        self.flush()
        self.successResultOf(asking)
        self.assertEqual(self.runtime.starts[A], 2)


class StopTests(Case):
    """The cloud's own end; that it leaves no timer and no connection, every test here holds."""

    def test_stop(self) -> None:
        """Who waits is told, whoever comes later too, and the audit says why they ended."""
        self.up(A)
        self.runtime.slow[B] = Deferred()
        waiting = self.ensure(B)
        self.successResultOf(self.proxies.stopService())
        self.assertIn("stopping", self.refused(waiting).message)
        self.assertIn("stopping", self.refused(self.ensure(A)).message)
        ends = [
            line for line in self.audited("event", "proxy", "reason") if line[0] == "proxy.stopped"
        ]
        self.assertEqual(ends, [("proxy.stopped", A, "shutdown"), ("proxy.stopped", B, "shutdown")])

    def test_stop_in_between(self) -> None:
        """Stopping in the very moment in which a proxy is given out leaves nothing either."""
        asking = Deferred.fromCoroutine(self.proxies.ensure(A))
        asking.addCallback(lambda _: self.proxies.stopService())
        self.flush()
        self.successResultOf(asking)
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_metrics(self) -> None:
        """The gauge of states follows each proxy."""
        self.up(A)
        self.up(B)
        self.assertTrue(self.metric('ctllm_proxies{state="running"} 2.0'))
        self.runtime.die(A)
        self.assertTrue(self.metric('ctllm_proxies{state="running"} 1.0'))
        self.assertTrue(self.metric('ctllm_proxies{state="failed"} 1.0'))
        self.assertTrue(self.metric("ctllm_proxy_starts_total 2.0"))


class TableTests(SynchronousTestCase):
    """The decisions by themselves."""

    def test_table(self) -> None:
        """Every state can be reached, all but the last be left, and something is done in it."""
        self.assertEqual(set(NEXT.values()), set(State))
        self.assertEqual({state for state, _ in NEXT}, set(State) - {State.CLOSED})
        self.assertEqual(set(_TASKS), set(State))

    def test_backoff(self) -> None:
        """Rests double from the second failure in a row, and one long life ends the row."""
        backoff, now, rests = Backoff(), 0.0, []
        for lived in (1, 1, 1, 1, 40, 1):
            backoff.failed(now, lived)
            rests.append(backoff.rest(now))
            now += 100
        self.assertEqual(rests, [0, 1, 2, 4, 0, 1])

    def test_backoff_rounds_up(self) -> None:
        """Whoever comes back after the seconds that were said is not refused again."""
        backoff = Backoff()
        backoff.failed(0.0, 0)
        backoff.failed(0.0, 0)
        self.assertEqual([backoff.rest(0.3), backoff.rest(1.0)], [math.ceil(0.7), 0])


class AskingTests(SynchronousTestCase):
    """One small question by HTTP."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = PretendProxy(True)
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
        self.assertEqual((status, msgspec.json.decode(body)), (404, self.proxy.figures))
        self.assertEqual((self.proxy.open_connections, len(self.clock.getDelayedCalls())), (1, 1))

    def test_too_large(self) -> None:
        """An answer beyond the limit is not read to its end."""
        self.assertIn("10 bytes", str(self.failureResultOf(self.get(10), BadGateway).value))
        self.assertEqual(self.proxy.open_connections, 0)

    def test_too_late(self) -> None:
        """Without an answer in time the connection is closed."""
        self.proxy.hung = True
        asking = self.get()
        self.clock.advance(4.9)
        self.assertNoResult(asking)
        self.clock.advance(0.1)
        self.failureResultOf(asking, BadGateway)
        self.flush()
        self.assertEqual(self.proxy.open_connections, 0)

    def test_cancelled(self) -> None:
        """Who waits no more leaves neither a connection nor a timer."""
        self.proxy.hung = True
        asking = self.get()
        asking.cancel()
        self.flush()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual((self.proxy.open_connections, self.clock.getDelayedCalls()), (0, []))

    def test_nobody_there(self) -> None:
        """Without a connection the error is the origin's own."""
        self.proxy.up = False
        self.failureResultOf(self.get(), ProxyUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

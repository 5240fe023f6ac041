"""Starts at the same time: how many, who waits, and who keeps a place in the queue."""

from __future__ import annotations

import math

from twisted.internet.defer import Deferred

from ctllm.cloud.proxies.manager import MIN_QUEUE_WAIT
from ctllm.cloud.proxies.supervisor import QUEUE_CHECK_INTERVAL, QUEUE_RETENTION
from ctllm.config import Cloud
from ctllm.desktop.reconnect_backoff import MAX_RETRY_AFTER_SPREAD
from ctllm.errors import ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT, TUNNEL_TIMEOUT
from tests.unit.cloud.proxies.manager_case import (
    A,
    B,
    C,
    D,
    E,
    F,
    ProxyManagerCase,
)


class QueueCase(ProxyManagerCase):
    """Two slots."""

    def fill_slots(self) -> None:
        """Have two starts that do not end."""
        self.spawner.slow_starts.update({A: Deferred(), B: Deferred()})
        for proxy in (A, B):
            self.ensure_running(proxy).addErrback(lambda _: None)
        self.wait(15)

    def keep_slots_busy(self, count: int = 30) -> None:
        """Have others before in the queue, whose starts do not end."""
        for number in range(count):
            proxy = f"ctllm-proxy-{number:032x}"
            self.spawner.slow_starts[proxy] = Deferred()
            self.ensure_running(proxy).addErrback(lambda _: None)


class ConcurrentStartTests(QueueCase):
    settings = Cloud(max_proxies=40, max_concurrent_starts=2, start_queue_timeout_seconds=20)

    def test_starts_at_most_the_maximum_at_once(self) -> None:
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

    def test_a_failed_start_releases_its_slot(self) -> None:
        self.spawner.error = ProxyUnavailable("no")
        failing = self.ensure_running(A), self.ensure_running(B)
        self.spawner.error = None
        third = self.ensure_running(C)
        for each in failing:
            self.failure(each)
        self.successResultOf(third)

    def test_running_starts_finish_before_others_begin(self) -> None:
        proxies = (A, B, C, D, E, F)
        self.spawner.slow_starts.update({proxy: Deferred() for proxy in proxies})
        starting = [self.ensure_running(proxy) for proxy in proxies]
        for started in range(0, len(proxies), 2):
            self.wait(18)
            self.assertEqual(sum(self.spawner.starts.values()), started + 2)
            for proxy in proxies[started : started + 2]:
                self.spawner.slow_starts[proxy].callback(None)
            self.flush()
            if started < 4:  # requests that waited too long for a slot are sent again
                again = [self.ensure_running(proxy) for proxy in proxies[started + 2 :]]
                for each in starting:
                    each.addErrback(lambda _: None)
                starting += again
            self.wait(0.1)
        self.assertEqual([self.status(proxy) for proxy in proxies], ["running"] * 6)
        for each in starting:
            each.addErrback(lambda _: None)

    def test_a_start_that_waited_too_long_is_refused_with_retry_after(self) -> None:
        self.fill_slots()
        self.keep_slots_busy(8)
        last = self.ensure_running(C)
        self.wait(20)
        # Six before it, two at a time, for 20 s each as the first two; and 20 s for itself.
        # It waits again for 20 s: half of them before, half of them after the expected time.
        error = self.failure(last, ServiceUnavailable)
        self.assertEqual(error.retry_after, 80)
        self.assertIn("expected to run in 90 s", error.message)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("starting", 0))
        self.assertIn(("proxy.start_refused", "queue_timeout"), self.audited("event", "reason"))

    def test_a_request_whose_start_has_begun_waits_for_it(self) -> None:
        """However long it waited in the queue."""
        self.fill_slots()
        request = self.ensure_running(C)
        self.spawner.slow_starts[C] = Deferred()
        self.wait(5)
        self.assertEqual(self.spawner.starts[C], 1)
        self.wait(16)
        self.assertNoResult(request)
        self.spawner.slow_starts[C].callback(None)
        self.flush()
        self.successResultOf(request)

    def test_who_was_refused_keeps_its_place_in_the_queue(self) -> None:
        """It starts when it is its turn, also if nobody has come back yet."""
        self.fill_slots()
        self.keep_slots_busy(2)
        early = self.ensure_running(C)
        self.wait(20)
        self.failure(early, ServiceUnavailable)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("starting", 0))
        self.wait(5)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("running", 1))
        self.successResultOf(self.ensure_running(C))

    def test_who_comes_back_waits_again_for_as_long(self) -> None:
        """And is refused again, as others that have not been waiting for so long are not."""
        self.fill_slots()
        self.keep_slots_busy()
        early = self.ensure_running(C)
        self.wait(20)
        self.failure(early, ServiceUnavailable)
        late = self.ensure_running(C)
        self.wait(19)
        self.assertNoResult(late)
        self.wait(1)
        self.failure(late, ServiceUnavailable)

    def test_a_place_is_given_up_when_nobody_comes_back(self) -> None:
        """A start for nobody would delay others."""
        self.fill_slots()
        self.keep_slots_busy()
        self.ensure_running(C).addErrback(lambda _: None)
        self.wait(QUEUE_RETENTION - 1)
        self.assertEqual(self.status(C), "starting")
        self.wait(22)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("absent", 0))

    def test_a_proxy_that_died_gives_up_its_place_too_when_nobody_comes_back(self) -> None:
        """Its desktops would have come, if there were any."""
        self.successResultOf(self.ensure_running(C))
        self.spawner.proxies[C].health["desktops"] = 1
        self.wait(31)
        self.spawner.exit(C)
        self.fill_slots()
        self.keep_slots_busy()
        self.ensure_running(C).addErrback(lambda _: None)
        self.wait(QUEUE_RETENTION + QUEUE_CHECK_INTERVAL)
        self.assertEqual((self.status(C), self.spawner.starts[C]), ("absent", 1))


class PatienceTests(QueueCase):
    """How long clients wait."""

    settings = Cloud(max_proxies=40, max_concurrent_starts=2, start_queue_timeout_seconds=50)

    def connect_desktop(self, timeout: float) -> Deferred[ConnectionPool]:
        """Have a desktop of C's user connect, which waits for a response for `timeout` seconds."""
        return self.run_coroutine(
            self.manager.ensure_running(C, is_new_request=False, timeout=timeout)
        )

    def test_a_client_is_refused_before_it_gives_up(self) -> None:
        """At the latest as the settings say."""
        for timeout, waits in (
            (math.inf, 50),
            (TUNNEL_TIMEOUT, 50),
            (40, 30),
            (HANDSHAKE_TIMEOUT, 20),
            (0, MIN_QUEUE_WAIT),
        ):
            self.fill_slots()
            self.keep_slots_busy()
            client = self.connect_desktop(timeout)
            self.wait(waits - 0.5)
            self.assertNoResult(client)
            self.wait(0.5)
            self.failure(client, ServiceUnavailable)

    def test_a_desktop_that_comes_back_as_told_is_there_when_its_proxy_runs(self) -> None:
        """Also if it comes as late as desktops do, or the starts before it become slower."""
        for late, seconds in ((0, 10), (MAX_RETRY_AFTER_SPREAD, 10), (0, 13)):
            self.keep_slots_busy()
            self.spawner.slow_starts[C] = Deferred()
            early = self.connect_desktop(TUNNEL_TIMEOUT)
            self.finish_starts(every=10, until=50)
            error = self.failure(early, ServiceUnavailable)
            self.finish_starts(every=seconds, until=(error.retry_after or 0) + late)
            self.assertEqual(self.status(C), "starting")
            back = self.connect_desktop(TUNNEL_TIMEOUT)
            self.finish_starts(every=seconds, until=60)
            self.successResultOf(back)
            self.stop()
            self.setUp()

    def finish_starts(self, every: int, until: int) -> None:
        """Have the starts that run be done every so many seconds."""
        for second in range(1, until + 1):
            self.wait(1)
            for proxy, started in self.spawner.slow_starts.items():
                if second % every == 0 and self.spawner.starts[proxy] and not started.called:
                    started.callback(None)
            self.flush()

"""Only silence shows that a peer is dead."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.tunnel.websocket.keepalive import CONFIRMATION_DELAY, INCOMPLETE_FRAME_TIMEOUT, Keepalive

PING_INTERVAL, PING_TIMEOUT = 4.0, 3.0


class KeepaliveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pings: list[bytes] = []
        self.dead_at: list[float] = []
        self.keepalive = Keepalive(
            self.clock,
            self.pings.append,
            lambda: self.dead_at.append(self.clock.seconds()),
        )
        self.keepalive.start(PING_INTERVAL, PING_TIMEOUT)

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10))

    def test_a_silent_peer_is_dead_once_and_no_timer_is_left(self) -> None:
        self.wait(100)
        [dead_at] = self.dead_at
        self.assertLess(abs(dead_at - (PING_INTERVAL + PING_TIMEOUT + CONFIRMATION_DELAY)), 0.25)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pings_whatever_arrives(self) -> None:
        for _ in range(200):
            self.keepalive.frame_received()
            self.wait(0.1)
        self.assertEqual(len(self.pings), 4)

    def test_data_without_a_complete_frame_counts_for_a_while(self) -> None:
        """On a slow network."""
        for _ in range(int(INCOMPLETE_FRAME_TIMEOUT)):
            self.keepalive.data_received()
            self.wait(1)
        self.assertEqual(self.dead_at, [])

    def test_a_frame_that_never_ends_is_no_sign_of_life(self) -> None:
        for _ in range(int(INCOMPLETE_FRAME_TIMEOUT + PING_INTERVAL + PING_TIMEOUT) + 2):
            self.keepalive.data_received()
            self.wait(1)
        self.assertEqual(len(self.dead_at), 1)

    def test_frames_are_a_sign_of_life(self) -> None:
        for _ in range(100):
            self.keepalive.frame_received()
            self.wait(PING_INTERVAL)
        self.assertEqual(self.dead_at, [])

    def test_silence_counts_from_the_last_data(self) -> None:
        self.wait(PING_INTERVAL + PING_TIMEOUT - 0.5)
        self.keepalive.data_received()
        self.wait(PING_INTERVAL + PING_TIMEOUT - 0.5)
        self.assertEqual(self.dead_at, [])
        self.wait(1)
        self.assertEqual(len(self.dead_at), 1)

    def test_checks_again_after_a_suspension_of_the_process(self) -> None:
        self.clock.advance(1000)
        self.keepalive.frame_received()
        self.wait(PING_INTERVAL)
        self.assertEqual(self.dead_at, [])

    def test_waits_longer_if_its_own_timers_were_late(self) -> None:
        late = 5.0
        self.clock.advance(PING_INTERVAL + PING_TIMEOUT + late)
        self.wait(late)
        self.assertEqual(self.dead_at, [])
        self.wait(CONFIRMATION_DELAY + 0.1)
        self.assertEqual(len(self.dead_at), 1)

    def test_measures_the_latency_with_the_pong_of_the_last_ping(self) -> None:
        self.assertIsNone(self.keepalive.latency)
        self.keepalive.pong_received(b"")  # which answers none
        self.wait(PING_INTERVAL)
        self.keepalive.pong_received(b"forged")
        self.assertIsNone(self.keepalive.latency)
        self.wait(0.3)
        self.keepalive.pong_received(self.pings[0])
        self.assertEqual(round(self.keepalive.latency or 0, 1), 0.3)
        self.wait(PING_INTERVAL)
        self.keepalive.pong_received(self.pings[0])
        self.assertEqual(round(self.keepalive.latency or 0, 1), 0.3)

    def test_does_nothing_after_stop(self) -> None:
        self.keepalive.stop()
        self.wait(100)
        self.assertEqual((self.pings, self.dead_at), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

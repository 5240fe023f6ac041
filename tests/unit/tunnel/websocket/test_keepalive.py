"""Is the other side of a connection alive? Silence tells, and only silence."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.tunnel.websocket.keepalive import CONFIRMATION_DELAY, INCOMPLETE_FRAME_TIMEOUT, Keepalive

PING, DEADLINE = 4.0, 3.0


class LivenessTests(SynchronousTestCase):
    """One side of one connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pings: list[float] = []
        self.died: list[float] = []
        self.life = Keepalive(
            self.clock,
            lambda: self.pings.append(self.clock.seconds()),
            lambda: self.died.append(self.clock.seconds()),
        )
        self.life.start(PING, DEADLINE)

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10))

    def test_silence(self) -> None:
        """Who says nothing for the whole time is dead, once, and no timer is left."""
        self.wait(100)
        [died] = self.died
        self.assertLess(abs(died - (PING + DEADLINE + CONFIRMATION_DELAY)), 0.25)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pings_go_on_whatever_comes(self) -> None:
        """The other side may depend on hearing them: what it waits for may be behind much else."""
        for _ in range(200):
            self.life.frame_received()
            self.wait(0.1)
        self.assertEqual(len(self.pings), 4)

    def test_any_bytes_are_life(self) -> None:
        """Though no frame is whole, on a slow network, for as long as a minute."""
        for _ in range(int(INCOMPLETE_FRAME_TIMEOUT)):
            self.life.data_received()
            self.wait(1)
        self.assertEqual(self.died, [])

    def test_a_frame_that_never_becomes_whole(self) -> None:
        """Its length was garbled, and it swallows whatever comes after."""
        for _ in range(int(INCOMPLETE_FRAME_TIMEOUT + PING + DEADLINE) + 2):
            self.life.data_received()
            self.wait(1)
        self.assertEqual(len(self.died), 1)

    def test_whole_frames(self) -> None:
        """They are life for as long as they come."""
        for _ in range(100):
            self.life.frame_received()
            self.wait(PING)
        self.assertEqual(self.died, [])

    def test_late_but_there(self) -> None:
        """Bytes count from when they came."""
        self.wait(PING + DEADLINE - 0.5)
        self.life.data_received()
        self.wait(PING + DEADLINE - 0.5)
        self.assertEqual(self.died, [])
        self.wait(1)
        self.assertEqual(len(self.died), 1)

    def test_who_slept_looks_before_judging(self) -> None:
        """A process that was stopped for long finds its timers first, then what came meanwhile."""
        self.clock.advance(1000)
        self.life.frame_received()
        self.wait(PING)
        self.assertEqual(self.died, [])

    def test_who_is_slow_itself_waits_as_much_longer(self) -> None:
        """What was said in time and is not read yet shows that the other side lives."""
        late = 5.0
        self.clock.advance(PING + DEADLINE + late)
        self.wait(late)
        self.assertEqual(self.died, [])
        self.wait(CONFIRMATION_DELAY + 0.1)
        self.assertEqual(len(self.died), 1)

    def test_the_end(self) -> None:
        """Nothing happens any more."""
        self.life.stop()
        self.wait(100)
        self.assertEqual((self.pings, self.died), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

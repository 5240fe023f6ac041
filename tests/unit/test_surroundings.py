"""The clock jumps, the network is another one: it is noticed, and nothing else is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.host_monitor import HostMonitor, local_address_towards

CLOUD = "203.0.113.7"


class SurroundingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.set = 0.0  # how far the wall clock is from where it began
        self.own = {CLOUD: "10.0.0.5", "192.0.2.1": "10.0.0.5", "2001:db8::1": ""}
        self.peer = CLOUD
        self.seen: list[str] = []
        self.surroundings = HostMonitor(
            self.clock,
            lambda: 1e9 + self.clock.seconds() + self.set,
            self.clock.seconds,
            self.own.__getitem__,
        )
        self.surroundings.on_change = self.seen.append
        self.surroundings.peer = lambda: self.peer
        self.surroundings.startService()
        self.addCleanup(self.surroundings.stopService)

    def test_nothing(self) -> None:
        self.clock.pump([0.5] * 100)
        self.set += 4  # a clock that is being corrected
        self.clock.pump([0.5] * 100)
        self.assertEqual(self.seen, [])

    def test_jumps(self) -> None:
        """A sleep, or somebody sets the clock: either way, and once for each."""
        for jump in (3600, -7200, 6):
            self.seen.clear()
            self.set += jump
            self.clock.pump([1] * 5)
            self.assertEqual(len(self.seen), 1, jump)
            self.assertIn("clock", self.seen[0])

    def test_another_address(self) -> None:
        """Within a second; once. The way to nobody counts where no cloud is known yet."""
        for address in (CLOUD, "192.0.2.1", "2001:db8::1"):
            self.seen.clear()
            self.own[address] = f"10.9.9.{len(address)}"
            self.clock.pump([1] * 5)
            self.assertEqual(self.seen, ["the network changed"], address)

    def test_gone_and_back(self) -> None:
        for own in ("", "10.0.0.5"):
            self.own[CLOUD] = own
            self.clock.pump([1] * 5)
        self.assertEqual(len(self.seen), 2)

    def test_a_cloud_that_was_not_known(self) -> None:
        """Where it is found at last, nothing has changed."""
        self.peer = "198.51.100.9"
        self.own[self.peer] = "10.0.0.6"
        self.clock.pump([1] * 5)
        self.assertEqual(self.seen, [])

    def test_a_change_at_once_after_connecting(self) -> None:
        """Before anybody has looked a second time."""
        self.peer = "198.51.100.9"
        self.own[self.peer] = "10.0.0.6"
        self.surroundings.update_address()
        self.own[self.peer] = "10.0.0.7"
        self.clock.pump([1] * 5)
        self.assertEqual(self.seen, ["the network changed"])

    def test_stopped(self) -> None:
        self.surroundings.stopService()
        self.set += 3600
        self.clock.pump([1] * 5)
        self.assertEqual((self.seen, self.clock.getDelayedCalls()), ([], []))

    def test_the_real_system(self) -> None:
        self.assertEqual(local_address_towards("127.0.0.1"), "127.0.0.1")
        self.assertEqual(local_address_towards("999.1.1.1"), "")

"""The host monitor reports jumps of the clock and changes of the network, and nothing else."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.host_monitor import HostMonitor, local_address_towards

CLOUD = "203.0.113.7"


class HostMonitorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = 0.0  # of the wall clock
        self.addresses = {CLOUD: "10.0.0.5", "192.0.2.1": "10.0.0.5", "2001:db8::1": ""}
        self.peer = CLOUD
        self.seen: list[str] = []
        self.monitor = HostMonitor(
            self.clock,
            self.seen.append,
            lambda: self.peer,
            wall_time=lambda: 1e9 + self.clock.seconds() + self.offset,
            monotonic=self.clock.seconds,
            local_address=self.addresses.__getitem__,
        )
        self.monitor.startService()
        self.addCleanup(self.monitor.stopService)

    def test_ignores_small_corrections_of_the_clock(self) -> None:
        self.clock.pump([0.5] * 100)
        self.offset += 4  # a clock that is being corrected
        self.clock.pump([0.5] * 100)
        self.assertEqual(self.seen, [])

    def test_reports_each_jump_of_the_clock_once(self) -> None:
        for jump in (3600, -7200, 6):
            self.seen.clear()
            self.offset += jump
            self.clock.pump([1] * 5)
            self.assertEqual(len(self.seen), 1, jump)
            self.assertIn("clock", self.seen[0])

    def test_reports_another_local_address_once(self) -> None:
        for address in (CLOUD, "192.0.2.1", "2001:db8::1"):
            self.seen.clear()
            self.addresses[address] = f"10.9.9.{len(address)}"
            self.clock.pump([1] * 5)
            self.assertEqual(self.seen, ["the network changed"], address)

    def test_reports_a_network_that_disappears_and_returns(self) -> None:
        for own in ("", "10.0.0.5"):
            self.addresses[CLOUD] = own
            self.clock.pump([1] * 5)
        self.assertEqual(len(self.seen), 2)

    def test_a_newly_known_cloud_address_is_no_change(self) -> None:
        self.peer = "198.51.100.9"
        self.addresses[self.peer] = "10.0.0.6"
        self.clock.pump([1] * 5)
        self.assertEqual(self.seen, [])

    def test_reports_a_change_right_after_update_address(self) -> None:
        self.peer = "198.51.100.9"
        self.addresses[self.peer] = "10.0.0.6"
        self.monitor.update_address()
        self.addresses[self.peer] = "10.0.0.7"
        self.clock.pump([1] * 5)
        self.assertEqual(self.seen, ["the network changed"])

    def test_reports_nothing_once_stopped(self) -> None:
        self.monitor.stopService()
        self.offset += 3600
        self.clock.pump([1] * 5)
        self.assertEqual((self.seen, self.clock.getDelayedCalls()), ([], []))

    def test_local_address_of_the_real_system(self) -> None:
        self.assertEqual(local_address_towards("127.0.0.1"), "127.0.0.1")
        self.assertEqual(local_address_towards("999.1.1.1"), "")

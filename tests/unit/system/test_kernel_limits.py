"""`ctllm.system.kernel_limits`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.system.kernel_limits import LowLimit, find_low_limits

#: The values of a new Debian with a large memory.
DEFAULTS = {
    "kernel/pid_max": "32768\n",
    "kernel/threads-max": "192731\n",
    "fs/inotify/max_user_instances": "128\n",
    "net/ipv4/neigh/default/gc_thresh3": "1024\n",
}


class LowLimitTests(SynchronousTestCase):
    """The limits of a machine whose files the test writes."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.cgroup_v2 = self.folder / "cgroup.controllers"
        for name, text in DEFAULTS.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def find(self, containers: int, has_networks: bool = True) -> list[LowLimit]:
        return find_low_limits(containers, has_networks, self.folder, self.cgroup_v2)

    def test_defaults_suffice_for_a_hundred(self) -> None:
        """Except for the watchers of version 2 of control groups."""
        self.assertEqual(self.find(100), [])
        self.cgroup_v2.touch()
        self.assertEqual(self.find(100), [LowLimit("fs.inotify.max_user_instances", 128, 228)])

    def test_a_thousand_networks_need_room_for_their_neighbours(self) -> None:
        """Containers without networks do not."""
        neighbours = LowLimit("net.ipv4.neigh.default.gc_thresh3", 1024, 1256)
        self.assertEqual(self.find(1000), [neighbours])
        self.assertEqual(self.find(1000, has_networks=False), [])

    def test_threads_are_counted(self) -> None:
        """Both limits matter: of ids, and of threads."""
        self.write("kernel/threads-max", "40000")
        self.assertEqual(
            self.find(3000, has_networks=False),
            [
                LowLimit("kernel.pid_max", 32768, 46000),
                LowLimit("kernel.threads-max", 40000, 46000),
            ],
        )

    def test_a_limit_is_high_enough_if_it_is_what_is_needed(self) -> None:
        """No more is asked for."""
        self.write("net/ipv4/neigh/default/gc_thresh3", "1256")
        self.assertEqual(self.find(1000), [])

    def test_what_cannot_be_read_is_no_finding(self) -> None:
        """A sandbox may hide the file, or a container have no such limit."""
        (self.folder / "net/ipv4/neigh/default/gc_thresh3").unlink()
        self.write("kernel/pid_max", "")
        self.assertEqual(self.find(100_000, has_networks=True), [
            LowLimit("kernel.threads-max", 192731, 1_404_000)
        ])  # fmt: skip

"""`ctllm.cloud.spawners.resource_usage`: files of proc and of control groups."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.interfaces import ResourceUsage
from ctllm.cloud.spawners.resource_usage import container_usage, process_usage

ID = "4" * 64
_NAMES = ("12:cpu,cpuacct:", "5:memory:", "1:name=systemd:", "0::")
FIRST = "".join(f"{each}/docker/{ID}\n" for each in _NAMES)
SECOND = f"0::/system.slice/docker-{ID}.scope\n"


class ResourceUsageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc, self.groups = Path(self.mktemp()), Path(self.mktemp())

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def container(self) -> ResourceUsage | None:
        return container_usage(7, ID, self.proc, self.groups)

    def test_reads_control_groups_of_version_1(self) -> None:
        self.write(self.proc / "7/cgroup", FIRST)
        memory = self.groups / "memory/docker" / ID
        self.write(memory / "memory.usage_in_bytes", "30000\n")
        told = "cache 9\ninactive_file 1\ntotal_inactive_file 4000\n"
        self.write(memory / "memory.stat", told)
        self.write(self.groups / "cpuacct/docker" / ID / "cpuacct.usage", "1500000000\n")
        self.assertEqual(self.container(), ResourceUsage(26000, 1.5))

    def test_reads_control_groups_of_version_2(self) -> None:
        self.write(self.proc / "7/cgroup", SECOND)
        group = self.groups / f"system.slice/docker-{ID}.scope"
        self.write(group / "memory.current", "30000\n")
        self.write(group / "memory.stat", "anon 5\ninactive_file 4000\nactive_file 1\n")
        self.write(group / "cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
        self.assertEqual(self.container(), ResourceUsage(26000, 1.5))

    def test_returns_none_if_the_pid_is_another_process_by_now(self) -> None:
        for text in ("0::/\n", "5:memory:/\n4:cpuacct:/\n0::/\n", "0::/user.slice\n", "nonsense"):
            self.write(self.proc / "7/cgroup", text)
            for name, told in (("memory.current", "1\n"), ("memory.stat", "inactive_file 0\n"),
                               ("cpu.stat", "usage_usec 1\n")):  # fmt: skip
                self.write(self.groups / name, told)
            self.assertIsNone(self.container(), text)

    def test_returns_none_without_files(self) -> None:
        self.assertIsNone(self.container())
        self.write(self.proc / "7/cgroup", SECOND)
        self.assertIsNone(self.container())
        self.assertIsNone(process_usage(7, self.proc))

    def test_reads_times_after_the_last_parenthesis(self) -> None:
        self.write(self.proc / "7/statm", "900 3 2 1 0 1 0\n")
        times = " ".join(["S", *map(str, range(4, 14)), "150", "50", "0"])
        self.write(self.proc / "7/stat", f"7 (a ) b (c) {times}\n")
        tick = os.sysconf("SC_CLK_TCK")
        page = os.sysconf("SC_PAGE_SIZE")
        self.assertEqual(process_usage(7, self.proc), ResourceUsage(3 * page, 200 / tick))

    def test_reads_the_files_of_this_process(self) -> None:
        used = process_usage(os.getpid())
        assert used is not None
        self.assertTrue(10e6 < used.memory_bytes < 10e9 and used.cpu_seconds > 0)

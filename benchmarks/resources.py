"""Memory, processor time and open files of the parts of a cluster, sampled while it runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import cpu_seconds, parent_pids, read_memory
from benchmarks.slope import Slope, fit_slope

Pids = Mapping[str, tuple[int, ...]]
"""Process ids by part."""

#: The name of a shim's process, which Linux cuts to 15 characters.
_SHIM = "containerd-shim"
#: The kernel's own memory (proc_meminfo(5)).
_KERNEL_FIELDS = ("Slab", "KernelStack", "PageTables", "Percpu")
KERNEL, MACHINE = "kernel", "whole machine"
#: The parts of which there are more or fewer as users come and leave, and the names of their means.
_MEANS = {"shims": "mean of a shim", "containers": "mean of a container"}


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory in MB, and open files, by part. `at` is in seconds."""

    at: float
    memory: dict[str, float]
    files: dict[str, int]


def engine_pids(dockerd: int, folder: Path) -> Pids:
    """The processes of an engine in `folder`: its own, containerd, shims and containers."""
    parents, names = _processes()
    shims = {pid for pid, name in names.items() if name == _SHIM and has_argument(pid, folder)}
    return {
        "dockerd": (dockerd,),
        "containerd": tuple(pid for pid in names if parents[pid] == dockerd),
        "shims": tuple(shims),
        "containers": tuple(pid for pid in names if parents[pid] in shims),
    }


def meminfo() -> dict[str, float]:
    """The fields of /proc/meminfo in MB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}


def take_sample(pids: Pids) -> Sample:
    """Measure all parts, the kernel and the machine."""
    memory, files = {}, {}
    for part, members in pids.items():
        memory[part], files[part] = 0.0, 0
        for pid in members:
            with suppress(OSError):  # it has just exited
                memory[part] += read_memory(pid).proportional
                files[part] += len(os.listdir(f"/proc/{pid}/fd"))
    for part, name in _MEANS.items():
        if pids.get(part):
            memory[name] = memory[part] / len(pids[part])
    fields = meminfo()
    memory[KERNEL] = sum(fields.get(name, 0.0) for name in _KERNEL_FIELDS)
    memory[MACHINE] = fields["MemTotal"] - fields["MemAvailable"]
    return Sample(time.time(), memory, files)


def memory_slopes(samples: list[Sample]) -> dict[str, Slope]:
    """The slope of each part's memory, in MB a second."""
    found = {}
    for part in samples[0].memory if samples else ():
        points = [(each.at, each.memory[part]) for each in samples if part in each.memory]
        slope = fit_slope(points)
        if slope is not None:
            found[part] = slope
    return found


@contextmanager
def sample_regularly(
    pids: Callable[[], Pids], interval: float, samples: list[Sample]
) -> Iterator[None]:
    """Append a sample to `samples` every `interval` seconds, in a thread, until the block ends.

    An error of the thread is raised at the end of the block.
    """
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(interval):
            samples.append(take_sample(pids()))

    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(run)
        try:
            yield
        finally:
            stopping.set()
            sampling.result()


def cpu_by_part(pids: Pids) -> dict[str, float]:
    """The processor time of each part so far, in seconds."""
    return {part: cpu_seconds(members) for part, members in pids.items()}


def _processes() -> tuple[dict[int, int], dict[int, str]]:
    """The parent and the name of each process."""
    parents, names = parent_pids(), {}
    for pid in parents:
        with suppress(OSError):  # it has just exited
            names[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return parents, names


def has_argument(pid: int, folder: Path) -> bool:
    """Whether an argument of a process is below a folder."""
    with suppress(OSError):
        return f"{folder}/" in Path(f"/proc/{pid}/cmdline").read_text()
    return False

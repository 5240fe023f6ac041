"""What a crash leaves of the memory of cloud, proxies and desktop: no core file."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.lifecycle_cases import start_with_desktop
from tests.e2e.process_info import child_pids, core_limits, is_running, kill, linux_only

#: A program that does nothing against core files, in a directory of its own.
CONTROL = 'cd "$0" && exec sleep 60'


@pytest.fixture(autouse=True)
def core_files_allowed() -> Iterator[None]:
    """Allow core files of any size to this process and what it starts, as some systems do."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def cores(*directories: Path) -> list[Path]:
    """Return what may be core files in `directories`."""
    return [path for each in directories for path in each.glob("core*") if path.is_file()]


def working_directory(pid: int) -> Path:
    """Return where a process would leave its core file."""
    return Path(os.readlink(f"/proc/{pid}/cwd"))


async def crash(process: ChildProcess, number: int) -> bool:
    """End a process with a signal; return whether Linux has dumped its memory."""
    await process.stop(number)
    assert process.wait_status is not None and os.WTERMSIG(process.wait_status) == number
    return os.WCOREDUMP(process.wait_status)


@linux_only
@ensureDeferred
async def test_a_crash_leaves_no_core_file(cluster: Cluster, tmp_path: Path) -> None:
    """Neither of the cloud, of a proxy nor of the desktop; of another program it does."""
    control = ChildProcess("control", ["/bin/sh", "-c", CONTROL, str(tmp_path)], {})
    await wait_until(lambda: working_directory(control.pid) == tmp_path, "the control")
    assert await crash(control, signal.SIGSEGV), "This system dumps no process at all."
    cloud = await start_with_desktop(cluster)
    (desktop,) = [each for each in cluster.processes if each.name == "desktop"]
    (proxy,) = child_pids(cloud.pid)
    directories = {working_directory(pid) for pid in (cloud.pid, desktop.pid, proxy)}
    before = cores(*directories)
    assert core_limits(cloud.pid) == core_limits(desktop.pid) == ["1", "1"]
    assert core_limits(proxy) == ["0", "0"]
    assert os.stat(f"/proc/{proxy}/environ").st_uid == 0  # not dumpable
    kill(proxy, signal.SIGABRT)
    await wait_until(lambda: not is_running(proxy), "the proxy to crash")
    assert not await crash(desktop, signal.SIGSEGV)
    assert not await crash(cloud, signal.SIGABRT)
    assert cores(*directories) == before

"""What ctllm's programs cost while nothing happens: memory, wake-ups, processor and start time.

`python -m benchmarks.idle` from the root of the repository. `--write` stores the results in
README.md.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report, targets
from benchmarks.command_line import exit_on_signals
from benchmarks.paths import BIN, is_connected, run, start_model_server, start_role
from benchmarks.processes import (
    Memory,
    Program,
    Unavailable,
    cpu_seconds,
    descendants,
    find_program,
    is_listening,
    read_memory,
)
from tests.e2e.certificates import CertificateAuthority
from tests.ports import free_port

#: How often each program is started for the median of its start time.
STARTS = 7
#: Seconds until a program that has started is idle, and for which it is watched then.
SETTLE_SECONDS, WATCH_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Idle:
    """What an idle process takes: memory, wake-ups a second, and a share of one core."""

    memory: Memory
    wakeups: float
    cores: float


def wakeups(pid: int) -> int:
    """How often the threads of a process have waited and were woken so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    texts = [(task / "status").read_text() for task in tasks]
    return sum(int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def watch(pids: dict[str, int], seconds: float) -> dict[str, Idle]:
    """Watch processes, by name, that do nothing for `seconds`."""
    before = {name: (wakeups(pid), cpu_seconds((pid,))) for name, pid in pids.items()}
    time.sleep(seconds)
    return {
        name: Idle(
            read_memory(pid),
            (wakeups(pid) - before[name][0]) / seconds,
            (cpu_seconds((pid,)) - before[name][1]) / seconds,
        )
        for name, pid in pids.items()
    }


class Machine:
    """The programs of one user on one machine: a cloud, its proxy, a desktop and the tray.

    With `tls`, the cloud serves HTTPS with a certificate that the desktop trusts.
    """

    def __init__(self, stack: ExitStack, folder: Path, tls: bool = False) -> None:
        self.stack, self.folder = stack, folder
        self.port = free_port()
        self.desktop_state = folder / "desktop"
        self.environment = dict(os.environ, CTLLM_CONFIG=os.devnull)
        self._cloud_options = ["--listen", f"127.0.0.1:{self.port}", "--metrics-listen", "off"]
        if tls:
            self._serve_tls()
        _, ollama = start_model_server(stack, folder)
        self._desktop_options = [f"--state-dir={self.desktop_state}", "--desktop-listen=off",
                                 f"--ollama-host=127.0.0.1:{ollama}"]  # fmt: skip

    def _serve_tls(self) -> None:
        files = CertificateAuthority("the benchmark's").issue(self.folder / "certificates")
        self.environment["SSL_CERT_FILE"] = str(files / "ca.pem")
        listen = f"ssl:{self.port}:privateKey={files}/key.pem:certKey={files}/cert.pem"
        self._cloud_options[1] = f"{listen}:interface=127.0.0.1"
        self._cloud_options += ["--public-url", f"https://127.0.0.1:{self.port}"]

    def start_cloud(self) -> Program:
        """Start the cloud, as its systemd unit does."""
        cloud = start_role(self.stack, self.folder, "cloud", *self._cloud_options)
        cloud.wait_until(lambda: is_listening(f"127.0.0.1:{self.port}"))
        return cloud

    def log_in(self) -> None:
        """Log the desktop in."""
        state = f"--state-dir={self.folder / 'cloud'}"
        invite = run([str(BIN / "ctllm"), state, "invite", "bench"])
        argv = [str(BIN / "ctllm"), f"--state-dir={self.desktop_state}", "login", invite]
        subprocess.run(argv, env=self.environment, check=True, capture_output=True)

    def start_desktop(self) -> Program:
        """Start the desktop, as the tray and the systemd unit do; return once it is connected."""
        argv = [sys.executable, "-m", "ctllm", "desktop", *self._desktop_options]
        log = self.folder / "desktop.log"
        log.unlink(missing_ok=True)  # of an earlier start
        desktop = Program(self.stack, log, argv, environment=self.environment)
        desktop.wait_until(lambda: is_connected(desktop), 60)
        return desktop

    def start_tray(self) -> Program:
        """Start the tray in a display and a session of its own; return once it is shown."""
        environment, panel = start_session(self.stack, self.folder, self.environment)
        argv = [str(BIN / "ctllm-tray"), f"--state-dir={self.desktop_state}", "--no-start"]
        tray = Program(self.stack, self.folder / "tray.log", argv, environment=environment)
        tray.wait_until(lambda: shows_icon(panel))
        return tray


def shows_icon(panel: Program) -> bool:
    """Ask the panel whether it shows an icon; return whether it has said so yet."""
    assert panel.child.stdin is not None
    panel.child.stdin.write(b'["look"]\n')
    panel.child.stdin.flush()
    return '"there": true' in panel.output


def start_session(
    stack: ExitStack, folder: Path, environment: dict[str, str]
) -> tuple[dict[str, str], Program]:
    """Start a display, a session bus and a panel.

    Return the environment of programs in this session, and the panel.
    """
    screen = ["-displayfd", "1", "-screen", "0", "1000x700x24", "-nolisten", "tcp"]
    display = Program(stack, folder / "display.log", [find_program("Xvfb"), *screen])
    bus_options = ["--session", "--nofork", "--print-address=1"]
    bus = Program(stack, folder / "bus.log", [find_program("dbus-daemon"), *bus_options])
    number = re.compile(r"^\d+$", re.MULTILINE)
    display.wait_until(lambda: number.search(display.output) is not None)
    bus.wait_until(lambda: "unix:" in bus.output)
    environment = {
        **environment,
        "DISPLAY": f":{number.findall(display.output)[0]}",
        "DBUS_SESSION_BUS_ADDRESS": bus.output.split()[0],
        "NO_AT_BRIDGE": "1",
        "XDG_CURRENT_DESKTOP": "test",
    }
    argv = [sys.executable, "-m", "tests.e2e.status_notifier_host"]
    panel = Program(stack, folder / "panel.log", argv, subprocess.PIPE, environment)
    panel.wait_until(lambda: "ready" in panel.output)
    return environment, panel


#: The targets: MB of resident memory, and seconds from the start until a program is ready.
MAX_RESIDENT = {"proxy": 22.0, "desktop": 40.0, "tray": 45.0}
MAX_CORES, MAX_START = 0.002, {"desktop": 0.6}


def measure(folder: Path, watch_seconds: float) -> tuple[dict[str, Idle], dict[str, float]]:
    """Return what each program takes when it is idle, and the median of its start times."""
    with ExitStack() as stack:
        machine = Machine(stack, folder)
        cloud = machine.start_cloud()
        machine.log_in()
        starts = {"desktop": start_time(machine.start_desktop)}
        pids = {"cloud": cloud.pid, "desktop": machine.start_desktop().pid}
        (pids["proxy"],) = descendants(cloud.pid)
        with suppress(Unavailable):
            pids["tray"] = machine.start_tray().pid
        time.sleep(SETTLE_SECONDS)
        idle = watch(pids, watch_seconds)
    (folder / "tls").mkdir()
    with ExitStack() as stack:
        machine = Machine(stack, folder / "tls", tls=True)
        machine.start_cloud()
        machine.log_in()
        starts["desktop, TLS"] = start_time(machine.start_desktop)
        desktop = machine.start_desktop()
        time.sleep(SETTLE_SECONDS)
        idle["desktop, TLS"] = watch({"desktop": desktop.pid}, watch_seconds)["desktop"]
    return idle, starts


def start_time(start: Callable[[], Program]) -> float:
    """Return the median of the seconds that `start` takes; stop what it started."""
    times = []
    for _ in range(STARTS):
        began = time.monotonic()
        program = start()
        times.append(time.monotonic() - began)
        program.stop()
    return statistics.median(times)


def text(idle: dict[str, Idle], starts: dict[str, float]) -> str:
    """The results as tables."""
    rows = [["program", "MB resident", "proportional", "private", "wake-ups a second",
             "of a core", "start s"]]  # fmt: skip
    for name, found in idle.items():
        memory = found.memory
        start = f"{starts[name]:.2f}" if name in starts else "-"
        sizes = (memory.resident, memory.proportional, memory.private)
        rows.append([name, *(f"{size:.1f}" for size in sizes), f"{found.wakeups:.1f}",
                     f"{found.cores:.2%}", start])  # fmt: skip
    tables = [report.table(rows), report.table(verdicts(idle, starts))]
    return "\n\n".join([f"{report.hardware()}.", *tables])


def verdicts(idle: dict[str, Idle], starts: dict[str, float]) -> list[list[str]]:
    """The table of targets, and whether they are reached."""
    found: list[targets.Verdict] = [(f"{name}, resident", limit, idle[name].memory.resident, "MB")
             for name, limit in MAX_RESIDENT.items() if name in idle]  # fmt: skip
    found.append(("desktop, of a core", MAX_CORES * 100, idle["desktop"].cores * 100, "%"))
    found += [(f"{name}, start", limit, starts[name], "s") for name, limit in MAX_START.items()]
    return targets.verdict_rows(found)


def main() -> None:
    """Measure, print the results, and store them with --write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the results in README.md")
    parser.add_argument("--seconds", type=float, default=WATCH_SECONDS,
                        help="how long idle programs are watched (default: 60)")  # fmt: skip
    args = parser.parse_args()
    exit_on_signals()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        results = text(*measure(Path(temporary), args.seconds))
    print(results)
    if args.write:
        report.write(results, "idle")


if __name__ == "__main__":
    main()

"""What a line costs on its way: direct, through what others use, and through ctllm, side by side.

`python -m benchmarks.streams` from the root of the repository; `--write` keeps the results in
benchmarks/README.md. Everything runs on loopback, on free ports, in a folder that is removed.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import chart, report
from benchmarks.measuring import Case, measure, memory, paced, quiet, saturated
from benchmarks.paths import WAYS, Maker, server
from benchmarks.processes import Absent
from benchmarks.targets import ENDS

FEW = (1, 10, 50)
"""Streams of the loads that show whether a line costs more when there are more of them."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, action="append", help="default: 200 and 1000")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each paced load")
    parser.add_argument("--only", action="append", metavar="NAME", help="ways whose name has it")
    parser.add_argument("--write", action="store_true", help="keep the results in README.md")
    asked = parser.parse_args()
    if asked.write and (asked.only or asked.streams):
        parser.error("only the results of a whole run are kept")
    return asked


def cases(asked: argparse.Namespace, way: str) -> list[Case]:
    """The loads, from light to heavy, so that peaks of memory are each case's own."""
    streams = asked.streams or [*(FEW if way == ENDS else ()), 200, 1000]
    many = [paced(each, asked.seconds) for each in streams]
    return [quiet(100), *many, saturated(50, asked.seconds)]


def run(name: str, make: Maker, loads: list[Case], folder: Path, results: report.Results) -> None:
    """Start one way, put all loads on it, end it."""
    folder.mkdir()
    with ExitStack() as stack:
        program, port = server(stack, folder)
        try:
            way = make(stack, folder, port)
        except Absent as reason:
            results.absent[name] = str(reason)
            return
        results.versions[name] = way.version
        idle = memory(way, "VmRSS")
        for case in loads:
            print(f"{name}: {case.name} …", file=sys.stderr)
            try:
                measured = measure(way, case, port, program.pid, idle)
            except (OSError, subprocess.SubprocessError) as error:
                results.absent[f"{name}, from {case.name} on"] = f"it broke ({error})"
                return
            results.rows.setdefault(case.name, {})[name] = measured


def main() -> None:
    """Measure all ways, print, and keep the results if asked."""
    asked = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every child has it from here
    results = report.Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        for number, (name, make) in enumerate(WAYS.items()):
            if not asked.only or any(word in name for word in asked.only):
                folder = Path(temporary) / str(number)
                run(name, make, cases(asked, name), folder, results)
    text = report.text(results)
    print(text)
    if asked.write:
        report.write(text)
        chart.write(results)


if __name__ == "__main__":
    main()

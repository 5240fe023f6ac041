"""The cost of relaying a line: directly, through common relays, and through ctllm.

`python -m benchmarks.streams` from the root of the repository; `--write` stores the results in
benchmarks/README.md. Everything runs on loopback, on free ports, in a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import chart, report
from benchmarks.command_line import exit_on_signals, print_progress
from benchmarks.measuring import Case, measure, memory_by_part, paced, saturated, sequential
from benchmarks.paths import REQUEST_PATHS, PathFactory, start_model_server
from benchmarks.processes import Unavailable
from benchmarks.targets import ENDS

SMALL_LOADS = (1, 10, 50)
"""Numbers of streams that show how the cost of a line changes with their number."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, action="append", help="default: 200 and 1000")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each paced load")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only paths whose name contains NAME"
    )
    parser.add_argument("--write", action="store_true", help="store the results in README.md")
    args = parser.parse_args()
    if args.write and (args.only or args.streams):
        parser.error("--write stores only the results of a complete run; omit --only and --streams")
    return args


def cases(args: argparse.Namespace, path_name: str) -> list[Case]:
    """The loads, in ascending order, so that each determines its own peak of memory."""
    streams = args.streams or [*(SMALL_LOADS if path_name == ENDS else ()), 200, 1000]
    paced_cases = [paced(each, args.seconds) for each in streams]
    return [sequential(100), *paced_cases, saturated(50, args.seconds)]


def run(
    name: str, create_path: PathFactory, loads: list[Case], folder: Path, results: report.Results
) -> None:
    """Start the relay of one path, measure all loads, and stop it."""
    folder.mkdir()
    with ExitStack() as stack:
        program, port = start_model_server(stack, folder)
        try:
            path = create_path(stack, folder, port)
        except Unavailable as reason:
            results.unavailable[name] = str(reason)
            return
        results.versions[name] = path.version
        idle = memory_by_part(path, "VmRSS")
        for case in loads:
            print_progress(f"{name}: {case.name}")
            try:
                measured = measure(path, case, port, program.pid, idle)
            except (OSError, subprocess.SubprocessError) as error:
                results.unavailable[f"{name}, from {case.name} on"] = f"it broke ({error})"
                return
            results.rows.setdefault(case.name, {})[name] = measured


def main() -> None:
    """Measure all paths, print the results, and store them with --write."""
    args = options()
    exit_on_signals()
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Child processes inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    results = report.Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        for number, (name, create_path) in enumerate(REQUEST_PATHS.items()):
            if not args.only or any(word in name for word in args.only):
                folder = Path(temporary) / str(number)
                run(name, create_path, cases(args, name), folder, results)
    text = report.text(results)
    print(text)
    if args.write:
        report.write(text)
        chart.write(results)


if __name__ == "__main__":
    main()

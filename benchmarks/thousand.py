"""A thousand users on one machine: real containers, desktops and clients; then kills.

`python -m benchmarks.thousand` from the root of the repository, as root, with Docker Engine and
nginx installed. Each user gets a container, a desktop, and a client that reads a stream of two
lines a second for `--minutes`. Then a random third of the containers, of the desktops' processes
and connections, and of the clients' connections is killed at once, and then the cloud, which is
started again. At the end all proxies are stopped. Everything is in a network namespace of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks import report
from benchmarks.command_line import parse_cluster_options, print_progress
from benchmarks.inventory import summarise
from benchmarks.resources import cpu_by_part, meminfo, sample_regularly
from benchmarks.user_cluster import LINES_PER_SECOND, ClusterOptions, UserCluster, run_cluster
from benchmarks.verdicts import (
    ClusterResults,
    Kill,
    audit_sentence,
    count_lines,
    failure_sentences,
    lines_table,
    memory_table,
    record_kills,
    run_sentence,
    write_json,
)

#: Seconds of each response while things are killed.
RESPONSE_SECONDS = 60
#: The targets: seconds until all users are back after a kill, and until all proxies are stopped.
MAX_BACK_SECONDS = MAX_END_SECONDS = 60.0
#: The phases of the measurement.
STEADY, KILLED, RESTARTED = "steady", "a third killed", "cloud killed"
T = TypeVar("T")


@dataclass
class Results(ClusterResults):
    """Times are in seconds, memory is in MB, processor time in cores."""

    limit: str = ""
    starts: list[float] = field(default_factory=list)
    start_seconds: float = 0.0
    connect_seconds: float = 0.0
    memory_before: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)
    back: dict[str, list[float]] = field(default_factory=dict)
    killed: dict[str, int] = field(default_factory=dict)
    stop_seconds: float = 0.0


class Measurement:
    """All phases, one after the other; `results` has what is known so far."""

    def __init__(self, cluster: UserCluster, results: Results) -> None:
        self._cluster, self.results = cluster, results
        self._random = random.Random(results.seed)
        self._kills: dict[str, list[Kill]] = {}

    def run(self) -> None:
        """Measure everything."""
        cluster = self._cluster
        before = cluster.inventory()
        self.results.memory_before = meminfo()["MemAvailable"]
        self._start_all()
        self._stream_steadily()
        self._kill_a_third()
        self._kill_the_cloud()
        self._finish_clients()
        cluster.stop_all_desktops()
        self.results.stop_seconds = cluster.stop_proxies()
        self.results.left_over = sorted(cluster.inventory() - before)
        self.results.audit = cluster.audit_counts()

    def _start_all(self) -> None:
        cluster, began = self._cluster, time.monotonic()
        print_progress(f"Starting {len(cluster.users)} proxies")
        self.results.starts = cluster.start_proxies()
        self.results.users, self.results.limit = len(cluster.users), cluster.limit
        self.results.start_seconds = time.monotonic() - began
        print_progress("Starting the desktops")
        cluster.start_desktops(cluster.users)
        self.results.connect_seconds = cluster.wait_for_desktops()

    def _stream_steadily(self) -> None:
        cluster, seconds, users = self._cluster, self.results.minutes * 60, self._cluster.users
        print_progress(f"Streaming for {self.results.minutes:g} minutes")
        self._start_responses(round(seconds * LINES_PER_SECOND))
        cluster.wait_for_lines()
        # A sample takes about 2 ms for each user.
        interval = max(5.0, seconds / 40, len(users) / 20)
        with sample_regularly(cluster.pids, interval, self.results.samples):
            cpu, began = cpu_by_part(cluster.pids()), time.monotonic()
            # The next responses, which begin as the present ones end, are shorter.
            self._start_responses(RESPONSE_SECONDS * LINES_PER_SECOND)
            cluster.watch(seconds * 0.9)
            took, after = time.monotonic() - began, cpu_by_part(cluster.pids())
            self.results.cores = {part: (after[part] - cpu[part]) / took for part in after}
            cluster.wait_until(
                lambda: sum(each.is_complete for each in cluster.observed.responses),
                len(users), "ended",
            )  # fmt: skip
        self._count_lines(STEADY)

    def _start_responses(self, lines: int) -> None:
        """Have the next response of each user be of so many lines; start it where none is read."""
        self._cluster.set_response(lines)
        self._cluster.start_clients(self._cluster.users, lines)

    def _count_lines(self, phase: str) -> None:
        observed = self._cluster.observed
        self.results.lines[phase] = count_lines(observed.responses, self._kills)
        observed.responses = []

    def _kill_a_third(self) -> None:
        cluster, users = self._cluster, self._cluster.users
        cluster.wait_for_lines()
        proxies, clients, cut = (self._random_third(users) for _ in range(3))
        processes = self._random_third(sorted(cluster.desktops))
        restarted = [user for user in users if cluster.desktop_process(user) in processes]
        print_progress("Killing a third of everything")
        with record_kills(self._kills, {*proxies, *restarted}):
            cluster.kill_proxies(proxies)
            cluster.clients.send("cut", users=clients)
            cluster.command_desktops("cut", cut)
            for each in processes:
                cluster.restart_desktops(each)
        self.results.killed = {
            "proxies": len(proxies), "clients": len(clients), "desktops": len(restarted),
            "connections of desktops": len(cut),
        }  # fmt: skip
        self._measure_return(KILLED)

    def _random_third(self, items: Sequence[T]) -> list[T]:
        return self._random.sample(items, round(len(items) / 3))

    def _measure_return(self, phase: str) -> None:
        cluster = self._cluster
        self.results.back[phase] = cluster.probe()
        cluster.wait_for_lines()
        cluster.wait_for_desktops()
        self._count_lines(phase)

    def _kill_the_cloud(self) -> None:
        print_progress("Killing the cloud")
        self._cluster.kill_cloud()
        self._cluster.start_cloud()
        self._measure_return(RESTARTED)

    def _finish_clients(self) -> None:
        self._cluster.finish_clients()
        phase = self.results.lines[RESTARTED]
        self._count_lines(RESTARTED)
        self.results.lines[RESTARTED].merge(phase)


# -- report


def text(results: Results) -> str:
    """The results as tables and sentences."""
    starts = sorted(results.starts)
    return "\n\n".join([
        run_sentence(results),
        *([f"There are not more users because: {results.limit}."] if results.limit else []),
        f"All proxies were started in {results.start_seconds:.0f} s, two at a time (p50 "
        f"{report.number(report.quantile_of(starts, 0.5))} s, p95 "
        f"{report.number(report.quantile_of(starts, 0.95))} s), and all desktops were connected "
        f"after {results.connect_seconds:.0f} s more.",
        lines_table(results.lines),
        memory_table(results.samples, "minute"),
        cores_table(results.cores),
        f"Killed at once: {', '.join(f'{n} {what}' for what, n in results.killed.items())}.",
        audit_sentence(results.audit),
        verdicts_table(results),
        *failure_sentences(results),
    ])  # fmt: skip


def cores_table(cores: dict[str, float]) -> str:
    """The processor time of each part while all stream, as a table."""
    rows = [[part, f"{value:.3f}"] for part, value in cores.items()]
    return report.table([["part", "cores"], *rows, ["all", f"{sum(cores.values()):.3f}"]])


def verdicts_table(results: Results) -> str:
    """What was to be reached, as a table."""
    rows = [["what", "wanted", "is", "reached"]]
    wrong = sum(each.lost + each.repeated + each.damaged for each in results.lines.values())
    rows.append(["lines lost, repeated or damaged, but those of killed parts", "0", f"{wrong}",
                 _yes(not wrong)])  # fmt: skip
    for phase, seconds in results.back.items():
        quantiles = [report.quantile_of(seconds, each) or 0.0 for each in (0.5, 0.95)]
        shown = f"{quantiles[0]:.1f}, {quantiles[1]:.1f}, {seconds[-1]:.1f} s"
        rows.append([f"a new request of each user is answered, {phase} (p50, p95, last)",
                     f"{MAX_BACK_SECONDS:.0f} s", shown,
                     _yes(seconds[-1] <= MAX_BACK_SECONDS)])  # fmt: skip
    rows.append(["all proxies stopped", f"{MAX_END_SECONDS:.0f} s",
                 f"{results.stop_seconds:.0f} s",
                 _yes(results.stop_seconds <= MAX_END_SECONDS)])  # fmt: skip
    left_over = results.left_over
    rows.append(["left over", "nothing", summarise(left_over), _yes(not left_over)])
    return report.table(rows)


def _yes(is_reached: bool) -> str:
    return "yes" if is_reached else "no"


def main() -> None:
    """Measure and print the results; exit with status 1 if not everything was measured."""
    args = parse_cluster_options("benchmarks.thousand", __doc__, users=1000, minutes=10, seed=1)
    results = Results(args.users, args.minutes, args.network, args.seed)
    with run_cluster(ClusterOptions(args.users, args.network, args.image)) as cluster:
        Measurement(cluster, results).run()
    print(text(results))
    write_json(args.json, results)


if __name__ == "__main__":
    main()

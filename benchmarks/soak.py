"""Many users for an hour, with random faults: does anything grow, or is anything left over?

`python -m benchmarks.soak` from the root of the repository, as root, with Docker Engine and nginx
installed. Each user has a container, a desktop, and a client that reads one streamed response of
two lines a second after the other. Meanwhile connections are cut, containers, processes of desktops
and connections of clients are killed, and users leave, whose containers are stopped once they are
idle, and come back. Access tokens live for a minute. Everything is in a network namespace of its
own.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.command_line import parse_cluster_options, print_progress
from benchmarks.inventory import summarise
from benchmarks.resources import sample_regularly
from benchmarks.user_cluster import LINES_PER_SECOND, ClusterOptions, UserCluster, run_cluster
from benchmarks.verdicts import (
    ClusterResults,
    Kill,
    LineCounts,
    audit_sentence,
    count_lines,
    failure_sentences,
    lines_table,
    memory_table,
    record_kills,
    run_sentence,
    write_json,
)

#: Lines of each response, which takes 40 seconds.
RESPONSE_LINES = 40 * LINES_PER_SECOND
#: Lifetime of access tokens.
TOKEN_SECONDS = 60
#: Seconds after which the container of a user who left is stopped.
IDLE_SECONDS = 30
#: Seconds between two faults, on average, with 300 users; and between two kills of a process of
#: desktops. Each of the latter hits many users.
FAULT_INTERVAL, DESKTOPS_INTERVAL = 2.0, 120.0
#: Seconds at the start that do not count for slopes: memory that is reused is allocated then.
WARM_UP = 120.0
#: How many users have left at the same time, at most, as a part of all.
MAX_ABSENT = 0.1
#: The one phase of the results.
ALL = "all"


@dataclass
class Results(ClusterResults):
    """`faults` counts them by kind; `timers` has a time and the number of all desktops' timers."""

    faults: Counter[str] = field(default_factory=Counter)
    timers: list[tuple[float, int]] = field(default_factory=list)


class Faults:
    """Random faults of a cluster, counted in `counts`.

    `kills` has those that end a user's response; the clients know which of them they cut.
    """

    def __init__(self, cluster: UserCluster, seed: int, counts: Counter[str]) -> None:
        self._cluster, self._random, self._counts = cluster, random.Random(seed), counts
        self.present = list(cluster.users)
        self.absent: list[str] = []
        self.kills: dict[str, list[Kill]] = {}
        self._kinds: Mapping[str, tuple[float, Callable[[], bool]]] = {
            "connection of a desktop cut": (4, self._cut_desktop),
            "connection of a client cut": (4, self._cut_client),
            "container killed": (1, self._kill_proxy),
            "user left": (2, self._leave),
            "user came": (2, self._come),
        }

    def cause_one(self) -> None:
        """Cause a random one."""
        weights = [weight for weight, _ in self._kinds.values()]
        (kind,) = self._random.choices(list(self._kinds), weights)
        self.cause_one_of(kind)

    def cause_one_of(self, kind: str) -> None:
        """Cause one of a kind, if there is something to do."""
        self._counts[kind] += self._kinds[kind][1]()

    def kill_desktops(self) -> None:
        """Kill a random process of desktops, and start it again."""
        number = self._random.choice(sorted(self._cluster.desktops))
        hit = [each for each in self.present if self._cluster.desktop_process(each) == number]
        with record_kills(self.kills, hit):
            self._cluster.restart_desktops(number)
        self._counts["process of desktops killed"] += 1

    def delay(self) -> float:
        """The seconds until the next one."""
        return self._random.expovariate(len(self._cluster.users) / 300 / FAULT_INTERVAL)

    def come_all(self) -> None:
        """Have all users come back."""
        while self.absent:
            self._cluster.watch(0.0 if self._come() else 0.5)

    # Each returns whether there was something to do.

    def _cut_desktop(self) -> bool:
        self._cluster.command_desktops("cut", [self._random.choice(self.present)])
        return True

    def _cut_client(self) -> bool:
        self._cluster.clients.send("cut", users=[self._random.choice(self.present)])
        return True

    def _kill_proxy(self) -> bool:
        user = self._random.choice(self.present)
        with record_kills(self.kills, [user]):
            self._cluster.kill_proxies([user])
        return True

    def _leave(self) -> bool:
        if len(self.absent) >= MAX_ABSENT * len(self._cluster.users):
            return False
        user = self.present.pop(self._random.randrange(len(self.present)))
        self.absent.append(user)
        self._cluster.clients.send("leave", users=[user])
        self._cluster.stop_desktops([user])
        return True

    def _come(self) -> bool:
        # A desktop that is stopping may still serve a request, and would break its response.
        user = next((each for each in self.absent if each not in self._cluster.stopping), None)
        if user is None:
            return False
        self.absent.remove(user)
        self.present.append(user)
        self._cluster.start_desktops([user])
        self._cluster.start_clients([user], RESPONSE_LINES)
        return True


class Soak:
    """The run."""

    def __init__(self, cluster: UserCluster, results: Results) -> None:
        self._cluster, self._results = cluster, results
        self._faults = Faults(cluster, results.seed, results.faults)
        results.lines[ALL] = LineCounts()

    def run(self) -> None:
        """Run everything."""
        cluster = self._cluster
        before = cluster.inventory()
        self._start()
        interval = min(30.0, max(3.0, self._results.minutes * 60 / 100))
        with sample_regularly(cluster.pids, interval, self._results.samples):
            self._cause_faults()
        self._finish()
        cluster.stop_proxies()
        self._results.left_over = sorted(cluster.inventory() - before)
        self._results.audit = cluster.audit_counts()

    def _start(self) -> None:
        cluster = self._cluster
        print_progress(f"Starting {len(cluster.users)} proxies and desktops")
        # A desktop keeps its proxy from being stopped as idle, so it comes at the same time.
        cluster.start_desktops(cluster.users)
        cluster.wait_for_desktops()
        cluster.set_response(RESPONSE_LINES)
        cluster.start_clients(cluster.users, RESPONSE_LINES)
        cluster.wait_for_lines()

    def _cause_faults(self) -> None:
        print_progress(f"Faults for {self._results.minutes:g} minutes")
        began = time.monotonic()
        next_fault, next_kill, next_tokens = began, began + DESKTOPS_INTERVAL, began
        self._results.warm_up_until = time.time() + min(WARM_UP, self._results.minutes * 15)
        while (now := time.monotonic()) < began + self._results.minutes * 60:
            if now >= next_tokens:
                self._renew_tokens()
                self._record_timers()
                next_tokens = now + TOKEN_SECONDS / 3
            if now >= next_fault:
                self._faults.cause_one()
                next_fault = now + self._faults.delay()
            if now >= next_kill:
                self._faults.kill_desktops()
                next_kill = now + DESKTOPS_INTERVAL
            self._cluster.watch(0.5)
            self._count()

    def _renew_tokens(self) -> None:
        self._cluster.start_clients(self._faults.present, RESPONSE_LINES)

    def _record_timers(self) -> None:
        self._results.timers.append((time.time(), self._cluster.observed.timers))

    def _count(self) -> None:
        """Count the lines of the responses that have ended since the last call."""
        observed = self._cluster.observed
        counts = count_lines(observed.responses, self._faults.kills)
        observed.responses = []
        counts.merge(self._results.lines[ALL])
        self._results.lines[ALL] = counts

    def _finish(self) -> None:
        """Have all users come back, and their present responses end."""
        print_progress("Waiting until all are back")
        self._faults.come_all()
        self._renew_tokens()
        self._record_timers()
        self._cluster.wait_for_desktops()
        self._cluster.wait_for_lines()
        self._cluster.finish_clients()
        self._count()
        self._cluster.stop_all_desktops()


# -- report


def text(results: Results) -> str:
    """The results as tables and sentences."""
    faults = ", ".join(f"{count} times {kind}" for kind, count in sorted(results.faults.items()))
    return "\n\n".join([
        run_sentence(results),
        f"{faults}.",
        lines_table(results.lines),
        memory_table(results.steady_samples),
        timers_sentence(results),
        audit_sentence(results.audit),
        f"Left over: {summarise(results.left_over)}.",
        *failure_sentences(results),
    ])  # fmt: skip


def timers_sentence(results: Results) -> str:
    """The number of timers of all desktops, from the end of the warm-up on."""
    counts = [count for at, count in results.timers if at >= results.warm_up_until]
    if not counts:
        return "No timers were counted."
    return f"Timers of all desktops: {counts[0]} → {counts[-1]}, at most {max(counts)}."


def main() -> None:
    """Run it and print the results."""
    args = parse_cluster_options("benchmarks.soak", __doc__, users=300, minutes=60)
    results = Results(args.users, args.minutes, args.network, args.seed)
    idle_timeout = f"--proxy-idle-timeout-seconds={IDLE_SECONDS}"
    options = ClusterOptions(args.users, args.network, args.image, TOKEN_SECONDS, (idle_timeout,))
    with run_cluster(options) as cluster:
        Soak(cluster, results).run()
    print(text(results))
    write_json(args.json, results)


if __name__ == "__main__":
    main()

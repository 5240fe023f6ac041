"""The results of the benchmarks of many users: lost lines, memory, and what is left over."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.resources import Sample, memory_slopes
from benchmarks.user_cluster import Response

#: Seconds between a kill and the end of the responses that it broke, at most. A proxy waits for 30
#: seconds for a desktop that is gone (`proxy.reconnect_grace_seconds`).
BREAK_SECONDS = 45.0
#: How many of the things that are left over are listed.
MAX_LISTED = 20


@dataclass(frozen=True)
class Kill:
    """Something on the way of a user's response was killed between two times, in epoch seconds."""

    began: float
    ended: float

    def excuses(self, response: Response) -> bool:
        """Whether the response may have ended early because of it: it ended during it, or soon."""
        is_during = response.began <= self.ended and self.began <= response.ended
        return is_during and response.ended <= self.ended + BREAK_SECONDS


Kills = Mapping[str, Sequence[Kill]]
"""The kills by user."""


@dataclass
class LineCounts:
    """The lines of all responses that had begun.

    `lost`, `repeated` and `damaged` are those of responses on whose way nothing was killed, and
    `excused` the lines that did not come because something was. `refused` counts requests that got
    no response. `broken` has the responses that ended early without a kill.
    """

    responses: int = 0
    expected: int = 0
    received: int = 0
    lost: int = 0
    excused: int = 0
    repeated: int = 0
    damaged: int = 0
    broken: list[Response] = field(default_factory=list)
    refused: int = 0

    def add(self, response: Response, is_excused: bool) -> None:
        """Count a response."""
        if response.status != 200:
            self.refused += 1
            return
        self.responses += 1
        self.received += response.received
        self.expected += response.received + response.missing - response.repeated
        self.repeated += response.repeated
        if is_excused:
            self.excused += response.missing
            return
        self.lost += response.missing
        self.damaged += response.damaged
        if not response.is_complete:
            self.broken.append(response)

    def merge(self, other: LineCounts) -> None:
        """Add the counts of an earlier part of the same phase."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name) + getattr(self, each.name))


@dataclass
class ClusterResults:
    """What is known of a run; `lines` are by phase, and `audit` counts the events in the audit log.

    Samples from before `warm_up_until` (epoch seconds) do not count for slopes.
    """

    users: int
    minutes: float
    network: str
    seed: int
    lines: dict[str, LineCounts] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    warm_up_until: float = 0.0
    left_over: list[str] = field(default_factory=list)
    audit: dict[str, int] = field(default_factory=dict)

    @property
    def steady_samples(self) -> list[Sample]:
        """The samples that count for slopes; all of them if the run ended in its warm-up."""
        return [each for each in self.samples if each.at >= self.warm_up_until] or self.samples


@contextmanager
def record_kills(kills: dict[str, list[Kill]], users: Iterable[str]) -> Iterator[None]:
    """Add what the block kills, which may take seconds, to the kills of users."""
    began = time.time()
    yield
    kill = Kill(began, time.time())
    for user in users:
        kills.setdefault(user, []).append(kill)


def count_lines(responses: Iterable[Response], kills: Kills) -> LineCounts:
    """Count the lines of responses, with the kills that excuse their end."""
    counts = LineCounts()
    for response in responses:
        counts.add(response, is_excused(response, kills.get(response.user, ())))
    return counts


def is_excused(response: Response, kills: Sequence[Kill]) -> bool:
    """Whether a response ended early by its client, or by a kill."""
    is_killed = response.was_cut or any(kill.excuses(response) for kill in kills)
    return not response.is_complete and is_killed


def lines_table(counts: Mapping[str, LineCounts]) -> str:
    """The lines of each phase as a table."""
    header = ["phase", "responses", "lines expected", "received", "lost", "repeated", "damaged",
              "of killed parts", "broken", "refused"]  # fmt: skip
    rows = [
        [phase, *(f"{number:,}" for number in (
            each.responses, each.expected, each.received, each.lost, each.repeated, each.damaged,
            each.excused, len(each.broken), each.refused))]
        for phase, each in counts.items()
    ]  # fmt: skip
    return report.table([header, *rows])


def memory_table(samples: Sequence[Sample], unit: str = "hour") -> str:
    """Memory by part at the begin and at the end, its slope, and open files, as a table."""
    factor = {"hour": 3600, "minute": 60}[unit]
    slopes, first, last = memory_slopes(list(samples)), samples[0], samples[-1]
    rows = [["memory", "MB first", "last", f"kB/{unit}", "± standard error", "flat", "open files"]]
    for part, slope in slopes.items():
        files = [str(each.files.get(part, "-")) for each in (first, last)]
        rows.append([
            part, f"{first.memory[part]:.1f}", f"{last.memory.get(part, 0.0):.1f}",
            f"{slope.value * factor * 1024:+,.0f}", f"{slope.error * factor * 1024:,.0f}",
            "yes" if slope.is_flat else "no", " → ".join(files),
        ])  # fmt: skip
    return report.table(rows)


def run_sentence(results: ClusterResults) -> str:
    """What was run, and on which machine."""
    return (
        f"{report.hardware()}. {results.users} users for {results.minutes:g} minutes, containers "
        f"with network {results.network}, seed {results.seed}."
    )


def audit_sentence(counts: Mapping[str, int]) -> str:
    """How often each event is in the audit log."""
    found = ", ".join(f"{count} {event}" for event, count in sorted(counts.items()))
    return f"In the audit log: {found}."


def failure_sentences(results: ClusterResults) -> list[str]:
    """Which responses ended early without a kill, and why, and what is left over."""
    return [
        *(f"Broken, {phase}: {_broken_clause(response)}"
          for phase, each in results.lines.items() for response in each.broken),
        *(f"Left over: {entry}" for entry in results.left_over[:MAX_LISTED]),
    ]  # fmt: skip


def _broken_clause(response: Response) -> str:
    began, ended = (time.strftime("%H:%M:%S", time.localtime(at)) for at in
                    (response.began, response.ended))  # fmt: skip
    return (
        f"{response.user}, {began} to {ended}, {response.received} lines received, "
        f"{response.missing} missing: {response.reason}"
    )


def write_json(path: Path | None, results: ClusterResults) -> None:
    """Store results for programs in a file, if there is one."""
    if path is not None:
        slopes = {"slopes_bytes_per_hour": _slopes_json(results.steady_samples)}
        text = msgspec.json.encode(msgspec.to_builtins(results) | slopes)
        path.write_bytes(msgspec.json.format(text, indent=1) + b"\n")


def _slopes_json(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    scale = 3600 * 1024 * 1024
    return {
        part: {**asdict(slope), "value": slope.value * scale, "error": slope.error * scale}
        for part, slope in memory_slopes(list(samples)).items()
    }

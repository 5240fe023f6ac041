"""Results as tables: for people at a terminal and, the same text, for README.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import targets
from benchmarks.measuring import Measure

README = Path(__file__).with_name("README.md")
PEER = "ssh -R"
OTHERS = 0.1
"""Cores that something else may take before a row is called disturbed."""


@dataclass
class Results:
    """Measures by case and way, versions of the ways, and why others are absent."""

    rows: dict[str, dict[str, Measure]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def text(results: Results) -> str:
    """All there is to say, as Markdown."""
    parts = [machine(results)]
    for case, rows in results.rows.items():
        if len(results.versions) > 1 and len(rows) == 1:
            continue  # a load that one way alone was put under: see growth
        draw = {"first byte": first_bytes, "saturated": saturated}.get(case, paced)
        parts += [f"### {case[0].upper()}{case[1:]}", draw(rows)]
    parts += growth(results) + failures(results) + disturbed(results)
    wanted = targets.judged(results.rows)
    if wanted:
        parts += ["### What was to be reached, by both tunnel ends together", table(wanted)]
    return "\n\n".join(parts)


def machine(results: Results) -> str:
    """Where and when, and which versions."""
    names = [f"{name} {version}" for name, version in results.versions.items() if version]
    lines = [
        f"{datetime.now(UTC):%d %B %Y}. {processor()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}.",
        f"Versions: {'; '.join(names)}.",
    ]
    lines += [f"**Absent: {name}**: {reason}." for name, reason in results.absent.items()]
    return "\n".join(lines)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def first_bytes(rows: dict[str, Measure]) -> str:
    """One request after the other."""
    head = ["way", "p50 ms", "p99 ms", "p50 over direct", "p99 over direct", "failed"]
    body = []
    for name, row in rows.items():
        times = [at(row.first, 0.5), at(row.first, 0.99)]
        over = [over_direct(rows, row, "first", q) for q in (0.5, 0.99)]
        body.append([name, *map(number, times + over), str(row.failed)])
    return table([head, *body])


def paced(rows: dict[str, Measure]) -> str:
    """Lines at a pace."""
    head = ["way", "lines/s", "CPU µs a line", "to ssh -R", "of which", "added p50 ms", "p99 ms"]
    head += ["first byte p50 ms", "p99 ms", "failed", "MB idle → peak", "cores busy"]
    body = []
    for name, row in rows.items():
        times = [over_direct(rows, row, "latency", q) for q in (0.5, 0.99)]
        times += [at(row.first, q) for q in (0.5, 0.99)]
        cells = [name, f"{row.rate:,.0f}", number(row.cost), ratio(rows, row, "cost"), parts(row)]
        cells += [
            *map(number, times),
            str(row.failed),
            grown(row),
            f"{row.cores:.2f} of {row.machine:.2f}",
        ]
        body.append(cells)
    return table([head, *body])


def saturated(rows: dict[str, Measure]) -> str:
    """Lines without a pause."""
    head = ["way", "lines/s", "to ssh -R", "CPU µs a line", "of which", "failed", "MB idle → peak"]
    body = []
    for name, row in rows.items():
        cells = [name, f"{row.rate:,.0f}", ratio(rows, row, "rate"), number(row.cost), parts(row)]
        body.append([*cells, str(row.failed), grown(row), f"{row.cores:.2f} of {row.machine:.2f}"])
    return table([[*head, "cores busy"], *body])


def growth(results: Results) -> list[str]:
    """What a line costs the tunnel ends, from few streams to many."""
    rows = [each[targets.ENDS] for each in results.rows.values() if targets.ENDS in each]
    body = [
        [str(row.case.streams), number(row.cost), parts(row)]
        for row in sorted(rows, key=lambda row: row.case.streams)
        if row.case.timed
    ]
    head = ["streams", "CPU µs a line", "of which"]
    title = f"### {targets.ENDS}, from few streams to many"
    return [title, table([head, *body])] if len(body) > 1 else []


def failures(results: Results) -> list[str]:
    """A sentence for each row in which a stream failed."""
    return [
        f"Failed: {name}, {case}: {row.failed} ({row.why!r})."
        for case, rows in results.rows.items()
        for name, row in rows.items()
        if row.failed
    ]


def disturbed(results: Results) -> list[str]:
    """A sentence for each row during which something else kept the machine busy."""
    return [
        f"Disturbed: {name}, {case}: something else took {row.machine - row.cores:.2f} cores."
        for case, rows in results.rows.items()
        for name, row in rows.items()
        if row.machine - row.cores > OTHERS
    ]


def at(values: Sequence[float], quantile: float) -> float | None:
    """The quantile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * quantile))] if values else None


def over_direct(rows: dict[str, Measure], row: Measure, what: str, quantile: float) -> float | None:
    """The same quantile less direct's; direct's own as it is."""
    mine = at(getattr(row, what), quantile)
    base = rows.get("direct")
    if mine is None or base is None:
        return None
    theirs = 0.0 if base is row else at(getattr(base, what), quantile)
    return None if theirs is None else mine - theirs


def ratio(rows: dict[str, Measure], row: Measure, what: str) -> str:
    peer = getattr(rows[PEER], what) if PEER in rows else 0
    return f"{getattr(row, what) / peer:.2f}" if peer and getattr(row, what) else "-"


def parts(row: Measure) -> str:
    return ", ".join(f"{part} {number(cost)}" for part, cost in row.cpu.items()) or "-"


def grown(row: Measure) -> str:
    pairs = [f"{part} {row.idle[part]:.0f} → {row.peak[part]:.0f}" for part in row.idle]
    return ", ".join(pairs) or "-"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text as well."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
             for row in rows]  # fmt: skip
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def write(results: str, place: str = "results") -> None:
    """Put the results in their place in README.md, between two comments that name it."""
    begin, end = f"<!-- {place} -->", f"<!-- end of {place} -->"
    before, found, rest = README.read_text().partition(begin)
    after = rest.partition(end)[2]
    assert found, f"README.md has no place for {place}"
    README.write_text(f"{before}{begin}\n\n{results}\n\n{end}{after}")

"""Results as Markdown tables, for the terminal and for README.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import targets
from benchmarks.measuring import Measure
from benchmarks.resources import meminfo

README = Path(__file__).with_name("README.md")
PEER = "ssh -R"
MAX_OTHER_CORES = 0.1
"""CPU time per second of other processes above which a row is reported as disturbed."""


@dataclass
class Results:
    """Measures by case and path, versions of the relays, and why others are unavailable."""

    rows: dict[str, dict[str, Measure]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def text(results: Results) -> str:
    """All results as Markdown."""
    sections = [machine(results)]
    for case, rows in results.rows.items():
        if len(results.versions) > 1 and len(rows) == 1:
            continue  # a load of one path only: see growth
        format_rows = {"first byte": first_bytes, "saturated": saturated}.get(case, paced)
        sections += [f"### {case[0].upper()}{case[1:]}", format_rows(rows)]
    sections += growth(results) + failures(results) + disturbed(results)
    verdicts = targets.evaluate(results.rows)
    if verdicts:
        sections += [
            "### What was to be reached, by both tunnel ends together where nothing else is said",
            table(verdicts),
        ]
    return "\n\n".join(sections)


def machine(results: Results) -> str:
    """Date, machine, versions, and relays that are unavailable."""
    names = [f"{name} {version}" for name, version in results.versions.items() if version]
    lines = [
        f"{datetime.now(UTC):%d %B %Y}. {hardware()}, "
        f"Linux {platform.release()}, Python {platform.python_version()}.",
        f"Versions: {'; '.join(names)}.",
    ]
    lines += [f"**Absent: {name}**: {reason}." for name, reason in results.unavailable.items()]
    return "\n".join(lines)


def hardware() -> str:
    """The processor, its cores, and the memory of this machine."""
    return f"{_processor()}, {os.cpu_count()} cores, {meminfo()['MemTotal'] / 1024:.0f} GB"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def first_bytes(rows: dict[str, Measure]) -> str:
    """The table of sequential requests."""
    header = ["way", "p50 ms", "p99 ms", "p50 over direct", "p99 over direct", "failed"]
    body = []
    for name, row in rows.items():
        times = [quantile_of(row.first, 0.5), quantile_of(row.first, 0.99)]
        over = [over_direct(rows, row, "first", q) for q in (0.5, 0.99)]
        body.append([name, *map(number, times + over), str(row.failed)])
    return table([header, *body])


def paced(rows: dict[str, Measure]) -> str:
    """The table of a paced load."""
    header = ["way", "lines/s", "CPU µs a line", "to ssh -R", "of which", "added p50 ms", "p99 ms"]
    header += ["first byte p50 ms", "p99 ms", "failed", "MB idle → peak", "cores busy"]
    body = []
    for name, row in rows.items():
        times = [over_direct(rows, row, "latency", q) for q in (0.5, 0.99)]
        times += [quantile_of(row.first, q) for q in (0.5, 0.99)]
        cells = [
            name,
            f"{row.rate:,.0f}",
            number(row.cost),
            ratio(rows, row, "cost"),
            cpu_parts(row),
        ]
        cells += [
            *map(number, times),
            str(row.failed),
            memory_growth(row),
            f"{row.cores:.2f} of {row.machine:.2f}",
        ]
        body.append(cells)
    return table([header, *body])


def saturated(rows: dict[str, Measure]) -> str:
    """The table of the saturated load."""
    header = [
        "way",
        "lines/s",
        "to ssh -R",
        "CPU µs a line",
        "of which",
        "failed",
        "MB idle → peak",
    ]
    body = []
    for name, row in rows.items():
        cells = [
            name,
            f"{row.rate:,.0f}",
            ratio(rows, row, "rate"),
            number(row.cost),
            cpu_parts(row),
        ]
        body.append(
            [*cells, str(row.failed), memory_growth(row), f"{row.cores:.2f} of {row.machine:.2f}"]
        )
    return table([[*header, "cores busy"], *body])


def growth(results: Results) -> list[str]:
    """The table of the tunnel ends' cost of a line by number of streams."""
    rows = [each[targets.ENDS] for each in results.rows.values() if targets.ENDS in each]
    body = [
        [str(row.case.streams), number(row.cost), cpu_parts(row)]
        for row in sorted(rows, key=lambda row: row.case.streams)
        if row.case.timed
    ]
    header = ["streams", "CPU µs a line", "of which"]
    title = f"### {targets.ENDS}, from few streams to many"
    return [title, table([header, *body])] if len(body) > 1 else []


def failures(results: Results) -> list[str]:
    """A sentence for each row in which a stream failed."""
    return [
        f"Failed: {name}, {case}: {row.failed} ({row.reason!r})."
        for case, rows in results.rows.items()
        for name, row in rows.items()
        if row.failed
    ]


def disturbed(results: Results) -> list[str]:
    """A sentence for each row during which other processes used the CPU."""
    return [
        f"Disturbed: {name}, {case}: something else took {row.machine - row.cores:.2f} cores."
        for case, rows in results.rows.items()
        for name, row in rows.items()
        if row.machine - row.cores > MAX_OTHER_CORES
    ]


def quantile_of(values: Sequence[float], quantile: float) -> float | None:
    """The quantile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * quantile))] if values else None


def over_direct(
    rows: dict[str, Measure], row: Measure, field: str, quantile: float
) -> float | None:
    """A quantile minus that of the direct path, whose own is not reduced."""
    own = quantile_of(getattr(row, field), quantile)
    direct = rows.get("direct")
    if own is None or direct is None:
        return None
    direct_quantile = 0.0 if direct is row else quantile_of(getattr(direct, field), quantile)
    return None if direct_quantile is None else own - direct_quantile


def ratio(rows: dict[str, Measure], row: Measure, field: str) -> str:
    peer = getattr(rows[PEER], field) if PEER in rows else 0
    return f"{getattr(row, field) / peer:.2f}" if peer and getattr(row, field) else "-"


def cpu_parts(row: Measure) -> str:
    return ", ".join(f"{part} {number(cost)}" for part, cost in row.cpu.items()) or "-"


def memory_growth(row: Measure) -> str:
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


def write(results: str, section: str = "results") -> None:
    """Replace a section of README.md, which is between two comments that name it."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    before, marker, rest = README.read_text().partition(begin)
    after = rest.partition(end)[2]
    assert marker, f"README.md has no comment for {section}"
    README.write_text(f"{before}{begin}\n\n{results}\n\n{end}{after}")

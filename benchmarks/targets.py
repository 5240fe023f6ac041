"""What ctllm set itself to reach, and whether it does: both tunnel ends against the peers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from benchmarks.measuring import Measure

ENDS, SSH, CHP = "ctllm, tunnel ends", "ssh -R", "configurable-http-proxy"
Rows = dict[str, dict[str, Measure]]
Verdict = tuple[str, float, float, str]
"""What, the most that it may be, what it is, the unit."""


def judged(rows: Rows) -> list[list[str]]:
    """A table of targets; what was not measured is left out."""
    found = [*_at(rows, "200 streams", 0.8), *_at(rows, "1,000 streams", 0.6)]
    found += [*_burst(rows), *_first_byte(rows), *_memory(rows), *_growth(rows)]
    lines = [
        [what, f"at most {most:.4g} {unit}", f"{got:.4g} {unit}", "yes" if got <= most else "no"]
        for what, most, got, unit in found
    ]
    lines += _saturated(rows)
    return [["what", "wanted", "is", "reached"], *lines] if lines else []


def _pair(rows: Rows, case: str, *names: str) -> list[Measure]:
    here = rows.get(case, {})
    return [here[name] for name in names] if all(name in here for name in names) else []


def _late(row: Measure, direct: Measure, quantile: float) -> float:
    def at(values: list[float]) -> float:
        return values[int(len(values) * quantile)]

    return at(row.latency) - at(direct.latency)


def _at(rows: Rows, case: str, most: float) -> Iterator[Verdict]:
    if pair := _pair(rows, case, ENDS, SSH):
        ends, ssh = pair
        yield f"CPU a line, {case}", most, ends.cost / ssh.cost, "of ssh -R's"
    if pair := _pair(rows, case, ENDS, "direct"):
        ends, direct = pair
        yield f"added p50, {case}", 1.0, _late(ends, direct, 0.5), "ms"


def _burst(rows: Rows) -> Iterator[Verdict]:
    if found := _pair(rows, "200 streams", ENDS, CHP, "direct"):
        ends, chp, direct = found
        yield "added p99, 200 streams", _late(chp, direct, 0.99), _late(ends, direct, 0.99), "ms"
    if found := _pair(rows, "1,000 streams", ENDS, SSH, "direct"):
        ends, ssh, direct = found
        most = 2 * _late(ssh, direct, 0.99)
        yield "added p99, 1,000 streams", most, _late(ends, direct, 0.99), "ms"


def _first_byte(rows: Rows) -> Iterator[Verdict]:
    if found := _pair(rows, "first byte", ENDS, "direct"):
        ends, direct = (row.first[len(row.first) // 2] for row in found)
        yield "first byte over direct, p50", 5.0, ends - direct, "ms"


def _memory(rows: Rows) -> Iterator[Verdict]:
    for ends in _pair(rows, "1,000 streams", ENDS):
        yield "an idle proxy process", 32.0, ends.idle["proxy"], "MB"
        for part in ("proxy", "desktop"):
            each = (ends.peak[part] - ends.idle[part]) * 1024 / ends.case.streams
            yield f"memory an exchange in the {part} (streaming, at the peak)", 20.0, each, "kB"


def _growth(rows: Rows) -> Iterator[Verdict]:
    """The steepest rise of a line's cost from one load to the next larger one."""
    found = [each[ENDS] for each in rows.values() if ENDS in each and each[ENDS].case.timed]
    found.sort(key=lambda row: row.case.streams)
    rises = [more.cost / few.cost for few, more in pairwise(found)]
    if rises:
        few, many = found[0].case.name, found[-1].case.name
        yield f"CPU a line, steepest rise from {few} to {many}", 1.0, max(rises), "times"


def _saturated(rows: Rows) -> Iterator[list[str]]:
    if found := _pair(rows, "saturated", ENDS, SSH):
        ends, ssh = found
        least = max(ssh.rate / 2, 150_000)
        reached = "yes" if ends.rate >= least else "no"
        yield ["saturated", f"at least {least:,.0f} lines/s", f"{ends.rate:,.0f} lines/s", reached]

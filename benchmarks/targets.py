"""The targets of ctllm's tunnel ends and of its whole way by nginx, and whether they are reached.

They are ratios to other relays in the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from benchmarks.measuring import Measure

ENDS, SSH, CHP = "ctllm, tunnel ends", "ssh -R", "configurable-http-proxy"
WHOLE_WAY, WITH_FRONT = "ctllm with nginx", "ctllm with front"
Rows = dict[str, dict[str, Measure]]
Verdict = tuple[str, float, float, str]
"""The name of a target, its limit, the measured value, and the unit."""


def evaluate(rows: Rows) -> list[list[str]]:
    """The table of targets, without those that were not measured."""
    verdicts = [
        *_cost_and_p50(rows, "200 streams", 0.55),
        *_cost_and_p50(rows, "1,000 streams", 0.6),
    ]
    verdicts += [*_added_p99(rows), *_first_byte(rows), *_memory(rows), *_growth(rows)]
    verdicts += [*_front(rows), *_whole_way(rows)]
    lines = [*verdict_rows(verdicts), *_saturated(rows)]
    return lines if len(lines) > 1 else []


def verdict_rows(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """The table of verdicts, with its header."""
    return [
        ["what", "wanted", "is", "reached"],
        *([what, f"at most {limit:.4g} {unit}", f"{value:.4g} {unit}",
           "yes" if value <= limit else "no"]
          for what, limit, value, unit in verdicts),
    ]  # fmt: skip


def _pair(rows: Rows, case: str, *names: str) -> list[Measure]:
    case_rows = rows.get(case, {})
    return [case_rows[name] for name in names] if all(name in case_rows for name in names) else []


def _added_latency(row: Measure, direct: Measure, quantile: float) -> float:
    def quantile_of(values: list[float]) -> float:
        return values[int(len(values) * quantile)]

    return quantile_of(row.latency) - quantile_of(direct.latency)


def _cost_and_p50(rows: Rows, case: str, limit: float) -> Iterator[Verdict]:
    if pair := _pair(rows, case, ENDS, SSH):
        ends, ssh = pair
        yield f"CPU a line, {case}", limit, ends.cost / ssh.cost, "of ssh -R's"
    if pair := _pair(rows, case, ENDS, "direct"):
        ends, direct = pair
        yield f"added p50, {case}", 1.0, _added_latency(ends, direct, 0.5), "ms"


def _added_p99(rows: Rows) -> Iterator[Verdict]:
    if found := _pair(rows, "200 streams", ENDS, CHP, "direct"):
        ends, chp, direct = found
        yield (
            "added p99, 200 streams",
            _added_latency(chp, direct, 0.99),
            _added_latency(ends, direct, 0.99),
            "ms",
        )
    if found := _pair(rows, "1,000 streams", ENDS, SSH, "direct"):
        ends, ssh, direct = found
        limit = 1.5 * _added_latency(ssh, direct, 0.99)
        yield "added p99, 1,000 streams", limit, _added_latency(ends, direct, 0.99), "ms"


def _first_byte(rows: Rows) -> Iterator[Verdict]:
    if found := _pair(rows, "first byte", ENDS, "direct"):
        ends, direct = (row.first[len(row.first) // 2] for row in found)
        yield "first byte over direct, p50", 2.0, ends - direct, "ms"


def _memory(rows: Rows) -> Iterator[Verdict]:
    for ends in _pair(rows, "1,000 streams", ENDS):
        yield "an idle proxy process", 22.0, ends.idle["proxy"], "MB"
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


def _front(rows: Rows) -> Iterator[Verdict]:
    """What the gateway takes of a line if there is no nginx, with the tunnel that it forwards."""
    for whole in _pair(rows, "1,000 streams", WITH_FRONT):
        yield "CPU a line of the front alone, 1,000 streams", 15.0, whole.cpu["front"], "µs"


def _whole_way(rows: Rows) -> Iterator[Verdict]:
    """What nginx, proxy and desktop take together, and the cloud, which is not on the way."""
    if found := _pair(rows, "1,000 streams", WHOLE_WAY, SSH, "direct"):
        whole, ssh, direct = found
        cloud = whole.cpu["front"]
        cost = (whole.cost - cloud) / ssh.cost
        yield "CPU a line by nginx, without the cloud, 1,000 streams", 1.0, cost, "of ssh -R's"
        yield "CPU a line of the cloud beside nginx, 1,000 streams", 2.0, cloud, "µs"
        limit = _added_latency(ssh, direct, 0.99) + 50
        yield "added p99 by nginx", limit, _added_latency(whole, direct, 0.99), "ms"


def _saturated(rows: Rows) -> Iterator[list[str]]:
    if found := _pair(rows, "saturated", ENDS, SSH):
        ends, ssh = found
        reached = "yes" if ends.rate >= ssh.rate else "no"
        wanted = f"at least {ssh.rate:,.0f} lines/s"
        yield ["saturated", wanted, f"{ends.rate:,.0f} lines/s", reached]

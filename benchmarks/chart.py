"""A bar chart of CPU time a line, as an SVG for light and dark pages."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Results

FILE = Path(__file__).with_name("cpu.svg")
LABEL_WIDTH, MAX_BAR_WIDTH, BAR_HEIGHT, ROW_HEIGHT = 190, 440, 18, 26


def write(results: Results) -> None:
    """Write the chart of the paced cases."""
    FILE.write_text(svg(results))


def svg(results: Results) -> str:
    """The chart: one bar for each path and case; those of ctllm are blue."""
    groups = [
        (case, [(name, row.cost) for name, row in rows.items() if row.cost])
        for case, rows in results.rows.items()
        if case.endswith("streams") and len(rows) > 1
    ]
    max_cost = max((cost for _, bars in groups for _, cost in bars), default=1.0)
    elements, y = [], 20
    for case, bars in groups:
        elements.append(f'<text x="8" y="{y}" font-weight="bold">CPU µs a line, {case}</text>')
        for name, cost in bars:
            elements.append(_bar(y + 10, name, cost, cost / max_cost))
            y += ROW_HEIGHT
        y += 46
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 '
        f'{LABEL_WIDTH + MAX_BAR_WIDTH + 60} {y - 10}" '
        'font-family="sans-serif" font-size="13" fill="#777">\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


def _bar(y: int, name: str, cost: float, share: float) -> str:
    colour, width = "#2a7de1" if name.startswith("ctllm") else "#999", round(share * MAX_BAR_WIDTH)
    return (
        f'<text x="{LABEL_WIDTH - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width}" '
        f'height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>'
        f'<text x="{LABEL_WIDTH + width + 6}" y="{y + 13}">{cost:.0f}</text>'
    )

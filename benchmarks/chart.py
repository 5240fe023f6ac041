"""CPU a line as bars, in an SVG that reads on light and dark pages alike."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Results

FILE = Path(__file__).with_name("cpu.svg")
LEFT, WIDTH, BAR, GAP = 190, 440, 18, 26


def write(results: Results) -> None:
    """Draw the paced cases."""
    FILE.write_text(svg(results))


def svg(results: Results) -> str:
    """One bar a way and case; ctllm's are filled."""
    groups = [
        (case, [(name, row.cost) for name, row in rows.items() if row.cost])
        for case, rows in results.rows.items()
        if case.endswith("streams") and len(rows) > 1
    ]
    most = max((cost for _, bars in groups for _, cost in bars), default=1.0)
    shapes, y = [], 20
    for case, bars in groups:
        shapes.append(f'<text x="8" y="{y}" font-weight="bold">CPU µs a line, {case}</text>')
        for name, cost in bars:
            shapes.append(_bar(y + 10, name, cost, cost / most))
            y += GAP
        y += 46
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 60} {y - 10}" '
        'font-family="sans-serif" font-size="13" fill="#777">\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _bar(y: int, name: str, cost: float, share: float) -> str:
    colour, width = "#2a7de1" if name.startswith("ctllm") else "#999", round(share * WIDTH)
    return (
        f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" rx="2" fill="{colour}"/>'
        f'<text x="{LEFT + width + 6}" y="{y + 13}">{cost:.0f}</text>'
    )

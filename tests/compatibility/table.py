"""The Markdown tables of docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.compatibility.calls import CALLS
from tests.compatibility.clients import CLIENTS
from tests.compatibility.comparison import Comparison
from tests.compatibility.driver import MODULES, ROOT
from tests.compatibility.raw_comparison import RawComparison

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
YES, NO, NONE = "✓", "✗", "–"  # noqa: RUF001


def client_rows(compared: Iterable[Comparison]) -> list[list[str]]:
    """Return the header and a row for each call, with a mark for each client."""
    marks = {(each.client, each.call): NO if each.difference else YES for each in compared}
    head = ["Call", *(client.title for client in CLIENTS)]
    body = [[f"`{call}`", *(marks.get((c, call), NONE) for c in CLIENTS)] for call in CALLS]
    return [head, *body]


def raw_rows(comparisons: Iterable[RawComparison]) -> list[list[str]]:
    """Return the header and a row for each endpoint: number of requests, statuses, a mark."""
    by_row: dict[str, list[RawComparison]] = {}
    for each in comparisons:
        by_row.setdefault(each.row, []).append(each)
    body = []
    for row, of_row in by_row.items():
        statuses = ", ".join(map(str, sorted({each.status for each in of_row})))
        differs = any(each.difference for each in of_row)
        body.append([row, str(len(of_row)), statuses, NO if differs else YES])
    return [["Request", "Tried", "Status", "Same"], *body]


def version_rows(compared: Iterable[Comparison]) -> list[list[str]]:
    """Return the header and a row with each client's version."""
    driven = dict.fromkeys(each.client for each in compared)
    return [["Client", "Version"], *([c.title, c.version(MODULES)] for c in driven)]


def markdown(table: list[list[str]]) -> str:
    """Return a table as Markdown."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in table)
    return "\n".join([head, "| " + " | ".join("---" for _ in table[0]) + " |", *body]) + "\n"


def render(compared: Sequence[Comparison], raw: Sequence[RawComparison]) -> str:
    """Return all tables with their headings."""
    return "\n".join(
        [
            "## Clients\n",
            markdown(client_rows(compared)),
            markdown(version_rows(compared)),
            "## Raw HTTP\n",
            markdown(raw_rows(raw)),
        ]
    )


def write(text: str, page: Path = PAGE) -> None:
    """Replace the tables in the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")

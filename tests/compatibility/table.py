"""The tables of clients and calls, and of what was asked by raw HTTP, as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.compatibility.calls import CALLS
from tests.compatibility.clients import CLIENTS
from tests.compatibility.comparing import Comparison
from tests.compatibility.driving import MODULES, ROOT
from tests.compatibility.raw import RawComparison

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
YES, NO, NONE = "✓", "✗", "–"  # noqa: RUF001


def rows(compared: Iterable[Comparison]) -> list[list[str]]:
    """The head and the rows: a mark for each client."""
    marks = {(each.client, each.call): NO if each.wrong else YES for each in compared}
    head = ["Call", *(client.title for client in CLIENTS)]
    body = [[f"`{call}`", *(marks.get((c, call), NONE) for c in CLIENTS)] for call in CALLS]
    return [head, *body]


def raw_rows(asked: Iterable[RawComparison]) -> list[list[str]]:
    """The head, and a row for each endpoint: how many requests, their statuses, whether all fit."""
    by: dict[str, list[RawComparison]] = {}
    for each in asked:
        by.setdefault(each.row, []).append(each)
    body = []
    for row, all_of in by.items():
        statuses = ", ".join(map(str, sorted({each.status for each in all_of})))
        wrong = any(each.wrong for each in all_of)
        body.append([row, str(len(all_of)), statuses, NO if wrong else YES])
    return [["Request", "Tried", "Status", "Same"], *body]


def versions(compared: Iterable[Comparison]) -> list[list[str]]:
    """Which version of each client that was."""
    driven = dict.fromkeys(each.client for each in compared)
    return [["Client", "Version"], *([c.title, c.version(MODULES)] for c in driven)]


def markdown(table: list[list[str]]) -> str:
    """A table as Markdown has it."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in table)
    return "\n".join([head, "| " + " | ".join("---" for _ in table[0]) + " |", *body]) + "\n"


def tables(compared: Sequence[Comparison], asked: Sequence[RawComparison]) -> str:
    """All of them, with their headings."""
    return "\n".join(
        [
            "## Clients\n",
            markdown(rows(compared)),
            markdown(versions(compared)),
            "## Raw HTTP\n",
            markdown(raw_rows(asked)),
        ]
    )


def write(made: str, page: Path = PAGE) -> None:
    """Put the tables into the page, in the place of the old ones."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")

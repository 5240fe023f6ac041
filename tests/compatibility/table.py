"""The table of clients and calls, as a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.compatibility.calls import CALLS
from tests.compatibility.clients import CLIENTS
from tests.compatibility.comparing import Compared
from tests.compatibility.driving import MODULES, ROOT

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
YES, NO, NONE = "✓", "✗", "–"  # noqa: RUF001


def rows(compared: Iterable[Compared]) -> list[list[str]]:
    """The head and the rows: a mark for each client."""
    marks = {(each.client, each.call): NO if each.wrong else YES for each in compared}
    head = ["Call", *(client.title for client in CLIENTS)]
    body = [[f"`{call}`", *(marks.get((c, call), NONE) for c in CLIENTS)] for call in CALLS]
    return [head, *body]


def versions() -> list[list[str]]:
    """Which version of each client that was."""
    return [["Client", "Version"], *([c.title, c.version(MODULES)] for c in CLIENTS)]


def markdown(table: list[list[str]]) -> str:
    """A table as Markdown has it."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in table)
    return "\n".join([head, "| " + " | ".join("---" for _ in table[0]) + " |", *body]) + "\n"


def write(compared: Iterable[Compared], page: Path = PAGE) -> None:
    """Put the tables into the page, in the place of the old ones."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = f"{markdown(rows(compared))}\n{markdown(versions())}"
    page.write_text(before + BEGIN + tables + END + after)

"""`docs/operations.md`: its tables of audit events, reasons and messages are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit import IDENTITY_EVENTS, PROXY_EVENTS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()
#: Stands for a value in a message.
ANY = "…"


def section(heading: str) -> str:
    """Return the text from a heading to the next one."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables in `text`, without heads and rules."""
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_row = line.startswith("| ") and not line.startswith("| ---")
        if is_row and not following.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def template(node: ast.AST) -> str:
    """Return the text of a string expression, with `ANY` for values, or an empty string."""
    if isinstance(node, ast.Constant):
        return re.sub(r"\{\w+\}", ANY, node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else ANY for each in node.values)
        return "".join(map(str, parts))
    return ""


def templates() -> set[str]:
    """Return the text of every string in the product."""
    paths = [*(ROOT / "ctllm").rglob("*.py"), *(ROOT / "tray").rglob("*.py")]
    return {template(node) for path in paths for node in ast.walk(ast.parse(path.read_text()))}


class OperationsPageTests(SynchronousTestCase):
    """The page for administrators."""

    def test_lists_every_audit_event(self) -> None:
        cells = [row[0].strip("`") for row in rows(section("Health, metrics, audit"))]
        known = (*PROXY_EVENTS, *IDENTITY_EVENTS)
        kinds = tuple({event.partition(".")[0] + "." for event in known})
        events = [cell for cell in cells if cell.startswith(kinds)]
        self.assertEqual(events, list(known))

    def test_reasons_of_events_and_metrics_are_explained_and_in_the_code(self) -> None:
        tables = list(rows(section("Health, metrics, audit")))
        explained = {row[0] for row in tables if len(row) == 2 and not row[0].startswith("`")}
        of_events = [row[2] for row in tables if row[0].startswith("`proxy.")]
        of_metrics = [
            row[2].partition(": ")[2]
            for row in tables
            if len(row) > 2 and row[2].startswith("`reason`")
        ]
        listed = {reason for cell in of_events + of_metrics for reason in cell.split(", ")} - {""}
        self.assertEqual(listed, explained)
        self.assertLessEqual(explained, templates())

    def test_messages_of_the_troubleshooting_table_are_in_the_code(self) -> None:
        texts = templates()
        messages = [
            m for row in rows(section("Troubleshooting")) for m in re.findall("`(.*?)`", row[0])
        ]
        self.assertGreater(len(messages), 30)
        for message in messages:
            parts = [part for part in message.split(ANY) if part.strip(" .;")]
            found = any(all(part.strip() in text for part in parts) for text in texts)
            self.assertTrue(found, message)

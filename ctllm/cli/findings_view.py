"""Prints what checks of a server found: in columns on a terminal, else in lines with tabs."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ctllm.cli.output import is_terminal, print_json, write_styled
from ctllm.cli.status_view import Style
from ctllm.common.sanitize import sanitize_line
from ctllm.server.checks.findings import Finding, State, worst_state

#: Mark and colour (SGR code) of each state.
_LOOKS = {
    State.OK: ("✓", "32"),
    State.UNKNOWN: ("?", "2"),
    State.WARNING: ("!", "33"),
    State.FAULT: ("✕", "31"),
}
#: The most characters of a text: some are of another machine.
_MAX_CHARS = 500


def format_finding(finding: Finding, style: Style) -> str:
    """Return a finding for a terminal: a line, and one with what to do."""
    mark, colour = _LOOKS[finding.state]
    state = f"{mark} {finding.state}" if style.has_marks else str(finding.state)
    found = sanitize_line(finding.found, _MAX_CHARS)
    line = f"  {style(colour, f'{state:<10}')} {finding.check:<14} {found}"
    if not finding.advice:
        return line
    return f"{line}\n{'':<28}{style('2', sanitize_line(finding.advice, _MAX_CHARS))}"


def format_fields(finding: Finding) -> str:
    """Return a finding for a program: state, check, what was found and advice, with tabs."""
    fields = (finding.state, finding.check, finding.found, finding.advice)
    return "\t".join(sanitize_line(each, _MAX_CHARS) for each in fields).rstrip("\t")


def print_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Print each finding as it comes, and return all."""
    style, printed = Style(sys.stdout), []
    is_styled = is_terminal(sys.stdout)
    for finding in findings:
        text = format_finding(finding, style) if is_styled else format_fields(finding)
        write_styled(f"{text}\n")
        printed.append(finding)
    return printed


def print_findings_json(findings: Iterable[Finding], **more: object) -> list[Finding]:
    """Print all findings as one JSON object, and return them."""
    found = list(findings)
    print_json({**more, "state": worst_state(found), "findings": found})
    return found


def summarise(findings: Iterable[Finding]) -> str:
    """Return a sentence with the number of faults and warnings."""
    states = [each.state for each in findings]
    counts = [
        f"{number} {name}{'s' * (number != 1)}"
        for state, name in ((State.FAULT, "fault"), (State.WARNING, "warning"))
        if (number := states.count(state))
    ]
    return f"{' and '.join(counts)}." if counts else "No fault and no warning."

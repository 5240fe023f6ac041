"""What a check of a server found: values, their order of severity, and their exit code."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

#: The exit code of a command whose checks found a fault. Warnings alone end with 0.
EXIT_FAULT = 2


class State(StrEnum):
    """The state of what was checked. `UNKNOWN` is what could not be checked."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAULT = "fault"


class Finding(msgspec.Struct, frozen=True):
    """One line: what was checked, its state, what was found, and what to do about it.

    `found` may have text of another machine. It is not sanitized here.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """Return a finding of what is as it should be."""
    return Finding(check, State.OK, found)


def unknown(check: str, found: str, advice: str = "") -> Finding:
    """Return a finding of what could not be checked."""
    return Finding(check, State.UNKNOWN, found, advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return a finding of what works and should be changed."""
    return Finding(check, State.WARNING, found, advice)


def fault(check: str, found: str, advice: str) -> Finding:
    """Return a finding of what does not work."""
    return Finding(check, State.FAULT, found, advice)


def worst_state(findings: Iterable[Finding]) -> State:
    """Return the most severe state; that of nothing is `OK`."""
    order = list(State)
    return max((each.state for each in findings), key=order.index, default=State.OK)


def exit_code(findings: Iterable[Finding], is_strict: bool = False) -> int:
    """Return 0, or `EXIT_FAULT` if there is a fault; warnings are faults if `is_strict`."""
    failing = {State.FAULT, State.WARNING} if is_strict else {State.FAULT}
    return EXIT_FAULT if any(each.state in failing for each in findings) else 0

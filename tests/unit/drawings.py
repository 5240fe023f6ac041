"""The drawings of state machines in docs/: a .dot file, and the .svg file made of it."""

from __future__ import annotations

import re
from pathlib import Path

import ctllm

DOCS = Path(ctllm.__file__).parents[1] / "docs"


def drawn_transitions(name: str) -> set[tuple[str, str, str]]:
    """Return the transitions in `name`.dot: old state, new state, and event."""
    dot = (DOCS / f"{name}.dot").read_text()
    return {
        (old, new, event)
        for old, new, label in re.findall(r'(\w+) -> (\w+) \[label="([^"]*)"', dot)
        for event in re.split(r"\\n|, ", label)
    }


def svg_arrows(name: str) -> set[tuple[str, str]]:
    """Return the arrows in `name`.svg: old state and new state."""
    svg = (DOCS / f"{name}.svg").read_text()
    return set(re.findall(r"<title>(\w+)&#45;&gt;(\w+)</title>", svg))


def dot_arrows(name: str) -> set[tuple[str, str]]:
    """Return the arrows in `name`.dot: old state and new state."""
    return set(re.findall(r"(\w+) -> (\w+)", (DOCS / f"{name}.dot").read_text()))

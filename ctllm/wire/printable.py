"""Text of others, for a log or a terminal."""

from __future__ import annotations

#: Most characters of what a peer said that a log is given.
SAID = 200


def printable(text: object, most: int | None = None) -> str:
    """What somebody said, or had a part in, without what a terminal would obey; cut at `most`.

    Tabs become spaces: tracebacks have them.
    """
    shown = str(text)[:most].expandtabs(4)
    return "".join(char if char.isprintable() else "\ufffd" for char in shown)

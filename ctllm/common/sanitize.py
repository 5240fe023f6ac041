"""Text of others, for a log or a terminal."""

from __future__ import annotations

#: Most characters of what a peer said that a log is given.
MAX_LOGGED_CHARS = 200


def sanitize_line(text: object, max_length: int | None = None) -> str:
    """What somebody said, or had a part in, without what a terminal would obey; cut at `most`.

    Tabs become spaces: tracebacks have them.
    """
    shown = str(text)[:max_length].expandtabs(4)
    return "".join(char if char.isprintable() else "\ufffd" for char in shown)


def sanitize_text(text: str) -> str:
    """The same for text of several lines, whose line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def escape_unprintable(text: str) -> str:
    """JSON with what cannot be printed written as an escape: it means the same to programs."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))

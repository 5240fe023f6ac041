"""Removal of control characters from text of untrusted origin, for logs and terminals."""

from __future__ import annotations

#: The most characters of a peer's text that are logged.
MAX_LOGGED_CHARS = 200


def sanitize_line(text: object, max_length: int | None = None) -> str:
    """Return the first `max_length` characters of `text` without control characters.

    They become U+FFFD, and tabs spaces.
    """
    shown = str(text)[:max_length].expandtabs(4)
    return "".join(char if char.isprintable() else "\ufffd" for char in shown)


def sanitize_text(text: str) -> str:
    """Return `text` without control characters, except for line breaks and tabs."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def escape_unprintable(text: str) -> str:
    r"""Return JSON with unprintable characters as `\u` escapes, which mean the same in JSON."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))

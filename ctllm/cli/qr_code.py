"""A QR code in a terminal, two modules a character."""

from __future__ import annotations

from collections.abc import Sequence

from ctllm.common.qr_code import encode_qr_code

#: Modules of white around the code that scanners need (ISO/IEC 18004 asks for 4; 2 suffice).
BORDER = 2
#: Black on white in any theme, by numbers of the 256 colours that no theme changes.
_COLOURS = "\x1b[38;5;16;48;5;231m"
_RESET = "\x1b[0m"
#: By the upper and the lower module of a character, of which 1 is dark.
_DARK_BLOCKS = {(0, 0): " ", (0, 1): "▄", (1, 0): "▀", (1, 1): "█"}
#: Where there are no colours, the terminal is taken to be dark, so that blocks are the light.
_LIGHT_BLOCKS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}


def format_qr_code(text: str, columns: int, lines: int, has_colour: bool) -> str:
    """Return the QR code of `text` as lines, or an empty string if the terminal is too small."""
    matrix = encode_qr_code(text, BORDER)
    if len(matrix[0]) > columns or (len(matrix) + 1) // 2 > lines:
        return ""
    blocks = _DARK_BLOCKS if has_colour else _LIGHT_BLOCKS
    rows = [_format_row(matrix, row, blocks) for row in range(0, len(matrix), 2)]
    return "\n".join(f"{_COLOURS}{row}{_RESET}" if has_colour else row for row in rows)


def _format_row(
    matrix: Sequence[Sequence[int]], row: int, blocks: dict[tuple[int, int], str]
) -> str:
    upper = matrix[row]
    lower = matrix[row + 1] if row + 1 < len(matrix) else [0] * len(upper)
    return "".join(
        blocks[bool(above), bool(below)] for above, below in zip(upper, lower, strict=True)
    )

"""The QR code in a terminal shows each module of the code."""

from __future__ import annotations

import re

import segno
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.qr_code import BORDER, format_qr_code

LINK = "https://login.example/activate?user_code=ABCD-EFGH"
LIGHT = {" ": (1, 1), "▄": (1, 0), "▀": (0, 1), "█": (0, 0)}


def modules(text: str, has_colour: bool) -> list[list[int]]:
    """Return the modules that lines show: 1 is dark."""
    rows: list[list[int]] = []
    for line in text.splitlines():
        if has_colour:
            styled = re.fullmatch(r"\x1b\[38;5;16;48;5;231m(.*)\x1b\[0m", line)
            assert styled is not None, line
            line = styled[1]
        pairs = [LIGHT[char] for char in line]
        if has_colour:
            pairs = [(1 - above, 1 - below) for above, below in pairs]
        rows += [[above for above, _ in pairs], [below for _, below in pairs]]
    return rows


class QrCodeTests(SynchronousTestCase):
    def test_shows_the_modules_of_the_code_with_a_border(self) -> None:
        code = segno.make_qr(LINK, error="l", boost_error=False)
        expected = [[int(bool(each)) for each in row] for row in code.matrix_iter(border=BORDER)]
        for has_colour in (True, False):
            shown = modules(format_qr_code(LINK, 80, 24, has_colour), has_colour)
            self.assertEqual(shown[: len(expected)], expected)
            # The last line has room for one row more, which is dark in none.
            self.assertFalse(any(map(any, shown[len(expected) :])))

    def test_is_left_out_where_it_does_not_fit(self) -> None:
        lines = format_qr_code(LINK, 80, 24, False).splitlines()
        self.assertEqual(format_qr_code(LINK, len(lines[0]) - 1, 24, False), "")
        self.assertEqual(format_qr_code(LINK, 80, len(lines) - 1, False), "")
        self.assertNotEqual(format_qr_code(LINK, len(lines[0]), len(lines), False), "")

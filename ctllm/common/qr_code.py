"""The modules of a QR code (ISO/IEC 18004)."""

from __future__ import annotations


def encode_qr_code(text: str, border: int) -> list[list[int]]:
    """Return the rows of the smallest code of `text`, with so many light modules around it.

    A dark module is 1. `text` has at most 2953 bytes.
    """
    import segno  # here, because it needs 4 MB, which a desktop that nobody logs in does not

    code = segno.make_qr(text, error="l", boost_error=False)
    return [[int(bool(module)) for module in row] for row in code.matrix_iter(border=border)]

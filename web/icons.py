"""Writes the page's PNG icons from its SVG: `python web/icons.py`.

The same SVG gives the same bytes.
"""

from __future__ import annotations

import re
from pathlib import Path

import resvg_py

PUBLIC = Path(__file__).parent / "public"
#: The share of an icon that a system shows of it, whatever its mask: a circle in the middle.
SAFE_ZONE = 0.8


def render(source: str, size: int) -> bytes:
    """Return a PNG of `size` by `size` pixels."""
    return bytes(resvg_py.svg_to_bytes(svg_string=source, width=size, height=size))


def without_corners(source: str) -> str:
    """Return the icon on a whole square: systems that mask icons, or put them on one, cut it."""
    return re.sub(r' rx="\d+"', "", source)


def maskable(source: str) -> str:
    """Return the icon with its drawing inside the safe zone of every mask."""
    margin = 512 * (1 - SAFE_ZONE) / 2
    parts = re.fullmatch(r"(<svg.*?>\s*<rect.*?/>)(.*)</svg>\s*", source, re.DOTALL)
    if parts is None:
        raise ValueError("The icon is no rectangle with a drawing on it.")
    ground, drawing = parts.groups()
    moved = f'<g transform="translate({margin:g} {margin:g}) scale({SAFE_ZONE:g})">{drawing}</g>'
    return f"{without_corners(ground)}{moved}</svg>"


def icons(source: str) -> dict[str, bytes]:
    """Return the files by name."""
    return {
        "icon-192.png": render(source, 192),
        "icon-512.png": render(source, 512),
        "icon-maskable-512.png": render(maskable(source), 512),
        "apple-touch-icon.png": render(without_corners(source), 180),
    }


if __name__ == "__main__":
    for name, png in icons((PUBLIC / "icon.svg").read_text()).items():
        (PUBLIC / name).write_bytes(png)

"""Renders the SVG icons as images."""

from __future__ import annotations

import io
import sys
from functools import lru_cache
from importlib.resources import files

import resvg_py
from PIL import Image

from ctllm_tray.view_model import Icon

#: The icon's colour, by the panel's theme.
COLOURS = {"dark": "#f4f4f4", "light": "#2b2b2b"}
#: Width and height in pixels, for panels of high-resolution screens.
_SIZES = {"darwin": 44, "win32": 64}
_DEFAULT_SIZE = 64


@lru_cache(maxsize=16)
def render_icon(icon: Icon, theme: str, platform: str = sys.platform) -> Image.Image:
    """Return the image of `icon` for a panel whose theme is "dark" or "light"."""
    source = files("ctllm_tray").joinpath("icons", f"{icon.value}.svg").read_text("utf-8")
    size = _SIZES.get(platform, _DEFAULT_SIZE)
    style = f"svg {{ color: {COLOURS[theme]} }}"
    png = resvg_py.svg_to_bytes(svg_string=source, width=size, height=size, style_sheet=style)
    image = Image.open(io.BytesIO(bytes(png)))
    image.load()
    return image

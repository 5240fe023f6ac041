"""The icons as pictures: drawn once, as SVG, and rendered at the size that is wanted."""

from __future__ import annotations

import io
import sys
from functools import lru_cache
from importlib.resources import files
from typing import Any

import resvg_py
from PIL import Image

from ctllm_tray.view_model import Icon

#: The colour on panels of each kind.
COLOURS = {"dark": "#f4f4f4", "light": "#2b2b2b"}
#: Pixels of a side, by system: what their panels take for screens of high density.
_SIZES = {"darwin": 44, "win32": 64}


@lru_cache(maxsize=16)
def picture(icon: Icon, panel: str, platform: str = sys.platform) -> Any:
    """The image of `icon` for a "dark" or "light" panel."""
    source = files("ctllm_tray").joinpath("icons", f"{icon.value}.svg").read_text("utf-8")
    size = _SIZES.get(platform, 64)
    style = f"svg {{ color: {COLOURS[panel]} }}"
    png = resvg_py.svg_to_bytes(svg_string=source, width=size, height=size, style_sheet=style)
    image = Image.open(io.BytesIO(bytes(png)))
    image.load()
    return image

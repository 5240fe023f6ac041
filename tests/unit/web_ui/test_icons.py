"""The page's icons: what its manifest names, made from its SVG."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

WEB = Path(__file__).parents[3] / "web"
PUBLIC = WEB / "public"


def load_generator() -> ModuleType:
    """Import `web/icons.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("page_icons", WEB / "icons.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class IconsTests(SynchronousTestCase):
    """The files in `web/public`."""

    def test_the_icons_are_those_of_the_svg(self) -> None:
        """`python web/icons.py` gives the same bytes."""
        generator = load_generator()
        for name, png in generator.icons((PUBLIC / "icon.svg").read_text()).items():
            self.assertEqual((PUBLIC / name).read_bytes(), png, name)

    def test_the_manifest_names_icons_of_the_sizes_that_installing_needs(self) -> None:
        manifest = json.loads((PUBLIC / "manifest.webmanifest").read_text())
        named = {(icon["sizes"], icon.get("purpose", "any")) for icon in manifest["icons"]}
        self.assertLessEqual(
            {("192x192", "any"), ("512x512", "any"), ("512x512", "maskable")}, named
        )
        for icon in manifest["icons"]:
            content = (PUBLIC / icon["src"].lstrip("/")).read_bytes()
            if icon["type"] == "image/png":
                width, height = struct.unpack(">II", content[16:24])
                self.assertEqual(f"{width}x{height}", icon["sizes"])

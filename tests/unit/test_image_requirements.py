"""The requirements of the streaming proxy's image."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]


def bounds(lines: str) -> dict[str, str]:
    """Return the bound of each package, by its name without extras and markers."""
    stripped = [re.split("[#;]", line)[0].strip() for line in lines.splitlines()]
    return {
        name.partition("[")[0].strip().lower(): bound.strip()
        for name, _, bound in (line.partition(">=") for line in stripped if line)
    }


class ImageRequirementsTests(SynchronousTestCase):
    def test_bounds_are_those_of_the_package(self) -> None:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        package = bounds(setup["options"]["install_requires"])
        image = bounds((ROOT / "containers/streaming-proxy/requirements.txt").read_text())
        both = package.keys() & image.keys()
        self.assertEqual({name: image[name] for name in both}, {n: package[n] for n in both})
        self.assertTrue({"twisted", "autobahn", "h11", "msgspec", "pynacl"} <= both)

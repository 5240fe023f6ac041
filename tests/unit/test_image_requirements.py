"""What the images of containers/ have in common, and the requirements of the streaming proxy's."""

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


class DockerfileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = ROOT / "containers"
        self.dockerfiles = {
            path.parent.name: path.read_text() for path in folder.glob("*/Dockerfile")
        }
        self.build_script = (folder / "build-server").read_text()

    def test_all_have_the_same_version_of_what_they_are_made_from(self) -> None:
        for kind in ("python", "nginx"):
            pattern = rf"{kind}:[0-9][^ }}\n]*"
            texts = (*self.dockerfiles.values(), self.build_script)
            found = [each for text in texts for each in re.findall(pattern, text)]
            self.assertGreater(len(found), 2, kind)
            self.assertEqual(len(set(found)), 1, found)

    def test_health_is_checked_often_while_a_container_starts(self) -> None:
        """Docker 25 does so in the start period; earlier ones wait for an interval."""
        for name, text in self.dockerfiles.items():
            if name != "streaming-proxy":  # the cloud checks these
                self.assertRegex(text, r"HEALTHCHECK --interval=30s .*--start-period=", name)

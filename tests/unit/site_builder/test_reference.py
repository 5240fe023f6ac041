"""The reference has every key of the configuration, every command and every route."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm import cli
from ctllm.config import KEYS, TABLES
from ctllm.tap_options import Options
from site_builder import pages
from site_builder.reference import GENERATED

ROOT = Path(__file__).parents[3]


class ReferenceTests(TestCase):
    def test_every_configuration_key_has_an_entry(self) -> None:
        expected = {*KEYS, *(f"{name}.{key}" for name, keys in TABLES.items() for key in keys)}
        text = GENERATED["configuration"]()
        self.assertEqual(set(re.findall(r"^### `([\w.]+)`$", text, re.M)), expected)

    def test_every_command_and_role_has_a_section(self) -> None:
        commands = GENERATED["commands"]()
        for name in cli.build_parser().commands:
            self.assertIn(f"## `ctllm {name}`\n", commands)
        roles = GENERATED["roles"]()
        for name, *_ in Options.subCommands:
            self.assertIn(f"## `twistd ctllm {name}`\n", roles)

    def test_every_generated_part_has_a_place(self) -> None:
        texts = "".join((ROOT / path).read_text() for path in pages.find_pages(ROOT))
        for name in GENERATED:
            self.assertIn(f"<!-- generated: {name} -->", texts)

    def test_every_page_is_in_the_index(self) -> None:
        links = pages.map_links((ROOT / pages.INDEX).read_text(), lambda each: f"<{each}>")
        found = {(ROOT / "docs" / each).resolve() for each in re.findall(r"\(<(\S+)>\)", links)}
        expected = {(ROOT / path).resolve() for path in pages.find_pages(ROOT)}
        self.assertEqual(expected - found - {ROOT / pages.INDEX}, set())

"""`package_builder`: what does not need the programs that build."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.cli import build_parser
from ctllm.cli.parser import Parser
from ctllm.config import KEYS
from package_builder.archives import pack_folder
from package_builder.debian_packages import DESKTOP, SERVER, debian_version, read_unit
from package_builder.man_pages import escape, render_man_pages
from package_builder.program_tree import keep_requirements
from package_builder.sbom import add_page, name_subject

ROOT = Path(__file__).parents[3]
LOCKS = {SERVER: [""], DESKTOP: ["", "tray"]}


def walk(parser: Parser) -> Iterator[Parser]:
    yield parser
    for command in parser.commands.values():
        yield from walk(command)


class ManPageTests(TestCase):
    pages = render_man_pages("1.2", 0)

    def test_every_command_option_and_key_has_an_entry(self) -> None:
        entries = " ".join(re.findall(r"^\\fB(.+)\\fR$", self.pages["ctllm.1"], re.M))
        words = set(entries.replace(",", "").split())
        for parser in walk(build_parser()):
            self.assertTrue(escape(parser.prog) in self.pages["ctllm.1"], parser.prog)
            for action in parser._actions:
                if action.help != "==SUPPRESS==" and action.dest != "help":
                    self.assertLessEqual(set(map(escape, action.option_strings)), words)
        for key in KEYS.values():
            self.assertIn(f"\\fB{key.name}\\fR", self.pages["ctllm.toml.5"])
            if key.section == "cloud":
                self.assertIn(f"\\fB{escape(f'--{key.option}')} ", self.pages["ctllm-cloud.8"])

    def test_a_page_has_the_version_and_its_day(self) -> None:
        for name, text in self.pages.items():
            title = name.rpartition(".")[0].replace("-", "\\-").upper()
            self.assertIn(f'.TH {title} {name[-1]} "1970-01-01" "ctllm 1.2"', text)

    def test_text_is_no_macro_of_roff(self) -> None:
        self.assertEqual(escape(".config \\n"), "\\&.config \\en")
        for text in self.pages.values():
            for line in text.splitlines():
                if line.startswith((".", "'")):
                    self.assertRegex(line, r"^\.(TH|SH|SS|TP|nf|fi)\b")


class LockTests(TestCase):
    def test_the_locked_versions_are_those_that_setup_cfg_allows(self) -> None:
        setup = configparser.ConfigParser(interpolation=None)
        setup.read(ROOT / "setup.cfg")
        for package, extras in LOCKS.items():
            text = package.requirements.read_text()
            locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)(?: ; .*)? \\$", text, re.M))
            lines = setup["options"]["install_requires"].strip().splitlines()
            for extra in filter(None, extras):
                lines += setup["options.extras_require"][extra].strip().splitlines()
            for line in lines:
                if not line.startswith("#"):
                    wanted = Requirement(line)
                    version = locked[re.sub(r"[-_.]+", "-", wanted.name).lower()]
                    self.assertIn(version, wanted.specifier, line)

    def test_some_projects_of_a_lock_are_kept_with_their_hashes(self) -> None:
        locked = "# top\na==1 \\\n    --hash=sha256:1\nb-c==2 ; x == 'y' \\\n    --hash=sha256:2\n"
        kept = "b-c==2 ; x == 'y' \\\n    --hash=sha256:2\n"
        self.assertEqual(keep_requirements(locked, {"b-c"}), kept)


class DebianTests(TestCase):
    def test_a_version_before_the_release_precedes_it(self) -> None:
        for version, expected in (
            ("1.2.0", "1.2.0"), ("1.2.0rc1", "1.2.0~rc1"), ("1.2.0.dev3", "1.2.0~dev3"),
        ):  # fmt: skip
            self.assertEqual(debian_version(version), expected)

    def test_units_run_the_programs_of_their_package(self) -> None:
        for unit, package in (
            ("ctllm-cloud", SERVER), ("ctllm-firewall", SERVER), ("ctllm-desktop", DESKTOP),
        ):  # fmt: skip
            text = read_unit(ROOT / "etc" / f"{unit}.service", package)
            commands = re.findall(r"^Exec\w+=(\S+)", text, re.M)
            self.assertTrue(commands)
            for command in commands:
                self.assertTrue(command.startswith(f"{package.prefix}/bin/"), command)


class ArchiveTests(TestCase):
    def test_the_bytes_depend_on_names_and_contents_only(self) -> None:
        archives = []
        for umask, time in ((0o022, 5), (0o077, 7)):
            previous = os.umask(umask)
            folder = Path(self.mktemp()) / "folder"
            (folder / "in").mkdir(parents=True)
            for name in ("b", "a") if time == 5 else ("a", "b"):
                (folder / "in" / name).write_text(name)
                os.utime(folder / "in" / name, (time, time))
            (folder / "link").symlink_to("in/a")
            os.umask(previous)
            pack_folder(folder, folder.parent / "x.tar.gz", "inner", 9)
            archives.append((folder.parent / "x.tar.gz").read_bytes())
        self.assertEqual(*archives)


class ComponentTests(TestCase):
    def test_the_list_is_about_ctllm_and_has_the_libraries_of_the_page(self) -> None:
        bom: dict[str, Any] = {
            "metadata": {},
            "components": [{"name": "ctllm", "bom-ref": "c", "type": "library"}],
            "dependencies": [{"ref": "c", "dependsOn": ["x"]}],
        }
        name_subject(bom)
        package = {"version": "1", "license": "MIT", "integrity": "sha512-AAEC"}
        others = {"": {}, "node_modules/tool": {**package, "dev": True}}
        add_page(bom, {"packages": {**others, "node_modules/@a/b": package}})
        self.assertEqual(bom["metadata"]["component"]["type"], "application")
        (component,) = bom["components"]
        self.assertEqual(component["purl"], "pkg:npm/%40a/b@1")
        self.assertEqual(component["hashes"], [{"alg": "SHA-512", "content": "000102"}])
        self.assertEqual(bom["dependencies"][0]["dependsOn"], ["pkg:npm/%40a/b@1", "x"])

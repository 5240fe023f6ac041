"""Tests of `ctllm.autostart.files`: each file is parsed as its system parses it."""

from __future__ import annotations

import configparser
import plistlib
import shlex
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.autostart.files import Environment, autostart_files
from ctllm.autostart.installation import install, is_installed, remove

PYTHON = '/opt/my "own" $HOME 100%/python'
DESKTOP = (PYTHON, "-m", "ctllm", "desktop", "--state-dir=/home/ann/it's mine")
TRAY = (PYTHON, "-m", "ctllm_tray", "--wait=120")


def machine(platform: str, has_systemd: bool = False, **environ: str) -> Environment:
    return Environment(platform, {"HOME": "/home/ann", **environ}, has_systemd, DESKTOP, TRAY)


def ini(content: bytes) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(content.decode())
    return parser


class AutostartFileTests(SynchronousTestCase):
    def test_systemd_gets_a_user_unit_and_an_autostart_entry(self) -> None:
        unit, entry = autostart_files(machine("linux", has_systemd=True))
        folder = Path("/home/ann/.config/systemd/user")
        self.assertEqual(unit.path, folder / "ctllm-desktop.service")
        self.assertEqual(unit.link, folder / "default.target.wants" / "ctllm-desktop.service")
        line = ini(unit.content)["Service"]["ExecStart"]
        words = shlex.split(line.replace("%%", "%").replace("$$", "$"))
        self.assertEqual(tuple(words), DESKTOP)
        self.assertEqual(ini(unit.content)["Install"]["WantedBy"], "default.target")
        shown = (Path(__file__).parents[3] / "etc" / "ctllm-desktop.service").read_bytes()
        for section in ("Unit", "Service", "Install"):
            wanted = {**ini(shown)[section], "ExecStart": line}
            self.assertEqual({**ini(unit.content)[section], "ExecStart": line}, wanted)
        self.assertEqual(ini(unit.content)["Service"]["SystemCallFilter"], "@system-service")
        self.assertEqual(entry.path, Path("/home/ann/.config/autostart/ctllm-tray.desktop"))
        self.assertIn("--no-start", ini(entry.content)["Desktop Entry"]["Exec"])

    def test_without_systemd_the_tray_starts_the_desktop(self) -> None:
        (entry,) = autostart_files(machine("linux", XDG_CONFIG_HOME="/cfg"))
        self.assertEqual(entry.path, Path("/cfg/autostart/ctllm-tray.desktop"))
        line = ini(entry.content)["Desktop Entry"]["Exec"]
        words = shlex.split(line.replace("%%", "%").replace("\\\\", "\\").replace("\\$", "$"))
        self.assertEqual(tuple(words), TRAY)

    def test_what_is_on_by_default_is_turned_off_by_a_file_of_the_user(self) -> None:
        system, home = Path(self.mktemp()), Path(self.mktemp()).absolute()
        default = system.absolute() / "autostart" / "ctllm-tray.desktop"
        directories = f"/nowhere:{system.absolute()}"
        (entry,) = autostart_files(
            machine("linux", XDG_CONFIG_HOME=str(home), XDG_CONFIG_DIRS=directories)
        )
        self.assertFalse(is_installed([entry]))
        default.parent.mkdir(parents=True)
        default.write_bytes(entry.content)
        self.assertTrue(is_installed([entry]))
        remove(entry)
        self.assertEqual(ini(entry.path.read_bytes())["Desktop Entry"]["Hidden"], "true")
        self.assertFalse(is_installed([entry]))
        install(entry)
        self.assertTrue(is_installed([entry]))
        default.unlink()
        remove(entry)
        self.assertFalse(entry.path.exists())

    def test_macos_gets_launchd_agents(self) -> None:
        desktop, tray = autostart_files(machine("darwin"))
        told = plistlib.loads(desktop.content)
        self.assertEqual(tuple(told["ProgramArguments"]), DESKTOP)
        self.assertTrue(told["RunAtLoad"])
        self.assertEqual(told["KeepAlive"], {"SuccessfulExit": False})
        agents = Path("/home/ann/Library/LaunchAgents")
        self.assertEqual(desktop.path, agents / "org.ctllm.desktop.plist")
        self.assertEqual(tray.path, agents / "org.ctllm.tray.plist")
        self.assertEqual(desktop.after_install[0][:2], ("launchctl", "bootstrap"))
        self.assertEqual(desktop.before_removal[0][:2], ("launchctl", "bootout"))

    def test_windows_gets_a_script_in_the_startup_folder(self) -> None:
        (entry,) = autostart_files(machine("win32", APPDATA="/roaming"))
        self.assertEqual(
            entry.path,
            Path("/roaming/Microsoft/Windows/Start Menu/Programs/Startup/ctllm-tray.cmd"),
        )
        first, line, _ = entry.content.decode().split("\r\n")
        self.assertEqual(first, "@echo off")
        self.assertTrue(
            line.startswith('start "" "/opt/my \\"own\\" $HOME 100%%/python" -m ctllm_tray')
        )

"""The tray without a screen: what is shown and told, and that it is as thin as it should be."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from twisted.trial.unittest import SynchronousTestCase

import ctllm_tray
from ctllm.errors import BadGateway, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.messages import OllamaStatus, Status, Traffic
from ctllm.system.display import has_graphical_session
from ctllm_tray import status_watcher
from ctllm_tray.actions import Clicks
from ctllm_tray.desktop_environment import panel_kind
from ctllm_tray.icon_renderer import COLOURS, picture
from ctllm_tray.indicator import Shown
from ctllm_tray.notifications import LASTING, News
from ctllm_tray.view_model import LONGEST, MOST_MODELS, NOT_RUNNING, STARTING, Icon, View, view_of

ROOT = Path(ctllm_tray.__file__).parent


def status(state: str = "connected", **more: Any) -> Status:
    given = {
        "authentication_state": "unauthenticated" if state == "signed_out" else "authenticated",
        "connection_status": "connected", "state": state, "reason": "", "user": "ann",
        "cloud_url": "https://c.example", "desktop_id": "d" * 32, "desktop_name": "attic",
        "ollama": OllamaStatus("http://127.0.0.1:11434", "up", "1", (), ()), "desktops": (),
        "desktops_error": "", "policy": "auto", "route": "local", "proxy": "running",
        "endpoint": "", "last_error": "", "traffic": Traffic(0, 0, 0, 0, 0, 0, 0, 0),
        "version": "1", "pid": 1, "started": 0.0,
    }  # fmt: skip
    return Status(**{**given, **more})


class Views(SynchronousTestCase):
    def test_icons(self) -> None:
        """Each state of the desktop has one, and no running daemon another line."""
        shown = {state: view_of(status(state)) for state in
                 ("connected", "connecting", "signed_out", "degraded", "error")}  # fmt: skip
        self.assertEqual({view.icon for view in shown.values()}, set(Icon))
        self.assertEqual(len({view.line for view in shown.values()}), 5)
        self.assertNotIn(NOT_RUNNING.line, {view.line for view in shown.values()})
        self.assertFalse(NOT_RUNNING.running or STARTING.running)
        self.assertEqual(
            [state for state, view in shown.items() if not view.signed_in], ["signed_out"]
        )

    def test_reasons(self) -> None:
        """A long one is cut, and shows that."""
        view = view_of(status("error", reason="x" * 500))
        self.assertTrue(view.line.endswith("x…"))
        self.assertLess(len(view.title), 2 * LONGEST)

    def test_models(self) -> None:
        loaded = tuple(f"m{number}" for number in range(MOST_MODELS + 3))
        ollama = OllamaStatus("u", "up", "1", loaded, loaded)
        view = view_of(status(ollama=ollama))
        self.assertEqual((len(view.models), view.more_models), (MOST_MODELS, 3))


class NewsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.news = News()
        self.now = 0.0

    def see(self, icon: Icon, seconds: float = LASTING * 3) -> list[str]:
        """Show it for so long; the titles that were notified meanwhile."""
        self.news.see(View(icon, icon.value), self.now)
        told = []
        while seconds > 0:
            due = self.news.due(self.now)
            if due is not None:
                told.append(due[0])
            self.now += 0.5
            seconds -= 0.5
        return told

    def test_what_matters(self) -> None:
        self.assertEqual(self.see(Icon.CONNECTED), [])
        self.assertEqual(self.see(Icon.DEGRADED), ["Ollama is down"])
        self.assertEqual(self.see(Icon.CONNECTED), ["Connected"])
        self.assertEqual(self.see(Icon.ERROR), ["Not connected"])
        self.assertEqual(self.see(Icon.ERROR), [])

    def test_at_the_start(self) -> None:
        """All well is no news; anything else is."""
        self.assertEqual(self.see(Icon.ERROR), ["Not connected"])

    def test_flaps(self) -> None:
        self.see(Icon.CONNECTED)
        for _ in range(20):
            self.assertEqual(self.see(Icon.DEGRADED, LASTING - 1), [])
            self.assertEqual(self.see(Icon.CONNECTED, 1), [])
        self.assertEqual(self.see(Icon.CONNECTED), [])

    def test_connecting(self) -> None:
        """Is no news by itself, however long."""
        self.see(Icon.CONNECTED)
        self.assertEqual(self.see(Icon.CONNECTING), [])
        self.assertEqual(self.see(Icon.CONNECTED), [])

    def test_quitting(self) -> None:
        self.see(Icon.CONNECTED)
        self.news.see(View(Icon.DISCONNECTED, "quitting", quitting=True), self.now)
        self.assertIsNone(self.news.due(self.now + 60))


class Pictures(SynchronousTestCase):
    def test_each_by_its_shape(self) -> None:
        """Also where colours are not seen: as what is painted and what is not, they differ."""
        for platform, size in (("linux", 64), ("darwin", 44), ("win32", 64)):
            shapes = {}
            for icon in Icon:
                image = picture(icon, "dark", platform)
                self.assertEqual(image.size, (size, size))
                shapes[icon] = image.getchannel("A").point(lambda value: value > 127).tobytes()
            for one in Icon:
                for other in Icon:
                    if one is not other:
                        differ = sum(
                            a != b for a, b in zip(shapes[one], shapes[other], strict=True)
                        )
                        self.assertGreater(differ, size * size / 40, (one, other))

    def test_one_colour(self) -> None:
        """That of the other kind of panel."""
        for panel, colour in COLOURS.items():
            for icon in Icon:
                image = picture(icon, panel)
                solid = {pixel[:3] for pixel in image.getdata() if pixel[3] == 255}
                self.assertEqual({f"#{bytes(pixel).hex()}" for pixel in solid}, {colour}, icon)


class Panels(SynchronousTestCase):
    def kind(self, platform: str, said: dict[str, str], desktop: str = "") -> str:
        def run(argv: Sequence[str]) -> str:
            return said.get(argv[0], "")

        return panel_kind(platform, {"XDG_CURRENT_DESKTOP": desktop}, run)

    def test_linux(self) -> None:
        self.assertEqual(self.kind("linux", {}), "dark")
        light = {"gsettings": "'prefer-light'"}
        self.assertEqual(self.kind("linux", light), "light")
        self.assertEqual(self.kind("linux", light, "ubuntu:GNOME"), "dark")
        self.assertEqual(self.kind("linux", {"xfconf-query": "false"}, "XFCE"), "light")
        self.assertEqual(self.kind("linux", {"xfconf-query": "true", **light}, "XFCE"), "dark")
        self.assertEqual(self.kind("linux", light, "XFCE"), "light")

    def test_macos(self) -> None:
        self.assertEqual(self.kind("darwin", {"defaults": "Dark"}), "dark")
        self.assertEqual(self.kind("darwin", {}), "light")

    def test_windows(self) -> None:
        self.assertEqual(self.kind("win32", {}), "dark")

    def test_sessions(self) -> None:
        self.assertFalse(has_graphical_session("linux", {}))
        self.assertTrue(has_graphical_session("linux", {"WAYLAND_DISPLAY": "wayland-0"}))
        self.assertTrue(has_graphical_session("darwin", {}))
        self.assertTrue(has_graphical_session("win32", {}))


class Thin(SynchronousTestCase):
    def test_imports(self) -> None:
        """Of ctllm only what needs no Twisted."""
        allowed = {
            "common",
            "config",
            "errors",
            "ipc",
            "system",
            "__version__",
        }
        for path in ROOT.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.ImportFrom)
                    and (node.module or "").split(".")[0] == "ctllm"
                ):
                    part = (node.module or "").partition(".")[2].partition(".")[0]
                    for name in [part] if part else [each.name for each in node.names]:
                        self.assertIn(name, allowed, path)

    def test_no_twisted(self) -> None:
        """Not even by way of something else; nor is a screen needed to import it."""
        code = "import sys, ctllm_tray.main; sys.exit('twisted' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT.parent
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_modules_are_short(self) -> None:
        for path in ROOT.glob("*.py"):
            self.assertLess(len(path.read_text().splitlines()), 300, path)


class Daemon:
    """A daemon as `Watch` meets it: `plan` says what happens at each attempt to reach one."""

    plan: ClassVar[list[Any]] = []

    def __init__(self, state: Path) -> None:
        self._does = type(self).plan.pop(0) if type(self).plan else NotRunning("none")
        if isinstance(self._does, Exception):
            raise self._does

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def status(self, subscribe: bool) -> Any:
        return self._does[0]

    def events(self) -> Iterator[protocol.Event]:
        for event, data in self._does[1:]:
            yield protocol.Event(event, msgspec.Raw(msgspec.json.encode(data)))
        raise BadGateway("it hung up")


class Watching(SynchronousTestCase):
    def seen(self, *plan: Any, count: int) -> list[str]:
        """The first lines that are shown."""
        lines: list[str] = []
        enough = threading.Event()

        def see(view: View) -> None:
            lines.append(view.line)
            if len(lines) >= count:
                enough.set()

        self.patch(status_watcher, "IpcClient", Daemon)
        self.patch(status_watcher, "SOON", 0.01)
        Daemon.plan[:] = plan
        watch = status_watcher.Watch(Path(), see)
        watch.start()
        self.assertTrue(enough.wait(10), lines)
        watch.stop()
        return lines[:count]

    def test_a_life(self) -> None:
        """It is followed, missed, found again; also when it ended in order."""
        degraded = msgspec.to_builtins(status("degraded"))
        lines = self.seen(
            NotRunning("none"),
            [status(), ("status", degraded), ("log", "x"), ("quitting", None)],
            NotRunning("none"),
            [status()],
            count=8,
        )
        down = "connected, but Ollama is down"
        self.assertEqual(lines[:5], [NOT_RUNNING.line, "connected", down, down, "quitting …"])
        self.assertEqual(set(lines[5:7]), {NOT_RUNNING.line})
        self.assertIn("connected", lines[5:])

    def test_what_makes_no_sense(self) -> None:
        """It is shown, and does not end the watch."""
        lines = self.seen(ValueError("of another version"), [status()], count=2)
        self.assertIn("of another version", lines[0])
        self.assertEqual(lines[1], "connected")


class Clicking(SynchronousTestCase):
    """What is said of a click."""

    def test_no_link_is_shown_or_printed(self) -> None:
        """Where no browser opens, the link that signs in stays with the user's own command."""
        said: list[str] = []
        clicks = Clicks(Path("none"), lambda *words: said.extend(words), lambda: None, lambda: None)
        clicks._opened({"opened": False, "address": "https://c.example/#invite=secret"})
        self.assertNotIn("secret", " ".join(said))
        self.assertIn("ctllm show", said[1])
        clicks._opened({"opened": True, "address": ""})
        self.assertEqual(len(said), 2)


class Pystray:
    """As much of pystray as an icon needs that is told to end before it runs."""

    class Menu:
        SEPARATOR = None

        def __init__(self, *entries: Any) -> None:
            pass

    class Icon:
        HAS_NOTIFICATION = False

        def __init__(self, *_: Any, **__: Any) -> None:
            self.running = self.visible = False
            self.stopped = 0

        def run(self, setup: Any) -> None:
            self.running = True
            setup(self)

        def stop(self) -> None:  # without effect before it runs
            self.stopped += self.running


class Ending(SynchronousTestCase):
    def test_before_it_runs(self) -> None:
        """A signal may come at any time."""
        shown = Shown(Pystray, "dark")
        shown.end()
        self.assertEqual(shown.icon.stopped, 0)
        shown.run()
        self.assertEqual((shown.icon.visible, shown.icon.stopped), (True, 1))

    def test_while_it_runs(self) -> None:
        shown = Shown(Pystray, "dark")
        shown.run()
        self.assertEqual(shown.icon.stopped, 0)
        shown.end()
        self.assertEqual(shown.icon.stopped, 1)

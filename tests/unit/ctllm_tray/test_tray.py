"""The tray without a screen: views, notifications, icons, actions, and what it imports."""

from __future__ import annotations

import ast
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.trial.unittest import SynchronousTestCase

import ctllm_tray
from ctllm.errors import BadGateway, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import ConnectionState, OllamaStatus, Status
from ctllm.system.display import has_graphical_session
from ctllm_tray.actions import TrayActions
from ctllm_tray.desktop_environment import panel_theme
from ctllm_tray.icon_renderer import COLOURS, render_icon
from ctllm_tray.indicator import Indicator
from ctllm_tray.notifications import MIN_DURATION, NotificationPolicy
from ctllm_tray.status_watcher import StatusWatcher
from ctllm_tray.view_model import (
    MAX_MODELS,
    MAX_TEXT_LENGTH,
    NOT_RUNNING,
    STARTING,
    Icon,
    View,
    view_from_status,
)
from tests.unit.fakes import make_status

ROOT = Path(ctllm_tray.__file__).parent


class ViewTests(SynchronousTestCase):
    def test_each_state_has_its_own_icon_and_status_line(self) -> None:
        views = {state: view_from_status(make_status(state)) for state in ConnectionState}
        self.assertEqual({view.icon for view in views.values()}, set(Icon))
        lines = {view.status_line for view in views.values()}
        self.assertEqual(len(lines | {NOT_RUNNING.status_line}), 6)

    def test_only_logged_out_is_not_logged_in(self) -> None:
        for state in ConnectionState:
            view = view_from_status(make_status(state))
            self.assertEqual(view.is_logged_in, state is not ConnectionState.LOGGED_OUT)

    def test_without_a_daemon_nothing_runs(self) -> None:
        self.assertFalse(NOT_RUNNING.is_running or STARTING.is_running)
        self.assertTrue(view_from_status(make_status()).is_running)

    def test_truncates_a_long_reason(self) -> None:
        view = view_from_status(make_status(ConnectionState.ERROR, reason="x" * 500))
        self.assertTrue(view.status_line.endswith("x…"))
        self.assertLess(len(view.title), 2 * MAX_TEXT_LENGTH)

    def test_truncates_the_list_of_models(self) -> None:
        loaded = tuple(f"m{number}" for number in range(MAX_MODELS + 3))
        view = view_from_status(make_status(ollama=OllamaStatus("u", "up", "1", loaded, loaded)))
        self.assertEqual((len(view.loaded_models), view.more_models), (MAX_MODELS, 3))


class NotificationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.policy = NotificationPolicy()
        self.now = 0.0

    def show(self, icon: Icon, seconds: float = MIN_DURATION * 3) -> list[str]:
        """Show a view for so long; return the titles of the notifications meanwhile."""
        self.policy.set_view(View(icon, icon.value), self.now)
        titles = []
        while seconds > 0:
            notification = self.policy.next_notification(self.now)
            if notification is not None:
                titles.append(notification[0])
            self.now += 0.5
            seconds -= 0.5
        return titles

    def test_notifies_each_other_state_once(self) -> None:
        self.assertEqual(self.show(Icon.CONNECTED), [])
        self.assertEqual(self.show(Icon.DEGRADED), ["Ollama is not responding"])
        self.assertEqual(self.show(Icon.CONNECTED), ["Connected"])
        self.assertEqual(self.show(Icon.ERROR), ["Not connected"])
        self.assertEqual(self.show(Icon.ERROR), [])

    def test_notifies_an_error_at_the_start(self) -> None:
        self.assertEqual(self.show(Icon.ERROR), ["Not connected"])

    def test_ignores_states_that_do_not_last(self) -> None:
        self.show(Icon.CONNECTED)
        for _ in range(20):
            self.assertEqual(self.show(Icon.DEGRADED, MIN_DURATION - 1), [])
            self.assertEqual(self.show(Icon.CONNECTED, 1), [])
        self.assertEqual(self.show(Icon.CONNECTED), [])

    def test_never_notifies_connecting(self) -> None:
        self.show(Icon.CONNECTED)
        self.assertEqual(self.show(Icon.CONNECTING), [])
        self.assertEqual(self.show(Icon.CONNECTED), [])

    def test_does_not_notify_while_quitting(self) -> None:
        self.show(Icon.CONNECTED)
        view = View(Icon.DISCONNECTED, "Quitting", is_quitting=True)
        self.policy.set_view(view, self.now)
        self.assertIsNone(self.policy.next_notification(self.now + 60))


class IconTests(SynchronousTestCase):
    def test_icons_differ_by_shape_not_only_by_colour(self) -> None:
        for platform, size in (("linux", 64), ("darwin", 44), ("win32", 64)):
            shapes = {}
            for icon in Icon:
                image = render_icon(icon, "dark", platform)
                self.assertEqual(image.size, (size, size))
                shapes[icon] = [byte > 127 for byte in image.getchannel("A").tobytes()]
            for one, other in combinations(Icon, 2):
                differ = sum(a != b for a, b in zip(shapes[one], shapes[other], strict=True))
                self.assertGreater(differ, size * size / 40, (one, other))

    def test_icons_have_the_colour_for_the_panel(self) -> None:
        for theme, colour in COLOURS.items():
            for icon in Icon:
                image: Any = render_icon(icon, theme)
                solid = {pixel[:3] for pixel in image.getdata() if pixel[3] == 255}
                self.assertEqual({f"#{bytes(pixel).hex()}" for pixel in solid}, {colour}, icon)


class PanelThemeTests(SynchronousTestCase):
    def theme(self, platform: str, outputs: dict[str, str], desktop: str = "") -> str:
        def run(argv: Sequence[str]) -> str:
            return outputs.get(argv[0], "")

        return panel_theme(platform, {"XDG_CURRENT_DESKTOP": desktop}, run)

    def test_linux(self) -> None:
        self.assertEqual(self.theme("linux", {}), "dark")
        light = {"gsettings": "'prefer-light'"}
        self.assertEqual(self.theme("linux", light), "light")
        self.assertEqual(self.theme("linux", light, "ubuntu:GNOME"), "dark")
        self.assertEqual(self.theme("linux", {"xfconf-query": "false"}, "XFCE"), "light")
        self.assertEqual(self.theme("linux", {"xfconf-query": "true", **light}, "XFCE"), "dark")
        self.assertEqual(self.theme("linux", light, "XFCE"), "light")

    def test_macos(self) -> None:
        self.assertEqual(self.theme("darwin", {"defaults": "Dark"}), "dark")
        self.assertEqual(self.theme("darwin", {}), "light")

    def test_windows(self) -> None:
        self.assertEqual(self.theme("win32", {}), "dark")

    def test_graphical_sessions(self) -> None:
        self.assertFalse(has_graphical_session("linux", {}))
        self.assertTrue(has_graphical_session("linux", {"WAYLAND_DISPLAY": "wayland-0"}))
        self.assertTrue(has_graphical_session("darwin", {}))
        self.assertTrue(has_graphical_session("win32", {}))


class ImportTests(SynchronousTestCase):
    def test_imports_only_packages_without_twisted(self) -> None:
        allowed = {"common", "config", "errors", "ipc", "system", "__version__"}
        for path in ROOT.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ImportFrom) or node.module is None:
                    continue
                package, _, rest = node.module.partition(".")
                if package == "ctllm":
                    part = rest.partition(".")[0]
                    for name in [part] if part else [each.name for each in node.names]:
                        self.assertIn(name, allowed, path)

    def test_does_not_import_twisted_or_open_a_display(self) -> None:
        code = "import sys, ctllm_tray.main; sys.exit('twisted' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT.parent
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))


class FakeDaemon:
    """An `IpcClient`: its status is the first of `script`, its events are the rest."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def status(self, subscribe: bool) -> Status:
        first: Status = self._script[0]
        return first

    def events(self) -> Iterator[protocol.Event]:
        for event, data in self._script[1:]:
            yield protocol.Event(event, msgspec.Raw(msgspec.json.encode(data)))
        raise BadGateway("connection closed")


class StatusWatcherTests(SynchronousTestCase):
    def status_lines(self, *attempts: Exception | list[Any], count: int) -> list[str]:
        """Return the first `count` status lines; each attempt to connect fails or succeeds."""
        remaining = list(attempts)
        lines: list[str] = []
        enough = threading.Event()

        def connect(_: Path) -> IpcClient:
            attempt = remaining.pop(0) if remaining else NotRunning("none")
            if isinstance(attempt, Exception):
                raise attempt
            return cast(IpcClient, FakeDaemon(attempt))

        def on_view(view: View) -> None:
            lines.append(view.status_line)
            if len(lines) >= count:
                enough.set()

        watcher = StatusWatcher(Path(), on_view, connect, min_delay=0.01)
        watcher.start()
        self.assertTrue(enough.wait(10), lines)
        watcher.stop()
        return lines[:count]

    def test_follows_a_daemon_and_reconnects_after_it_stops(self) -> None:
        degraded = msgspec.to_builtins(make_status(ConnectionState.DEGRADED))
        lines = self.status_lines(
            NotRunning("none"),
            [make_status(), ("status", degraded), ("log", "x"), ("quitting", None)],
            NotRunning("none"),
            [make_status()],
            count=8,
        )
        down = ConnectionState.DEGRADED.label
        self.assertEqual(lines[:5], [NOT_RUNNING.status_line, "Connected", down, down, "Quitting"])
        self.assertEqual(set(lines[5:7]), {NOT_RUNNING.status_line})
        self.assertIn("Connected", lines[5:])

    def test_shows_an_unknown_response_and_goes_on(self) -> None:
        lines = self.status_lines(ValueError("of another version"), [make_status()], count=2)
        self.assertIn("of another version", lines[0])
        self.assertEqual(lines[1], "Connected")


class ActionTests(SynchronousTestCase):
    def notification_after_show(self, result: dict[str, Any]) -> tuple[str, str] | None:
        """Return the notification, if any, after a Show with this result."""

        class Daemon(FakeDaemon):
            def call(self, command: type[Any]) -> dict[str, Any]:
                return result

        notifications: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        actions = TrayActions(
            Path(),
            lambda title, text: notifications.put((title, text)),
            lambda: notifications.put(None),
            lambda: None,
            lambda _: cast(IpcClient, Daemon([])),
        )
        actions.show()
        actions.start_daemon()  # runs after the other
        return notifications.get(timeout=10)

    def test_does_not_notify_the_address_where_no_browser_opens(self) -> None:
        notification = self.notification_after_show(
            {"opened": False, "address": "https://c.example/#invite=secret"}
        )
        assert notification is not None
        self.assertNotIn("secret", " ".join(notification))
        self.assertIn("ctllm show", notification[1])

    def test_does_not_notify_where_a_browser_opens(self) -> None:
        self.assertIsNone(self.notification_after_show({"opened": True, "address": ""}))


class FakePystray:
    """What the indicator uses of pystray."""

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


class IndicatorTests(SynchronousTestCase):
    def test_stop_before_run_takes_effect(self) -> None:
        indicator = Indicator(FakePystray, "dark")
        indicator.stop()
        self.assertEqual(indicator.icon.stopped, 0)
        indicator.run()
        self.assertEqual((indicator.icon.visible, indicator.icon.stopped), (True, 1))

    def test_stop_while_it_runs(self) -> None:
        indicator = Indicator(FakePystray, "dark")
        indicator.run()
        self.assertEqual(indicator.icon.stopped, 0)
        indicator.stop()
        self.assertEqual(indicator.icon.stopped, 1)

"""The tray without a screen: views, notifications, icons, actions, and what it imports."""

from __future__ import annotations

import ast
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.trial.unittest import SynchronousTestCase

import ctllm_tray
import ctllm_tray.actions
from ctllm.errors import BadGateway, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import NOT_LOGGED_IN, ConnectionState, OllamaStatus, Status, Traffic
from ctllm.system.display import has_graphical_session
from ctllm_tray.actions import TrayActions
from ctllm_tray.desktop_environment import panel_theme
from ctllm_tray.icon_renderer import COLOURS, render_icon
from ctllm_tray.indicator import Indicator
from ctllm_tray.login_dialog import choose_provider
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
            self.assertEqual(view.has_page, view.is_logged_in)

    def test_without_a_login_there_is_the_page_of_this_machine(self) -> None:
        for endpoint, has_page in (("http://127.0.0.1:11435", True), ("/run/s", False)):
            status = make_status(
                ConnectionState.LOGGED_OUT,
                authentication_state="unauthenticated",
                endpoint=endpoint,
            )
            self.assertEqual(view_from_status(status).has_page, has_page)

    def test_without_a_daemon_nothing_runs(self) -> None:
        self.assertFalse(NOT_RUNNING.is_running or STARTING.is_running)
        self.assertTrue(view_from_status(make_status()).is_running)

    def test_shows_why_a_login_has_ended(self) -> None:
        ended = make_status(ConnectionState.LOGGED_OUT, reason="The provider refused the login.")
        self.assertEqual(
            view_from_status(ended).status_line, "Not logged in: The provider refused the login."
        )
        none = make_status(ConnectionState.LOGGED_OUT, reason=NOT_LOGGED_IN)
        self.assertEqual(view_from_status(none).status_line, "Not logged in")

    def test_truncates_a_long_reason(self) -> None:
        view = view_from_status(make_status(ConnectionState.ERROR, reason="x" * 500))
        self.assertTrue(view.status_line.endswith("x…"))
        self.assertLess(len(view.title), 2 * MAX_TEXT_LENGTH)

    def test_truncates_the_list_of_models(self) -> None:
        loaded = tuple(f"m{number}" for number in range(MAX_MODELS + 3))
        view = view_from_status(make_status(ollama=OllamaStatus("u", "up", "1", loaded, loaded)))
        self.assertEqual((len(view.loaded_models), view.more_models), (MAX_MODELS, 3))

    def test_the_tooltip_counts_the_responses_for_the_page(self) -> None:
        titles = [
            view_from_status(
                make_status(traffic=Traffic(0, 0, 0, 0, 0, 0, 0, 0, running_generations=running))
            ).title
            for running in range(3)
        ]
        idle = "CloudToLocalLLM: Connected"
        self.assertEqual(
            titles, [idle, f"{idle}, 1 response in progress", f"{idle}, 2 responses in progress"]
        )


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
        for path in ROOT.rglob("*.py"):
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


class LoginActionTests(SynchronousTestCase):
    """The menu's "Log in …"."""

    def setUp(self) -> None:
        self.entered: str | None = "https://cloud.example"
        self.chosen: str | None = "acme"
        self.responses: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.patch(ctllm_tray.actions, "ask_for_cloud", lambda: self.entered)
        self.patch(ctllm_tray.actions, "choose_provider", self.choose)

    def choose(self, names: Sequence[str]) -> str | None:
        self.calls.append(("choose", {"names": list(names)}))
        return self.chosen

    def log_in(self, notifications: int) -> list[tuple[str, str]]:
        """Return the first notifications after the click."""
        case = self

        class Daemon(FakeDaemon):
            def call(self, command: type[Any], **fields: Any) -> dict[str, Any]:
                case.calls.append((command.__name__, fields))
                return case.responses.pop(0)

        actions = TrayActions(
            Path(),
            lambda title, text: self.said.put((title, text)),
            lambda: self.said.put(("started", "")),
            lambda: None,
            lambda _: cast(IpcClient, Daemon([None, *self.events])),
        )
        actions.log_in()
        actions.start_daemon()  # runs after the other, without waiting for the login's end
        found = [self.said.get(timeout=10) for _ in range(notifications + 1)]
        return [each for each in found if each[0] != "started"]

    def test_an_invite_link_logs_in_at_once(self) -> None:
        self.entered = "https://cloud.example/#invite=x"
        self.responses = [{}]
        self.assertEqual(self.log_in(0), [])
        self.assertEqual(self.calls, [("Login", {"link": self.entered})])

    def test_an_address_begins_a_login_and_shows_the_code(self) -> None:
        self.responses = [
            {"state": "code", "code": "ABCD", "link": "https://l.example", "opened": True}
        ]
        self.events = [("status", {}), ("login", {"cloud_url": "c", "error": "It was denied."})]
        said = self.log_in(2)
        self.assertIn("ABCD", said[0][0])
        self.assertIn(("Login failed", "It was denied."), said)
        self.assertEqual(self.calls, [("BeginLogin", {"cloud_url": self.entered})])

    def test_a_link_that_is_not_open_is_shown(self) -> None:
        begun = {"state": "code", "code": "ABCD", "link": "https://l.example", "opened": False}
        self.responses = [begun]
        [(_, text)] = self.log_in(1)
        self.assertIn("https://l.example", text)

    def test_the_link_of_a_browsers_login_is_not_notified(self) -> None:
        """It is of use on this machine only, and notifications are kept in lists and logs."""
        self.responses = [
            {"state": "browser", "link": "https://l.example?state=secret", "opened": False}
        ]
        [(_, text)] = self.log_in(1)
        self.assertNotIn("secret", text)
        self.assertIn("ctllm login https://cloud.example", text)

    def test_several_providers_are_offered(self) -> None:
        providers = [{"name": "acme", "title": "Acme"}, {"name": "other", "title": "O"}]
        self.responses = [
            {"state": "choose", "providers": providers},
            {"state": "browser", "link": "https://l.example", "opened": True},
        ]
        self.assertEqual(self.log_in(0), [])
        self.assertEqual(self.calls[1], ("choose", {"names": ["acme", "other"]}))
        self.assertEqual(
            self.calls[2], ("BeginLogin", {"cloud_url": self.entered, "provider": "acme"})
        )

    def test_without_a_dialog_the_command_is_named(self) -> None:
        self.responses = [{"state": "choose", "providers": []}]
        self.chosen = None
        self.assertIn("--provider", self.log_in(1)[0][1])
        self.entered = None
        self.assertIn("ctllm login", self.log_in(1)[0][1])

    def test_a_cancelled_dialog_does_nothing(self) -> None:
        self.entered = ""
        self.assertEqual((self.log_in(0), self.calls), ([], []))


class LoginDialogTests(SynchronousTestCase):
    def run_dialog(self, program: str, printed: str) -> tuple[list[str], str | None]:
        """Return the command that chooses one of two names, and the result."""
        ran: list[list[str]] = []

        def run(command: list[str], **_: Any) -> Any:
            ran.append(command)
            return subprocess.CompletedProcess(command, 0, printed)

        self.patch(shutil, "which", lambda name: name if name == program else None)
        self.patch(subprocess, "run", run)
        result = choose_provider(["--evil", "acme"], "linux")
        return (ran[0] if ran else []), result

    def test_names_are_never_options(self) -> None:
        for program in ("zenity", "kdialog", "yad"):
            command, chosen = self.run_dialog(program, "acme\n")
            self.assertEqual(chosen, "acme")
            self.assertLess(command.index("--"), command.index("--evil"))

    def test_anything_but_a_name_is_no_choice(self) -> None:
        self.assertEqual(self.run_dialog("zenity", "")[1], "")
        self.assertEqual(self.run_dialog("zenity", "other\n")[1], "")
        self.assertIsNone(self.run_dialog("none", "")[1])


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
            self.stopped = self.menu_updates = 0
            self.title = ""

        def update_menu(self) -> None:
            self.menu_updates += 1

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

    def test_the_menu_is_not_updated_for_a_number_that_it_does_not_show(self) -> None:
        """An open menu stays as it is while responses begin and end."""
        indicator = Indicator(FakePystray, "dark")
        idle = View(Icon.CONNECTED, "Connected")
        for view in (idle, replace(idle, running_generations=1), idle):
            indicator.show_view(view)
            self.assertEqual(indicator.icon.title, view.title)
        self.assertEqual(indicator.icon.menu_updates, 1)

"""Smaller parts of the daemon: the page in the browser, the log that is asked for, leaving."""

from __future__ import annotations

import html
import re
import stat
import threading
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ctllm.cli.status_view import Style, format_status
from ctllm.cloud.identity import Authentication, LoginCodes, User
from ctllm.cloud.identity.login_codes import LIFETIME, MAX_PER_USER
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.desktop.ipc import browser as page_module
from ctllm.desktop.ipc.browser import BROWSER_TIMEOUT, FILE_LIFETIME, ChatPage, has_display
from ctllm.desktop.ipc.log_buffer import MAX_LINES as MOST_LINES
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.webview_process import START_TIMEOUT as WINDOW_PATIENCE
from ctllm.desktop.ipc.webview_process import WebviewWindow as PageWindow
from ctllm.errors import NoWindow
from ctllm.ipc.messages import DesktopStatus, OllamaStatus
from tests.unit.test_tray import status

ANN = Authentication(User("ctllm", "ann", "ann"), 900.0, "parent")
BOB = Authentication(User("ctllm", "bob", "bob"), 900.0)


class Threads(Clock):
    """A clock that takes calls from threads."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        reactor.callFromThread(call, *arguments)


class Session:
    def client(self) -> Any:
        return self

    url = "https://c.example"

    async def access_token(self) -> str:
        return "token"

    async def create_login_code(self, token: str) -> str:
        return "s3cret"


class Window:
    """The page's window; `works` says whether there can be one."""

    def __init__(self) -> None:
        self.works = self.is_open = False
        self.told: list[str] = []

    def show(self) -> None:
        self.told.append("show")

    async def open(self, address: str) -> bool:
        self.told.append(address)
        return self.works


class Browsers(TestCase):
    """How a browser is started."""

    def started(self, code: int, **environ: str) -> tuple[list[Any], list[str]]:
        ran: list[Any] = []
        opened: list[str] = []

        def run(words: Any, **_: Any) -> Any:
            ran.append(words)
            return SimpleNamespace(returncode=code)

        self.patch(page_module.subprocess, "run", run)
        self.patch(page_module.webbrowser, "open", lambda url: opened.append(url) or True)
        self.patch(page_module.shutil, "which", lambda name: f"/usr/bin/{name}")
        self.assertTrue(page_module.open_in_browser("file:///x", environ))
        return ran, opened

    def test_by_hand(self) -> None:
        self.assertEqual(self.started(0), ([], ["file:///x"]))

    def test_under_systemd(self) -> None:
        """The unit's rights are too few for a browser: it becomes a unit of its own."""
        ran, opened = self.started(0, INVOCATION_ID="x")
        self.assertEqual(opened, [])
        runner = ["/usr/bin/systemd-run", "--user", "--quiet", "--collect", "--"]
        self.assertEqual(ran, [[*runner, "/usr/bin/xdg-open", "file:///x"]])
        ran, _ = self.started(0, INVOCATION_ID="x", BROWSER="firefox")
        self.assertEqual(ran, [[*runner, "firefox", "file:///x"]])

    def test_under_systemd_without_its_bus(self) -> None:
        self.assertEqual(self.started(1, INVOCATION_ID="x")[1], ["file:///x"])


class Pages(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.clock = Threads()
        self.state = Path(self.mktemp())
        self.opened: list[str] = []
        self.seen = threading.Event()
        self.works = True
        self.display = True
        self.window: Any = Window()

    def page(self, browse: Any = None) -> ChatPage:
        session: Any = Session()
        made = ChatPage(
            session,
            self.clock,
            self.state,
            lambda: self.display,
            self.window,
            browse or self.browse,
        )
        self.addCleanup(made.stopService)
        return made

    def browse(self, address: str) -> bool:
        self.opened.append(address)
        return self.works

    @property
    def file(self) -> Path:
        return self.state / "desktop" / "open.html"

    async def test_opened(self) -> None:
        """By a file that nobody else can read, and that does not stay."""
        told = await self.page().open("settings")
        self.assertEqual((told.opened, told.address), (True, ""))
        self.assertEqual(self.opened, [self.file.absolute().as_uri()])
        (link,) = re.findall(r'url=([^"]*)"', self.file.read_text())
        self.assertEqual(html.unescape(link), "https://c.example/#invite=s3cret&view=settings")
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.clock.advance(FILE_LIFETIME)
        self.assertFalse(self.file.exists())

    async def test_again(self) -> None:
        """The file stays for the last who asked."""
        page = self.page()
        await page.open()
        self.clock.advance(FILE_LIFETIME - 1)
        await page.open()
        self.clock.advance(FILE_LIFETIME - 1)
        self.assertTrue(self.file.exists())

    async def test_in_a_window(self) -> None:
        """Where there can be one; one that is there is only raised, but for the settings."""
        self.window.works = True
        told = await self.page().open()
        self.assertEqual((told.opened, told.window, self.opened), (True, True, []))
        self.window.is_open = True
        await self.page().open()
        await self.page().open("settings")
        link = "https://c.example/#invite=s3cret"
        self.assertEqual(self.window.told, [link, "show", f"{link}&view=settings"])

    async def test_no_display(self) -> None:
        self.display = False
        told = await self.page().open()
        self.assertEqual((told.opened, told.address), (False, "https://c.example/#invite=s3cret"))
        self.assertEqual((self.opened, self.file.exists()), ([], False))

    async def test_no_browser(self) -> None:
        self.works = False
        self.assertFalse((await self.page().open()).opened)

        def breaks(address: str) -> bool:
            raise OSError("no such program")

        self.assertFalse((await self.page(breaks).open()).opened)

    async def test_a_browser_that_stays_in_front(self) -> None:
        """It counts as opened after a while; it is not waited for."""
        over = threading.Event()
        opening = Deferred.fromCoroutine(self.page(lambda _: over.wait(10)).open())
        self.assertFalse(opening.called)
        self.clock.advance(BROWSER_TIMEOUT)
        self.assertTrue((await opening).opened)
        over.set()

    def test_displays(self) -> None:
        self.assertFalse(has_display({}, "linux"))
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            self.assertTrue(has_display({name: "x"}, "linux"))
        self.assertTrue(has_display({}, "darwin"))


class PassTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.passes = LoginCodes(lambda: self.now)

    def test_once(self) -> None:
        secret = self.passes.create(ANN)
        self.assertIsNone(self.passes.redeem(secret + "x"))
        self.assertEqual(self.passes.redeem(secret), ANN)
        self.assertIsNone(self.passes.redeem(secret))

    def test_for_a_while(self) -> None:
        secret, late = self.passes.create(ANN), self.passes.create(ANN)
        self.now += LIFETIME - 1
        self.assertEqual(self.passes.redeem(secret), ANN)
        self.now += 1
        self.assertIsNone(self.passes.redeem(late))

    def test_a_few(self) -> None:
        """The oldest of one's own gives way; what is over takes no room."""
        of_bob = self.passes.create(BOB)
        secrets = [self.passes.create(ANN) for _ in range(MAX_PER_USER + 2)]
        self.assertEqual(self.passes.redeem(of_bob), BOB)
        good = [secret for secret in secrets if self.passes.redeem(secret)]
        self.assertEqual(good, secrets[2:])
        for _ in range(100):
            self.passes.create(ANN)
            self.passes.create(BOB)
        self.assertEqual(len(self.passes._codes), 2 * MAX_PER_USER)
        self.now += LIFETIME
        self.passes.create(ANN)
        self.assertEqual(len(self.passes._codes), 1)


class Logs(SynchronousTestCase):
    def test_the_last_lines(self) -> None:
        recent, seen = LogBuffer(), []
        recent.on_line = seen.append
        log = Logger(observer=recent)
        for number in range(MOST_LINES + 10):
            log.info("line {number}", number=number)
        log.info("two\nlines, the second {long}", long="x" * 10_000)
        self.assertEqual(len(recent.last(5000)), MOST_LINES)
        self.assertEqual(len(recent.last(3)), 3)
        self.assertEqual(recent.last(0), [])
        self.assertIn("two", recent.last(2)[0])
        self.assertLessEqual(len(recent.last(1)[0]), 2000)
        self.assertEqual(seen[-1], recent.last(1)[0])


class Broker:
    def __init__(self) -> None:
        self.aborted = 0

    def abort_requests(self, error: Any) -> None:
        self.aborted += 1


class LeavingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.under_way, self.stops = Clock(), 2, 0
        self.broker: Any = Broker()
        self.leaving = GracefulShutdown(self.clock, self.broker, lambda: self.under_way, self.stop)

    def stop(self) -> None:
        self.stops += 1
        self.leaving.stopService()

    def test_when_all_is_done(self) -> None:
        self.assertEqual(self.leaving.begin(10), 2)
        self.clock.pump([0.1] * 30)
        self.assertEqual(self.stops, 0)
        self.under_way = 0
        self.clock.pump([0.1] * 30)
        self.assertEqual((self.stops, self.broker.aborted), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_longer_than_that(self) -> None:
        self.leaving.begin(10)
        self.clock.pump([0.1] * 99)
        self.assertEqual(self.stops, 0)
        self.clock.pump([0.1] * 5)
        self.assertEqual(self.stops, 1)

    def test_asked_again(self) -> None:
        """The last word counts."""
        self.leaving.begin(1000)
        self.leaving.begin(1)
        self.clock.pump([0.1] * 12)
        self.assertEqual(self.stops, 1)

    def test_the_answer_leaves_first(self) -> None:
        self.under_way = 0
        self.leaving.begin(0)
        self.assertEqual(self.stops, 0)


class Terminal(StringIO):
    encoding = "utf-8"  # type: ignore[assignment]
    tty = True

    def isatty(self) -> bool:
        return self.tty


class Screens(SynchronousTestCase):
    def test_marks_and_colours(self) -> None:
        """Colours only on a terminal that wants them, marks only where they can be written."""
        out = Terminal()
        self.assertIn("\x1b[32m● connected\x1b[0m", format_status(status(), Style(out, {})))
        self.assertNotIn("\x1b", format_status(status(), Style(out, {"NO_COLOR": "1"})))
        self.assertNotIn("\x1b", format_status(status(), Style(out, {"TERM": "dumb"})))
        out.tty = False
        self.assertTrue(format_status(status(), Style(out, {})).startswith("● connected\n"))
        out.encoding = "ascii"
        self.assertTrue(format_status(status(), Style(out, {})).startswith("connected\n"))

    def test_each_state(self) -> None:
        plain = Style(Terminal(), {"NO_COLOR": "1"})
        first = {format_status(status(state, reason="why"), plain).splitlines()[0] for state in
                 ("connected", "connecting", "signed_out", "degraded", "error")}  # fmt: skip
        self.assertEqual(len({line[0] for line in first}), 5)
        self.assertTrue(all(line.endswith(": why") for line in first))

    def test_nothing_that_a_terminal_obeys(self) -> None:
        """Whatever a cloud or another desktop calls itself."""
        evil = "\x1b]0;evil\x07\x9b31m"
        desktop = DesktopStatus("a", f"attic{evil}", "up", (), False)
        told = status("error", reason=evil, desktops=(desktop,), user=evil, last_error=evil)
        shown = format_status(told, Style(Terminal(), {"NO_COLOR": "1"}))
        self.assertTrue(all(each.isprintable() for each in shown.replace("\n", "")))
        self.assertIn("attic", shown)

    def test_the_rest(self) -> None:
        models = tuple(f"model-{number}" for number in range(9))
        shown = format_status(
            status(
                ollama=OllamaStatus("http://x", "down", "", models, ("model-1",)),
                desktops=(
                    DesktopStatus("a", "attic", "up", (), True),
                    DesktopStatus("b", "cellar", "down", (), False),
                ),
                last_error="it broke", policy="never", endpoint="",
            ),
            Style(Terminal(), {"NO_COLOR": "1"}),
        )  # fmt: skip
        for words in (
            "none answers at http://x", "model-5 and 3 more", "In memory   model-1",
            "the endpoint is off", "never cloud", "attic (this one)",
            "              cellar: its Ollama is down", "Last error  it broke",
        ):  # fmt: skip
            self.assertIn(words, shown)
        self.assertIn("Signed in   no", format_status(status(cloud_url=""), Style(Terminal(), {})))


class Process:
    """What the window's protocol has of its process."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data.decode().strip())

    def loseConnection(self) -> None:
        self.told.append("end of input")

    def signalProcess(self, name: str) -> None:
        self.told.append(name)


class Spawner(Clock):
    """A reactor that starts processes only for show."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[Any, list[str]]] = []

    def spawnProcess(self, protocol: Any, program: str, argv: list[str], env: Any) -> None:
        self.started.append((protocol, argv))
        protocol.transport = Process()


class Windows(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Spawner()
        self.window = PageWindow(self.reactor, ["python", "-m", "window"], {})

    def open(self, address: str = "https://c.example/#x") -> Deferred[bool]:
        return Deferred.fromCoroutine(self.window.open(address))

    @property
    def child(self) -> Any:
        return self.reactor.started[-1][0]

    def test_opened(self) -> None:
        """The address goes in by the input, not by the arguments."""
        opening = self.open()
        self.assertEqual(self.reactor.started[0][1], ["python", "-m", "window"])
        self.assertEqual(self.child.transport.told, ["open https://c.example/#x"])
        self.assertNoResult(opening)
        self.child.outReceived(b"rea")
        self.child.outReceived(b"dy\n")
        self.assertTrue(self.successResultOf(opening))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_told(self) -> None:
        opening = self.open()
        self.child.outReceived(b"ready\n")
        self.successResultOf(opening)
        self.window.hide()
        self.window.show()
        self.assertTrue(self.successResultOf(self.open("other")))
        self.assertEqual(self.child.transport.told[1:], ["hide", "show", "open other"])
        self.assertEqual(len(self.reactor.started), 1)

    def test_closed(self) -> None:
        """There is none to hide, and the next one is another."""
        opening = self.open()
        self.child.outReceived(b"ready\n")
        self.child.processExited(Failure(ProcessDone(0)))
        self.successResultOf(opening)
        self.assertRaises(NoWindow, self.window.hide)
        self.open()
        self.assertEqual(len(self.reactor.started), 2)

    def test_never_there(self) -> None:
        """A library that lacks something, or a screen that is not one: then it is the browser."""
        opening = self.open()
        self.child.errReceived(b"no GTK")
        self.child.processExited(Failure(ProcessTerminated(1)))
        self.assertFalse(self.successResultOf(opening))
        opening = self.open()
        self.reactor.advance(WINDOW_PATIENCE)
        self.assertFalse(self.successResultOf(opening))
        self.assertEqual(self.child.transport.told[1:], ["end of input", "TERM"])

    def test_none(self) -> None:
        window = PageWindow(self.reactor, None, {})
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(window.open("x"))))
        self.assertRaises(NoWindow, window.hide)

    def test_it_goes_with_the_daemon(self) -> None:
        self.open()
        self.window.stopService()
        self.assertEqual(self.child.transport.told[-1], "TERM")

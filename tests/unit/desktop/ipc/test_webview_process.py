"""`ctllm.desktop.ipc.webview_process`: the window of the chat page, a child process."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc.webview_process import START_TIMEOUT, WebviewWindow
from ctllm.errors import NoWindow


class FakeProcessTransport:
    """The transport of a process; records what is sent to the process."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data.decode().strip())

    def loseConnection(self) -> None:
        self.calls.append("end of input")

    def signalProcess(self, name: str) -> None:
        self.calls.append(name)


class FakeReactor(Clock):
    """A clock that records the processes that are started."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[Any, list[str]]] = []

    def spawnProcess(self, protocol: Any, program: str, argv: list[str], /, *, env: Any) -> None:
        self.started.append((protocol, argv))
        protocol.transport = FakeProcessTransport()


class WebviewWindowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.window = WebviewWindow(self.reactor, ["python", "-m", "window"], {})

    def open(self, address: str = "https://c.example/#x") -> Deferred[bool]:
        return Deferred.fromCoroutine(self.window.open(address))

    @property
    def child(self) -> Any:
        return self.reactor.started[-1][0]

    def test_url_is_sent_by_standard_input(self) -> None:
        opening = self.open()
        self.assertEqual(self.reactor.started[0][1], ["python", "-m", "window"])
        self.assertEqual(self.child.transport.calls, ["open https://c.example/#x"])
        self.assertNoResult(opening)
        self.child.outReceived(b"rea")
        self.child.outReceived(b"dy\n")
        self.assertTrue(self.successResultOf(opening))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_open_window_is_controlled_by_lines(self) -> None:
        opening = self.open()
        self.child.outReceived(b"ready\n")
        self.successResultOf(opening)
        self.window.hide()
        self.window.show()
        self.assertTrue(self.successResultOf(self.open("other")))
        self.assertEqual(self.child.transport.calls[1:], ["hide", "show", "open other"])
        self.assertEqual(len(self.reactor.started), 1)

    def test_closed_window_is_replaced_by_a_new_one(self) -> None:
        opening = self.open()
        self.child.outReceived(b"ready\n")
        self.child.processExited(Failure(ProcessDone(0)))
        self.successResultOf(opening)
        self.assertRaises(NoWindow, self.window.hide)
        self.open()
        self.assertEqual(len(self.reactor.started), 2)

    def test_open_fails_when_no_window_appears(self) -> None:
        opening = self.open()
        self.child.errReceived(b"no GTK")
        self.child.processExited(Failure(ProcessTerminated(1)))
        self.assertFalse(self.successResultOf(opening))
        opening = self.open()
        self.reactor.advance(START_TIMEOUT)
        self.assertFalse(self.successResultOf(opening))
        self.assertEqual(self.child.transport.calls[1:], ["end of input", "TERM"])

    def test_without_a_command_there_is_no_window(self) -> None:
        window = WebviewWindow(self.reactor, None, {})
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(window.open("x"))))
        self.assertRaises(NoWindow, window.hide)

    def test_stopping_the_service_terminates_the_process(self) -> None:
        self.open()
        self.window.stopService()
        self.assertEqual(self.child.transport.calls[-1], "TERM")

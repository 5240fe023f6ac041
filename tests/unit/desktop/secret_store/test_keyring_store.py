"""The keyring behind a process: its deadline, its errors, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.secret_store.keyring_process import MAX_RESPONSE
from ctllm.desktop.secret_store.keyring_store import DEADLINE, PROMPT_DEADLINE, KeyringStore
from ctllm.errors import SecretStoreUnavailable

T = TypeVar("T")

BUS = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/bus"}


class FakeTransport:
    """The transport of a process that the test plays."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.written = b""
        self.signals: list[str] = []
        self.has_ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    def loseConnection(self) -> None:
        pass

    def signalProcess(self, name: str) -> None:
        if self.has_ended:
            raise ProcessExitedAlready
        self.signals.append(name)

    def respond(self, response: bytes) -> None:
        """The process writes this in two pieces, and ends."""
        self.protocol.outReceived(response[:3])
        self.protocol.outReceived(response[3:])
        self.end()

    def end(self) -> None:
        self.has_ended = True
        self.protocol.processExited(Failure(ProcessDone(0)))
        self.protocol.processEnded(Failure(ProcessDone(0)))


class FakeReactor(Clock):
    """A clock that starts processes."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[list[str], dict[str, str]]] = []
        self.transport: FakeTransport
        self.error: OSError | None = None

    def spawnProcess(
        self, protocol: Any, program: str, argv: list[str], /, *, env: dict[str, str]
    ) -> object:
        if self.error is not None:
            raise self.error
        self.started.append((argv, env))
        self.transport = protocol.transport = FakeTransport(protocol)
        protocol.connectionMade()
        return self.transport


class KeyringStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.store = KeyringStore(self.reactor, ["ask", "-P"], BUS, "linux")

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(coroutine)

    def refused(self, deferred: Deferred[Any]) -> str:
        return str(self.failureResultOf(deferred, SecretStoreUnavailable).value)

    def test_the_secret_is_written_to_the_process_and_nowhere_else(self) -> None:
        storing = self.begin(self.store.set("a", "hunter2"))
        transport = self.reactor.transport
        sent = {"operation": "set", "name": "a", "secret": "hunter2", "may_prompt": False}
        self.assertEqual(json.loads(transport.written), sent)
        self.assertTrue(transport.written.endswith(b"\n"))
        self.assertEqual(self.reactor.started, [(["ask", "-P"], BUS)])
        self.assertNoResult(storing)
        transport.respond(b"{}\n")
        self.successResultOf(storing)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_returns_the_secret_or_none(self) -> None:
        for response, secret in ((b'{"secret":"one"}\n', "one"), (b"{}\n", None)):
            reading = self.begin(self.store.get("a", may_prompt=True))
            self.assertTrue(json.loads(self.reactor.transport.written)["may_prompt"])
            self.reactor.transport.respond(response)
            self.assertEqual(self.successResultOf(reading), secret)

    def test_a_process_that_hangs_is_killed_at_the_deadline_and_the_keyring_is_locked(self) -> None:
        for may_prompt, deadline in ((False, DEADLINE), (True, PROMPT_DEADLINE)):
            reading = self.begin(self.store.get("a", may_prompt=may_prompt))
            self.reactor.advance(deadline - 1)
            self.assertNoResult(reading)
            self.reactor.advance(1)
            self.assertIn("locked", self.refused(reading))
            self.assertEqual(self.reactor.transport.signals, ["KILL"])
            self.reactor.transport.respond(b'{"secret":"late"}\n')  # nobody waits for it now

    def test_a_request_that_is_cancelled_kills_its_process(self) -> None:
        reading = self.begin(self.store.get("a"))
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertEqual(self.reactor.transport.signals, ["KILL"])
        self.reactor.transport.end()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_each_error_says_what_to_do(self) -> None:
        for error, words in (("locked", "Unlock"), ("absent", "session"), ("failed", "Restart")):
            checking = self.begin(self.store.check())
            self.reactor.transport.respond(
                json.dumps({"error": error, "detail": "Detail"}).encode() + b"\n"
            )
            message = self.refused(checking)
            self.assertIn(words, message)
            self.assertIn("Detail", message)

    def test_what_is_no_response_is_a_failure_that_quotes_nothing(self) -> None:
        for output in (b"", b"hunter2\n", b'{"secret": ["hunter2"]}', b'{"error": "hunter2"}'):
            reading = self.begin(self.store.get("a"))
            self.reactor.transport.protocol.errReceived(b"Traceback: hunter2")
            self.reactor.transport.respond(output)
            self.assertNotIn("hunter2", self.refused(reading))

    def test_a_response_without_an_end_is_cut_off(self) -> None:
        reading = self.begin(self.store.get("a"))
        self.reactor.transport.protocol.outReceived(b"x" * (MAX_RESPONSE + 1))
        self.assertIn("too long", self.refused(reading))
        self.assertEqual(self.reactor.transport.signals, ["KILL"])

    def test_a_process_that_cannot_be_started_is_a_failure(self) -> None:
        self.reactor.error = OSError(2, "No such file")
        self.assertIn("No such file", self.refused(self.begin(self.store.check())))

    def test_without_a_session_bus_no_process_is_started(self) -> None:
        store = KeyringStore(self.reactor, ["ask"], {}, "linux")
        self.assertIn("D-Bus", self.refused(self.begin(store.check())))
        self.assertEqual(self.reactor.started, [])
        asking = self.begin(KeyringStore(self.reactor, ["ask"], {}, "darwin").check())
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(len(self.reactor.started), 1)

    def test_the_description_names_the_keyring_of_the_system(self) -> None:
        found = [
            KeyringStore(self.reactor, [], {}, platform).description
            for platform in ("linux", "darwin", "win32")
        ]
        for description, words in zip(found, ("Secret Service", "Keychain", "Locker"), strict=True):
            self.assertIn(words, description)

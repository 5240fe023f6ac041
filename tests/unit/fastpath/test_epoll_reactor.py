"""The event loop without log contexts does what Twisted's does, and Twisted's is the fallback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import skipUnless

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from twisted.python.runtime import platform
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath import epoll_reactor
from ctllm.fastpath.epoll_reactor import MonotonicReactor
from ctllm.tap import installed_reactor

if TYPE_CHECKING:
    Base = SynchronousTestCase
else:
    Base = object


class ClosableReactor(MonotonicReactor):
    """A reactor that is never run, whose epoll descriptor is closed after the test."""

    def close(self) -> None:
        self._poller.close()


class Reader(FileDescriptor):
    """One end of a socket pair; `on_read` is called after each read."""

    def __init__(self, reactor: Any, on_read: Callable[[], object]) -> None:
        super().__init__(reactor)
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.on_read = on_read
        self.read = b""
        self.lost: list[Failure] = []
        self.startReading()

    def fileno(self) -> int:
        return self.near.fileno()

    def doRead(self) -> object:
        self.read += self.near.recv(100)
        return self.on_read()

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)
        super().connectionLost(reason)
        raise RuntimeError("a protocol that fails")

    def close(self) -> None:
        self.stopReading()
        self.near.close()
        self.far.close()


class EventLoopTestsMixin(Base):
    """The same tests for both loops."""

    def setUp(self) -> None:
        self.reactor = self.make_reactor()
        self.addCleanup(self.reactor.close)

    def make_reactor(self) -> Any:
        return ClosableReactor()

    def reader(self, on_read: Callable[[], object]) -> Reader:
        reader = Reader(self.reactor, on_read)
        self.addCleanup(reader.close)
        reader.far.send(b"x")
        return reader

    def test_timers_ignore_changes_of_the_time_of_day(self) -> None:
        now = time.monotonic()
        self.patch(time, "monotonic", lambda: now)
        called: list[int] = []
        self.reactor.callLater(5, called.append, 1)
        for epoch in (1e9, 0, 2e9):
            self.patch(time, "time", lambda epoch=epoch: epoch)
            self.reactor.runUntilCurrent()
        self.assertEqual(called, [])
        now += 5
        self.reactor.runUntilCurrent()
        self.assertEqual(called, [1])

    def test_reads_every_socket_that_has_data(self) -> None:
        readers = [self.reader(lambda: None) for _ in range(3)]
        self.reactor.doIteration(0)
        readers[0].far.send(b"y")
        self.reactor.doIteration(0)
        self.assertEqual([reader.read for reader in readers], [b"xy", b"x", b"x"])

    def test_a_socket_that_fails_is_closed_alone(self) -> None:
        def fail() -> None:
            raise ValueError("reading failed")

        for on_read in (fail, lambda: CONNECTION_LOST):
            bad, good = self.reader(on_read), self.reader(lambda: None)
            self.reactor.doIteration(0)
            self.reactor.doIteration(0)
            self.assertEqual((len(bad.lost), good.read), (1, b"x"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_ignores_events_of_a_socket_that_the_same_turn_closed(self) -> None:
        readers: list[Reader] = []

        def close_both() -> None:
            for reader in readers:
                reader.stopReading()

        readers += [self.reader(close_both), self.reader(close_both)]
        self.reactor.doIteration(0)
        self.assertEqual(sorted(reader.read for reader in readers), [b"", b"x"])

    def run_turn(self) -> None:
        """Run one turn of the main loop."""
        self.reactor.doIteration(0)
        self.reactor.runUntilCurrent()

    def test_calls_at_the_end_of_a_turn_come_after_all_its_sockets(self) -> None:
        readers: list[Reader] = []
        seen: list[list[bytes]] = []

        def schedule() -> None:
            self.reactor.call_at_end_of_turn(
                lambda: seen.append([reader.read for reader in readers])
            )

        readers += [self.reader(schedule), self.reader(lambda: None)]
        self.run_turn()
        self.assertEqual(seen, [[b"x", b"x"]])
        self.run_turn()
        self.assertEqual(len(seen), 1)

    def test_a_call_at_the_end_of_a_turn_may_schedule_another(self) -> None:
        called: list[int] = []

        def call() -> None:
            called.append(1)
            self.reactor.call_at_end_of_turn(partial(called.append, 2))

        self.reactor.call_at_end_of_turn(call)
        self.run_turn()
        self.assertEqual(called, [1])
        self.run_turn()
        self.assertEqual(called, [1, 2])

    def test_a_call_at_the_end_of_a_turn_that_fails_leaves_the_others(self) -> None:
        def fail() -> None:
            raise ValueError("the call failed")

        called: list[int] = []
        self.reactor.call_at_end_of_turn(fail)
        self.reactor.call_at_end_of_turn(lambda: called.append(1))
        self.run_turn()
        self.assertEqual(called, [1])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class RecordingPoller:
    """An epoll object that has no events, and records how long it would have waited for one."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def poll(self, timeout: float, max_events: int) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        return []


@skipUnless(platform.isLinux(), "epoll is Linux's")
class FastLoopTests(EventLoopTestsMixin, SynchronousTestCase):
    """The loop by way of private attributes, which the installed Twisted has."""

    def test_is_used(self) -> None:
        self.assertTrue(self.reactor.is_fast)

    def test_waits_for_no_event_while_a_call_is_due(self) -> None:
        poller = RecordingPoller()
        self.patch(self.reactor, "_poller", poller)
        for schedules in (True, False):
            if schedules:  # as a timer does
                self.reactor.call_at_end_of_turn(lambda: None)
            self.reactor.doIteration(7)
        self.assertEqual(poller.timeouts, [0, 7])


@skipUnless(platform.isLinux(), "epoll is Linux's")
class FallbackLoopTests(EventLoopTestsMixin, SynchronousTestCase):
    """Twisted's own loop, as if a private attribute were missing."""

    def make_reactor(self) -> Any:
        reactor_class: Any = ClosableReactor
        return reactor_class(private_names=(*epoll_reactor.PRIVATE_NAMES, "_missing"))

    def test_is_used(self) -> None:
        self.assertFalse(self.reactor.is_fast)


class InstalledReactorTests(SynchronousTestCase):
    def test_keeps_the_reactor_that_was_installed_before(self) -> None:
        from twisted.internet import reactor

        before = dict(vars(reactor))
        self.assertIs(installed_reactor(), reactor)
        self.assertEqual(set(vars(reactor)), set(before))

"""The epoll loop without log contexts does what Twisted's does."""

from __future__ import annotations

import socket
import time
from unittest import skipUnless

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from twisted.python.runtime import platform
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.epoll_reactor import MonotonicReactor
from ctllm.tap import installed_reactor


class Reader(FileDescriptor):
    """One end of a pair; `reading` is what it does when there is something to read."""

    def __init__(self, reactor: object, reading: object) -> None:
        super().__init__(reactor)
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.fileno = self.near.fileno
        self.reading = reading
        self.read = b""
        self.lost: list[Failure] = []
        self.startReading()

    def doRead(self) -> object:
        self.read += self.near.recv(100)
        return self.reading()

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)
        super().connectionLost(reason)
        raise RuntimeError("a protocol that fails")

    def close(self) -> None:
        self.stopReading()
        self.near.close()
        self.far.close()


@skipUnless(platform.isLinux(), "epoll is Linux's")
class MonotonicReactorTests(SynchronousTestCase):
    """`MonotonicReactor`."""

    def setUp(self) -> None:
        self.reactor = MonotonicReactor()
        self.addCleanup(self.reactor._poller.close)

    def reader(self, reading: object) -> Reader:
        reader = Reader(self.reactor, reading)
        self.addCleanup(reader.close)
        reader.far.send(b"x")
        return reader

    def test_setting_the_time_of_day_moves_no_timer(self) -> None:
        """Timers are due by the monotonic clock."""
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

    def test_reads(self) -> None:
        """Whoever has something to read is called, and keeps being called."""
        readers = [self.reader(lambda: None) for _ in range(3)]
        self.reactor.doIteration(0)
        readers[0].far.send(b"y")
        self.reactor.doIteration(0)
        self.assertEqual([reader.read for reader in readers], [b"xy", b"x", b"x"])

    def test_who_fails_goes_alone(self) -> None:
        """A socket that fails, and fails again when told so, is logged; the others go on."""

        def fail() -> None:
            raise ValueError("reading failed")

        for reading in (fail, lambda: CONNECTION_LOST):
            bad, good = self.reader(reading), self.reader(lambda: None)
            self.reactor.doIteration(0)
            self.reactor.doIteration(0)
            self.assertEqual((len(bad.lost), good.read), (1, b"x"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_closed_by_another_in_the_same_turn(self) -> None:
        """An event that came before the socket was closed is nobody's."""
        readers: list[Reader] = []

        def close_both() -> None:
            for reader in readers:
                reader.stopReading()

        readers += [self.reader(close_both), self.reader(close_both)]
        self.reactor.doIteration(0)
        self.assertEqual(sorted(reader.read for reader in readers), [b"", b"x"])

    def test_another_reactor_stays(self) -> None:
        """One that was chosen before is the one that is used, and nothing of it is replaced."""
        from twisted.internet import reactor

        before = dict(vars(reactor))
        self.assertIs(installed_reactor(), reactor)
        self.assertEqual(set(vars(reactor)), set(before))

"""A proxy that met a MemoryError ends, wherever the exception was caught."""

from __future__ import annotations

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.proxy.exit_on_memory_error import ExitOnMemoryError
from ctllm.reactor.periodic import PeriodicCall
from tests.unit.fakes import MemoryTransport


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.exits = 0
        self.service = ExitOnMemoryError(self.exit)
        self.service.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.service.running:
            self.service.stopService()

    def exit(self) -> None:
        self.exits += 1

    def ended(self) -> None:
        self.assertGreater(self.exits, 0)
        self.flushLoggedErrors(MemoryError)

    def test_exits_on_an_error_in_an_application(self) -> None:
        async def app(incoming: ServerRequest) -> None:
            raise MemoryError

        server, wire = HttpServerFactory(app, Clock()).buildProtocol(None), MemoryTransport()
        wire.protocol = server
        server.makeConnection(wire)
        server.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.ended()

    def test_exits_on_an_error_in_a_periodic_call(self) -> None:
        def work() -> None:
            raise MemoryError

        clock = Clock()
        each = PeriodicCall(work, clock, "working")
        each.start(1.0)
        self.ended()
        each.stop()

    def test_exits_on_an_unhandled_error_in_a_deferred(self) -> None:
        fail(MemoryError())
        self.ended()

    def test_exits_on_an_unraisable_error(self) -> None:
        class Held:
            def __del__(self) -> None:
                raise MemoryError

        held = [Held()]
        held.clear()
        self.assertEqual(self.exits, 1)

    def test_ignores_other_errors(self) -> None:
        try:
            raise ValueError
        except ValueError:
            Logger().failure("something else")
        self.assertEqual((self.exits, len(self.flushLoggedErrors(ValueError))), (0, 1))

    def test_ignores_errors_when_stopped(self) -> None:
        self.service.stopService()
        try:
            raise MemoryError
        except MemoryError:
            Logger().failure("too late")
        self.assertEqual((self.exits, len(self.flushLoggedErrors(MemoryError))), (0, 1))

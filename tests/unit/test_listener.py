"""Listening, or stopping the start with a clear sentence."""

from __future__ import annotations

from unittest import mock

from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadConfiguration
from ctllm.http.server.endpoint_service import MAX_ACCEPTS_PER_TURN, EndpointService


class Busy(MemoryReactorClock):
    """A machine whose ports are all taken."""

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        raise CannotListenError(interface, port, OSError(98, "Address already in use"))


class ListenerTests(SynchronousTestCase):
    """On a reactor that only remembers."""

    def listener(
        self, reactor: object, endpoint: str = "tcp:80:interface=127.0.0.1"
    ) -> EndpointService:
        return EndpointService(reactor, endpoint, Factory(), "listen")

    def test_before_privileges_are_dropped(self) -> None:
        """A port below 1024 is taken while that is possible, and only once."""
        reactor = MemoryReactorClock()
        listener = self.listener(reactor)
        listener.privilegedStartService()
        self.assertEqual(reactor.tcpServers[0][0], 80)
        listener.startService()
        self.assertEqual(len(reactor.tcpServers), 1)

    def test_started_later(self) -> None:
        """One that is added to a running program listens too."""
        reactor = MemoryReactorClock()
        self.listener(reactor).startService()
        self.assertEqual(len(reactor.tcpServers), 1)

    def test_a_place_that_is_taken(self) -> None:
        """The start stops, and says what is where and which key chooses another place."""
        error = self.assertRaises(BadConfiguration, self.listener(Busy()).privilegedStartService)
        for part in ("tcp:80:interface=127.0.0.1", "Address already in use", "--listen"):
            self.assertIn(part, error.message)

    def test_a_place_that_makes_no_sense(self) -> None:
        """It is a wrong configuration, not a traceback."""
        for endpoint in ("nonsense", "tcp", "tcp:x", "nosuch:1", "", "tcp:1:nosuch=2"):
            listener = self.listener(MemoryReactorClock(), endpoint)
            self.assertRaises(BadConfiguration, listener.privilegedStartService)

    def test_few_are_let_in_at_once_and_nobody_for_a_while(self) -> None:
        """So that what those who are in say is read before there are more."""
        port = mock.Mock(numberAccepts=5000)
        accept, accepted = port.doRead, []
        accept.side_effect = lambda: accepted.append(port.numberAccepts)
        listener = self.listener(MemoryReactorClock())
        listener.pause_accepting(True)  # before there is a port
        listener._listens(port)
        port.doRead()
        self.assertEqual(accepted, [MAX_ACCEPTS_PER_TURN])
        listener.pause_accepting(True)
        port.stopReading.assert_called_once_with()
        listener.pause_accepting(False)
        port.startReading.assert_called_once_with()

    def test_stopped(self) -> None:
        """The port is given back; stopping what never listened is fine."""
        listener = self.listener(MemoryReactorClock())
        listener.stopService()
        listener.startService()
        listener.stopService()
        self.assertIsNone(listener.port)

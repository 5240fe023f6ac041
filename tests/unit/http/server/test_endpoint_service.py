"""`ctllm.http.server.endpoint_service`: listening, and stopping the start where that fails."""

from __future__ import annotations

from unittest import mock

from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadConfiguration
from ctllm.http.server.endpoint_service import MAX_ACCEPTS_PER_TURN, EndpointService


class BusyReactor(MemoryReactorClock):
    """A reactor whose ports are all in use."""

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        raise CannotListenError(interface, port, OSError(98, "Address already in use"))


class FakePort:
    """A port of Twisted, with what it does to accept connections."""

    def __init__(self) -> None:
        self.numberAccepts = 5000
        self.accepted: list[int] = []
        self.startReading = mock.Mock()
        self.stopReading = mock.Mock()

    def doRead(self) -> None:
        self.accepted.append(self.numberAccepts)


class PortReactor(MemoryReactorClock):
    """A reactor whose listenTCP returns `port`."""

    def __init__(self, port: FakePort) -> None:
        super().__init__()
        self.port = port

    def listenTCP(
        self, port: int, factory: object, backlog: int = 50, interface: str = ""
    ) -> FakePort:
        return self.port


def make_service(reactor: object, endpoint: str = "tcp:80:interface=127.0.0.1") -> EndpointService:
    """A service that listens at `endpoint`, and has not started."""
    return EndpointService(reactor, endpoint, Factory(), "listen")


class EndpointServiceTests(SynchronousTestCase):
    def test_listens_once_and_before_privileges_are_dropped(self) -> None:
        reactor = MemoryReactorClock()
        service = make_service(reactor)
        service.privilegedStartService()
        self.assertEqual(reactor.tcpServers[0][0], 80)
        service.startService()
        self.assertEqual(len(reactor.tcpServers), 1)

    def test_listens_when_added_to_a_running_program(self) -> None:
        reactor = MemoryReactorClock()
        make_service(reactor).startService()
        self.assertEqual(len(reactor.tcpServers), 1)

    def test_endpoint_in_use_stops_the_start_and_names_the_option(self) -> None:
        service = make_service(BusyReactor())
        error = self.assertRaises(BadConfiguration, service.privilegedStartService)
        for part in ("tcp:80:interface=127.0.0.1", "Address already in use", "--listen"):
            self.assertIn(part, error.message)

    def test_invalid_endpoint_is_a_bad_configuration(self) -> None:
        for endpoint in ("nonsense", "tcp", "tcp:x", "nosuch:1", "", "tcp:1:nosuch=2"):
            service = make_service(MemoryReactorClock(), endpoint)
            self.assertRaises(BadConfiguration, service.privilegedStartService)

    def test_accepts_few_connections_in_one_turn(self) -> None:
        port = FakePort()
        make_service(PortReactor(port)).startService()
        port.doRead()
        self.assertEqual(port.accepted, [MAX_ACCEPTS_PER_TURN])

    def test_pauses_accepting(self) -> None:
        port = FakePort()
        service = make_service(PortReactor(port))
        service.pause_accepting(True)  # before there is a port
        service.startService()
        service.pause_accepting(True)
        port.stopReading.assert_called_once_with()
        port.startReading.assert_not_called()
        service.pause_accepting(False)
        port.startReading.assert_called_once_with()

    def test_stops_listening(self) -> None:
        service = make_service(MemoryReactorClock())
        service.stopService()
        self.assertIsNone(service.port)
        service.startService()
        self.assertIsNotNone(service.port)
        service.stopService()
        self.assertIsNone(service.port)

"""Writes that reach the socket in the same turn, where that is possible."""

from __future__ import annotations

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.direct_write import write_now


class FakeSocket:
    """Takes `room` bytes of each send, or raises `error`."""

    def __init__(self, room: int, error: type[OSError] | None = None) -> None:
        self.room, self.error, self.sent = room, error, b""

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.sent += data[: self.room]
        return min(len(data), self.room)


class SocketTransport:
    """Twisted's transport of a socket, as far as `write_now` uses it."""

    def __init__(self, socket: FakeSocket) -> None:
        self.socket = socket
        self._tempDataBuffer: list[bytes] = []
        self.dataBuffer = b""
        self.connected, self.disconnecting = True, False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


class WriteNowTests(SynchronousTestCase):
    def send(self, transport: SocketTransport) -> tuple[bytes, bytes]:
        """Write "hello"; what was sent, and what was left to the transport."""
        write_now(transport, b"hello")
        return transport.socket.sent, transport.written

    def test_sends_all_that_the_socket_takes(self) -> None:
        self.assertEqual(self.send(SocketTransport(FakeSocket(10))), (b"hello", b""))

    def test_leaves_the_rest_to_the_transport(self) -> None:
        self.assertEqual(self.send(SocketTransport(FakeSocket(2))), (b"he", b"llo"))

    def test_leaves_all_to_the_transport_if_the_socket_is_full_or_broken(self) -> None:
        for error in (BlockingIOError, BrokenPipeError):
            self.assertEqual(self.send(SocketTransport(FakeSocket(0, error))), (b"", b"hello"))

    def test_does_not_overtake_buffered_data(self) -> None:
        for name, buffered in (("_tempDataBuffer", [b"x"]), ("dataBuffer", b"x")):
            transport = SocketTransport(FakeSocket(10))
            setattr(transport, name, buffered)
            self.assertEqual(self.send(transport), (b"", b"hello"))

    def test_does_not_send_on_a_closed_connection(self) -> None:
        for name, value in (("disconnecting", True), ("connected", False)):
            transport = SocketTransport(FakeSocket(10))
            setattr(transport, name, value)
            self.assertEqual(self.send(transport), (b"", b"hello"))

    def test_does_not_bypass_a_transport_that_passes_on_the_attributes_of_another(self) -> None:
        """TLS does so: its socket must not get data that is not encrypted."""
        beneath = SocketTransport(FakeSocket(10))
        above = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        above.makeConnection(beneath)
        self.assertIs(above.socket, beneath.socket)
        write_now(above, b"hello")
        self.assertEqual((beneath.socket.sent, beneath.written), (b"", b"hello"))

    def test_writes_to_the_transport_if_the_private_attribute_is_missing(self) -> None:
        transport = SocketTransport(FakeSocket(10))
        del transport._tempDataBuffer
        self.assertEqual(self.send(transport), (b"", b"hello"))

    def test_writes_to_a_transport_without_a_socket(self) -> None:
        transport = StringTransport()
        write_now(transport, b"hello")
        self.assertEqual(transport.value(), b"hello")

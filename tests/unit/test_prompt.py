"""Writes that leave at once, where they can."""

from __future__ import annotations

from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.direct_write import write_now


class Socket:
    """Takes `room` bytes, or fails."""

    def __init__(self, room: int, error: type[OSError] | None = None) -> None:
        self.room, self.error, self.got = room, error, b""

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.got += data[: self.room]
        return min(len(data), self.room)


class Transport:
    """Twisted's, as far as it counts here."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._tempDataBuffer: list[bytes] = []
        self.dataBuffer = b""
        self.connected, self.disconnecting = True, False
        self.kept = b""

    def write(self, data: bytes) -> None:
        self.kept += data


class WriteNow(SynchronousTestCase):
    """`write_now`."""

    def case(self, transport: Transport) -> tuple[bytes, bytes]:
        write_now(transport, b"hello")
        return transport.socket.got, transport.kept

    def test_tls(self) -> None:
        """What encrypts is asked to write, though it lends everything of what is beneath it."""
        beneath = Transport(Socket(10))
        above = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        above.makeConnection(beneath)
        self.assertEqual((above.socket, above._tempDataBuffer), (beneath.socket, []))
        write_now(above, b"hello")
        self.assertEqual((beneath.socket.got, beneath.kept), (b"", b"hello"))

    def test_room(self) -> None:
        """The socket has it all, and Twisted hears of nothing."""
        self.assertEqual(self.case(Transport(Socket(10))), (b"hello", b""))

    def test_little_room(self) -> None:
        """The rest goes the usual way, with its backpressure."""
        self.assertEqual(self.case(Transport(Socket(2))), (b"he", b"llo"))

    def test_full_or_broken(self) -> None:
        """All of it does; a broken socket is then found by the transport."""
        for error in (BlockingIOError, BrokenPipeError):
            self.assertEqual(self.case(Transport(Socket(0, error))), (b"", b"hello"))

    def test_in_order(self) -> None:
        """Nothing overtakes what waits."""
        for name, waiting in (("_tempDataBuffer", [b"x"]), ("dataBuffer", b"x")):
            transport = Transport(Socket(10))
            setattr(transport, name, waiting)
            self.assertEqual(self.case(transport), (b"", b"hello"))

    def test_not_after_the_end(self) -> None:
        """A transport that was closed or aborted decides itself."""
        for name, value in (("disconnecting", True), ("connected", False)):
            transport = Transport(Socket(10))
            setattr(transport, name, value)
            self.assertEqual(self.case(transport), (b"", b"hello"))

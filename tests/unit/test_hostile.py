"""What costs a server dearly or for ever, told with a clock; and a slice of the fuzzer."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

from ctllm.errors import ServiceUnavailable
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, SMALL_BODY_TIMEOUT
from tests.fuzz import http, tunnel, websocket
from tests.unit.cloud.gateway_case import GatewayCase
from tests.unit.fakes import MemoryTransport


class Patience(GatewayCase):
    """Clients that take their time."""

    def open(self) -> tuple[Any, MemoryTransport]:
        """A connection to the front."""
        server, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = server
        server.makeConnection(wire)
        return server, wire

    def test_a_head_byte_by_byte_has_its_time(self) -> None:
        """Each byte buys nothing."""
        server, wire = self.open()
        for byte in b"GET /health HTTP/1.1\r\nHost: x\r\n":
            server.dataReceived(bytes((byte,)))
            self.clock.advance(DEFAULT_TIMEOUTS.head / 20)
            if wire.closed:
                break
        self.assertIn(b"HTTP/1.1 408 ", wire.take_written())
        self.assertEqual(wire.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(wire.closed, "abort")

    def test_blank_lines_buy_no_time(self) -> None:
        """They are allowed before a head, and are no beginning of one."""
        server, wire = self.open()
        for _ in range(10):
            server.dataReceived(b"\r\n")
            self.clock.advance(DEFAULT_TIMEOUTS.keep_alive / 5)
        self.assertEqual(wire.closed, "abort")

    def test_a_small_body_that_trickles_has_its_time(self) -> None:
        """Nobody needs a token to sign in, so nobody may hold a connection for ever by it: 408."""
        server, wire = self.open()
        server.dataReceived(
            b"POST /ctllm/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        for _ in range(4):
            server.dataReceived(b" ")
            self.clock.advance(SMALL_BODY_TIMEOUT / 4)
        self.assertIn(b"HTTP/1.1 408 ", wire.take_written())
        self.clock.advance(DEFAULT_TIMEOUTS.keep_alive)
        self.assertEqual(wire.closed, "abort")
        server.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_head_as_large_as_what_is_read_ahead_is_read_on(self) -> None:
        """At exactly 64 KiB without an end it waits for more, and refuses what comes."""
        server, wire = self.open()
        server.dataReceived((b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 65536)[:65536])
        self.assertEqual(wire.producerState, "producing")
        server.dataReceived(b"a")
        self.assertIn(b"HTTP/1.1 431 ", wire.take_written())

    def test_head_requests_are_refused_without_a_body(self) -> None:
        """Also where the target itself is what is wrong."""
        server, wire = self.open()
        server.dataReceived(b"HEAD nonsense HTTP/1.1\r\nHost: x\r\n\r\n")
        said = wire.take_written()
        self.assertIn(b"HTTP/1.1 400 ", said)
        self.assertTrue(said.endswith(b"\r\n\r\n"))


class FullDisk(GatewayCase):
    """Signing in where nothing can be kept."""

    def test_it_spends_no_invitation(self) -> None:
        """503, and the same link works once there is room."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        full = ServiceUnavailable("Cannot write: no space left. Free some space on the disk.")
        with mock.patch.object(self.sessions, "create", side_effect=full):
            self.assertEqual(self.send("POST /ctllm/session", body), 503)
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.send("POST /ctllm/session", body), 401)

    def test_of_two_at_once_one_signs_in(self) -> None:
        """Who reads an invitation and does not get to spend it has no session."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        user, opened = self.invites.verify(body["invite"]), self.sessions.create
        self.invites.redeem(body["invite"])
        made: list[str] = []

        def opening(*told: Any) -> str:
            made.append(opened(*told))
            return made[-1]

        with (
            mock.patch.object(self.invites, "verify", return_value=user),
            mock.patch.object(self.sessions, "create", opening),
        ):
            self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": made[0]}), 401)


class Fuzzed(GatewayCase):
    """A slice of `make fuzz`: no exception, no timer left, memory within the windows."""

    def test_frames(self) -> None:
        """At both ends of the tunnel."""
        self.assertGreater(tunnel.fuzz_tunnel(Random(7), 60_000), 1000)

    def test_websockets(self) -> None:
        """At both ends of the tunnel's WebSocket."""
        self.assertGreater(websocket.fuzz_websocket(Random(7), 20_000), 1000)

    def test_requests(self) -> None:
        """At the server."""
        self.assertGreater(http.fuzz_server(Random(7), 6_000), 1000)

    def test_answers(self) -> None:
        """At the client's side."""
        self.assertGreater(http.fuzz_response_parser(Random(7), 30_000), 1000)

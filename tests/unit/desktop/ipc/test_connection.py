"""`ctllm.desktop.ipc.connection`: authentication, limits and backpressure of IPC connections."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc.connection import IpcConnectionFactory, IpcLimits
from ctllm.errors import BadRequest
from ctllm.ipc import protocol
from tests.unit.desktop.ipc.test_authenticator import peer_socket
from tests.unit.fakes import MemoryTransport

SECRET = "5e" * 32
NONCE = "ab" * 32
LIMITS = IpcLimits()


def auth_request(id: int, proof: str) -> bytes:
    """Return the line of an AUTH request."""
    return protocol.encode_request(protocol.Auth(id=id, nonce=NONCE, proof=proof))


class FakeCommandRunner:
    """Records the requests; responds when `waiting` fires."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.error: Exception | None = None
        self.waiting: Deferred[None] | None = None

    async def run(self, request: protocol.Request, connection: Any) -> object:
        self.requests.append(request)
        if self.waiting is not None:
            await self.waiting
        if self.error is not None:
            raise self.error
        return {"did": type(request).__name__}


class ConnectionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.commands = FakeCommandRunner()
        self.factory = IpcConnectionFactory(self.clock, SECRET, self.commands, LIMITS)

    def connect(self) -> tuple[Any, MemoryTransport]:
        connection, transport = self.factory.buildProtocol(None), MemoryTransport()
        transport.protocol = connection
        connection.makeConnection(transport)
        return connection, transport

    def authenticate(self) -> tuple[Any, MemoryTransport]:
        connection, transport = self.connect()
        challenge = self.lines(transport)[0]["data"]["challenge"]
        proof = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        connection.dataReceived(auth_request(0, proof))
        (answer,) = self.lines(transport)
        self.assertEqual(
            answer["data"]["proof"], protocol.compute_proof(SECRET, "daemon", challenge, NONCE)
        )
        return connection, transport

    def lines(self, transport: MemoryTransport) -> list[Any]:
        return [json.loads(line) for line in transport.take_written().splitlines()]


class UnauthenticatedTests(ConnectionCase):
    def test_command_before_auth_closes_the_connection(self) -> None:
        connection, transport = self.connect()
        self.lines(transport)
        connection.dataReceived(b'{"id":1,"command":"STATUS"}\n')
        answer, event = self.lines(transport)
        self.assertEqual((answer["id"], answer["error"]["code"]), (1, "unauthenticated"))
        self.assertEqual((event["event"], transport.closed), ("error", "half"))
        self.assertEqual(self.commands.requests, [])

    def test_wrong_proof_closes_the_connection_and_the_rest_is_discarded(self) -> None:
        connection, transport = self.connect()
        challenge = self.lines(transport)[0]["data"]["challenge"]
        wrong = protocol.compute_proof("00" * 32, "client", challenge, NONCE)
        right = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        both = [
            protocol.encode_request(protocol.Auth(id=1, nonce=NONCE, proof=each))
            for each in (wrong, right)
        ]
        connection.dataReceived(b"".join([*both, b'{"id":2,"command":"QUIT"}\n']))
        self.assertEqual(self.lines(transport)[0]["error"]["code"], "unauthenticated")
        self.assertEqual((transport.closed, self.commands.requests), ("half", []))

    def test_proof_for_the_challenge_of_another_connection_is_rejected(self) -> None:
        _, one = self.connect()
        connection, other = self.connect()
        challenge = self.lines(one)[0]["data"]["challenge"]
        self.assertNotEqual(challenge, self.lines(other)[0]["data"]["challenge"])
        proof = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        connection.dataReceived(auth_request(1, proof))
        self.assertEqual(self.lines(other)[0]["error"]["code"], "unauthenticated")

    def test_long_line_before_auth_closes_the_connection(self) -> None:
        connection, transport = self.connect()
        self.lines(transport)
        connection.dataReceived(b"x" * (protocol.MAX_UNAUTHENTICATED_LINE + 1) + b"\n")
        self.assertEqual(self.lines(transport)[0]["error"]["code"], "too_large")
        self.assertEqual(transport.closed, "half")

    def test_connection_without_auth_times_out(self) -> None:
        connection, transport = self.connect()
        self.lines(transport)
        self.clock.advance(LIMITS.read_timeout - 0.1)
        connection.dataReceived(b"{")  # which buys no time
        self.clock.advance(0.1)
        self.assertEqual(self.lines(transport)[0]["data"]["code"], "too_slow")
        self.assertEqual(transport.closed, "half")
        self.clock.advance(LIMITS.read_timeout)  # and it does not even read that
        self.assertEqual(transport.closed, "abort")
        transport.deliver_abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_oldest_unauthenticated_connection_gives_way(self) -> None:
        known, known_transport = self.authenticate()
        crowd = [self.connect()[1] for _ in range(LIMITS.max_unauthenticated + 3)]
        self.assertEqual([transport.closed for transport in crowd[:4]], ["half"] * 3 + [""])
        self.assertEqual(
            json.loads(crowd[0].take_written().splitlines()[1])["data"]["code"], "overloaded"
        )
        known.dataReceived(b'{"id":1,"command":"STATUS"}\n')
        self.assertTrue(self.lines(known_transport)[0]["ok"])

    def test_refuses_connections_over_the_limit(self) -> None:
        limits = IpcLimits(max_connections=2)
        self.factory = IpcConnectionFactory(self.clock, SECRET, self.commands, limits)
        _, first = self.authenticate()
        self.authenticate()
        _, transport = self.connect()
        self.assertEqual(self.lines(transport)[0]["data"]["code"], "overloaded")
        first.disconnect()
        self.authenticate()


class AuthenticatedTests(ConnectionCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection, self.transport = self.authenticate()

    def send(self, *lines: str) -> list[Any]:
        self.connection.dataReceived("".join(f"{line}\n" for line in lines).encode())
        return self.lines(self.transport)

    def test_response_has_the_id_of_its_request(self) -> None:
        answers = self.send('{"id":1,"command":"SHOW"}', '{"id":"b","command":"HIDE"}')
        self.assertEqual([each["id"] for each in answers], [1, "b"])
        self.assertEqual(answers[0]["data"], {"did": "Show"})

    def test_connection_stays_open_after_an_error(self) -> None:
        said = self.send("nonsense", '{"id":5,"command":"DANCE"}', "", '{"id":6,"command":"ABOUT"}')
        self.assertEqual([(each["id"], each["ok"]) for each in said],
                         [(None, False), (5, False), (6, True)])  # fmt: skip
        self.assertEqual(said[0]["error"]["code"], "bad_request")
        self.commands.error = BadRequest("not so")
        self.assertEqual(self.send('{"id":7,"command":"SHOW"}')[0]["error"]["message"], "not so")
        self.assertEqual(self.transport.closed, "")

    def test_exception_in_a_command_is_logged_and_reported(self) -> None:
        self.commands.error = ZeroDivisionError()
        (answer,) = self.send('{"id":7,"command":"SHOW"}')
        self.assertEqual((answer["id"], answer["error"]["code"]), (7, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.commands.error = None
        self.assertTrue(self.send('{"id":8,"command":"SHOW"}')[0]["ok"])

    def test_long_line_is_skipped_with_an_error(self) -> None:
        (answer,) = self.send("x" * (protocol.MAX_LINE + 1))
        self.assertEqual((answer["id"], answer["error"]["code"]), (None, "too_large"))
        self.assertTrue(self.send('{"id":8,"command":"SHOW"}')[0]["ok"])
        long = '{"id":9,"command":"LOGIN","link":"%s"}' % ("x" * 2048)
        self.assertTrue(self.send(long)[0]["ok"])

    def test_incomplete_line_times_out(self) -> None:
        self.clock.advance(3600)
        self.assertEqual(self.transport.closed, "")
        self.connection.dataReceived(b'{"id":')
        self.clock.advance(LIMITS.read_timeout)
        self.assertEqual(self.lines(self.transport)[0]["data"]["code"], "too_slow")
        self.assertEqual(self.transport.closed, "half")

    def test_incomplete_line_does_not_time_out_while_paused(self) -> None:
        self.connection.dataReceived(b'{"id":1,"command":"STATUS"}\n{"id":')
        self.connection.pauseProducing()
        self.clock.advance(LIMITS.read_timeout * 3)
        self.assertEqual(self.transport.closed, "")
        self.connection.resumeProducing()
        self.clock.advance(LIMITS.read_timeout)
        self.assertEqual(self.transport.closed, "half")

    def test_requests_wait_while_the_client_does_not_read(self) -> None:
        line = b'{"id":1,"command":"STATUS"}\n'
        self.connection.dataReceived(line)
        self.connection.pauseProducing()
        self.assertEqual(self.transport.producerState, "paused")
        self.connection.dataReceived(line * 50)
        self.assertEqual(len(self.commands.requests), 1)
        self.connection.resumeProducing()
        self.assertEqual(len(self.commands.requests), 51)
        self.assertEqual(self.transport.producerState, "producing")

    def test_last_event_of_each_kind_is_delayed_while_the_client_does_not_read(self) -> None:
        self.connection.pauseProducing()
        for number in range(1000):
            self.connection.send_event("status", number)
        self.connection.send_event("log", "line")
        self.assertEqual(self.transport.take_written(), b"")
        self.connection.resumeProducing()
        self.assertEqual([each["data"] for each in self.lines(self.transport)], [999, "line"])

    def test_refuses_more_concurrent_commands_than_the_limit(self) -> None:
        self.commands.waiting = Deferred()
        limit = LIMITS.max_concurrent_commands
        lines = [f'{{"id":{number},"command":"SHOW"}}' for number in range(limit + 1)]
        (refused,) = self.send(*lines)
        self.assertEqual((refused["id"], refused["error"]["code"]), (limit, "overloaded"))
        self.commands.waiting.callback(None)
        self.assertEqual(len(self.lines(self.transport)), limit)
        self.commands.waiting = None
        self.assertTrue(self.send('{"id":99,"command":"SHOW"}')[0]["ok"])

    def test_response_is_dropped_when_the_client_has_disconnected(self) -> None:
        waiting = self.commands.waiting = Deferred()
        self.send('{"id":1,"command":"LOGOUT"}')
        self.transport.disconnect()
        self.assertEqual(list(self.factory), [])
        waiting.callback(None)
        self.assertEqual(self.transport.take_written(), b"")


class UnixTransport(MemoryTransport):
    """The transport of a UNIX socket."""

    socket: Any = None


class PeerTests(SynchronousTestCase):
    def test_only_the_daemons_user_and_root_may_connect(self) -> None:
        for uid, is_allowed in ((os.geteuid(), True), (0, True), (os.geteuid() + 1, False)):
            commands = FakeCommandRunner()
            factory = IpcConnectionFactory(Clock(), SECRET, commands)
            connection, transport = factory.buildProtocol(None), UnixTransport()
            transport.protocol = connection
            transport.socket = peer_socket(uid)
            connection.makeConnection(transport)
            connection.dataReceived(b'{"id":1,"command":"SHOW"}\n')
            self.assertEqual(len(commands.requests), int(is_allowed), uid)
            self.assertEqual(transport.closed, "" if is_allowed else "half")

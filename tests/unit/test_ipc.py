"""The IPC: what is read, who is let in, and what a visitor can make the daemon hold."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc import connection as module
from ctllm.desktop.ipc.authenticator import Authenticator, peer_uid
from ctllm.desktop.ipc.connection import (
    MAX_CONCURRENT_COMMANDS,
    MAX_UNAUTHENTICATED,
    READ_TIMEOUT,
    IpcConnectionFactory,
)
from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.errors import (
    BadConfiguration,
    BadGateway,
    BadRequest,
    CtllmError,
    Unauthorized,
)
from ctllm.ipc import client as client
from ctllm.ipc import protocol
from tests.unit.fakes import MemoryTransport

SECRET = "5e" * 32
NONCE = "ab" * 32


class Reading(SynchronousTestCase):
    """Lines to requests."""

    def refused(self, line: bytes) -> str:
        return self.assertRaises(BadRequest, protocol.parse_request, line).message

    def test_every_command(self) -> None:
        more = {
            "AUTH": {"nonce": NONCE, "proof": "0" * 64},
            "PREFER": {"preference": "never"},
            "LOGIN": {"link": "https://c.example/#invite=x"},
        }
        for number, command in enumerate(protocol.COMMANDS):
            line = json.dumps({"id": number, "command": command, **more.get(command, {})})
            request = protocol.parse_request(line.encode())
            self.assertEqual(request.id, number)
            self.assertEqual(json.loads(protocol.encode_request(request))["command"], command)

    def test_what_is_wrong_is_said(self) -> None:
        for line, said in (
            (b"hello", "one JSON object"),
            (b"[1]", "one JSON object"),
            (b'{"id":1}', "unknown command ''"),
            (b'{"id":1,"command":"show"}', "unknown command 'show'; there are AUTH, STATUS"),
            (b'{"id":1,"command":7}', "unknown command"),
            (b'{"command":"SHOW"}', "SHOW: .*id"),
            (b'{"id":1.5,"command":"SHOW"}', "SHOW: "),
            (b'{"id":1,"command":"PREFER"}', "PREFER: .*preference"),
            (b'{"id":1,"command":"PREFER","preference":"mine"}', "PREFER: .*mine"),
            (b'{"id":1,"command":"SHOW","window":1}', "SHOW: .*window"),
            (b"[" * 100_000, "one JSON object"),
            (b'{"id":1,"command":"\xff"}', "one JSON object"),
        ):
            self.assertRegex(self.refused(line), said)

    @given(st.binary(max_size=200))
    def test_anything(self, line: bytes) -> None:
        """There is an answer, or a sentence."""
        protocol.parse_request_id(line)
        try:
            protocol.parse_request(line)
        except BadRequest as error:
            self.assertTrue(error.message)

    def test_ids(self) -> None:
        self.assertEqual(protocol.parse_request_id(b'{"id":"a"}'), "a")
        self.assertIsNone(protocol.parse_request_id(b'{"id":[1]}'))
        self.assertIsNone(protocol.parse_request_id(b'{"id":"%s"}' % (b"x" * 100)))
        self.assertIsNone(protocol.parse_request_id(b"?"))

    def test_what_the_daemon_says(self) -> None:
        answer = protocol.parse_message(protocol.encode_response(7, {"a": 1}))
        assert isinstance(answer, protocol.Response)
        self.assertEqual((answer.id, answer.ok, bytes(answer.data)), (7, True, b'{"a":1}'))
        event = protocol.parse_message(protocol.encode_event("status", [1]))
        assert isinstance(event, protocol.Event)
        self.assertEqual((event.event, bytes(event.data)), ("status", b"[1]"))
        self.assertRaises(BadRequest, protocol.parse_message, b'{"x":1}')

    def test_proofs(self) -> None:
        """Each depends on all that goes into it: none serves in the other's place."""
        proofs = {
            protocol.compute_proof(secret, who, challenge, nonce)  # type: ignore[arg-type]
            for secret in (SECRET, "00" * 32)
            for who in ("client", "daemon")
            for challenge in ("a", "b")
            for nonce in ("a", "b")
        }
        self.assertEqual(len(proofs), 16)


class Commands:
    """Remembers what it was asked; answers when the test wants."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.waiting: Deferred[None] | None = None

    async def run(self, request: protocol.Request, connection: Any) -> object:
        self.asked.append(request)
        if self.waiting is not None:
            await self.waiting
        if self.error is not None:
            raise self.error
        return {"did": type(request).__name__}


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.commands = Commands()
        self.visitors = IpcConnectionFactory(self.clock, SECRET, self.commands)

    def visit(self) -> tuple[Any, MemoryTransport]:
        visitor, wire = self.visitors.buildProtocol(None), MemoryTransport()
        wire.protocol = visitor
        visitor.makeConnection(wire)
        return visitor, wire

    def let_in(self) -> tuple[Any, MemoryTransport]:
        visitor, wire = self.visit()
        challenge = self.lines(wire)[0]["data"]["challenge"]
        proof = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        visitor.dataReceived(protocol.encode_request(protocol.Auth(id=0, nonce=NONCE, proof=proof)))
        (answer,) = self.lines(wire)
        self.assertEqual(
            answer["data"]["proof"], protocol.compute_proof(SECRET, "daemon", challenge, NONCE)
        )
        return visitor, wire

    def lines(self, wire: MemoryTransport) -> list[Any]:
        return [json.loads(line) for line in wire.take_written().splitlines()]


class Strangers(Case):
    """Before anybody has shown who he is."""

    def test_nothing_but_auth(self) -> None:
        visitor, wire = self.visit()
        self.lines(wire)
        visitor.dataReceived(b'{"id":1,"command":"STATUS"}\n')
        answer, event = self.lines(wire)
        self.assertEqual((answer["id"], answer["error"]["code"]), (1, "unauthenticated"))
        self.assertEqual((event["event"], wire.closed), ("error", "half"))
        self.assertEqual(self.commands.asked, [])

    def test_a_wrong_proof(self) -> None:
        """One attempt; then the connection is closed, and what follows is not heard."""
        visitor, wire = self.visit()
        challenge = self.lines(wire)[0]["data"]["challenge"]
        wrong = protocol.compute_proof("00" * 32, "client", challenge, NONCE)
        right = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        both = [
            protocol.encode_request(protocol.Auth(id=1, nonce=NONCE, proof=each))
            for each in (wrong, right)
        ]
        visitor.dataReceived(b"".join([*both, b'{"id":2,"command":"QUIT"}\n']))
        self.assertEqual(self.lines(wire)[0]["error"]["code"], "unauthenticated")
        self.assertEqual((wire.closed, self.commands.asked), ("half", []))

    def test_somebody_elses_answer(self) -> None:
        """A challenge is answered once, by the connection that got it."""
        _, one = self.visit()
        visitor, other = self.visit()
        challenge = self.lines(one)[0]["data"]["challenge"]
        self.assertNotEqual(challenge, self.lines(other)[0]["data"]["challenge"])
        proof = protocol.compute_proof(SECRET, "client", challenge, NONCE)
        visitor.dataReceived(protocol.encode_request(protocol.Auth(id=1, nonce=NONCE, proof=proof)))
        self.assertEqual(self.lines(other)[0]["error"]["code"], "unauthenticated")

    def test_long_lines(self) -> None:
        visitor, wire = self.visit()
        self.lines(wire)
        visitor.dataReceived(b"x" * (protocol.MAX_UNAUTHENTICATED_LINE + 1) + b"\n")
        self.assertEqual(self.lines(wire)[0]["error"]["code"], "too_large")
        self.assertEqual(wire.closed, "half")

    def test_silence(self) -> None:
        visitor, wire = self.visit()
        self.lines(wire)
        self.clock.advance(READ_TIMEOUT - 0.1)
        visitor.dataReceived(b"{")  # which buys no time
        self.clock.advance(0.1)
        self.assertEqual(self.lines(wire)[0]["data"]["code"], "too_slow")
        self.assertEqual(wire.closed, "half")
        self.clock.advance(READ_TIMEOUT)  # and it does not even read that
        self.assertEqual(wire.closed, "abort")
        wire.deliver_abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_crowd(self) -> None:
        """The oldest makes room; who is known stays."""
        known, known_wire = self.let_in()
        crowd = [self.visit()[1] for _ in range(MAX_UNAUTHENTICATED + 3)]
        self.assertEqual([wire.closed for wire in crowd[:4]], ["half"] * 3 + [""])
        self.assertEqual(
            json.loads(crowd[0].take_written().splitlines()[1])["data"]["code"], "overloaded"
        )
        known.dataReceived(b'{"id":1,"command":"STATUS"}\n')
        self.assertTrue(self.lines(known_wire)[0]["ok"])

    def test_too_many_that_are_known(self) -> None:
        self.patch(module, "MAX_CONNECTIONS", 2)
        _, first = self.let_in()
        self.let_in()
        _, wire = self.visit()
        self.assertEqual(self.lines(wire)[0]["data"]["code"], "overloaded")
        first.disconnect()
        self.let_in()


class Known(Case):
    """Who may ask."""

    def setUp(self) -> None:
        super().setUp()
        self.visitor, self.wire = self.let_in()

    def say(self, *lines: str) -> list[Any]:
        self.visitor.dataReceived("".join(f"{line}\n" for line in lines).encode())
        return self.lines(self.wire)

    def test_answers_have_the_id(self) -> None:
        answers = self.say('{"id":1,"command":"SHOW"}', '{"id":"b","command":"HIDE"}')
        self.assertEqual([each["id"] for each in answers], [1, "b"])
        self.assertEqual(answers[0]["data"], {"did": "Show"})

    def test_errors_leave_the_connection(self) -> None:
        said = self.say("nonsense", '{"id":5,"command":"DANCE"}', "", '{"id":6,"command":"ABOUT"}')
        self.assertEqual([(each["id"], each["ok"]) for each in said],
                         [(None, False), (5, False), (6, True)])  # fmt: skip
        self.assertEqual(said[0]["error"]["code"], "bad_request")
        self.commands.error = BadRequest("not so")
        self.assertEqual(self.say('{"id":7,"command":"SHOW"}')[0]["error"]["message"], "not so")
        self.assertEqual(self.wire.closed, "")

    def test_a_bug(self) -> None:
        self.commands.error = ZeroDivisionError()
        (answer,) = self.say('{"id":7,"command":"SHOW"}')
        self.assertEqual((answer["id"], answer["error"]["code"]), (7, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.commands.error = None
        self.assertTrue(self.say('{"id":8,"command":"SHOW"}')[0]["ok"])

    def test_a_line_that_is_too_long(self) -> None:
        """It is told, and the next one is read."""
        (answer,) = self.say("x" * (protocol.MAX_LINE + 1))
        self.assertEqual((answer["id"], answer["error"]["code"]), (None, "too_large"))
        self.assertTrue(self.say('{"id":8,"command":"SHOW"}')[0]["ok"])
        long = '{"id":9,"command":"LOGIN","link":"%s"}' % ("x" * 2048)
        self.assertTrue(self.say(long)[0]["ok"])

    def test_half_a_line(self) -> None:
        """Whoever stops in mid-line is not waited for; whoever is silent is."""
        self.clock.advance(3600)
        self.assertEqual(self.wire.closed, "")
        self.visitor.dataReceived(b'{"id":')
        self.clock.advance(READ_TIMEOUT)
        self.assertEqual(self.lines(self.wire)[0]["data"]["code"], "too_slow")
        self.assertEqual(self.wire.closed, "half")

    def test_half_a_line_that_we_do_not_read(self) -> None:
        """The rest cannot come: its time begins when we read again."""
        self.visitor.dataReceived(b'{"id":1,"command":"STATUS"}\n{"id":')
        self.visitor.pauseProducing()
        self.clock.advance(READ_TIMEOUT * 3)
        self.assertEqual(self.wire.closed, "")
        self.visitor.resumeProducing()
        self.clock.advance(READ_TIMEOUT)
        self.assertEqual(self.wire.closed, "half")

    def test_a_flood_that_is_not_read(self) -> None:
        """As soon as the socket is full nothing is done and nothing is read any more."""
        line = b'{"id":1,"command":"STATUS"}\n'
        self.visitor.dataReceived(line)
        self.visitor.pauseProducing()
        self.assertEqual(self.wire.producerState, "paused")
        self.visitor.dataReceived(line * 50)
        self.assertEqual(len(self.commands.asked), 1)
        self.visitor.resumeProducing()
        self.assertEqual(len(self.commands.asked), 51)
        self.assertEqual(self.wire.producerState, "producing")

    def test_news_that_is_not_read(self) -> None:
        """Of each kind the last is kept, and told when there is room."""
        self.visitor.pauseProducing()
        for number in range(1000):
            self.visitor.send_event("status", number)
        self.visitor.send_event("log", "line")
        self.assertEqual(self.wire.take_written(), b"")
        self.visitor.resumeProducing()
        self.assertEqual([each["data"] for each in self.lines(self.wire)], [999, "line"])

    def test_many_at_once(self) -> None:
        self.commands.waiting = Deferred()
        asked = [
            f'{{"id":{number},"command":"SHOW"}}' for number in range(MAX_CONCURRENT_COMMANDS + 1)
        ]
        (refused,) = self.say(*asked)
        self.assertEqual(
            (refused["id"], refused["error"]["code"]), (MAX_CONCURRENT_COMMANDS, "overloaded")
        )
        self.commands.waiting.callback(None)
        self.assertEqual(len(self.lines(self.wire)), MAX_CONCURRENT_COMMANDS)
        self.commands.waiting = None
        self.assertTrue(self.say('{"id":99,"command":"SHOW"}')[0]["ok"])

    def test_it_leaves_before_the_answer(self) -> None:
        waiting = self.commands.waiting = Deferred()
        self.say('{"id":1,"command":"LOGOUT"}')
        self.wire.disconnect()
        self.assertEqual(list(self.visitors), [])
        waiting.callback(None)
        self.assertEqual(self.wire.take_written(), b"")


class Clients(SynchronousTestCase):
    def test_what_listens_there_may_say_anything(self) -> None:
        """It ends with a sentence."""
        state = Path(self.mktemp())
        where = state.joinpath(*protocol.ADDRESS_FILE)
        where.parent.mkdir(parents=True)
        where.write_bytes(msgspec.json.encode(protocol.DaemonAddress(1, SECRET, 1)))
        hello = protocol.encode_event("hello", protocol.Hello(protocol.PROTOCOL_VERSION, "1", "ab"))
        for said in (
            b"hello\n",
            b'{"event":"hello","data":{"protocol":"x"}}\n',
            b'{"event":"hello","data":7}\n',
            b'{"event":"error","data":{}}\n',
            b'{"event":"status","data":{}}\n',
            hello + b'{"id":1,"ok":true,"data":{}}\n',
            hello + b'{"id":1,"ok":true,"data":{"proof":"\xc3\xa4"}}\n',
            b"",
        ):
            here, there = socket.socketpair()
            there.sendall(said)
            there.shutdown(socket.SHUT_WR)
            self.patch(client, "_connect", lambda *_, here=here: here)
            error = self.assertRaises(CtllmError, client.IpcClient, state)
            self.assertTrue(error.message, said)
            there.close()


class Peers(SynchronousTestCase):
    """What a UNIX socket tells of the other end."""

    def of(self, uid: int, family: int = socket.AF_UNIX) -> Any:
        raw = struct.pack("3i", 1, uid, 1)
        found = SimpleNamespace(family=family, getsockopt=lambda *_: raw)
        return SimpleNamespace(socket=found)

    def test_uid(self) -> None:
        self.assertEqual(peer_uid(self.of(7)), 7)
        self.assertIsNone(peer_uid(self.of(7, socket.AF_INET)))
        self.assertIsNone(peer_uid(SimpleNamespace()))

    def test_who_is_let_in(self) -> None:
        for uid, open_ in ((os.geteuid(), True), (0, True), (os.geteuid() + 1, False)):
            commands = Commands()
            visitors = IpcConnectionFactory(Clock(), SECRET, commands)
            visitor, wire = visitors.buildProtocol(None), MemoryTransport()
            wire.protocol = visitor
            wire.socket = self.of(uid).socket
            visitor.makeConnection(wire)
            visitor.dataReceived(b'{"id":1,"command":"SHOW"}\n')
            self.assertEqual(len(commands.asked), int(open_), uid)
            self.assertEqual(wire.closed, "" if open_ else "half")


class Doors(SynchronousTestCase):
    def test_a_challenge_is_good_once(self) -> None:
        door = Authenticator(SECRET)
        door.check_peer(SimpleNamespace())
        challenge = door.challenge
        shown = protocol.Auth(1, NONCE, protocol.compute_proof(SECRET, "client", challenge, NONCE))
        door.verify(shown)
        self.assertRaises(Unauthorized, door.verify, shown)

    def test_none_was_given(self) -> None:
        """An empty one is no challenge."""
        shown = protocol.Auth(1, NONCE, protocol.compute_proof(SECRET, "client", "", NONCE))
        self.assertRaises(Unauthorized, Authenticator(SECRET).verify, shown)


class Locks(SynchronousTestCase):
    def test_one_at_a_time(self) -> None:
        state = Path(self.mktemp())
        first, second = InstanceLock(state), InstanceLock(state)
        first.check()
        self.assertFalse(state.exists())
        first.acquire()
        where = protocol.DaemonAddress(4711, SECRET, 1234)
        state.joinpath(*protocol.ADDRESS_FILE).write_bytes(msgspec.json.encode(where))
        for attempt in (second.acquire, second.check):
            said = self.assertRaises(BadConfiguration, attempt).message
            self.assertIn("process 1234, IPC at 127.0.0.1:4711", said)
            self.assertNotIn(SECRET, said)
        first.release()
        second.check()
        second.acquire()
        self.assertRaises(BadConfiguration, first.acquire)
        second.release()

    def test_a_folder_that_cannot_be(self) -> None:
        file = Path(self.mktemp())
        file.write_text("")
        error: CtllmError = self.assertRaises(BadConfiguration, InstanceLock(file).acquire)
        self.assertIn("--state-dir", error.message)


class Trickling(SynchronousTestCase):
    """A client that blocks gives up on a daemon that answers byte by byte and never ends a line."""

    def test_given_up(self) -> None:
        state = Path(self.mktemp())
        path = state.joinpath(*protocol.ADDRESS_FILE)
        path.parent.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            where = protocol.DaemonAddress(server.getsockname()[1], "secret", 1)
            path.write_bytes(msgspec.json.encode(where))
            over = threading.Event()

            def trickle() -> None:
                wire, _ = server.accept()
                with wire, contextlib.suppress(OSError):
                    while not over.wait(0.02):
                        wire.send(b" ")

            thread = threading.Thread(target=trickle)
            thread.start()
            try:
                self.assertRaises(BadGateway, client.IpcClient, state, timeout=0.3)
            finally:
                over.set()
                thread.join()

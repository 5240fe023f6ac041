"""Requests that wait until it is known which desktop they are for."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import ClientDisconnected, DesktopLost, DesktopOffline
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.content_coding import load_zstd
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.ollama.model_sniffer import JsonModelSniffer
from ctllm.ollama.requested_model import create_model_sniffer
from ctllm.relay.buffered_request import BufferedRequest
from ctllm.relay.replay_buffer import ReplayBuffer
from ctllm.tunnel.flow_control import READ_SIZE
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

NAMED = b'{"model":"m"}'
UNNAMED = b'{"messages":["'
OK = ResponseHead(200)


class Slow(FakeRequestSink):
    """A call to a desktop that asks to wait after every piece."""

    caller: Any = None

    def write(self, piece: bytes) -> None:
        super().write(piece)
        self.caller.pause_request_body()


class Case(SynchronousTestCase):
    """A request whose body comes in pieces, and the call that it becomes."""

    def setUp(self) -> None:
        self.room = BufferBudget(1 << 20)
        self.heard = FakeResponseSink()
        self.told: FakeRequestSink = FakeRequestSink()
        self.begun: list[str | None] = []
        self.caller: Any = None
        self.asked = self.ask()

    def ask(self) -> BufferedRequest:
        return BufferedRequest(
            self.heard,
            ReplayBuffer(self.room),
            JsonModelSniffer(("model",)),
            lambda r: r.start(self.begin),
        )

    def begin(self, model: str | None, caller: ResponseSink) -> FakeRequestSink:
        self.begun.append(model)
        self.caller = caller
        if isinstance(self.told, Slow):
            self.told.caller = caller
        return self.told

    @property
    def body(self) -> bytes:
        """What the desktop has got."""
        return b"".join(piece for piece in self.told.calls if isinstance(piece, bytes))


class Waiting(Case):
    """Until the model is known."""

    def test_the_name_first(self) -> None:
        """Its first piece decides, and nothing is held after it."""
        self.asked.write(NAMED)
        self.assertEqual((self.begun, self.told.calls, self.room.reserved), (["m"], [NAMED], 0))
        self.asked.write(b" ")
        self.asked.finish()
        self.assertEqual(self.told.calls, [NAMED, b" ", "end"])

    def test_the_last_of_two_names(self) -> None:
        """It is waited for, as Ollama takes that one, but not beyond 64 kB."""
        self.asked.write(NAMED[:-1])
        self.assertEqual(self.begun, [])
        self.asked.write(b',"model":"n"}')
        self.assertEqual(self.begun, ["n"])
        long = self.ask()
        long.write(NAMED[:-1] + b',"x":"')
        long.write(b"x" * 65536)
        self.assertEqual(self.begun, ["n", "m"])

    def test_what_reads_the_name_ends(self) -> None:
        """A decoder that waits for more of a body takes room, and gives it back."""
        half = load_zstd().compress(b'{"messages":["' + b"xyz" * 100)[:15]
        head = RequestHead(b"POST", b"/api/chat", ((b"Content-Encoding", b"zstd"),))
        for end in (lambda a: a.finish(), lambda a: a.cancel(ClientDisconnected("left"))):
            room = BufferBudget(1 << 30)
            finder = create_model_sniffer(head, room)
            assert finder is not None
            asked = BufferedRequest(
                self.heard, ReplayBuffer(room), finder, lambda r: r.start(self.begin)
            )
            asked.write(half)
            self.assertGreater(room.reserved, 1 << 20)
            end(asked)
            self.assertEqual(room.reserved, 0)

    def test_the_name_last(self) -> None:
        """What came before it arrives first, all of it and in order."""
        pieces = [UNNAMED, b"x" * 200_000, b'"],"model":"m"', b"}"]
        for piece in pieces[:2]:
            self.asked.write(piece)
        self.assertEqual((self.begun, self.room.reserved), ([], sum(map(len, pieces[:2]))))
        for piece in pieces[2:]:
            self.asked.write(piece)
        self.asked.finish()
        self.assertEqual((self.begun, self.body), (["m"], b"".join(pieces)))
        self.assertEqual((self.told.calls[-1], self.room.reserved), ("end", 0))
        self.assertLessEqual(max(map(len, self.told.calls[:-1])), READ_SIZE)

    def test_no_name(self) -> None:
        """The end of the body decides, or its first byte where that is no object's."""
        for body in (b"", b"{}", b'{"x":1', b"--boundary"):
            self.told = FakeRequestSink()
            asked = self.ask()
            if body:
                asked.write(body)
            asked.finish()
            self.assertEqual((self.body, self.told.calls[-1]), (body, "end"))
        self.assertEqual((self.begun, self.room.reserved), ([None] * 4, 0))

    def test_too_much(self) -> None:
        """A body that hides its name for too long goes where it would without one."""
        self.asked = BufferedRequest(
            self.heard,
            ReplayBuffer(self.room, limit=1000),
            JsonModelSniffer(("model",)),
            lambda r: r.start(self.begin),
        )
        self.asked.write(UNNAMED + b"x" * (999 - len(UNNAMED)))
        self.assertEqual(self.begun, [])
        self.asked.write(b"x")
        self.assertEqual((self.begun, len(self.body), self.room.reserved), ([None], 1000, 0))

    def test_too_much_in_all(self) -> None:
        """Nobody waits any longer when all requests together hold what they may."""
        others = [self.ask() for _ in range(15)]
        for other in others:
            other.write(UNNAMED + bytes(65536))
        self.assertEqual(self.begun, [])
        self.asked.write(UNNAMED + bytes(65536))
        self.assertEqual((self.begun, len(self.body)), ([None], 65536 + len(UNNAMED)))
        for other in others:
            other.cancel(ClientDisconnected("left"))
        self.assertEqual(self.room.reserved, 0)

    def test_a_client_that_leaves(self) -> None:
        """Nothing began, nothing is left."""
        self.asked.write(UNNAMED)
        self.asked.cancel(ClientDisconnected("left"))
        self.assertEqual((self.begun, self.room.reserved), ([], 0))

    def test_nowhere_to_go(self) -> None:
        """When the desktops have left in the meantime, the client hears it, once."""
        error = DesktopOffline("none")

        def begin(model: str | None, caller: ResponseSink) -> FakeRequestSink:
            raise error

        asked = BufferedRequest(
            self.heard,
            ReplayBuffer(self.room),
            JsonModelSniffer(("model",)),
            lambda r: r.start(begin),
        )
        asked.write(UNNAMED)
        asked.write(b'"],"model":"m"}')
        self.assertEqual((self.heard.outcome, self.room.reserved), (error, 0))

    def test_a_client_that_does_not_read_yet(self) -> None:
        """Its pause is the call's from the beginning."""
        self.asked.pause_response()
        self.asked.write(NAMED)
        self.assertEqual(self.told.calls, ["pause", NAMED])
        self.asked.resume_response()
        self.asked.pause_response()
        self.assertEqual(self.told.calls[2:], ["resume", "pause"])

    def test_one_that_reads_again_in_time(self) -> None:
        """Then there is no pause."""
        self.asked.pause_response()
        self.asked.resume_response()
        self.asked.write(NAMED)
        self.assertEqual(self.told.calls, [NAMED])


class Pouring(Case):
    """What waited goes no faster than the desktop takes it."""

    def setUp(self) -> None:
        super().setUp()
        self.told = Slow()
        self.whole = UNNAMED + b"x" * 200_000 + b'"],"model":"m"}'
        self.asked.write(self.whole)

    def test_piece_by_piece(self) -> None:
        """The client waits until all has gone; the end comes last."""
        self.assertEqual((len(self.told.calls), self.heard.may_send_body), (1, False))
        self.assertEqual(self.room.reserved, len(self.whole) - READ_SIZE)
        self.asked.finish()
        while self.room.reserved:
            self.assertNotIn("end", self.told.calls)
            self.caller.resume_request_body()
        self.assertEqual((self.body, self.told.calls[-1]), (self.whole, "end"))

    def test_more_of_the_body_meanwhile(self) -> None:
        """It is put behind what waits; when that has gone the client goes on."""
        self.asked.write(b"more")
        self.assertEqual(len(self.told.calls), 1)
        while self.room.reserved:
            self.assertFalse(self.heard.may_send_body)
            self.caller.resume_request_body()
        self.assertFalse(self.heard.may_send_body)
        self.caller.resume_request_body()
        self.assertTrue(self.heard.may_send_body)
        self.asked.write(b"last")
        self.asked.finish()
        self.assertEqual(self.body, self.whole + b"morelast")
        self.assertEqual(self.told.calls.count("end"), 1)
        self.caller.resume_request_body()
        self.assertEqual(self.told.calls.count("end"), 1)

    def test_leaving(self) -> None:
        """The exchange is cancelled and nothing is held."""
        error = ClientDisconnected("left")
        self.asked.cancel(error)
        self.assertEqual((self.told.calls[-1], self.room.reserved), (error, 0))

    def test_an_answer_before_the_whole_request(self) -> None:
        """It passes; what still waits is wanted by nobody."""
        self.caller.write_head(OK)
        self.caller.write(b"no")
        self.caller.finish()
        self.assertEqual((bytes(self.heard.body), self.heard.outcome), (b"no", "end"))
        self.assertEqual(self.room.reserved, 0)

    def test_a_desktop_that_is_lost(self) -> None:
        """The client hears it, and nothing is held."""
        error = DesktopLost("gone")
        self.caller.fail(error)
        self.assertEqual((self.heard.outcome, self.room.reserved), (error, 0))

"""Both ends of a tunnel, over a network that loses the connection at any point."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import (
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    Gone,
    NotFound,
    ProtocolViolation,
    ServiceUnavailable,
)
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    HEADER,
    Desktop,
    FrameKind,
    Status,
    encode_frame,
    encode_offset_frame,
    split_frames,
)
from ctllm.tunnel.initiator import Initiator, InitiatorStream
from ctllm.tunnel.responder import Responder, ResponderStream

POST = RequestHead(b"POST", b"/api/chat", ((b"Content-Type", b"application/json"),))
OK = ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))


class FakeTunnelConnection:
    """A connection that stores the failures of streams."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []

    def schedule_flush(self) -> None: ...

    def stream_failed(self, stream_id: bytes, error: Exception) -> None:
        self.failures.append(error)


class Client:
    """A ResponseSink that stores what it receives."""

    call: InitiatorStream

    def __init__(self) -> None:
        self.heard: ResponseHead | None = None
        self.got = bytearray()
        self.over: str | CtllmError | None = None
        self.may_send = True

    def write_head(self, head: ResponseHead) -> None:
        assert self.heard is None, "two heads"
        self.heard = head

    def write(self, piece: bytes) -> None:
        assert self.over is None and self.heard is not None
        self.got += piece

    def finish(self) -> None:
        assert self.over is None
        self.over = "end"

    def fail(self, error: CtllmError) -> None:
        assert self.over is None
        self.over = error

    def pause_request_body(self) -> None:
        self.may_send = False

    def resume_request_body(self) -> None:
        self.may_send = True


class Work:
    """A RequestSink that stores what it receives, so that a test can respond."""

    def __init__(self, sink: ResponderStream, head: RequestHead) -> None:
        self.sink = sink
        self.asked = head
        self.got = bytearray()
        self.over: str | CtllmError | None = None
        self.may_send = True
        self.answered = False

    def write(self, piece: bytes) -> None:
        assert self.over is None
        self.got += piece

    def finish(self) -> None:
        assert self.over is None
        self.over = "end"

    def cancel(self, error: CtllmError) -> None:
        self.over = error

    def pause_response(self) -> None:
        self.may_send = False

    def resume_response(self) -> None:
        self.may_send = True


class Pair:
    """The initiator and the responder of a tunnel, and the messages between them."""

    def __init__(self, window: int = 1 << 18, keep: int = 1 << 16) -> None:
        self.now = 0.0
        self.initiator = Initiator(window, 30, 64)
        self.responder = Responder(
            window,
            30,
            64,
            request_handler=self.accept,
            resume_buffer_bytes=keep,
            desktop=Desktop("d1", "desk"),
        )
        self.handler_error: Exception | None = None
        self.works: dict[bytes, Work] = {}
        self.up_wire: list[bytes] = []  # bridge -> proxy
        self.down_wire: list[bytes] = []  # proxy -> bridge
        self.connected = False

    def accept(self, head: RequestHead, sink: ResponderStream) -> Work:
        if self.handler_error is not None:
            raise self.handler_error
        work = Work(sink, head)
        self.works[sink.id] = work
        return work

    def record_failures(self) -> list[Exception]:
        """Return a list to which exceptions of sinks are added from now on."""
        connection = FakeTunnelConnection()
        self.initiator.attach_connection(connection)
        self.responder.attach_connection(connection)
        return connection.failures

    def connect(self) -> None:
        self.connected = True
        self.responder.connection_made()

    def cut(self) -> None:
        self.connected = False
        self.up_wire.clear()
        self.down_wire.clear()
        self.initiator.connection_lost(self.now)
        self.responder.connection_lost(self.now)

    def step(self, up: bool = True, down: bool = True) -> bool:
        """Move what is ready one step; True if anything moved."""
        moved = False
        for tunnel, wire in ((self.initiator, self.down_wire), (self.responder, self.up_wire)):
            if self.connected and (message := tunnel.next_message()):
                wire.append(message)
                moved = True
        if up and self.up_wire:
            self.initiator.receive_message(self.up_wire.pop(0))
            moved = True
        if down and self.down_wire:
            self.responder.receive_message(self.down_wire.pop(0))
            moved = True
        return moved

    def deliver_down(self) -> None:
        """Move all that the proxy sends, as to a desktop that cannot send anything meanwhile."""
        while self.connected and (message := self.initiator.next_message()):
            self.down_wire.append(message)
        while self.down_wire:
            self.responder.receive_message(self.down_wire.pop(0))

    def settle(self) -> None:
        while self.step():
            pass

    def ask(self, resume: int = 0) -> Client:
        client = Client()
        client.call = self.initiator.start_request(POST, client, resume)
        return client


def connected(**options: int) -> Pair:
    pair = Pair(**options)
    pair.connect()
    pair.settle()
    return pair


class StreamTests(SynchronousTestCase):
    """A stream on a connection that is not lost."""

    def test_relays_request_and_response(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.write(b'{"model":')
        client.call.write(b'"m"}')
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        self.assertEqual(work.asked, POST)
        self.assertEqual((bytes(work.got), work.over), (b'{"model":"m"}', "end"))
        work.sink.write_head(OK)
        work.sink.write(b"one\n")
        pair.settle()
        self.assertEqual((client.heard, bytes(client.got), client.over), (OK, b"one\n", None))
        work.sink.write(b"two\n")
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(client.got), client.over), (b"one\ntwo\n", "end"))
        self.assertEqual((pair.initiator.streams, pair.responder.streams), ({}, {}))

    def test_joins_data_of_one_turn_in_a_frame(self) -> None:
        pair = connected()
        pair.ask().call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        for _ in range(10):
            work.sink.write(b"line\n")
        kinds = [kind for kind, _, _ in split_frames(pair.responder.next_message())]
        self.assertEqual(kinds, [FrameKind.HEAD, FrameKind.DATA])

    def test_exception_of_a_sink_ends_only_its_stream(self) -> None:

        class Broken(RuntimeError):
            pass

        def breaks(*_: object) -> None:
            raise Broken

        for side in ("write_head", "write", "finish", "fail"):
            pair = connected()
            crashes = pair.record_failures()
            client, other = pair.ask(), pair.ask()
            pair.settle()
            work, another = pair.works.values()
            setattr(client, side, breaks)
            work.sink.write_head(OK)
            work.sink.write(b"one\n")
            work.sink.fail(Gone("x")) if side == "fail" else work.sink.finish()
            another.sink.write_head(OK)
            another.sink.finish()
            pair.settle()
            self.assertIsInstance(crashes[0], Broken, side)
            self.assertEqual((other.heard, other.over), (OK, "end"), side)
            self.assertTrue(pair.initiator.is_established)
            self.assertEqual(len(pair.initiator.streams), 0)
            if side != "fail":
                self.assertIsInstance(client.over, CtllmError)
        for side in ("write", "finish", "cancel"):
            pair = connected()
            crashes = pair.record_failures()
            client, other = pair.ask(), pair.ask()
            pair.settle()
            work, another = pair.works.values()
            crashes.clear()
            setattr(work, side, breaks)
            for each in (client, other):
                each.call.write(b"x")
            pair.settle()
            for each in (client, other):
                if each.over is None:
                    each.call.cancel(Gone("x")) if side == "cancel" else each.call.finish()
            pair.settle()
            self.assertIsInstance(crashes[0], Broken, side)
            self.assertEqual(bytes(another.got), b"x")
            self.assertTrue(pair.responder.is_established)
            if side != "cancel":
                self.assertIsInstance(client.over, CtllmError)
                self.assertIsNone(other.over)

    def test_exception_of_the_request_handler_fails_the_stream(self) -> None:
        pair = connected()
        crashes = pair.record_failures()
        pair.handler_error = ZeroDivisionError()
        client = pair.ask()
        pair.settle()
        self.assertIsInstance(client.over, CtllmError)
        self.assertIsInstance(crashes[0], ZeroDivisionError)
        self.assertTrue(pair.responder.is_established)

    def test_cancel_reaches_the_request_sink(self) -> None:
        pair = connected()
        client = pair.ask()
        pair.settle()
        client.call.cancel(CtllmError("left"))
        pair.settle()
        (work,) = pair.works.values()
        self.assertIsInstance(work.over, CtllmError)
        self.assertEqual((pair.initiator.streams, pair.responder.streams), ({}, {}))

    def test_cancel_before_open_sends_nothing(self) -> None:
        pair = connected()
        pair.ask().call.cancel(CtllmError("left"))
        pair.settle()
        self.assertEqual(pair.works, {})
        self.assertTrue(pair.initiator.is_established)

    def test_sends_data_before_the_failure(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        work.sink.write(b"almost")
        work.sink.fail(DesktopLost("it died"))
        pair.settle()
        self.assertEqual(bytes(client.got), b"almost")
        self.assertIsInstance(client.over, DesktopLost)
        self.assertEqual((pair.initiator.streams, pair.responder.streams), ({}, {}))

    def test_failure_waits_for_data_blocked_by_the_window(self) -> None:
        pair = connected(window=4)
        client = pair.ask()
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        client.call.pause_response()
        work.sink.write(b"abcdefgh")
        work.sink.fail(DesktopLost("it died"))
        pair.settle()
        self.assertEqual((bytes(client.got), client.over), (b"abcd", None))
        client.call.resume_response()
        pair.settle()
        self.assertEqual(bytes(client.got), b"abcdefgh")
        self.assertIsInstance(client.over, DesktopLost)

    def test_slow_reader_stalls_only_its_stream(self) -> None:
        pair = connected(window=1000)
        slow, fast = pair.ask(), pair.ask()
        pair.settle()
        first, second = pair.works.values()
        slow.call.pause_response()
        for work in (first, second):
            work.sink.write_head(OK)
            for _ in range(100):
                if work.may_send:
                    work.sink.write(b"x" * 100)
                pair.settle()
        self.assertEqual(len(fast.got), 10_000)
        self.assertLessEqual(len(slow.got), 1000)
        self.assertFalse(first.may_send)
        self.assertLessEqual(first.sink.send_buffer.buffered, 1000)
        slow.call.resume_response()
        pair.settle()
        self.assertTrue(first.may_send)

    def test_sends_status_on_each_connection(self) -> None:
        pair = connected()
        pair.responder.send_status(Status("up", "0.5", ("m",)))
        pair.settle()
        self.assertEqual(pair.initiator.status, Status("up", "0.5", ("m",)))
        pair.cut()
        pair.initiator.status = None
        pair.connect()
        pair.settle()
        self.assertEqual(pair.initiator.status, Status("up", "0.5", ("m",)))

    def test_refuses_requests_when_offline_or_over_the_limit(self) -> None:
        pair = Pair()
        self.assertRaises(DesktopOffline, pair.ask)
        pair.connect()
        pair.settle()
        for _ in range(64):
            pair.ask()
        self.assertRaises(ServiceUnavailable, pair.ask)


class LostConnectionTests(SynchronousTestCase):
    """Streams whose connection is lost."""

    def test_continues_a_response_on_a_new_connection(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        work.sink.write(b"one\n")
        pair.settle()
        work.sink.write(b"two\n")
        pair.step(up=False)  # sent, and lost
        pair.cut()
        work.sink.write(b"three\n")
        work.sink.finish()
        pair.connect()
        pair.settle()
        self.assertEqual((bytes(client.got), client.over), (b"one\ntwo\nthree\n", "end"))

    def test_fails_both_ends_after_the_grace_time(self) -> None:
        pair = connected()
        client = pair.ask()
        pair.settle()
        pair.cut()
        pair.initiator.remove_expired(29)
        self.assertIsNone(client.over)
        pair.initiator.remove_expired(30)
        pair.responder.remove_expired(30)
        self.assertIsInstance(client.over, DesktopLost)
        (work,) = pair.works.values()
        self.assertIsInstance(work.over, CtllmError)
        self.assertEqual((pair.initiator.streams, pair.responder.streams), ({}, {}))

    def test_cancels_a_stream_whose_reset_was_lost(self) -> None:
        pair = connected()
        client = pair.ask()
        pair.settle()
        pair.cut()
        client.call.cancel(CtllmError("left"))
        pair.connect()
        pair.settle()
        (work,) = pair.works.values()
        self.assertIsInstance(work.over, CtllmError)

    def test_fails_streams_of_a_restarted_desktop(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        pair.settle()
        pair.cut()
        fresh = Responder(
            1 << 18,
            30,
            64,
            request_handler=pair.accept,
            resume_buffer_bytes=0,
            desktop=Desktop("d1", "desk"),
        )
        pair.responder = fresh
        pair.connect()
        pair.settle()
        self.assertIsInstance(client.over, DesktopLost)

    def test_repeats_a_lost_open(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.write(b"body")
        client.call.finish()
        pair.step(down=False)
        pair.cut()
        pair.connect()
        pair.settle()
        (work,) = pair.works.values()
        self.assertEqual((bytes(work.got), work.over), (b"body", "end"))

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_delivers_every_byte_once_in_order(self, data: st.DataObject) -> None:
        window = data.draw(st.sampled_from([1, 2, 7, 64, 1000, 70_000]), "window")
        pair = connected(window=window)
        clients = [pair.ask() for _ in range(data.draw(st.integers(1, 3), "clients"))]
        sent = [bytearray() for _ in clients]
        answered: dict[bytes, bytearray] = {}
        for _ in range(data.draw(st.integers(1, 60), "steps")):
            self._act(data, pair, clients, sent, answered)
            self._within(pair, window)
        self._finish(pair, clients, answered)
        for client, body in zip(clients, sent, strict=True):
            work = pair.works[client.call.id]
            self.assertEqual(bytes(work.got), bytes(body))
            self.assertEqual((work.over, client.over), ("end", "end"))
            self.assertEqual(bytes(client.got), bytes(answered[client.call.id]))
        self.assertEqual((pair.initiator.streams, pair.responder.streams), ({}, {}))

    def _act(self, data, pair, clients, sent, answered) -> None:  # type: ignore[no-untyped-def]
        which = data.draw(st.integers(0, len(clients) - 1))
        client = clients[which]
        work = pair.works.get(client.call.id)
        action = data.draw(st.sampled_from("request answer pause resume step up down cut".split()))
        piece = data.draw(st.binary(min_size=1, max_size=40))
        if action == "request" and client.may_send:
            client.call.write(piece)
            sent[which] += piece
        elif action == "answer" and work and work.may_send:
            if not work.answered:
                work.answered = True
                work.sink.write_head(OK)
            work.sink.write(piece)
            answered.setdefault(client.call.id, bytearray()).extend(piece)
        elif action == "pause":
            client.call.pause_response()
        elif action == "resume":
            client.call.resume_response()
        elif action == "cut":
            pair.cut()
            pair.connect()
        else:
            pair.step(up=action != "down", down=action != "up")

    def _within(self, pair: Pair, window: int) -> None:
        """No side holds more than its window and one piece."""
        for tunnel in (pair.initiator, pair.responder):
            for exchange in tunnel.streams.values():
                self.assertLessEqual(exchange.send_buffer.buffered, window + 40)

    def _finish(self, pair: Pair, clients: list[Client], answered: dict[bytes, bytearray]) -> None:
        for client in clients:
            client.call.resume_response()
            client.call.finish()
        pair.settle()
        for client in clients:
            work = pair.works[client.call.id]
            answered.setdefault(client.call.id, bytearray())
            if not work.answered:
                work.sink.write_head(OK)
            work.sink.finish()
        pair.settle()


class ResumptionTests(SynchronousTestCase):
    """Responses that are requested again."""

    def answered(self, pair: Pair, *, end: bool) -> tuple[Client, Work]:
        client = pair.ask(resume=60)
        client.call.write(b"question")
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        work.sink.write(b"0123456789")
        if end:
            work.sink.finish()
        pair.settle()
        return client, work

    def again(self, pair: Pair, id: bytes, offset: int) -> Client:
        second = Client()
        second.call = pair.initiator.resume_stream(id, offset, second)
        pair.settle()
        return second

    def test_resumes_a_complete_response_from_any_offset(self) -> None:
        pair = connected()
        client, _ = self.answered(pair, end=True)
        for offset in (0, 4, 10, 0):
            second = self.again(pair, client.call.id, offset)
            self.assertEqual(second.heard, OK)
            self.assertEqual((bytes(second.got), second.over), (b"0123456789"[offset:], "end"))

    def test_resumes_an_active_response_for_another_sink(self) -> None:
        pair = connected()
        client, work = self.answered(pair, end=False)
        second = self.again(pair, client.call.id, 7)
        self.assertIsInstance(client.over, ClientDisconnected)
        work.sink.write(b"abc")
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(second.got), second.over), (b"789abc", "end"))

    def test_new_proxy_resumes_a_stored_response(self) -> None:
        pair = connected()
        client, work = self.answered(pair, end=False)
        pair.cut()
        pair.initiator = Initiator(1 << 18, 30, 64)
        work.sink.write(b"abc")
        pair.connect()
        pair.settle()
        second = self.again(pair, client.call.id, 8)
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(second.got), second.over), (b"89abc", "end"))

    def test_fails_with_gone_for_bytes_not_stored(self) -> None:
        pair = connected(keep=4)
        client, _ = self.answered(pair, end=True)
        for offset in (5, 11, 12):
            self.assertIsInstance(self.again(pair, client.call.id, offset).over, Gone)
            pair = connected(keep=4)
            client, _ = self.answered(pair, end=True)
        pair.responder.remove_expired(60)
        self.assertIsInstance(self.again(pair, client.call.id, 10).over, Gone)
        self.assertEqual(pair.responder.streams, {})

    def test_refuses_to_resume_a_stream_that_is_not_resumable(self) -> None:
        pair = connected()
        client = pair.ask()
        client.call.finish()
        pair.settle()
        self.assertRaises(NotFound, pair.initiator.resume_stream, client.call.id, 0, Client())
        self.assertIsNone(client.over)

    def test_only_the_last_attach_counts(self) -> None:
        pair = connected()
        client, work = self.answered(pair, end=False)
        seconds = []
        for offset in (2, 9, 5):
            seconds.append(Client())
            seconds[-1].call = pair.initiator.resume_stream(client.call.id, offset, seconds[-1])
            pair.step(up=False, down=False)
        work.sink.write(b"abc")
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(seconds[2].got), seconds[2].over), (b"56789abc", "end"))

    def test_each_attach_is_replied_to_by_a_desktop_that_sends_later(self) -> None:
        pair = connected()
        client, work = self.answered(pair, end=False)
        for offset in (2, 9, 5):
            last = Client()
            last.call = pair.initiator.resume_stream(client.call.id, offset, last)
            pair.deliver_down()
        work.sink.write(b"abc")
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(last.got), last.over), (b"56789abc", "end"))

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_resumes_repeatedly_without_loss(self, data: st.DataObject) -> None:
        pair = connected(window=data.draw(st.sampled_from([2, 7, 64, 70_000]), "window"))
        client = pair.ask(resume=60)
        client.call.finish()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        pair.settle()
        said, had = bytearray(), bytearray()
        actions = st.sampled_from("answer return stall go step up down unread cut".split())
        for action in data.draw(st.lists(actions, max_size=60), "actions"):
            if action == "answer" and work.may_send:
                said += b"0123456789"
                work.sink.write(b"0123456789")
            elif action == "return" and pair.initiator.is_established:
                client, had = self.returned(pair, client, had)
            elif action == "stall" and client.over is None:
                client.call.pause_response()
            elif action == "go" and client.over is None:
                client.call.resume_response()
            elif action == "unread":
                pair.deliver_down()
            elif action == "cut":
                pair.cut()
                pair.connect()
            else:
                pair.step(up=action != "down", down=action != "up")
        pair.settle()
        client, had = self.returned(pair, client, had)
        work.sink.finish()
        pair.settle()
        self.assertEqual((bytes(had + client.got), client.over), (bytes(said), "end"))

    def returned(self, pair: Pair, client: Client, had: bytearray) -> tuple[Client, bytearray]:
        """The client that comes next, and what those before it have had."""
        had = had + client.got
        second = Client()
        second.call = pair.initiator.resume_stream(client.call.id, len(had), second)
        return second, had


class ViolationTests(SynchronousTestCase):
    """Peers that violate the protocol."""

    def refused(self, pair: Pair, message: bytes) -> ProtocolViolation:
        return self.assertRaises(ProtocolViolation, pair.initiator.receive_message, message)

    def test_raises_for_each_violation(self) -> None:
        pair = connected(window=1000)
        client = pair.ask()
        client.call.finish()
        pair.settle()
        id = client.call.id
        data = (5).to_bytes(8, "big") + b"xx"
        for message in (
            b"\x00",
            HEADER.pack(99, 0, id),
            HEADER.pack(FrameKind.DATA, 1 << 30, id),
            HEADER.pack(FrameKind.DATA, 50, id) + b"short",
            encode_frame(FrameKind.DATA, b"?" * 16, data),
            encode_frame(FrameKind.DATA, id, data),
            encode_frame(FrameKind.DATA, id, b"1"),
            encode_offset_frame(FrameKind.END, id, 0),
            encode_offset_frame(FrameKind.ACK, id, 77),
            encode_offset_frame(FrameKind.ATTACH, id, 0),
            encode_frame(FrameKind.HEAD, id, b'{"status":99,"reason":"","headers":[]}'),
            encode_frame(
                FrameKind.HEAD, id, b'{"status":200,"reason":"","headers":[["a\\r\\nb","c"]]}'
            ),
            encode_frame(FrameKind.HEAD, id, b"not json"),
            encode_frame(FrameKind.OPEN, id, b"{}"),
            encode_frame(FrameKind.STATUS, CONNECTION_ID, b"[]"),
            encode_frame(FrameKind.HELLO, CONNECTION_ID, b'{"version":1,"window":5}'),
        ):
            self.refused(pair, message)

    def test_raises_for_data_out_of_order(self) -> None:
        for offset in (1, 3, 9):
            pair = connected()
            client = pair.ask()
            client.call.finish()
            pair.settle()
            (work,) = pair.works.values()
            work.sink.write_head(OK)
            work.sink.write(b"ab")
            pair.settle()
            self.refused(
                pair, encode_frame(FrameKind.DATA, client.call.id, offset.to_bytes(8, "big") + b"x")
            )

    def test_raises_for_data_beyond_the_window(self) -> None:
        pair = connected(window=10)
        client = pair.ask()
        client.call.finish()
        client.call.pause_response()
        pair.settle()
        (work,) = pair.works.values()
        work.sink.write_head(OK)
        pair.settle()
        piece = (0).to_bytes(8, "big") + b"x" * 11
        self.refused(pair, encode_frame(FrameKind.DATA, client.call.id, piece))

    def test_violation_fails_the_streams_of_both_ends(self) -> None:
        pair = connected()
        client = pair.ask()
        pair.settle()
        bye = pair.initiator.terminate(self.refused(pair, b"\x00"))
        self.assertIsInstance(client.over, ProtocolViolation)
        pair.responder.receive_message(bye)
        (work,) = pair.works.values()
        self.assertIsInstance(work.over, ProtocolViolation)

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def test_raises_nothing_but_protocol_violations(self, message: bytes, framed: bool) -> None:
        for side in ("initiator", "responder"):
            pair = connected()
            client = pair.ask()
            pair.settle()
            kind = message[0] % 12 if message else 0
            whole = encode_frame(kind, client.call.id, message[1:]) if framed else message  # type: ignore[arg-type]
            try:
                getattr(pair, side).receive_message(whole)
            except ProtocolViolation as violation:
                getattr(pair, side).terminate(violation)
                self.assertEqual(getattr(pair, side).streams, {})

"""Where desktops and clients meet, with the real tunnel on both sides and no sockets."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import (
    BadRequest,
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    Gone,
    NotFound,
    ProtocolViolation,
)
from ctllm.http.header_policy import response_from_desktop
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.proxy.desktop_registry import MAX_DESKTOPS, DesktopRegistry
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    Reason,
    Status,
    encode_json_frame,
    split_frames,
)
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

GRACE = 30.0
CHAT = RequestHead(b"POST", b"/api/chat")
OK = ResponseHead(200, b"OK", ((b"Content-Length", b"8"),))


def asking(**headers: str) -> RequestHead:
    named = {"to": b"Ctllm-Desktop", "resume": b"CTLLM-resume"}
    return RequestHead(
        b"POST", b"/api/chat", tuple((named[k], v.encode("utf-8")) for k, v in headers.items())
    )


class Socket:
    """What the rendezvous needs of a `ProxyWebSocket`."""

    tunnel: Initiator | None = None

    def __init__(self) -> None:
        self.on_closed: Callable[[], None] = lambda: None
        self.last_words: list[bytes] = []

    def attach_tunnel(self, tunnel: Initiator, on_closed: Callable[[], None]) -> None:
        self.tunnel = tunnel
        self.on_closed = on_closed

    def close_gracefully(self, message: bytes = b"") -> None:
        self.last_words.append(message)


class Desk:
    """A desktop that answers with `Told`s, on one socket after another."""

    def __init__(
        self, rendezvous: DesktopRegistry, number: int, name: str, ollama: str = "", *models: str
    ) -> None:
        self.rendezvous = rendezvous
        self.id = f"{number:032x}"
        self.tunnel = Responder(
            1 << 18,
            GRACE,
            8,
            request_handler=self.accept,
            resume_buffer_bytes=1 << 16,
            desktop=Desktop(self.id, name),
        )
        self.callers: list[ResponderStream] = []
        self.heads: list[RequestHead] = []
        self.calls: list[FakeRequestSink] = []
        self.socket = Socket()
        if ollama:
            self.tunnel.send_status(Status(ollama, "0.5.1", models or ("m:1",)))
        self.connect()

    def accept(self, head: RequestHead, caller: ResponderStream) -> FakeRequestSink:
        self.callers.append(caller)
        self.heads.append(head)
        self.calls.append(FakeRequestSink())
        return self.calls[-1]

    def connect(self) -> None:
        self.socket = Socket()
        self.tunnel.connection_made()
        self.settle()

    def settle(self) -> None:
        while True:
            up = self.tunnel.next_message()
            if up and self.socket.tunnel is None:
                self.rendezvous.hello_received(self.socket, up)  # type: ignore[arg-type]
            elif up:
                self.socket.tunnel.receive_message(up)
            down = self.socket.tunnel.next_message() if self.socket.tunnel else b""
            if down:
                self.tunnel.receive_message(down)
            if not up and not down:
                return

    def lose(self, now: float) -> None:
        """The connection breaks, and both sides notice."""
        self.tunnel.connection_lost(now)
        tunnel, self.socket.tunnel = self.socket.tunnel, None
        assert tunnel is not None
        tunnel.connection_lost(now)
        self.socket.on_closed()


class Case(SynchronousTestCase):
    """A rendezvous on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.here = DesktopRegistry(self.clock, 1 << 18, GRACE, 4, 60)
        self.desks: list[Desk] = []

    def desk(self, name: str = "home", ollama: str = "up", *models: str) -> Desk:
        self.desks.append(Desk(self.here, len(self.desks) + 1, name, ollama, *models))
        self.clock.advance(1)
        return self.desks[-1]

    def open(self, head: RequestHead = CHAT, model: str | None = None) -> FakeResponseSink:
        heard = FakeResponseSink()
        self.here.start_request(head, heard, model)
        self.settle()
        return heard

    def settle(self) -> None:
        for desk in self.desks:
            desk.settle()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.here.remove_expired()
            for desk in self.desks:
                desk.tunnel.remove_expired(self.clock.seconds())


class ConnectionTests(Case):
    """Desktops that connect, reconnect and disconnect."""

    def test_newer_connection_replaces_the_older(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.callers[0].write_head(OK)
        desk.callers[0].write(b"one ")
        desk.settle()
        older = desk.socket
        desk.tunnel.connection_lost(self.clock.seconds())  # the proxy has not noticed yet
        desk.callers[0].write(b"two ")
        desk.connect()
        ((kind, _, payload),) = split_frames(older.last_words[0])
        self.assertEqual((kind, b"replaced" in payload), (FrameKind.BYE, True))
        desk.callers[0].finish()
        desk.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one two ", "end"))
        older.on_closed()
        self.assertEqual(len(self.here.describe_desktops()), 1)
        self.open()

    def test_ignores_a_late_message_of_a_replaced_connection(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.callers[0].write_head(OK)
        desk.callers[0].write(b"one")
        late, older = desk.tunnel.next_message(), desk.socket
        desk.tunnel.connection_lost(self.clock.seconds())
        desk.connect()
        with self.assertRaises(ProtocolViolation):  # which the socket, being closed, swallows
            self.here.hello_received(older, late)  # type: ignore[arg-type]
        desk.callers[0].finish()
        desk.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one", "end"))

    def test_continues_a_response_after_a_reconnection(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.lose(self.clock.seconds())
        self.wait(GRACE - 2)
        desk.callers[0].write_head(OK)
        desk.connect()
        desk.callers[0].finish()
        desk.settle()
        self.assertEqual(heard.outcome, "end")

    def test_fails_streams_after_the_grace_time(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.lose(self.clock.seconds())
        self.wait(GRACE - 1)
        self.assertIsNone(heard.outcome)
        self.wait(2)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertEqual((self.here.stream_count, self.here.describe_desktops()), (0, []))
        self.assertIsInstance(desk.calls[0].calls[-1], ClientDisconnected)

    def hello(self, **changed: object) -> bytes:
        fields = {"version": 1, "window": 1 << 18, "desktop": Desktop("a" * 32, "x"), **changed}
        return encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(**fields))  # type: ignore[arg-type]

    def test_refuses_an_invalid_hello(self) -> None:
        for message in (
            b"",
            b"\x01",
            encode_json_frame(FrameKind.BYE, CONNECTION_ID, Reason("a", "b")),
            self.hello(desktop=None),
            self.hello(desktop=Desktop("A" * 32, "x")),
            self.hello(desktop=Desktop("a" * 33, "x")),
            self.hello(desktop=Desktop("../" * 10 + "ab", "x")),
            self.hello(desktop=Desktop("a" * 32, "two\nlines")),
            self.hello(version=2),
            self.hello(window=0),
            self.hello(streams=("zz",)),
            self.hello(streams=("ab",)),
        ):
            with self.assertRaises(ProtocolViolation, msg=message):
                self.here.hello_received(Socket(), message)  # type: ignore[arg-type]
        self.assertEqual((self.here.stream_count, self.here.describe_desktops()), (0, []))

    def test_invalid_hello_does_not_replace_a_connection(self) -> None:
        desk = self.desk()
        heard = self.open()
        mine = Desktop(desk.id, "home")
        for changed in ({"streams": ("zz",)}, {"version": 2}, {"window": 0}):
            with self.assertRaises(ProtocolViolation):
                hello = self.hello(desktop=mine, **changed)
                self.here.hello_received(Socket(), hello)  # type: ignore[arg-type]
        self.assertEqual(desk.socket.last_words, [])
        desk.callers[0].write_head(OK)
        desk.callers[0].finish()
        desk.settle()
        self.assertEqual(heard.outcome, "end")

    def test_refuses_a_desktop_over_the_limit(self) -> None:
        for number in range(MAX_DESKTOPS):
            self.desk(f"d{number}")
        with self.assertRaises(ProtocolViolation):
            self.desk("more")
        self.desks[0].lose(self.clock.seconds())
        self.desks[0].connect()
        self.assertEqual(len(self.here.describe_desktops()), MAX_DESKTOPS)

    def test_close_closes_all_connections(self) -> None:
        one, two = self.desk("a"), self.desk("b")
        two.lose(self.clock.seconds())
        self.here.close()
        self.assertEqual((len(one.socket.last_words), len(two.socket.last_words)), (1, 0))


class DescriptionTests(Case):
    """What the registry reports."""

    def test_describes_connected_desktops(self) -> None:
        self.desk()
        self.open()
        (told,) = self.here.describe_desktops()
        expected = {"id": "0" * 31 + "1", "name": "home", "connected": True, "since": 1.0}
        expected |= {"ollama": "up", "version": "0.5.1", "models": ["m:1"], "exchanges": 1}
        self.assertEqual(told, expected)

    def test_desktop_without_status_is_down(self) -> None:
        self.desk(ollama="")
        self.assertEqual(self.here.describe_desktops()[0]["ollama"], "down")

    def test_idle_seconds_count_from_the_last_desktop(self) -> None:
        self.clock.advance(7)
        self.assertEqual(self.here.idle_seconds, 7)
        desk = self.desk()
        self.wait(100)
        self.assertEqual(self.here.idle_seconds, 0)
        desk.lose(self.clock.seconds())
        self.wait(10)
        self.assertAlmostEqual(self.here.idle_seconds, 10, delta=1)

    def test_request_resets_the_idle_time(self) -> None:
        self.clock.advance(100)
        self.assertRaises(DesktopOffline, self.here.start_request, CHAT, FakeResponseSink())
        self.assertEqual(self.here.idle_seconds, 0)


class ResumptionTests(Case):
    """Clients that disconnect and resume a response."""

    def answer(self, resume: str = "20") -> tuple[Desk, FakeResponseSink, bytes]:
        """A desktop in the middle of its answer, and the client that waits for it."""
        desk = self.desk()
        heard = FakeResponseSink()
        asked = self.here.start_request(asking(resume=resume), heard)
        self.call = self.here.request_sink(asked)
        self.call.finish()
        self.settle()
        desk.callers[0].write_head(OK)
        desk.callers[0].write(b"one ")
        self.settle()
        return desk, heard, asked.id

    def leave(self) -> None:
        self.call.cancel(ClientDisconnected("the client left"))
        self.settle()

    def back(self, id: bytes, offset: int) -> FakeResponseSink:
        heard = FakeResponseSink()
        self.call = self.here.request_sink(
            self.here.resume_stream(id, offset, heard), is_resumed=True
        )
        self.settle()
        return heard

    def test_resumes_from_the_offset_without_content_length(self) -> None:
        desk, _, id = self.answer()
        self.leave()
        desk.callers[0].write(b"two ")
        heard = self.back(id, 4)
        desk.callers[0].finish()
        self.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"two ", "end"))
        assert heard.head is not None
        self.assertIsNone(get_header(heard.head.headers, b"content-length"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_resumes_a_complete_response_from_the_beginning(self) -> None:
        desk, _, id = self.answer()
        self.leave()
        desk.callers[0].write(b"two ")
        desk.callers[0].finish()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        heard = self.back(id, 0)
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one two ", "end"))
        self.assertEqual(heard.head, response_from_desktop(OK))

    def test_discards_the_body_of_a_resuming_request(self) -> None:
        desk, _, id = self.answer()
        self.leave()
        heard = self.back(id, 4)
        self.call.write(b"rubbish")
        self.call.finish()
        self.call.pause_response()
        self.call.resume_response()
        self.settle()
        self.assertEqual((heard.outcome, desk.calls[0].calls), (None, ["end"]))

    def test_cancels_the_stream_after_its_time(self) -> None:
        desk, _, id = self.answer("20")
        self.leave()
        self.clock.advance(19)
        self.settle()
        self.assertEqual(desk.calls[0].calls, ["end"])
        self.clock.advance(1)
        self.settle()
        self.assertIsInstance(desk.calls[0].calls[-1], CtllmError)
        self.assertEqual(self.here.stream_count, 0)
        self.assertIsInstance(self.back(id, 0).outcome, Gone)

    def test_fails_the_client_whose_response_another_resumes(self) -> None:
        desk, older, id = self.answer()
        newer = self.back(id, 0)
        self.assertIsInstance(older.outcome, ClientDisconnected)
        desk.callers[0].finish()
        self.settle()
        self.assertEqual((bytes(newer.body), newer.outcome), (b"one ", "end"))

    def test_cancels_an_incomplete_request_of_a_disconnected_client(self) -> None:
        desk, heard = self.desk(), FakeResponseSink()
        call = self.here.request_sink(self.here.start_request(asking(resume="20"), heard))
        call.write(b"half")
        self.settle()
        call.cancel(ClientDisconnected("left"))
        self.settle()
        self.assertIsInstance(desk.calls[0].calls[-1], CtllmError)
        self.assertEqual((self.here.stream_count, self.clock.getDelayedCalls()), (0, []))

    def test_cancels_a_request_without_ctllm_resume(self) -> None:
        desk, heard = self.desk(), FakeResponseSink()
        asked = self.here.start_request(CHAT, heard)
        call = self.here.request_sink(asked)
        call.finish()
        self.settle()
        call.cancel(ClientDisconnected("left"))
        self.settle()
        self.assertIsInstance(desk.calls[0].calls[-1], CtllmError)
        self.assertRaises(NotFound, self.here.resume_stream, asked.id, 0, FakeResponseSink())

    def test_limits_the_resume_time(self) -> None:
        desk, _, _ = self.answer("999999999")
        self.leave()
        self.clock.advance(61)
        self.settle()
        self.assertIsInstance(desk.calls[0].calls[-1], CtllmError)

    def test_refuses_an_invalid_ctllm_resume(self) -> None:
        self.desk()
        for wish in ("", "soon", "-1", "1.5", "1" * 10, "٣"):
            self.assertRaises(
                BadRequest, self.here.start_request, asking(resume=wish), FakeResponseSink()
            )
        self.assertEqual(self.here.stream_count, 0)

    def test_lost_desktop_cancels_the_timer_of_a_detached_client(self) -> None:
        desk, _, _ = self.answer()
        self.leave()
        desk.lose(self.clock.seconds())
        self.wait(GRACE + 1)
        self.assertEqual((self.here.stream_count, self.clock.getDelayedCalls()), (0, []))

    def test_new_proxy_resumes_responses_listed_in_hello(self) -> None:
        desk, _, id = self.answer()
        desk.callers[0].write(b"two ")
        desk.callers[0].finish()
        desk.tunnel.connection_lost(self.clock.seconds())
        self.here = desk.rendezvous = DesktopRegistry(self.clock, 1 << 18, GRACE, 4, 60)
        desk.connect()
        heard = self.back(id, 4)
        self.assertEqual((bytes(heard.body), heard.outcome), (b"two ", "end"))

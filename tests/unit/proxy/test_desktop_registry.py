"""The registry of desktops, with the real tunnel on both ends and no sockets."""

from __future__ import annotations

from typing import ClassVar

from ctllm.errors import (
    BadRequest,
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    Gone,
    NotFound,
    ProtocolViolation,
    Unauthorized,
)
from ctllm.http.header_policy import response_from_desktop
from ctllm.http.message.head import get_header
from ctllm.proxy.desktop_registry import MAX_DESKTOPS, DesktopRegistry
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    Reason,
    encode_json_frame,
    split_frames,
)
from tests.unit.fakes import FakeDesktop, FakeProxyWebSocket, FakeResponseSink
from tests.unit.proxy.registry_case import CHAT, GRACE, OK, RegistryCase, request_head


class ConnectionTests(RegistryCase):
    """Desktops that connect, reconnect and disconnect."""

    def test_newer_connection_replaces_the_older(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.sinks[0].write_head(OK)
        desk.sinks[0].write(b"one ")
        desk.settle()
        older = desk.socket
        desk.tunnel.connection_lost(self.clock.seconds())  # the proxy has not noticed yet
        desk.sinks[0].write(b"two ")
        desk.connect()
        ((kind, _, payload),) = split_frames(older.closing_messages[0])
        self.assertEqual((kind, b"replaced" in payload), (FrameKind.BYE, True))
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one two ", "end"))
        older.on_closed()
        self.assertEqual(len(self.registry.describe_desktops()), 1)
        self.open()

    def test_ignores_a_late_message_of_a_replaced_connection(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.sinks[0].write_head(OK)
        desk.sinks[0].write(b"one")
        late, older = desk.tunnel.next_message(), desk.socket
        desk.tunnel.connection_lost(self.clock.seconds())
        desk.connect()
        with self.assertRaises(ProtocolViolation):  # which the socket, being closed, swallows
            self.registry.hello_received(older, late)  # type: ignore[arg-type]
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one", "end"))

    def test_continues_a_response_after_a_reconnection(self) -> None:
        desk = self.desk()
        heard = self.open()
        desk.lose(self.clock.seconds())
        self.wait(GRACE - 2)
        desk.sinks[0].write_head(OK)
        desk.connect()
        desk.sinks[0].finish()
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
        self.assertEqual((self.registry.stream_count, self.registry.describe_desktops()), (0, []))
        self.assertIsInstance(desk.request_sinks[0].calls[-1], ClientDisconnected)

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
                self.registry.hello_received(FakeProxyWebSocket(), message)  # type: ignore[arg-type]
        self.assertEqual((self.registry.stream_count, self.registry.describe_desktops()), (0, []))

    def test_invalid_hello_does_not_replace_a_connection(self) -> None:
        desk = self.desk()
        heard = self.open()
        mine = Desktop(desk.id, "home")
        for changed in ({"streams": ("zz",)}, {"version": 2}, {"window": 0}):
            with self.assertRaises(ProtocolViolation):
                hello = self.hello(desktop=mine, **changed)
                self.registry.hello_received(FakeProxyWebSocket(), hello)  # type: ignore[arg-type]
        self.assertEqual(desk.socket.closing_messages, [])
        desk.sinks[0].write_head(OK)
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual(heard.outcome, "end")

    def test_refuses_a_desktop_over_the_limit(self) -> None:
        for number in range(MAX_DESKTOPS):
            self.desk(f"d{number}")
        with self.assertRaises(ProtocolViolation):
            self.desk("more")
        self.desks[0].lose(self.clock.seconds())
        self.desks[0].connect()
        self.assertEqual(len(self.registry.describe_desktops()), MAX_DESKTOPS)

    def test_a_user_may_have_a_lower_limit_of_connected_desktops(self) -> None:
        one, two = self.desk("a"), self.desk("b")

        def connect(id: str, max_desktops: int) -> None:
            hello = self.hello(desktop=Desktop(id, "c"))
            socket = FakeProxyWebSocket(max_desktops=max_desktops)
            self.registry.hello_received(socket, hello)  # type: ignore[arg-type]

        self.assertRaises(ProtocolViolation, connect, "c" * 32, 2)
        connect(one.id, 1)  # a desktop that is connected may connect again
        two.lose(self.clock.seconds())
        connect("c" * 32, 2)
        self.assertRaises(ProtocolViolation, connect, two.id, 2)
        connect(two.id, 3)

    def test_close_closes_all_connections(self) -> None:
        one, two = self.desk("a"), self.desk("b")
        two.lose(self.clock.seconds())
        self.registry.close()
        self.assertEqual(
            (len(one.socket.closing_messages), len(two.socket.closing_messages)), (1, 0)
        )


class GrantTests(RegistryCase):
    """What the end of a desktop's access means for its clients while it is disconnected."""

    ENDED: ClassVar = {b"grant": Unauthorized("You are logged out.")}

    def lose_desk(self) -> tuple[FakeDesktop, FakeResponseSink]:
        desk = self.desk()
        heard = self.open()
        desk.lose(self.clock.seconds())
        return desk, heard

    def test_streams_of_a_disconnected_desktop_end_with_its_access(self) -> None:
        """At once: it may not return."""
        _, heard = self.lose_desk()
        self.requests.abort(self.ENDED)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertIn("You are logged out.", str(heard.outcome))
        self.wait(1)
        self.assertEqual(self.requests.grants, [])

    def test_access_that_ended_while_the_connection_closed_ends_the_streams(self) -> None:
        self.requests.abort(self.ENDED)
        _, heard = self.lose_desk()
        self.assertIsInstance(heard.outcome, DesktopLost)

    def test_a_desktop_that_returns_keeps_its_streams(self) -> None:
        """The access of its earlier connection does not matter any more."""
        desk, heard = self.lose_desk()
        desk.connect()
        self.assertEqual(self.requests.grants, [])
        self.requests.abort(self.ENDED)
        self.assertIsNone(heard.outcome)

    def test_the_grant_is_forgotten_with_the_desktop(self) -> None:
        self.lose_desk()
        self.assertEqual(self.requests.grants, [b"grant"])
        self.wait(GRACE + 1)
        self.assertEqual(self.requests.grants, [])

    def test_without_streams_there_is_nothing_to_end(self) -> None:
        self.desk().lose(self.clock.seconds())
        self.assertEqual(self.requests.grants, [])


class DescriptionTests(RegistryCase):
    """What the registry reports."""

    def test_describes_connected_desktops(self) -> None:
        self.desk().socket.latency_ms = 12.5
        self.open()
        (told,) = self.registry.describe_desktops()
        expected = {"id": "0" * 31 + "1", "name": "home", "connected": True, "since": 1.0}
        expected |= {"ollama": "up", "version": "0.5.1", "models": ["m:1"], "exchanges": 1}
        expected |= {"latency_ms": 12.5}
        expected |= {"resources": False}
        self.assertEqual(told, expected)

    def test_desktop_without_status_is_down(self) -> None:
        self.desk(ollama="")
        self.assertEqual(self.registry.describe_desktops()[0]["ollama"], "down")

    def test_traffic_counts_the_responses_of_desktops_that_are_gone_too(self) -> None:
        for name in ("home", "attic"):
            desk = self.desk(name)
            heard = self.open(request_head(to=name))
            desk.sinks[0].write_head(OK)
            for piece in (b"1234", b"5678"):
                desk.sinks[0].write(piece)
                self.settle()
            desk.sinks[0].finish()
            self.settle()
            self.assertEqual(heard.body, b"12345678")
            desk.lose(self.clock.seconds())
            self.wait(GRACE + 1)
        self.assertEqual(self.registry.describe_desktops(), [])
        self.assertEqual((self.registry.traffic.bytes, self.registry.traffic.chunks), (16, 4))

    def test_idle_seconds_count_from_the_last_desktop(self) -> None:
        self.clock.advance(7)
        self.assertEqual(self.registry.idle_seconds, 7)
        desk = self.desk()
        self.wait(100)
        self.assertEqual(self.registry.idle_seconds, 0)
        desk.lose(self.clock.seconds())
        self.wait(10)
        self.assertAlmostEqual(self.registry.idle_seconds, 10, delta=1)

    def test_request_resets_the_idle_time(self) -> None:
        self.clock.advance(100)
        self.assertRaises(DesktopOffline, self.registry.start_request, CHAT, FakeResponseSink())
        self.assertEqual(self.registry.idle_seconds, 0)


class ResumptionTests(RegistryCase):
    """Clients that disconnect and resume a response."""

    def answer(self, resume: str = "20") -> tuple[FakeDesktop, FakeResponseSink, bytes]:
        """A desktop in the middle of its answer, and the client that waits for it."""
        desk = self.desk()
        heard = FakeResponseSink()
        asked = self.registry.start_request(request_head(resume=resume), heard)
        self.call = self.registry.request_sink(asked)
        self.call.finish()
        self.settle()
        desk.sinks[0].write_head(OK)
        desk.sinks[0].write(b"one ")
        self.settle()
        return desk, heard, asked.id

    def leave(self) -> None:
        self.call.cancel(ClientDisconnected("the client left"))
        self.settle()

    def back(self, id: bytes, offset: int) -> FakeResponseSink:
        heard = FakeResponseSink()
        self.call = self.registry.request_sink(
            self.registry.resume_stream(id, offset, heard), is_resumed=True
        )
        self.settle()
        return heard

    def test_resumes_from_the_offset_without_content_length(self) -> None:
        desk, _, id = self.answer()
        self.leave()
        desk.sinks[0].write(b"two ")
        heard = self.back(id, 4)
        desk.sinks[0].finish()
        self.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"two ", "end"))
        assert heard.head is not None
        self.assertIsNone(get_header(heard.head.headers, b"content-length"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_resumes_a_complete_response_from_the_beginning(self) -> None:
        desk, _, id = self.answer()
        self.leave()
        desk.sinks[0].write(b"two ")
        desk.sinks[0].finish()
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
        self.assertEqual((heard.outcome, desk.request_sinks[0].calls), (None, ["end"]))

    def test_cancels_the_stream_after_its_time(self) -> None:
        desk, _, id = self.answer("20")
        self.leave()
        self.clock.advance(19)
        self.settle()
        self.assertEqual(desk.request_sinks[0].calls, ["end"])
        self.clock.advance(1)
        self.settle()
        self.assertIsInstance(desk.request_sinks[0].calls[-1], CtllmError)
        self.assertEqual(self.registry.stream_count, 0)
        self.assertIsInstance(self.back(id, 0).outcome, Gone)

    def test_fails_the_client_whose_response_another_resumes(self) -> None:
        desk, older, id = self.answer()
        newer = self.back(id, 0)
        self.assertIsInstance(older.outcome, ClientDisconnected)
        desk.sinks[0].finish()
        self.settle()
        self.assertEqual((bytes(newer.body), newer.outcome), (b"one ", "end"))

    def test_cancels_an_incomplete_request_of_a_disconnected_client(self) -> None:
        desk, heard = self.desk(), FakeResponseSink()
        call = self.registry.request_sink(
            self.registry.start_request(request_head(resume="20"), heard)
        )
        call.write(b"half")
        self.settle()
        call.cancel(ClientDisconnected("left"))
        self.settle()
        self.assertIsInstance(desk.request_sinks[0].calls[-1], CtllmError)
        self.assertEqual((self.registry.stream_count, self.clock.getDelayedCalls()), (0, []))

    def test_cancels_a_request_without_ctllm_resume(self) -> None:
        desk, heard = self.desk(), FakeResponseSink()
        asked = self.registry.start_request(CHAT, heard)
        call = self.registry.request_sink(asked)
        call.finish()
        self.settle()
        call.cancel(ClientDisconnected("left"))
        self.settle()
        self.assertIsInstance(desk.request_sinks[0].calls[-1], CtllmError)
        self.assertRaises(NotFound, self.registry.resume_stream, asked.id, 0, FakeResponseSink())

    def test_limits_the_resume_time(self) -> None:
        desk, _, _ = self.answer("999999999")
        self.leave()
        self.clock.advance(61)
        self.settle()
        self.assertIsInstance(desk.request_sinks[0].calls[-1], CtllmError)

    def test_refuses_an_invalid_ctllm_resume(self) -> None:
        self.desk()
        for wish in ("", "soon", "-1", "1.5", "1" * 10, "٣"):
            self.assertRaises(
                BadRequest,
                self.registry.start_request,
                request_head(resume=wish),
                FakeResponseSink(),
            )
        self.assertEqual(self.registry.stream_count, 0)

    def test_lost_desktop_cancels_the_timer_of_a_detached_client(self) -> None:
        desk, _, _ = self.answer()
        self.leave()
        desk.lose(self.clock.seconds())
        self.wait(GRACE + 1)
        self.assertEqual((self.registry.stream_count, self.clock.getDelayedCalls()), (0, []))

    def test_new_proxy_resumes_responses_listed_in_hello(self) -> None:
        desk, _, id = self.answer()
        desk.sinks[0].write(b"two ")
        desk.sinks[0].finish()
        desk.tunnel.connection_lost(self.clock.seconds())
        self.registry = desk.registry = DesktopRegistry(self.clock, 1 << 18, GRACE, 4, 60)
        desk.connect()
        heard = self.back(id, 4)
        self.assertEqual((bytes(heard.body), heard.outcome), (b"two ", "end"))

"""The bridge connects, reconnects after a loss, and stops; its states are those of the drawing."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.test.iosim import IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.bridge import LOGIN_POLL_INTERVAL, REJECTED_LOGIN_RETRY, STABLE_AFTER, Bridge
from ctllm.desktop.bridge_state import TRANSITIONS
from ctllm.desktop.reconnect_backoff import MAX_DELAY, MAX_FIRST_DELAY
from ctllm.errors import (
    BadGateway,
    CtllmError,
    DesktopLost,
    GroupNotAllowed,
    Unauthorized,
    UserDisabled,
)
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT, TUNNEL_TIMEOUT
from ctllm.ipc.messages import ConnectionState
from ctllm.tunnel.frames import CONNECTION_ID, Desktop, FrameKind, Reason, encode_json_frame
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory
from ctllm.tunnel.websocket.protocols import ProxyWebSocket
from tests.unit.drawings import dot_arrows, drawn_transitions, svg_arrows
from tests.unit.fakes import FakeRequestSink, FakeResponseSink
from tests.unit.tunnel.websocket.test_protocols import Transport


def txaio_config() -> Any:
    """Return autobahn's configuration, whose clock is not an argument."""
    return import_module("txaio").config  # untyped


class FakeSession:
    """A `TokenProvider`."""

    def __init__(self) -> None:
        self.serial = 0
        self.error: CtllmError | None = None
        self.pending: Deferred[None] | None = None
        self.version = 1
        self.token_requests = 0
        self.is_logged_out = False
        self.user = "ann"
        self._fresh = True

    @property
    def login(self) -> Any:
        if self.is_logged_out:
            raise Unauthorized("not logged in")
        return SimpleNamespace(cloud_url="http://cloud.example:8080", user=self.user)

    async def access_token(self) -> str:
        self.token_requests += 1
        if self.pending is not None:
            await self.pending
        if self.error is not None:
            raise self.error
        if self._fresh:
            self.serial += 1
            self._fresh = False
        return f"token-{self.serial}"

    def discard_tokens(self) -> None:
        self._fresh = True

    def credentials_version(self) -> int:
        return self.version


class RejectingServer(Protocol):
    """A cloud that answers the handshake with 401, or with the response `rejection`."""

    transport: Any

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud

    def dataReceived(self, data: bytes) -> None:
        cloud = self._cloud
        cloud.handshakes.append(data)
        unauthorized = b"HTTP/1.1 401 %b\r\nContent-Length: 0\r\n\r\n" % cloud.phrase
        self.transport.write(cloud.rejection or unauthorized)
        self.transport.loseConnection()


class FakeCloud:
    """What is dialled: it refuses, answers with 401, or has an opener behind a WebSocket."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Any = clock
        self.error: Exception | None = None
        self.pending: Deferred[Any] | None = None
        self.accepts_token = True
        self.phrase = b"No"
        self.bye_code = b""  # connections are greeted with this BYE, or left without a word
        self.connect_times: list[float] = []
        self.handshakes: list[bytes] = []
        self.rejection = b""
        self.is_silent = False  # takes connections and says nothing on them
        self.initiator = Initiator(1 << 18, 30, 8)
        self.pumps: list[IOPump] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.connect_times.append(self.clock.seconds())
        if self.pending is not None:
            return self.pending
        if self.error is not None:
            return fail(self.error)
        server: Any = RejectingServer(self)
        if self.is_silent:
            server = Protocol()
        elif self.accepts_token:
            server = ProxyWebSocketFactory(self.clock, self.greeted, 20, 10).buildProtocol(None)
        client = factory.buildProtocol(None)
        pump = connect(server, Transport(server, True), client, Transport(client, False))
        self.pumps.append(pump)
        return succeed(client)

    def greeted(self, socket: ProxyWebSocket, message: bytes) -> None:
        if self.bye_code == b"mute":
            return
        if self.bye_code == b"silently":
            socket.close_gracefully()
            return
        self.initiator.is_established = False
        socket.attach_tunnel(self.initiator)
        self.initiator.receive_message(message)
        if self.bye_code:
            reason = Reason(self.bye_code.decode(), "somebody took over")
            socket.close_gracefully(
                self.initiator.next_message()
                + encode_json_frame(FrameKind.BYE, CONNECTION_ID, reason)
            )

    def move(self) -> bool:
        return any(pump.pump() for pump in self.pumps)


class BridgeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(txaio_config(), "loop", self.clock)
        self.cloud = FakeCloud(self.clock)
        self.session = FakeSession()
        self.tunnel = Responder(
            1 << 18,
            30,
            8,
            request_handler=self.accept,
            resume_buffer_bytes=0,
            desktop=Desktop("a" * 32, "home"),
        )
        self.callers: list[ResponderStream] = []
        self.calls: list[FakeRequestSink] = []
        self.bridge = self.make_bridge()
        self.states: list[ConnectionState] = []
        self.reasons: list[str] = []
        self.addCleanup(self.end)

    def make_bridge(self) -> Bridge:
        session: Any = self.session
        bridge = Bridge(self.tunnel, session, self.clock, (20.0, 10.0), lambda url: self.cloud)
        bridge.add_observer(self.on_state)
        return bridge

    def on_state(self, state: ConnectionState, reason: str) -> None:
        self.states.append(state)
        self.reasons.append(reason)

    def accept(self, head: RequestHead, caller: ResponderStream) -> FakeRequestSink:
        self.callers.append(caller)
        self.calls.append(FakeRequestSink())
        return self.calls[-1]

    def start(self) -> None:
        self.bridge.startService()
        self.settle()

    def settle(self) -> None:
        self.clock.advance(0)
        while self.cloud.move():
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            self.settle()

    def end(self) -> None:
        """However a test ends: stopping leaves nothing behind, and nothing is dialled again."""
        if not self.bridge.running:
            return
        stopped = self.bridge.stopService()
        dials = len(self.cloud.connect_times)
        self.wait(90)
        self.successResultOf(stopped)
        self.assertEqual(len(self.cloud.connect_times), dials)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectTests(BridgeCase):
    def test_reports_connecting_then_connected(self) -> None:
        self.start()
        self.assertEqual(self.states, [ConnectionState.CONNECTING, ConnectionState.CONNECTED])
        self.assertTrue(self.cloud.initiator.is_established and self.tunnel.is_established)

    def test_delays_grow_to_half_a_minute_and_vary(self) -> None:
        self.cloud.error = ConnectionRefusedError()
        self.start()
        self.assertEqual(self.bridge.state, ConnectionState.ERROR)
        self.assertIn("Cannot connect to http://cloud.example:8080", self.bridge.reason)
        self.wait(1200)
        gaps = self.gaps()
        self.assertLess(gaps[0], 5.2)
        self.assertGreaterEqual(min(gaps), 1)
        self.assertGreater(sum(gaps[-20:]) / 20, 8)
        self.assertLessEqual(max(gaps), MAX_DELAY + 0.2)
        self.assertGreater(len(set(gaps[-10:])), 3)

    def gaps(self) -> list[float]:
        return [round(b - a, 3) for a, b in pairwise(self.cloud.connect_times)]

    def lose(self) -> None:
        """The network cuts the connection."""
        self.cloud.pumps[-1].clientIO.loseConnection()
        self.settle()

    def test_reconnects_within_a_second_after_a_connection_that_worked(self) -> None:
        self.cloud.error = ConnectionRefusedError()
        self.start()
        self.wait(300)
        self.cloud.error = None
        self.wait(MAX_DELAY + 1)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)
        self.lose()
        self.assertEqual(self.bridge.state, ConnectionState.ERROR)
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_delays_do_not_grow_while_the_network_cuts_connections(self) -> None:
        self.start()
        for _ in range(50):
            self.lose()
            self.wait(MAX_FIRST_DELAY + 0.2)
            self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_delays_stay_short_while_a_request_is_in_progress(self) -> None:
        self.start()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), FakeResponseSink())
        self.settle()
        self.cloud.error = ConnectionRefusedError()
        self.lose()
        self.wait(29)
        self.assertLessEqual(max(self.gaps()[1:]), 5.2)
        self.wait(300)
        self.assertGreater(max(self.gaps()), 8)

    def test_delays_grow_while_another_desktop_with_the_same_id_replaces_it(self) -> None:
        self.cloud.bye_code = b"replaced"
        self.start()
        self.wait(600)
        self.assertIn("took over", self.bridge.reason)
        self.assertLess(len(self.cloud.connect_times), 80)
        self.cloud.bye_code = b""
        self.wait(MAX_DELAY + STABLE_AFTER + 5)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_delays_grow_while_the_proxy_closes_before_hello(self) -> None:
        self.cloud.bye_code = b"silently"
        self.start()
        self.wait(600)
        self.assertLess(len(self.cloud.connect_times), 80)

    def test_closes_a_connection_without_hello_and_keeps_its_requests(self) -> None:
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard).finish()
        self.settle()
        self.cloud.initiator.grace = self.tunnel.grace = 300
        self.cloud.bye_code = b"mute"
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTING, 2)
        )
        self.wait(HANDSHAKE_TIMEOUT - MAX_FIRST_DELAY - 1)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTING, 2)
        )
        self.wait(10)
        self.assertGreater(len(self.cloud.connect_times), 2)
        self.assertIn("no HELLO within 30 seconds", " ".join(self.reasons))
        self.cloud.bye_code = b""
        self.wait(HANDSHAKE_TIMEOUT + MAX_DELAY)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].finish()
        self.settle()
        self.assertEqual(heard.outcome, "end")

    def test_times_out_a_websocket_handshake_without_response(self) -> None:
        self.cloud.is_silent = True
        self.start()
        self.wait(TUNNEL_TIMEOUT - 1)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTING, 1)
        )
        self.wait(10)
        self.assertGreater(len(self.cloud.connect_times), 1)

    def test_a_logout_ends_an_attempt_that_the_cloud_does_not_respond_to(self) -> None:
        self.cloud.is_silent = True
        self.start()
        self.session.is_logged_out = True
        self.wait(1)
        self.assertEqual(self.bridge.state, ConnectionState.LOGGED_OUT)

    def test_another_login_ends_such_an_attempt_and_the_requests_of_the_former_user(self) -> None:
        self.start()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), FakeResponseSink()).finish()
        self.settle()
        self.cloud.is_silent = True
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.session.user, self.cloud.is_silent = "bob", False
        self.wait(1)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTED, 3)
        )
        self.assertEqual(len(self.tunnel.streams), 0)

    def test_tells_the_cloud_for_how_long_it_waits(self) -> None:
        self.cloud.accepts_token = False
        self.start()
        self.assertIn(b"\r\nCtllm-Timeout: 75000\r\n", self.cloud.handshakes[0])

    def test_requests_another_token_after_a_rejected_one(self) -> None:
        self.cloud.accepts_token = False
        self.start()
        self.wait(7)
        tokens = [
            part for data in self.cloud.handshakes for part in data.split() if b"token-" in part
        ]
        self.assertGreater(len(tokens), 1)
        self.assertEqual(len(set(tokens)), len(tokens))
        self.cloud.accepts_token = True
        self.wait(60)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_sanitizes_and_truncates_the_reason_of_a_failed_handshake(self) -> None:
        self.cloud.accepts_token = False
        self.cloud.phrase = b"No\x1b[2J \xc2\x9b2J" + b"x" * 5000
        self.start()
        self.assertEqual(self.bridge.state, ConnectionState.ERROR)
        self.assertIn("401", self.bridge.reason)
        self.assertTrue(self.bridge.reason.isprintable(), repr(self.bridge.reason))
        self.assertLess(len(self.bridge.reason), 400)

    def test_closes_the_connection_after_logout_and_waits_for_a_login(self) -> None:
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard)
        self.settle()
        self.session.is_logged_out = True
        self.wait(1.5)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertFalse(self.tunnel.is_established)
        self.wait(5)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.LOGGED_OUT, 1)
        )
        self.session.is_logged_out, self.session.version = False, 2
        self.wait(5)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_a_tunnel_of_the_former_user_is_told_from_that_of_the_present_one(self) -> None:
        """At once; it is closed at the next poll."""
        self.start()
        self.bridge.check_login()
        self.session.user = "bob"
        self.assertRaises(DesktopLost, self.bridge.check_login)
        self.wait(5)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTED, 2)
        )
        self.bridge.check_login()
        self.session.is_logged_out = True
        self.assertRaises(DesktopLost, self.bridge.check_login)

    def test_a_login_that_changes_while_a_token_is_requested_begins_again(self) -> None:
        """The token is that of one of the two users, and nobody knows of which."""
        self.session.pending = Deferred()
        self.start()
        self.session.user = "bob"
        self.session.pending.callback(None)
        self.settle()
        self.assertEqual((self.bridge.state, self.cloud.connect_times), (ConnectionState.ERROR, []))
        self.session.pending = None
        self.wait(60)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_aborts_requests_when_the_login_is_revoked(self) -> None:
        self.start()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), FakeResponseSink())
        self.settle()
        self.assertEqual(len(self.tunnel.streams), 1)
        self.session.error = Unauthorized("You were signed out.")
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, ConnectionState.LOGGED_OUT)
        self.assertEqual(len(self.tunnel.streams), 0)
        self.assertIsInstance(self.calls[0].calls[-1], DesktopLost)

    def test_obeys_retry_after_of_a_failed_handshake(self) -> None:
        self.cloud.accepts_token = False
        self.cloud.rejection = b"HTTP/1.1 503 No\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n"
        self.start()
        self.wait(89)
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.ERROR, 1)
        )
        self.cloud.accepts_token = True
        self.wait(92)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_reuses_the_token_after_a_lost_connection(self) -> None:
        self.start()
        self.cloud.pumps[-1].clientIO.loseConnection()
        self.wait(5)
        self.assertEqual((self.session.serial, len(self.cloud.connect_times)), (1, 2))

    def test_waits_for_a_login(self) -> None:
        self.session.error = Unauthorized("sign in first")
        self.start()
        self.assertEqual(
            (self.bridge.state, self.bridge.reason), (ConnectionState.LOGGED_OUT, "sign in first")
        )
        self.wait(REJECTED_LOGIN_RETRY / 2)
        self.assertEqual((self.session.token_requests, self.cloud.connect_times), (1, []))
        self.session.error = None
        self.session.version += 1
        self.wait(LOGIN_POLL_INTERVAL * 2)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_a_login_that_has_ended_is_shown_once_and_asks_nobody(self) -> None:
        reported: list[str] = []
        self.bridge.add_observer(lambda state, reason: reported.append(f"{state.label}: {reason}"))
        self.session.is_logged_out = True
        self.start()
        shown = list(reported)
        for _ in range(5):
            self.session.version += 1  # another process changes the file for another reason
            self.wait(REJECTED_LOGIN_RETRY)
        self.assertEqual(reported, shown)
        self.assertEqual((self.session.token_requests, self.cloud.connect_times), (0, []))

    def test_a_disabled_user_is_shown_as_logged_out_and_asks_rarely(self) -> None:
        self.check_refused_user(UserDisabled("Ask the administrator."))

    def test_a_user_without_a_group_is_shown_as_logged_out_and_asks_rarely(self) -> None:
        self.check_refused_user(GroupNotAllowed("No group of yours may sign in."))

    def check_refused_user(self, error: CtllmError) -> None:
        self.session.error = error
        self.start()
        self.assertEqual(
            (self.bridge.state, self.bridge.reason), (ConnectionState.LOGGED_OUT, error.message)
        )
        self.wait(REJECTED_LOGIN_RETRY / 2)
        self.assertEqual((self.session.token_requests, self.cloud.connect_times), (1, []))
        self.session.error = None
        self.wait(REJECTED_LOGIN_RETRY)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_retries_when_the_token_request_fails(self) -> None:
        self.session.error = BadGateway("not there")
        self.start()
        self.assertEqual(
            (self.bridge.state, self.bridge.reason), (ConnectionState.ERROR, "not there")
        )
        self.session.error = None
        self.wait(5.2)
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_a_request_continues_over_the_next_connection(self) -> None:
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard).finish()
        self.settle()
        self.cloud.pumps[-1].clientIO.loseConnection()
        self.settle()
        self.callers[0].write_head(ResponseHead(200))
        self.wait(3)
        self.callers[0].finish()
        self.settle()
        self.assertEqual(heard.outcome, "end")


class ReconnectNowTests(BridgeCase):
    def test_cuts_the_delay_short_and_resets_it(self) -> None:
        self.cloud.error = ConnectionRefusedError()
        self.start()
        self.wait(300)
        dials = len(self.cloud.connect_times)
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual(len(self.cloud.connect_times), dials + 1)
        self.wait(5.2)
        self.assertGreaterEqual(len(self.cloud.connect_times), dials + 2)
        self.cloud.error = None
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTED)

    def test_replaces_a_connection_without_ending_its_requests(self) -> None:
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard).finish()
        self.settle()
        before = self.clock.seconds()
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual((len(self.cloud.connect_times), self.clock.seconds()), (2, before))
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].finish()
        self.settle()
        self.assertEqual(heard.outcome, "end")

    def test_cancels_an_attempt_in_progress(self) -> None:
        self.cloud.pending = Deferred()
        self.start()
        self.cloud.pending = None
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual(
            (self.bridge.state, len(self.cloud.connect_times)), (ConnectionState.CONNECTED, 2)
        )

    def test_does_nothing_without_a_login(self) -> None:
        self.session.is_logged_out = True
        self.start()
        self.bridge.reconnect_now("a test")
        self.wait(2)
        self.assertEqual(
            (self.bridge.state, self.cloud.connect_times), (ConnectionState.LOGGED_OUT, [])
        )

    def test_traffic_counts_all_connections(self) -> None:
        self.start()
        _, sent, heard = self.bridge.traffic
        self.assertGreater(min(sent, heard), 0)
        self.bridge.reconnect_now("a test")
        self.settle()
        now = self.bridge.traffic
        self.assertGreater(now[1], sent)
        self.assertGreater(now[2], heard)


class StopTests(BridgeCase):
    """The bridge stops in every state; `end` checks that no connection or timer is left."""

    def test_while_waiting_for_the_next_attempt(self) -> None:
        self.cloud.error = ConnectionRefusedError()
        self.start()

    def test_while_requesting_a_token(self) -> None:
        self.session.pending = Deferred()
        self.start()
        self.end()
        self.assertTrue(self.session.pending.called)

    def test_while_requesting_a_token_whose_cancellation_becomes_another_error(self) -> None:

        class Clumsy(FakeSession):
            async def access_token(self) -> str:
                try:
                    return await super().access_token()
                except BaseException as error:
                    raise BadGateway("it did not answer") from error

        self.session = Clumsy()
        self.session.pending = Deferred()
        self.bridge = self.make_bridge()
        self.start()
        self.end()

    def test_while_connecting(self) -> None:
        self.cloud.pending = Deferred()
        self.start()
        self.assertEqual(self.bridge.state, ConnectionState.CONNECTING)
        self.end()
        self.assertTrue(self.cloud.pending.called)

    def test_while_connected_ends_requests_with_an_error(self) -> None:
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard)
        self.settle()
        stopped = self.bridge.stopService()
        self.settle()
        self.successResultOf(stopped)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertIsInstance(self.calls[0].calls[-1], CtllmError)
        self.wait(90)
        self.assertEqual((len(self.cloud.connect_times), self.clock.getDelayedCalls()), (1, []))

    def test_while_logged_out(self) -> None:
        self.session.error = Unauthorized("sign in first")
        self.start()


class DrawingTests(SynchronousTestCase):
    """docs/bridge-states.svg is drawn from bridge-states.dot, which has the table's transitions."""

    def test_dot_has_the_transitions_of_the_table(self) -> None:
        self.assertEqual(
            drawn_transitions("bridge-states"),
            {
                (old.value, new.value, name)
                for old, row in TRANSITIONS.items()
                for name, new in row.items()
                if old is not new
            },
        )

    def test_svg_has_the_arrows_of_the_dot_file(self) -> None:
        self.assertEqual(svg_arrows("bridge-states"), dot_arrows("bridge-states"))

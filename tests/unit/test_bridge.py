"""The bridge: it dials, comes back when the connection is lost, and stops when told to."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import txaio
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.test.iosim import IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop import bridge as module
from ctllm.desktop.bridge import LOGIN_POLL_INTERVAL, REJECTED_LOGIN_RETRY, STABLE_AFTER, Bridge
from ctllm.desktop.reconnect_backoff import MAX_DELAY, MAX_FIRST_DELAY
from ctllm.errors import BadGateway, CtllmError, DesktopLost, Unauthorized
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.tunnel.frames import CONNECTION_ID, Desktop, FrameKind, Reason, encode_json_frame
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory
from ctllm.tunnel.websocket.protocols import ProxyWebSocket
from tests.unit.fakes import FakeRequestSink, FakeResponseSink
from tests.unit.tunnel.websocket.test_protocols import Transport


class Session:
    """Tokens as a test wants them."""

    def __init__(self) -> None:
        self.serial = 0
        self.refusal: CtllmError | None = None
        self.waiting: Deferred[None] | None = None
        self.signed_in = 1
        self.asked = 0
        self.out = False
        self._fresh = True

    @property
    def login(self) -> Any:
        if self.out:
            raise Unauthorized("nobody is signed in")
        return SimpleNamespace(cloud_url="http://cloud.example:8080")

    async def access_token(self) -> str:
        self.asked += 1
        if self.waiting is not None:
            await self.waiting
        if self.refusal is not None:
            raise self.refusal
        if self._fresh:
            self.serial += 1
            self._fresh = False
        return f"token-{self.serial}"

    def discard_tokens(self) -> None:
        self._fresh = True

    def credentials_version(self) -> int:
        return self.signed_in


class Refusing(Protocol):
    """A cloud that does not believe the token, or has no room yet."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.cloud.seen.append(data)  # type: ignore[union-attr]
        cloud: Any = self.factory.cloud  # type: ignore[union-attr]
        said = cloud.refuses or b"HTTP/1.1 401 %b\r\nContent-Length: 0\r\n\r\n" % cloud.phrase
        self.transport.write(said)  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


class Cloud:
    """What is dialled: it refuses, answers with 401, or has an initiator behind a WebSocket."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Any = clock
        self.refusal: Exception | None = None
        self.hanging: Deferred[Any] | None = None
        self.believes = True
        self.phrase = b"No"
        self.unwelcome = b""  # connections are greeted with this BYE, or left without a word
        self.dials: list[float] = []
        self.seen: list[bytes] = []
        self.refuses = b""
        self.silent = False  # takes connections and says nothing on them
        self.initiator = Initiator(1 << 18, 30, 8)
        self.pumps: list[IOPump] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.dials.append(self.clock.seconds())
        if self.hanging is not None:
            return self.hanging
        if self.refusal is not None:
            return fail(self.refusal)
        server: Any = Refusing()
        server.factory = SimpleNamespace(cloud=self)
        if self.silent:
            server = Protocol()
        elif self.believes:
            server = ProxyWebSocketFactory(self.clock, self.greeted, 20, 10).buildProtocol(None)
        client = factory.buildProtocol(None)
        pump = connect(server, Transport(server, True), client, Transport(client, False))
        self.pumps.append(pump)
        return succeed(client)

    def greeted(self, socket: ProxyWebSocket, message: bytes) -> None:
        if self.unwelcome == b"mute":
            return
        if self.unwelcome == b"silently":
            socket.close_gracefully()
            return
        self.initiator.is_established = False
        socket.attach_tunnel(self.initiator)
        self.initiator.receive_message(message)
        if self.unwelcome:
            reason = Reason(self.unwelcome.decode(), "somebody took over")
            socket.close_gracefully(
                self.initiator.next_message()
                + encode_json_frame(FrameKind.BYE, CONNECTION_ID, reason)
            )

    def move(self) -> bool:
        return any(pump.pump() for pump in self.pumps)


class Case(SynchronousTestCase):
    """A bridge, running."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(txaio.config, "loop", self.clock)
        self.cloud = Cloud(self.clock)
        self.patch(module, "endpoint_for_url", lambda url, reactor: self.cloud)
        self.session = Session()
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
        self.bridge = Bridge(self.tunnel, self.session, self.clock, (20.0, 10.0))
        self.states: list[str] = []
        self.reasons: list[str] = []
        self.bridge.on_state = self.changed
        self.addCleanup(self.end)

    def changed(self) -> None:
        self.states.append(self.bridge.state)
        self.reasons.append(self.bridge.reason)

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
        dials = len(self.cloud.dials)
        self.wait(90)
        if stopped is not None:
            self.successResultOf(stopped)
        self.assertEqual(len(self.cloud.dials), dials)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Dialling(Case):
    """Getting a connection, and the next one."""

    def test_connected(self) -> None:
        """The tunnel is up, and whoever shows the state has heard so."""
        self.start()
        self.assertEqual(self.states, ["connecting", "connected"])
        self.assertTrue(self.cloud.initiator.is_established and self.tunnel.is_established)

    def test_backoff(self) -> None:
        """Attempts become rarer, down to one in half a minute, and nobody can say when."""
        self.cloud.refusal = ConnectionRefusedError()
        self.start()
        self.assertEqual(self.bridge.state, "error")
        self.assertIn("http://cloud.example:8080 cannot be reached", self.bridge.reason)
        self.wait(1200)
        gaps = self.gaps()
        self.assertLess(gaps[0], 5.2)
        self.assertGreaterEqual(min(gaps), 1)
        self.assertGreater(sum(gaps[-20:]) / 20, 8)
        self.assertLessEqual(max(gaps), MAX_DELAY + 0.2)
        self.assertGreater(len(set(gaps[-10:])), 3)

    def gaps(self) -> list[float]:
        return [round(b - a, 3) for a, b in pairwise(self.cloud.dials)]

    def lose(self) -> None:
        """The network cuts the connection."""
        self.cloud.pumps[-1].clientIO.loseConnection()
        self.settle()

    def test_eager_again_after_a_connection_that_worked(self) -> None:
        """Whatever went before, it is missed at once."""
        self.cloud.refusal = ConnectionRefusedError()
        self.start()
        self.wait(300)
        self.cloud.refusal = None
        self.wait(MAX_DELAY + 1)
        self.assertEqual(self.bridge.state, "connected")
        self.lose()
        self.assertEqual(self.bridge.state, "error")
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, "connected")

    def test_a_network_that_cuts_again_and_again(self) -> None:
        """Each time the bridge is back at once: staying away longer would lose the answers."""
        self.start()
        for _ in range(50):
            self.lose()
            self.wait(MAX_FIRST_DELAY + 0.2)
            self.assertEqual(self.bridge.state, "connected")

    def test_while_an_answer_waits(self) -> None:
        """Attempts do not become rare before the answer's time is over; then they do."""
        self.start()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), FakeResponseSink())
        self.settle()
        self.cloud.refusal = ConnectionRefusedError()
        self.lose()
        self.wait(29)
        self.assertLessEqual(max(self.gaps()[1:]), 5.2)
        self.wait(300)
        self.assertGreater(max(self.gaps()), 8)

    def test_another_that_takes_its_place(self) -> None:
        """Two desktops with one id, as of a copied folder, do not throw each other out all day."""
        self.cloud.unwelcome = b"replaced"
        self.start()
        self.wait(600)
        self.assertIn("took over", self.bridge.reason)
        self.assertLess(len(self.cloud.dials), 80)
        self.cloud.unwelcome = b""
        self.wait(MAX_DELAY + STABLE_AFTER + 5)
        self.assertEqual(self.bridge.state, "connected")
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, "connected")

    def test_a_cloud_that_never_greets(self) -> None:
        """A connection that opened and was of no use counts as a failed attempt."""
        self.cloud.unwelcome = b"silently"
        self.start()
        self.wait(600)
        self.assertLess(len(self.cloud.dials), 80)

    def test_a_cloud_that_answers_pings_and_never_greets(self) -> None:
        """It is given up within the time of a handshake; the answers under way wait for another."""
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard).finish()
        self.settle()
        self.cloud.initiator.grace = self.tunnel.grace = 300
        self.cloud.unwelcome = b"mute"
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("connecting", 2))
        self.wait(HANDSHAKE_TIMEOUT - MAX_FIRST_DELAY - 1)
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("connecting", 2))
        self.wait(10)
        self.assertGreater(len(self.cloud.dials), 2)
        self.assertIn("no HELLO within 30 seconds", " ".join(self.reasons))
        self.cloud.unwelcome = b""
        self.wait(HANDSHAKE_TIMEOUT + MAX_DELAY)
        self.assertEqual(self.bridge.state, "connected")
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].finish()
        self.settle()
        self.assertEqual(heard.outcome, "end")

    def test_a_cloud_that_takes_connections_and_says_nothing(self) -> None:
        """The WebSocket's own handshake has its time, too."""
        self.cloud.silent = True
        self.start()
        self.wait(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("connecting", 1))
        self.wait(10)
        self.assertGreater(len(self.cloud.dials), 1)

    def test_a_refused_token_is_not_used_again(self) -> None:
        """The next attempt has another one."""
        self.cloud.believes = False
        self.start()
        self.wait(7)
        tokens = [part for data in self.cloud.seen for part in data.split() if b"token-" in part]
        self.assertGreater(len(tokens), 1)
        self.assertEqual(len(set(tokens)), len(tokens))
        self.cloud.believes = True
        self.wait(60)
        self.assertEqual(self.bridge.state, "connected")

    def test_a_refusal_that_would_steer_a_terminal(self) -> None:
        """It is told without what steers, and not at any length."""
        self.cloud.believes = False
        self.cloud.phrase = b"No\x1b[2J \xc2\x9b2J" + b"x" * 5000
        self.start()
        self.assertEqual(self.bridge.state, "error")
        self.assertIn("401", self.bridge.reason)
        self.assertTrue(self.bridge.reason.isprintable(), repr(self.bridge.reason))
        self.assertLess(len(self.bridge.reason), 400)

    def test_signing_out_hangs_up(self) -> None:
        """What was being answered ends with an error, and nothing is dialled until a sign-in."""
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard)
        self.settle()
        self.session.out = True
        self.wait(1.5)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertFalse(self.tunnel.is_established)
        self.wait(5)
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("signed out", 1))
        self.session.out, self.session.signed_in = False, 2
        self.wait(5)
        self.assertEqual(self.bridge.state, "connected")

    def test_a_sign_in_that_was_revoked(self) -> None:
        """What Ollama was answering is told to stop, since nobody may take it up any more."""
        self.start()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), FakeResponseSink())
        self.settle()
        self.assertEqual(len(self.tunnel.streams), 1)
        self.session.refusal = Unauthorized("You were signed out.")
        self.lose()
        self.wait(MAX_FIRST_DELAY + 0.2)
        self.assertEqual(self.bridge.state, "signed out")
        self.assertEqual(len(self.tunnel.streams), 0)
        self.assertIsInstance(self.calls[0].calls[-1], DesktopLost)

    def test_a_cloud_that_has_no_room_yet(self) -> None:
        """It says when to come again, and is not asked before that."""
        self.cloud.believes = False
        self.cloud.refuses = b"HTTP/1.1 503 No\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n"
        self.start()
        self.wait(89)
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("error", 1))
        self.cloud.believes = True
        self.wait(92)
        self.assertEqual(self.bridge.state, "connected")

    def test_a_token_that_worked_is_used_again(self) -> None:
        """A connection that broke says nothing against its token."""
        self.start()
        self.cloud.pumps[-1].clientIO.loseConnection()
        self.wait(5)
        self.assertEqual((self.session.serial, len(self.cloud.dials)), (1, 2))

    def test_signed_out(self) -> None:
        """It says so, asks nothing more of the cloud, and goes on when somebody signs in."""
        self.session.refusal = Unauthorized("sign in first")
        self.start()
        self.assertEqual((self.bridge.state, self.bridge.reason), ("signed out", "sign in first"))
        self.wait(REJECTED_LOGIN_RETRY / 2)
        self.assertEqual((self.session.asked, self.cloud.dials), (1, []))
        self.session.refusal = None
        self.session.signed_in += 1
        self.wait(LOGIN_POLL_INTERVAL * 2)
        self.assertEqual(self.bridge.state, "connected")

    def test_no_token_to_be_had(self) -> None:
        """A cloud that is not there when the token is asked for is a failed attempt."""
        self.session.refusal = BadGateway("not there")
        self.start()
        self.assertEqual((self.bridge.state, self.bridge.reason), ("error", "not there"))
        self.session.refusal = None
        self.wait(5.2)
        self.assertEqual(self.bridge.state, "connected")

    def test_an_exchange_outlives_its_connection(self) -> None:
        """It goes on over the next one."""
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


class Hurrying(Case):
    """The machine slept, or its network is another one."""

    def test_while_waiting(self) -> None:
        """It does not wait on, and later waits begin with the short ones again."""
        self.cloud.refusal = ConnectionRefusedError()
        self.start()
        self.wait(300)
        dials = len(self.cloud.dials)
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual(len(self.cloud.dials), dials + 1)
        self.wait(5.2)
        self.assertGreaterEqual(len(self.cloud.dials), dials + 2)
        self.cloud.refusal = None
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual(self.bridge.state, "connected")

    def test_while_connected(self) -> None:
        """At once over a new connection, where answers go on."""
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard).finish()
        self.settle()
        before = self.clock.seconds()
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual((len(self.cloud.dials), self.clock.seconds()), (2, before))
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].finish()
        self.settle()
        self.assertEqual(heard.outcome, "end")

    def test_while_dialling(self) -> None:
        """What hangs there is given up."""
        self.cloud.hanging = Deferred()
        self.start()
        self.cloud.hanging = None
        self.bridge.reconnect_now("a test")
        self.settle()
        self.assertEqual((self.bridge.state, len(self.cloud.dials)), ("connected", 2))

    def test_while_signed_out(self) -> None:
        """Nothing is dialled without a sign-in."""
        self.session.out = True
        self.start()
        self.bridge.reconnect_now("a test")
        self.wait(2)
        self.assertEqual((self.bridge.state, self.cloud.dials), ("signed out", []))

    def test_traffic(self) -> None:
        """Is counted over all connections."""
        self.start()
        _, sent, heard = self.bridge.traffic
        self.assertGreater(min(sent, heard), 0)
        self.bridge.reconnect_now("a test")
        self.settle()
        now = self.bridge.traffic
        self.assertGreater(now[1], sent)
        self.assertGreater(now[2], heard)


class Stopping(Case):
    """It stops in every phase; `end` looks that nothing stays behind."""

    def test_before_anything(self) -> None:
        """While it waits for the next attempt."""
        self.cloud.refusal = ConnectionRefusedError()
        self.start()

    def test_while_asking_for_a_token(self) -> None:
        """The asking is cancelled."""
        self.session.waiting = Deferred()
        self.start()
        self.end()
        self.assertTrue(self.session.waiting.called)

    def test_while_asking_for_a_token_that_fails_on_the_way(self) -> None:
        """Even if whoever asks makes another error of being cancelled."""

        class Clumsy(Session):
            async def access_token(self) -> str:
                try:
                    return await super().access_token()
                except BaseException as error:
                    raise BadGateway("it did not answer") from error

        self.session = Clumsy()
        self.session.waiting = Deferred()
        self.bridge._session = self.session
        self.start()
        self.end()

    def test_while_dialling(self) -> None:
        """The dialling is cancelled."""
        self.cloud.hanging = Deferred()
        self.start()
        self.assertEqual(self.bridge.state, "connecting")
        self.end()
        self.assertTrue(self.cloud.hanging.called)

    def test_while_connected(self) -> None:
        """Clients that are being answered hear of it at once; their work is cancelled."""
        self.start()
        heard = FakeResponseSink()
        self.cloud.initiator.start_request(RequestHead(b"GET", b"/"), heard)
        self.settle()
        stopped = self.bridge.stopService()
        self.settle()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.assertIsInstance(self.calls[0].calls[-1], CtllmError)
        self.wait(90)
        self.assertEqual((len(self.cloud.dials), self.clock.getDelayedCalls()), (1, []))

    def test_while_signed_out(self) -> None:
        """Nobody is waited for."""
        self.session.refusal = Unauthorized("sign in first")
        self.start()

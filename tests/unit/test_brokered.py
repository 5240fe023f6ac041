"""One request of an app between two sides: what is kept, sent once more, and told."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.broker.failover_request import FailoverRequest
from ctllm.desktop.broker.routing_policy import Route
from ctllm.errors import (
    BadGateway,
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    OllamaDown,
    ProxyUnavailable,
    Unauthorized,
)
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, ResponseHead
from ctllm.ollama.model_sniffer import JsonModelSniffer
from ctllm.relay.replay_buffer import ReplayBuffer
from tests.unit.fakes import FakeRequestSink, FakeResponseSink, FakeUpstream

OK = ResponseHead(200)
CHAT = RequestHead(b"POST", b"/api/chat")
L, C = Route.LOCAL, Route.CLOUD


class Routes:
    """A broker whose sides do what a test wants."""

    def __init__(self) -> None:
        self.upstreams = {L: FakeUpstream(), C: FakeUpstream()}
        self.order: list[Route] = [L, C]
        self.models: list[str | None] = []
        self.failures: list[Route] = []
        self.refusals: dict[Route, CtllmError] = {}
        self.waits_for: dict[Route, Deferred[None]] = {}
        self.ended = 0

    async def start_request(
        self, route: Route, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        if route in self.waits_for:
            await self.waits_for[route]
        if route in self.refusals:
            raise self.refusals[route]
        return self.upstreams[route].start_request(head, sink)

    def choose_route(self, head: RequestHead, model: str | None) -> Route:
        self.models.append(model)
        return self.order[0]

    def failover_route(self, failed: Route) -> Route | None:
        return self.order[1] if len(self.order) > 1 else None

    def response_headers(self, route: Route, model: str | None) -> Headers:
        return ((b"Side", route.encode()), (b"Model", (model or "-").encode()))

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        return error

    def route_failed(self, route: Route) -> None:
        self.failures.append(route)

    def request_finished(self, request: RequestSink) -> None:
        self.ended += 1


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.routes = Routes()
        self.app = FakeResponseSink()
        self.room = BufferBudget(1 << 20)
        self.request = self.make()

    def make(self, keeps: bool = True, **limits: int) -> FailoverRequest:
        self.body = ReplayBuffer(self.room, keeps, **limits)
        name = JsonModelSniffer(("model",))
        return FailoverRequest(self.routes, CHAT, self.app, name, self.body)

    def caller(self, side: Route, number: int = -1) -> Any:
        return self.routes.upstreams[side].sinks[number]

    def told(self, side: Route) -> list[Any]:
        return self.routes.upstreams[side].requests[-1].calls

    def sent(self, side: Route) -> bytes:
        return b"".join(each for each in self.told(side) if isinstance(each, bytes))


class Choosing(Case):
    """When a side is asked."""

    def test_waits_for_the_model(self) -> None:
        self.request.write(b'{"messages":[],')
        self.assertEqual(self.routes.models, [])
        self.request.write(b'"model":"phi3",')
        self.assertEqual(self.routes.models, [])
        self.request.write(b'"model":"phi4"}')
        self.assertEqual(self.routes.models, ["phi4"])
        self.request.write(b" ")
        self.request.finish()
        self.assertEqual(self.sent(L), b'{"messages":[],"model":"phi3","model":"phi4"} ')
        self.assertEqual(self.told(L)[-1], "end")

    def test_no_longer_than_the_body(self) -> None:
        self.request.write(b"{}")
        self.request.finish()
        self.assertEqual((self.routes.models, self.told(L)), ([None], [b"{}", "end"]))

    def test_at_once(self) -> None:
        self.request.choose_route()
        self.assertEqual(self.told(L), [])
        self.request.write(b"x")
        self.assertEqual(self.told(L), [b"x"])

    def test_no_more_than_fits(self) -> None:
        """A body that names no model is let through before it is all there."""
        self.request = self.make(limit=10)
        self.request.write(b'{"x":"' + b"A" * 10)
        self.assertEqual(len(self.routes.models), 1)
        self.assertEqual(len(self.sent(L)), 16)


class Failing(Case):
    """Before the first byte."""

    def ask(self) -> None:
        self.request.write(b'{"model":"m",')
        self.request.write(b'"x":1}')
        self.request.finish()

    def test_moved_with_everything(self) -> None:
        self.ask()
        self.caller(L).fail(OllamaDown("gone"))
        self.assertEqual(self.sent(C), b'{"model":"m","x":1}')
        self.assertEqual(self.told(C)[-1], "end")
        self.assertEqual(self.routes.failures, [L])
        self.caller(C).write_head(OK)
        self.caller(C).write(b"hello")
        self.caller(C).finish()
        self.assertEqual((bytes(self.app.body), self.app.outcome), (b"hello", "end"))
        assert self.app.head is not None
        self.assertEqual(self.app.head.headers, ((b"Side", b"cloud"), (b"Model", b"m")))
        self.assertEqual((self.room.reserved, self.routes.ended), (0, 1))

    def test_moved_in_mid_body(self) -> None:
        """What comes later goes to the second side only."""
        self.request.choose_route()
        self.request.write(b'{"model":"m",')
        self.caller(L).fail(OllamaDown("gone"))
        self.request.write(b'"x":1}')
        self.request.finish()
        self.assertEqual(self.sent(L), b'{"model":"m",')
        self.assertEqual(self.sent(C), b'{"model":"m","x":1}')

    def test_both_fail(self) -> None:
        """Both reasons are told, with the status of the side that was wanted."""
        self.ask()
        self.caller(L).fail(OllamaDown("no Ollama"))
        self.caller(C).fail(ProxyUnavailable("no proxy"))
        error = self.app.outcome
        assert isinstance(error, OllamaDown)
        self.assertEqual(error.message, "no Ollama Then: no proxy")
        self.assertEqual((self.room.reserved, self.routes.ended), (0, 1))

    def test_a_side_that_cannot_begin(self) -> None:
        self.routes.refusals[L] = Unauthorized("signed out")
        self.ask()
        self.assertEqual(self.sent(C), b'{"model":"m","x":1}')

    def test_signed_out_and_no_ollama(self) -> None:
        """That this desktop is signed out is not the app's fault."""
        self.routes.order = [C, L]
        self.routes.refusals[C] = Unauthorized("signed out")
        self.ask()
        self.caller(L).fail(OllamaDown("no Ollama"))
        self.assertIsInstance(self.app.outcome, OllamaDown)

    def test_no_other_side(self) -> None:
        self.routes.order = [L]
        self.ask()
        error = OllamaDown("gone")
        self.caller(L).fail(error)
        self.assertIs(self.app.outcome, error)
        self.assertEqual(self.routes.upstreams[C].heads, [])

    def test_what_is_not_kept_is_not_moved(self) -> None:
        self.request = self.make(keeps=False)
        self.ask()
        error = OllamaDown("gone")
        self.caller(L).fail(error)
        self.assertIs(self.app.outcome, error)

    def test_too_large_to_be_kept(self) -> None:
        self.request = self.make(limit=20)
        self.request.write(b'{"model":"m",')
        self.request.write(b"A" * 30)
        self.assertEqual(self.room.reserved, 0)
        error = OllamaDown("gone")
        self.caller(L).fail(error)
        self.assertIs(self.app.outcome, error)

    def test_no_room(self) -> None:
        """What others hold counts, too."""
        self.room.reserve(1 << 20)
        self.ask()
        self.assertEqual(self.room.reserved, 1 << 20)
        error = OllamaDown("gone")
        self.caller(L).fail(error)
        self.assertIs(self.app.outcome, error)

    def test_the_body_was_stopped(self) -> None:
        """The app, whose body the first side had stopped, may go on."""
        self.request.write(b'{"model":"m"}')
        self.caller(L).pause_request_body()
        self.assertFalse(self.app.may_send_body)
        self.caller(L).fail(OllamaDown("gone"))
        self.assertTrue(self.app.may_send_body)

    def test_statuses_that_are_no_answer(self) -> None:
        for status in (502, 503, 504):
            self.setUp()
            self.ask()
            self.caller(L).write_head(ResponseHead(status))
            self.assertIsInstance(self.told(L)[-1], ClientDisconnected)
            self.assertEqual(self.sent(C), b'{"model":"m","x":1}', status)
            self.caller(C).write_head(ResponseHead(status))  # there is no third side
            assert self.app.head is not None
            self.assertEqual(self.app.head.status, status)

    def test_statuses_that_are(self) -> None:
        for status in (200, 400, 401, 404, 429, 500):
            self.setUp()
            self.ask()
            self.caller(L).write_head(ResponseHead(status))
            assert self.app.head is not None
            self.assertEqual(self.app.head.status, status)
            self.assertEqual(self.routes.upstreams[C].heads, [])

    def test_a_cloud_that_does_not_believe_us(self) -> None:
        """The app has shown nothing, so it does not hear that it is unknown."""
        self.routes.order = [C, L]
        self.ask()
        self.caller(C).write_head(ResponseHead(401))
        self.assertEqual(self.sent(L), b'{"model":"m","x":1}')
        self.setUp()
        self.routes.order = [C]
        self.ask()
        self.caller(C).write_head(ResponseHead(401))
        self.assertIsInstance(self.app.outcome, BadGateway)
        self.assertIn("Log in again", str(self.app.outcome))

    def test_a_side_that_died(self) -> None:
        """Where another can be asked, nothing is waited for; else it may still answer."""
        self.ask()
        self.request.route_went_down()
        self.assertIsInstance(self.told(L)[-1], ClientDisconnected)
        self.assertEqual(self.sent(C), b'{"model":"m","x":1}')
        self.request.route_went_down()  # the second is the last
        self.caller(C).write_head(OK)
        self.assertIsNotNone(self.app.head)


class Answering(Case):
    """From the first byte on."""

    def setUp(self) -> None:
        super().setUp()
        self.request.write(b'{"model":"m"}')
        self.request.finish()
        self.caller(L).write_head(OK)
        self.caller(L).write(b"one")

    def test_breaks_off(self) -> None:
        """Nobody else is asked."""
        error = BadGateway("broke off")
        self.caller(L).fail(error)
        self.assertIs(self.app.outcome, error)
        self.assertEqual((self.routes.upstreams[C].heads, self.routes.failures), ([], []))

    def test_nothing_is_kept(self) -> None:
        self.assertEqual(self.room.reserved, 0)

    def test_its_side_is_said_to_be_dead(self) -> None:
        self.request.route_went_down()
        self.caller(L).write(b"two")
        self.assertEqual(bytes(self.app.body), b"onetwo")

    def test_pauses(self) -> None:
        self.request.pause_response()
        self.request.resume_response()
        self.assertEqual(self.told(L)[-2:], ["pause", "resume"])

    def test_dismissed(self) -> None:
        """The app is told, and the side is left."""
        error = DesktopLost("stopped")
        self.request.abort(error)
        self.assertIs(self.app.outcome, error)
        self.assertIs(self.told(L)[-1], error)
        self.request.abort(error)


class Leaving(Case):
    """The app goes away."""

    def test_before_a_side(self) -> None:
        self.request.write(b'{"x":')
        self.request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.room.reserved, self.routes.models), (0, []))
        self.request.write(b"1}")
        self.request.finish()
        self.assertEqual(self.routes.models, [])

    def test_while_it_begins(self) -> None:
        self.routes.waits_for[L] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.routes.upstreams[L].heads, self.app.outcome), ([], None))

    def test_while_the_second_side_begins(self) -> None:
        """Though the first one failed in the very call that began it."""
        self.routes.refusals[L] = Unauthorized("no way")
        self.routes.waits_for[C] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.finish()
        self.request.cancel(ClientDisconnected("left"))
        self.routes.waits_for[C].callback(None)
        self.assertEqual(self.routes.upstreams[C].heads, [])

    def test_in_between(self) -> None:
        self.request.write(b'{"model":"m"}')
        error = ClientDisconnected("left")
        self.request.cancel(error)
        self.assertIs(self.told(L)[-1], error)
        self.assertEqual((self.room.reserved, self.routes.ended, self.app.outcome), (0, 1, None))

    def test_a_pause_before_a_side_is_there(self) -> None:
        self.routes.waits_for[L] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.pause_response()
        self.routes.waits_for[L].callback(None)
        self.assertEqual(self.told(L)[0], "pause")

    def test_a_bug(self) -> None:
        """The app is told something, and the log the rest."""
        self.patch(self.routes, "start_request", lambda *_: self._breaks())
        self.request.write(b'{"model":"m"}')
        self.assertIsInstance(self.app.outcome, BadGateway)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def _breaks(self) -> FakeRequestSink:
        raise ZeroDivisionError


class Backpressure(Case):
    """The body of a request goes as fast as its side takes it."""

    def test_while_a_side_is_on_its_way(self) -> None:
        """Nothing more is asked for: a token may be long in coming, and a body be a model."""
        self.routes.waits_for[L] = Deferred()
        self.request.choose_route()
        self.assertFalse(self.app.may_send_body)
        self.routes.waits_for[L].callback(None)
        self.assertTrue(self.app.may_send_body)

    def test_a_side_that_is_busy_from_the_start(self) -> None:
        """It has its connection still to make."""
        side = self.routes.upstreams[L]
        open_ = side.start_request

        def busy(head: RequestHead, caller: Any) -> FakeRequestSink:
            caller.pause_request_body()
            return open_(head, caller)

        self.patch(side, "start_request", busy)
        self.request.write(b'{"model":"m"}')
        self.assertEqual((self.app.may_send_body, self.told(L)), (False, []))
        self.caller(L).resume_request_body()
        self.assertEqual((self.app.may_send_body, self.told(L)), (True, [b'{"model":"m"}']))

    def test_replayed_no_faster_than_it_is_taken(self) -> None:
        self.request = self.make(chunk_size=4)
        self.request.write(b'{"model":"m","more":"..."}')
        slow = FakeRequestSink()
        caller: list[Any] = []

        def open(head: RequestHead, of: Any) -> FakeRequestSink:
            caller.append(of)
            slow.write = lambda piece: (slow.calls.append(piece), of.pause_request_body())  # type: ignore
            return slow

        self.patch(self.routes.upstreams[C], "start_request", open)
        self.caller(L).fail(OllamaDown("gone"))
        self.assertEqual(slow.calls, [b'{"mo'])
        self.assertFalse(self.app.may_send_body)
        caller[0].resume_request_body()
        self.assertEqual(slow.calls, [b'{"mo', b'del"'])
        self.request.finish()
        for _ in range(10):
            caller[0].resume_request_body()
        self.assertEqual(b"".join(slow.calls[:-1]), b'{"model":"m","more":"..."}')
        self.assertEqual(slow.calls.count("end"), 1)
        self.assertTrue(self.app.may_send_body)

"""`ctllm.desktop.broker.failover_request`: one request, two routes, and the states between."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.broker.failover_request import TABLE, FailoverRequest, State
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
from tests.unit.drawings import dot_arrows, drawn_transitions, svg_arrows
from tests.unit.fakes import FakeRequestSink, FakeResponseSink, FakeUpstream

OK = ResponseHead(200)
CHAT = RequestHead(b"POST", b"/api/chat")
LOCAL, CLOUD = Route.LOCAL, Route.CLOUD


class FakeRoutes:
    """A broker whose routes do what a test wants."""

    def __init__(self) -> None:
        self.upstreams = {LOCAL: FakeUpstream(), CLOUD: FakeUpstream()}
        self.order: list[Route] = [LOCAL, CLOUD]
        self.models: list[str | None] = []
        self.failures: list[Route] = []
        self.refusals: dict[Route, Exception] = {}
        self.waits_for: dict[Route, Deferred[None]] = {}
        self.finished = 0

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
        return ((b"Route", route.encode()), (b"Model", (model or "-").encode()))

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        return error

    def route_failed(self, route: Route) -> None:
        self.failures.append(route)

    def request_finished(self, request: RequestSink) -> None:
        self.finished += 1


class FailoverCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.routes = FakeRoutes()
        self.client = FakeResponseSink()
        self.budget = BufferBudget(1 << 20)
        self.request = self.make()

    def make(self, keeps: bool = True, **limits: int) -> FailoverRequest:
        self.body = ReplayBuffer(self.budget, keeps, **limits)
        name = JsonModelSniffer(("model",))
        return FailoverRequest(self.routes, CHAT, self.client, name, self.body)

    def sink(self, side: Route, number: int = -1) -> Any:
        return self.routes.upstreams[side].sinks[number]

    def calls(self, side: Route) -> list[Any]:
        return self.routes.upstreams[side].requests[-1].calls

    def sent(self, side: Route) -> bytes:
        return b"".join(each for each in self.calls(side) if isinstance(each, bytes))


class StateTests(SynchronousTestCase):
    def test_every_state_has_a_row_and_is_reached(self) -> None:
        self.assertEqual(set(TABLE), set(State))
        reached, todo = {State.BUFFERING}, [State.BUFFERING]
        while todo:
            found = {state for state, _ in TABLE[todo.pop()].values()} - reached
            reached |= found
            todo += found
        self.assertEqual(reached, set(State))

    def test_drawing_has_the_transitions_of_the_table(self) -> None:
        expected = {
            (state.value, end.value, name)
            for state, row in TABLE.items()
            for name, (end, _) in row.items()
            if end is not state
        }
        self.assertEqual(drawn_transitions("brokered-request"), expected)

    def test_svg_has_the_arrows_of_the_dot_file(self) -> None:
        self.assertEqual(svg_arrows("brokered-request"), dot_arrows("brokered-request"))

    def test_a_request_passes_through_the_states(self) -> None:
        routes, client = FakeRoutes(), FakeResponseSink()
        buffer = ReplayBuffer(BufferBudget(1 << 20), is_replayable=True)
        request = FailoverRequest(routes, CHAT, client, None, buffer)
        self.assertIs(request.state, State.BUFFERING)
        request.finish()
        self.assertIs(request.state, State.WAITING)
        routes.upstreams[LOCAL].sinks[0].fail(OllamaDown("gone"))
        self.assertEqual((request.state, request.pending_route), (State.WAITING, CLOUD))
        routes.upstreams[CLOUD].sinks[0].write_head(OK)
        self.assertEqual((request.state, request.pending_route), (State.RESPONDING, None))
        routes.upstreams[CLOUD].sinks[0].finish()
        self.assertIs(request.state, State.DONE)


class ChooseRouteTests(FailoverCase):
    def test_route_is_chosen_when_the_model_is_known(self) -> None:
        self.request.write(b'{"messages":[],')
        self.assertEqual(self.routes.models, [])
        self.request.write(b'"model":"phi3",')
        self.assertEqual(self.routes.models, [])
        self.request.write(b'"model":"phi4"}')
        self.assertEqual(self.routes.models, ["phi4"])
        self.request.write(b" ")
        self.request.finish()
        self.assertEqual(self.sent(LOCAL), b'{"messages":[],"model":"phi3","model":"phi4"} ')
        self.assertEqual(self.calls(LOCAL)[-1], "end")

    def test_route_is_chosen_at_the_end_of_the_body(self) -> None:
        self.request.write(b"{}")
        self.request.finish()
        self.assertEqual((self.routes.models, self.calls(LOCAL)), ([None], [b"{}", "end"]))

    def test_body_is_not_buffered_once_the_route_is_chosen(self) -> None:
        self.request.choose_route()
        self.assertEqual(self.calls(LOCAL), [])
        self.request.write(b"x")
        self.assertEqual(self.calls(LOCAL), [b"x"])

    def test_route_is_chosen_when_the_buffer_is_full(self) -> None:
        self.request = self.make(limit=10)
        self.request.write(b'{"x":"' + b"A" * 10)
        self.assertEqual(len(self.routes.models), 1)
        self.assertEqual(len(self.sent(LOCAL)), 16)


class FailoverTests(FailoverCase):
    def send(self) -> None:
        self.request.write(b'{"model":"m",')
        self.request.write(b'"x":1}')
        self.request.finish()

    def test_fails_over_with_the_whole_body(self) -> None:
        self.send()
        self.sink(LOCAL).fail(OllamaDown("gone"))
        self.assertEqual(self.sent(CLOUD), b'{"model":"m","x":1}')
        self.assertEqual(self.calls(CLOUD)[-1], "end")
        self.assertEqual(self.routes.failures, [LOCAL])
        self.sink(CLOUD).write_head(OK)
        self.sink(CLOUD).write(b"hello")
        self.sink(CLOUD).finish()
        self.assertEqual((bytes(self.client.body), self.client.outcome), (b"hello", "end"))
        assert self.client.head is not None
        self.assertEqual(self.client.head.headers, ((b"Route", b"cloud"), (b"Model", b"m")))
        self.assertEqual((self.budget.reserved, self.routes.finished), (0, 1))

    def test_rest_of_the_body_goes_to_the_second_route_only(self) -> None:
        self.request.choose_route()
        self.request.write(b'{"model":"m",')
        self.sink(LOCAL).fail(OllamaDown("gone"))
        self.request.write(b'"x":1}')
        self.request.finish()
        self.assertEqual(self.sent(LOCAL), b'{"model":"m",')
        self.assertEqual(self.sent(CLOUD), b'{"model":"m","x":1}')

    def test_error_of_both_routes_has_the_status_of_the_first(self) -> None:
        self.send()
        self.sink(LOCAL).fail(OllamaDown("no Ollama"))
        self.sink(CLOUD).fail(ProxyUnavailable("no proxy"))
        error = self.client.outcome
        assert isinstance(error, OllamaDown)
        self.assertEqual(error.message, "no Ollama Then: no proxy")
        self.assertEqual((self.budget.reserved, self.routes.finished), (0, 1))

    def test_fails_over_when_a_request_cannot_start(self) -> None:
        self.routes.refusals[LOCAL] = Unauthorized("signed out")
        self.send()
        self.assertEqual(self.sent(CLOUD), b'{"model":"m","x":1}')

    def test_missing_login_is_not_reported_as_unauthorized(self) -> None:
        self.routes.order = [CLOUD, LOCAL]
        self.routes.refusals[CLOUD] = Unauthorized("signed out")
        self.send()
        self.sink(LOCAL).fail(OllamaDown("no Ollama"))
        self.assertIsInstance(self.client.outcome, OllamaDown)

    def test_error_is_unchanged_without_another_route(self) -> None:
        self.routes.order = [LOCAL]
        self.send()
        error = OllamaDown("gone")
        self.sink(LOCAL).fail(error)
        self.assertIs(self.client.outcome, error)
        self.assertEqual(self.routes.upstreams[CLOUD].heads, [])

    def test_does_not_fail_over_when_the_body_is_not_replayable(self) -> None:
        self.request = self.make(keeps=False)
        self.send()
        error = OllamaDown("gone")
        self.sink(LOCAL).fail(error)
        self.assertIs(self.client.outcome, error)

    def test_does_not_fail_over_when_the_body_exceeds_the_buffer(self) -> None:
        self.request = self.make(limit=20)
        self.request.write(b'{"model":"m",')
        self.request.write(b"A" * 30)
        self.assertEqual(self.budget.reserved, 0)
        error = OllamaDown("gone")
        self.sink(LOCAL).fail(error)
        self.assertIs(self.client.outcome, error)

    def test_does_not_fail_over_when_the_budget_is_exhausted(self) -> None:
        self.budget.reserve(1 << 20)
        self.send()
        self.assertEqual(self.budget.reserved, 1 << 20)
        error = OllamaDown("gone")
        self.sink(LOCAL).fail(error)
        self.assertIs(self.client.outcome, error)

    def test_failover_resumes_the_client(self) -> None:
        self.request.write(b'{"model":"m"}')
        self.sink(LOCAL).pause_request_body()
        self.assertFalse(self.client.may_send_body)
        self.sink(LOCAL).fail(OllamaDown("gone"))
        self.assertTrue(self.client.may_send_body)

    def test_fails_over_on_gateway_statuses_once(self) -> None:
        for status in (502, 503, 504):
            self.setUp()
            self.send()
            self.sink(LOCAL).write_head(ResponseHead(status))
            self.assertIsInstance(self.calls(LOCAL)[-1], ClientDisconnected)
            self.assertEqual(self.sent(CLOUD), b'{"model":"m","x":1}', status)
            self.sink(CLOUD).write_head(ResponseHead(status))  # there is no third side
            assert self.client.head is not None
            self.assertEqual(self.client.head.status, status)

    def test_other_statuses_are_responses(self) -> None:
        for status in (200, 400, 401, 404, 429, 500):
            self.setUp()
            self.send()
            self.sink(LOCAL).write_head(ResponseHead(status))
            assert self.client.head is not None
            self.assertEqual(self.client.head.status, status)
            self.assertEqual(self.routes.upstreams[CLOUD].heads, [])

    def test_cloud_that_rejects_the_login_is_a_gateway_error(self) -> None:
        self.routes.order = [CLOUD, LOCAL]
        self.send()
        self.sink(CLOUD).write_head(ResponseHead(401))
        self.assertEqual(self.sent(LOCAL), b'{"model":"m","x":1}')
        self.setUp()
        self.routes.order = [CLOUD]
        self.send()
        self.sink(CLOUD).write_head(ResponseHead(401))
        self.assertIsInstance(self.client.outcome, BadGateway)
        self.assertIn("Log in again", str(self.client.outcome))

    def test_fails_over_when_the_route_goes_down(self) -> None:
        self.send()
        self.request.route_went_down()
        self.assertIsInstance(self.calls(LOCAL)[-1], ClientDisconnected)
        self.assertEqual(self.sent(CLOUD), b'{"model":"m","x":1}')
        self.request.route_went_down()  # the second is the last
        self.sink(CLOUD).write_head(OK)
        self.assertIsNotNone(self.client.head)


class RespondingTests(FailoverCase):
    def setUp(self) -> None:
        super().setUp()
        self.request.write(b'{"model":"m"}')
        self.request.finish()
        self.sink(LOCAL).write_head(OK)
        self.sink(LOCAL).write(b"one")

    def test_failure_ends_the_response_without_failover(self) -> None:
        error = BadGateway("broke off")
        self.sink(LOCAL).fail(error)
        self.assertIs(self.client.outcome, error)
        self.assertEqual((self.routes.upstreams[CLOUD].heads, self.routes.failures), ([], []))

    def test_buffer_is_released(self) -> None:
        self.assertEqual(self.budget.reserved, 0)

    def test_route_that_goes_down_does_not_end_the_response(self) -> None:
        self.request.route_went_down()
        self.sink(LOCAL).write(b"two")
        self.assertEqual(bytes(self.client.body), b"onetwo")

    def test_pause_and_resume_reach_the_upstream(self) -> None:
        self.request.pause_response()
        self.request.resume_response()
        self.assertEqual(self.calls(LOCAL)[-2:], ["pause", "resume"])

    def test_abort_reaches_client_and_upstream_once(self) -> None:
        error = DesktopLost("stopped")
        self.request.abort(error)
        self.assertIs(self.client.outcome, error)
        self.assertIs(self.calls(LOCAL)[-1], error)
        self.request.abort(error)


class CancelTests(FailoverCase):
    def test_cancel_while_buffering_releases_the_memory(self) -> None:
        self.request.write(b'{"x":')
        self.request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.budget.reserved, self.routes.models), (0, []))
        self.request.write(b"1}")
        self.request.finish()
        self.assertEqual(self.routes.models, [])

    def test_cancel_while_connecting_starts_no_request(self) -> None:
        self.routes.waits_for[LOCAL] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.routes.upstreams[LOCAL].heads, self.client.outcome), ([], None))

    def test_cancel_while_connecting_after_a_failover_starts_no_request(self) -> None:
        self.routes.refusals[LOCAL] = Unauthorized("no way")
        self.routes.waits_for[CLOUD] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.finish()
        self.request.cancel(ClientDisconnected("left"))
        self.routes.waits_for[CLOUD].callback(None)
        self.assertEqual(self.routes.upstreams[CLOUD].heads, [])

    def test_cancel_while_waiting_cancels_the_upstream_request(self) -> None:
        self.request.write(b'{"model":"m"}')
        error = ClientDisconnected("left")
        self.request.cancel(error)
        self.assertIs(self.calls(LOCAL)[-1], error)
        self.assertEqual(
            (self.budget.reserved, self.routes.finished, self.client.outcome), (0, 1, None)
        )

    def test_pause_while_connecting_reaches_the_upstream(self) -> None:
        self.routes.waits_for[LOCAL] = Deferred()
        self.request.write(b'{"model":"m"}')
        self.request.pause_response()
        self.routes.waits_for[LOCAL].callback(None)
        self.assertEqual(self.calls(LOCAL)[0], "pause")

    def test_exception_while_connecting_is_logged_and_reported(self) -> None:
        self.routes.refusals[LOCAL] = ZeroDivisionError()
        self.request.write(b'{"model":"m"}')
        self.assertIsInstance(self.client.outcome, BadGateway)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class BackpressureTests(FailoverCase):
    def test_client_is_paused_while_connecting(self) -> None:
        self.routes.waits_for[LOCAL] = Deferred()
        self.request.choose_route()
        self.assertFalse(self.client.may_send_body)
        self.routes.waits_for[LOCAL].callback(None)
        self.assertTrue(self.client.may_send_body)

    def test_client_stays_paused_while_the_upstream_is_paused(self) -> None:
        side = self.routes.upstreams[LOCAL]
        open_ = side.start_request

        def busy(head: RequestHead, caller: Any) -> FakeRequestSink:
            caller.pause_request_body()
            return open_(head, caller)

        self.patch(side, "start_request", busy)
        self.request.write(b'{"model":"m"}')
        self.assertEqual((self.client.may_send_body, self.calls(LOCAL)), (False, []))
        self.sink(LOCAL).resume_request_body()
        self.assertEqual((self.client.may_send_body, self.calls(LOCAL)), (True, [b'{"model":"m"}']))

    def test_body_is_replayed_at_the_pace_of_the_upstream(self) -> None:
        self.request = self.make(chunk_size=4)
        self.request.write(b'{"model":"m","more":"..."}')
        slow = FakeRequestSink()
        caller: list[Any] = []

        def open(head: RequestHead, of: Any) -> FakeRequestSink:
            caller.append(of)
            slow.write = lambda piece: (slow.calls.append(piece), of.pause_request_body())  # type: ignore
            return slow

        self.patch(self.routes.upstreams[CLOUD], "start_request", open)
        self.sink(LOCAL).fail(OllamaDown("gone"))
        self.assertEqual(slow.calls, [b'{"mo'])
        self.assertFalse(self.client.may_send_body)
        caller[0].resume_request_body()
        self.assertEqual(slow.calls, [b'{"mo', b'del"'])
        self.request.finish()
        for _ in range(10):
            caller[0].resume_request_body()
        self.assertEqual(b"".join(slow.calls[:-1]), b'{"model":"m","more":"..."}')
        self.assertEqual(slow.calls.count("end"), 1)
        self.assertTrue(self.client.may_send_body)

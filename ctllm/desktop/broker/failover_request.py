"""One request of an app, and its failover from one route to the other.

Until the response begins, the request body is retained so that it can be sent again on the other
route. After that a failure ends the response. `TABLE` below is the life of a request;
`docs/brokered-request.svg` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.desktop.broker.routing_policy import Route
from ctllm.errors import BadGateway, ClientDisconnected, CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, ResponseHead
from ctllm.ollama.requested_model import ModelSniffer
from ctllm.relay.buffered_request import BufferedRequest
from ctllm.relay.replay_buffer import ReplayBuffer

#: Statuses by which a gateway, or an Ollama that is overloaded, says that it cannot respond now.
_UNAVAILABLE = frozenset((502, 503, 504))
_REJECTED = "The cloud rejects this desktop's login. Log in again with: ctllm login"
_FAILED_OVER = ClientDisconnected("This request is sent on another route now.")


class RequestRoutes(Protocol):
    """What a request needs of the broker."""

    async def start_request(
        self, route: Route, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        """Start a request on `route`; raises CtllmError."""

    def choose_route(self, head: RequestHead, model: str | None) -> Route:
        """Return the route to try first."""

    def failover_route(self, failed: Route) -> Route | None:
        """Return the route to try after `failed`, or None."""

    def response_headers(self, route: Route, model: str | None) -> Headers:
        """Return the headers that say which desktop and model responded; counts the response."""

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """Return the error to send for a request that failed with `error` on every route."""

    def route_failed(self, route: Route) -> None:
        """Handle a request that failed on `route` before its response began."""

    def request_finished(self, request: RequestSink) -> None:
        """Forget `request`, which has ended."""


class State(StrEnum):
    """The states of a brokered request."""

    BUFFERING = "buffering"  # until a route is chosen
    CONNECTING = "connecting"  # a route is chosen; its upstream has no request yet
    WAITING = "waiting"  # for the head of the response
    FAILING_OVER = "failing_over"  # the route failed; the other one is considered
    RESPONDING = "responding"
    DONE = "done"


class Events(Protocol):
    """The inputs of the state machine."""

    def start(self, route: Route) -> None:
        """Try `route`."""

    def attached(self, upstream_request: RequestSink) -> None:
        """The upstream has accepted the request."""

    def upstream_failed(self, error: CtllmError) -> None:
        """The upstream failed, or responded that it is unavailable."""

    def no_route(self, error: CtllmError) -> None:
        """There is no other route."""

    def response_started(self, head: ResponseHead) -> None:
        """The head of the response arrived."""

    def response_finished(self) -> None:
        """The response is complete."""

    def abort(self, error: CtllmError) -> None:
        """The broker ends the request."""

    def cancel(self, error: CtllmError) -> None:
        """The app disconnected."""


class _Attempt:
    """A `ResponseSink` for the upstream of one route; it ignores everything once abandoned."""

    def __init__(self, owner: FailoverRequest, route: Route, sink: ResponseSink) -> None:
        self.route = route
        self.write = sink.write  # tokens go straight to the app
        self.starting: Deferred[None] | None = None
        self._owner: FailoverRequest | None = owner
        self._upstream_request: RequestSink | None = None

    def attach(self, upstream_request: RequestSink) -> None:
        """Report that the upstream has accepted the request."""
        if self._owner is not None:
            self._upstream_request = upstream_request
            self._owner.events.attached(upstream_request)

    def abandon(self, error: CtllmError) -> None:
        """Cancel the upstream's request with `error`."""
        self._owner = None
        if self.starting is not None:
            self.starting.cancel()
        if self._upstream_request is not None:
            self._upstream_request.cancel(error)

    # -- ResponseSink

    def write_head(self, head: ResponseHead) -> None:
        if self._owner is not None:
            self._owner.handle_head(self.route, head)

    def finish(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.events.response_finished()

    def fail(self, error: CtllmError) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.events.upstream_failed(error)

    def pause_request_body(self) -> None:
        if self._owner is not None:
            self._owner.body.pause_request_body()

    def resume_request_body(self) -> None:
        if self._owner is not None:
            self._owner.body.resume_request_body()


class FailoverRequest:
    """A `RequestSink` that tries one route and then the other.

    The first route is chosen when `sniffer` knows the model, or by `choose_route`.
    """

    _log = Logger()

    def __init__(
        self,
        routes: RequestRoutes,
        head: RequestHead,
        sink: ResponseSink,
        sniffer: ModelSniffer | None,
        buffer: ReplayBuffer,
    ) -> None:
        self.state = State.BUFFERING
        self.events: Events = _new_machine(self)
        self.body = BufferedRequest(sink, buffer, sniffer, self._choose_first_route)
        self.write = self.body.write
        self.finish = self.body.finish
        self.pause_response = self.body.pause_response
        self.resume_response = self.body.resume_response
        self.cancel = self.events.cancel
        #: End the request with an error, whatever its state.
        self.abort = self.events.abort
        self._routes = routes
        self._head = head
        self._sink = sink
        self._buffer = buffer
        self._attempt: _Attempt | None = None
        self._first_error: CtllmError | None = None  # of the route that was tried first

    @property
    def pending_route(self) -> Route | None:
        """The route whose response has not begun."""
        if self._attempt is None or self.state not in (State.CONNECTING, State.WAITING):
            return None
        return self._attempt.route

    def choose_route(self) -> None:
        """Choose a route with what is known of the body."""
        self.body.mark_ready()

    def route_went_down(self) -> None:
        """Fail over from the pending route, whose connection may still be open."""
        route = self.pending_route
        if route is not None and self._next_route(route) is not None:
            self._abandon(BadGateway(f"The {route} route went down."))

    def handle_head(self, route: Route, head: ResponseHead) -> None:
        """Begin the response, or fail over if the upstream is unavailable and there is a route."""
        if route is Route.CLOUD and head.status == 401:  # the app did not present that token
            self._abandon(BadGateway(_REJECTED))
        elif head.status in _UNAVAILABLE and self._next_route(route) is not None:
            self._abandon(BadGateway(f"The {route} route responded with status {head.status}."))
        else:
            self.events.response_started(head)

    def _choose_first_route(self, body: BufferedRequest) -> None:
        self.events.start(self._routes.choose_route(self._head, body.model))

    def _next_route(self, failed: Route) -> Route | None:
        if self._first_error is not None or not self._buffer.is_replayable:
            return None
        return self._routes.failover_route(failed)

    def _abandon(self, error: CtllmError) -> None:
        """Leave the upstream, which failed with `error` but still has the request."""
        assert self._attempt is not None
        self._attempt.abandon(_FAILED_OVER)
        self.events.upstream_failed(error)

    # -- outputs of the state machine

    def start_attempt(self, route: Route) -> None:
        """Start the request on `route`."""
        attempt = self._attempt = _Attempt(self, route, self._sink)
        self.body.detach()
        attempt.starting = Deferred.fromCoroutine(self._start_upstream(attempt))
        attempt.starting.addErrback(self._start_failed)

    async def _start_upstream(self, attempt: _Attempt) -> None:
        try:
            upstream_request = await self._routes.start_request(attempt.route, self._head, attempt)
        except CtllmError as error:
            attempt.fail(error)
        else:
            attempt.attach(upstream_request)

    def _start_failed(self, reason: Failure) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("A request could not be started", reason)
            self.events.abort(BadGateway("Internal error of ctllm; see the desktop's log."))

    def attach(self, upstream_request: RequestSink) -> None:
        """Send the body to the upstream."""
        self.body.attach(upstream_request)

    def fail_over(self, error: CtllmError) -> None:
        """Try the other route, or end the request if there is none."""
        assert self._attempt is not None
        failed = self._attempt.route
        self._routes.route_failed(failed)
        route = self._next_route(failed)
        if route is None:
            error = self._routes.explain_error(self._head, self._combine_errors(error))
            self.events.no_route(error)
            return
        self._first_error = error
        self._buffer.rewind()
        self.events.start(route)

    def _combine_errors(self, error: CtllmError) -> CtllmError:
        """Return an error with the messages of both routes."""
        first = self._first_error
        if first is None or error.status < 500:
            return error
        kind = type(first if first.status >= 500 else error)
        return kind(f"{first.message} Then: {error.message}")

    def start_response(self, head: ResponseHead) -> None:
        """Send the head of the response; the request cannot fail over any more."""
        assert self._attempt is not None
        self.body.stop_reading_model()
        self._buffer.discard_sent()
        own = self._routes.response_headers(self._attempt.route, self.body.model)
        self._sink.write_head(ResponseHead(head.status, head.reason, (*head.headers, *own)))

    def finish_response(self) -> None:
        """End the response."""
        self._close()
        self._sink.finish()

    def fail_response(self, error: CtllmError) -> None:
        """End the request with `error`."""
        self._close()
        self._sink.fail(error)

    def abort_request(self, error: CtllmError) -> None:
        """Cancel the upstream's request, and end this one with `error`."""
        self.cancel_request(error)
        self._sink.fail(error)

    def cancel_request(self, error: CtllmError) -> None:
        """Cancel the upstream's request."""
        self._close()
        if self._attempt is not None:
            self._attempt.abandon(error)

    def _close(self) -> None:
        self.body.close()
        self._routes.request_finished(self)


Output = Callable[..., None]

#: By state and input: the next state and the output. Other inputs are ignored.
TABLE: dict[State, dict[str, tuple[State, Output]]] = {
    State.BUFFERING: {
        "start": (State.CONNECTING, FailoverRequest.start_attempt),
        "abort": (State.DONE, FailoverRequest.abort_request),
        "cancel": (State.DONE, FailoverRequest.cancel_request),
    },
    State.CONNECTING: {
        "attached": (State.WAITING, FailoverRequest.attach),
        "response_started": (State.RESPONDING, FailoverRequest.start_response),
        "upstream_failed": (State.FAILING_OVER, FailoverRequest.fail_over),
        "abort": (State.DONE, FailoverRequest.abort_request),
        "cancel": (State.DONE, FailoverRequest.cancel_request),
    },
    State.WAITING: {
        "response_started": (State.RESPONDING, FailoverRequest.start_response),
        "upstream_failed": (State.FAILING_OVER, FailoverRequest.fail_over),
        "abort": (State.DONE, FailoverRequest.abort_request),
        "cancel": (State.DONE, FailoverRequest.cancel_request),
    },
    State.FAILING_OVER: {
        "start": (State.CONNECTING, FailoverRequest.start_attempt),
        "no_route": (State.DONE, FailoverRequest.fail_response),
    },
    State.RESPONDING: {
        "attached": (State.RESPONDING, FailoverRequest.attach),
        "response_finished": (State.DONE, FailoverRequest.finish_response),
        "upstream_failed": (State.DONE, FailoverRequest.fail_response),
        "abort": (State.DONE, FailoverRequest.abort_request),
        "cancel": (State.DONE, FailoverRequest.cancel_request),
    },
    State.DONE: {},
}
_INPUTS = tuple(name for name in vars(Events) if not name.startswith("_"))


def _transition(state: State, output: Output) -> Callable[..., None]:
    def enter(_: Events, request: FailoverRequest, *arguments: object) -> None:
        request.state = state
        output(request, *arguments)

    return enter


def _build_machine() -> Callable[[FailoverRequest], Events]:
    builder = TypeMachineBuilder(Events, FailoverRequest)
    states = {state: builder.state(state.value) for state in State}
    for state, row in TABLE.items():
        for name in _INPUTS:
            event = getattr(Events, name)
            if name in row:
                to, output = row[name]
                states[state].upon(event).to(states[to])(_transition(to, output))
            else:
                states[state].upon(event).loop().returns(None)
    return builder.build()


_new_machine = _build_machine()

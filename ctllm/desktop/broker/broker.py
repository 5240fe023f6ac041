"""Routing of local apps' requests: to this desktop's Ollama, or to another one by the cloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

from twisted.internet.defer import TimeoutError

from ctllm.common.memory_budget import BufferBudget
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.broker.failover_request import FailoverRequest
from ctllm.desktop.broker.flap_damping import FlapDamper
from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy, choose_route, failover_route
from ctllm.desktop.ollama_monitor import OllamaMonitor
from ctllm.errors import CtllmError, Forbidden, NotFound, OllamaDown
from ctllm.http.header_policy import DESKTOP, MODEL, ROUTE, quote_name, refuse_renamed_headers
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.request_timeout import deduct_elapsed, set_timeout
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.upgrade import refuse_websocket
from ctllm.ollama.endpoints import (
    can_any_ollama_answer,
    can_remote_ollama_answer,
    canonical_model,
    canonical_request,
    describe_request,
    find_endpoint,
    model_in_path,
    refusal_error,
)
from ctllm.ollama.model_lists import ListFormat, find_list_format, merge_lists
from ctllm.ollama.requested_model import create_model_sniffer
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import MultiService
from ctllm.relay.fan_out import LIST_TIMEOUT, fetch_all
from ctllm.relay.replay_buffer import ReplayBuffer
from ctllm.tunnel.frames import Status

#: Bytes of all request bodies together that are buffered at most.
MAX_BUFFERED = 64 * 1024 * 1024
#: Seconds after a request during which the other desktops are polled often.
IN_USE_SECONDS = 60.0

_TEXT: Headers = ((b"Content-Type", b"text/plain; charset=utf-8"),)


class Broker(MultiService):
    """The routes, how stable each is, and the requests that are active on them.

    `name` is this desktop's. Observers are called when something of the status has changed.
    """

    def __init__(
        self,
        ollama: OllamaMonitor,
        remote_desktops: RemoteDesktops,
        policy_store: PolicyStore,
        clock: Clock,
        name: str,
        *,
        max_buffered: int = MAX_BUFFERED,
    ) -> None:
        super().__init__()
        self.policy = policy_store.load()
        self.remote_desktops = remote_desktops
        #: Responses by route, merged lists, and requests that failed on a route.
        self.request_counts: Counter[str] = Counter()
        self._observers: list[Callable[[], None]] = []
        self._policy_store = policy_store
        self._ollama = ollama
        self._clock = clock
        self._name = name
        self._buffer_budget = BufferBudget(max_buffered)
        self._dampers = {Route.LOCAL: FlapDamper(), Route.CLOUD: FlapDamper()}
        self._active: set[FailoverRequest] = set()
        self._local_models: frozenset[str] = frozenset()
        self._last_request = -IN_USE_SECONDS
        ollama.add_observer(self._local_status_changed)
        remote_desktops.add_observer(self._remote_desktops_changed)
        remote_desktops.setServiceParent(self)

    def add_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` whenever the status may have changed."""
        self._observers.append(observer)

    # -- the state of the routes

    def _local_status_changed(self, status: Status) -> None:
        self._local_models = frozenset(map(canonical_model, status.models))
        self._update_route(Route.LOCAL, status.ollama != "down")

    def _remote_desktops_changed(self) -> None:
        self._update_route(Route.CLOUD, self.remote_desktops.is_up)

    def _update_route(self, route: Route, is_up: bool) -> None:
        now = self._clock.seconds()
        damper = self._dampers[route]
        if is_up:
            damper.mark_up(now)
        elif damper.is_up:
            damper.mark_down(now)
            for request in [each for each in self._active if each.pending_route is route]:
                request.route_went_down()
        self._notify()

    def _notify(self) -> None:
        for observer in self._observers:
            observer()

    @property
    def current_route(self) -> Route:
        """The route of a request for a model that both routes have."""
        return choose_route(self.policy, self._dampers, False, self._clock.seconds())

    @property
    def active_requests(self) -> int:
        """The number of requests whose response is not complete."""
        return len(self._active)

    @property
    def buffered_bytes(self) -> int:
        """The number of bytes of request bodies that are buffered."""
        return self._buffer_budget.reserved

    @property
    def is_in_use(self) -> bool:
        """Whether an app sent a request lately that may use the cloud."""
        is_recent = self._clock.seconds() - self._last_request < IN_USE_SECONDS
        return is_recent and self.policy is not RoutingPolicy.NEVER

    def set_policy(self, policy: RoutingPolicy) -> None:
        """Use `policy` from now on; raises BadConfiguration if it cannot be stored."""
        self.policy = policy
        self.remote_desktops.poll_now()
        self._notify()
        self._policy_store.save(policy)

    def abort_requests(self, error: CtllmError) -> None:
        """End every active request with `error`."""
        for request in list(self._active):
            request.abort(error)

    # -- requests

    async def handle_request(self, head: RequestHead, request: ServerRequest) -> None:
        """Respond to `request`, whose head is `head`; raises CtllmError."""
        self._last_request = self._clock.seconds()
        head = request.head = canonical_request(head)
        refuse_renamed_headers(head.headers)
        refuse_websocket(head)
        if (
            head.path == b"/"
            and can_any_ollama_answer(head)
            and self.choose_route(head, None) is Route.CLOUD
        ):
            request.respond(200, b"Ollama is running", _TEXT)
            return
        is_local = self._names_this_desktop(head)
        form = None if is_local else find_list_format(head)
        if form is not None and await self._respond_with_merged_list(form, head, request):
            return
        finder = create_model_sniffer(head, self._buffer_budget)
        may_use_cloud = can_remote_ollama_answer(head) and not is_local
        has_cloud = self.remote_desktops.is_logged_in and self.policy is not RoutingPolicy.NEVER
        buffer = ReplayBuffer(self._buffer_budget, may_use_cloud and has_cloud)
        failover_request = FailoverRequest(self, head, request, finder, buffer)
        self._active.add(failover_request)
        if finder is None or not may_use_cloud or not self._routes_by_model:
            failover_request.choose_route()
        request.relay_to(failover_request)

    def _names_this_desktop(self, head: RequestHead) -> bool:
        """Return whether the page asks for this desktop: such a request takes no other route."""
        selector = get_header(head.headers, DESKTOP.lower())
        if selector is None:
            return False
        return selector in (self.remote_desktops.own_id.encode(), quote_name(self._name))

    @property
    def _routes_by_model(self) -> bool:
        is_auto = self.policy is RoutingPolicy.AUTO
        return is_auto and all(damper.is_up for damper in self._dampers.values())

    async def _respond_with_merged_list(
        self, form: ListFormat, head: RequestHead, request: ServerRequest
    ) -> bool:
        """Respond with the models of both routes, if apps can use both; return whether it did."""
        if not self._routes_by_model:
            return False
        began = self._clock.seconds()
        connecting = self.remote_desktops.upstream()
        try:
            cloud = await run_with_timeout(self._clock, LIST_TIMEOUT, connecting)
            upstreams = (self._ollama, cloud)
        except (CtllmError, TimeoutError):
            return False
        elapsed = self._clock.seconds() - began
        head = deduct_elapsed(set_timeout(head, LIST_TIMEOUT), elapsed)
        bodies = await fetch_all(upstreams, head, self._clock, self._buffer_budget)
        merged = merge_lists(form, bodies)
        if merged is None:
            return False
        self.request_counts["merged"] += 1
        request.respond(200, merged, ((b"Content-Type", form.content_type),))
        return True

    # -- RequestRoutes

    async def start_request(
        self, route: Route, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        """Start a request on `route`; raises CtllmError."""
        if route is Route.LOCAL:
            return self._ollama.start_request(head, sink)
        return (await self.remote_desktops.upstream()).start_request(head, sink)

    def choose_route(self, head: RequestHead, model: str | None) -> Route:
        """Return the route to try first.

        Requests that change this desktop's models stay local, as do those for unknown endpoints,
        which other desktops would refuse.
        """
        if not can_any_ollama_answer(head) or self._names_this_desktop(head):
            return Route.LOCAL
        name = model or model_in_path(head)
        is_only_remote = (
            name is not None
            and canonical_model(name) not in self._local_models
            and self.remote_desktops.has_model(name)
        )
        return choose_route(self.policy, self._dampers, is_only_remote, self._clock.seconds())

    def failover_route(self, failed: Route) -> Route | None:
        """Return the route to try after `failed`, or None."""
        return failover_route(self.policy, self._dampers, failed)

    def response_headers(self, route: Route, model: str | None) -> Headers:
        """Return the headers that say which desktop and model responded; count the response.

        The cloud itself names the desktop that responded.
        """
        self.request_counts[route] += 1
        headers: Headers = ((ROUTE, route.encode()),)
        if route is Route.LOCAL:
            headers = (*headers, (DESKTOP, quote_name(self._name)))
        return headers if model is None else (*headers, (MODEL, quote_name(model)))

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """Return the error to send for a request that failed with `error` on every route.

        Where no Ollama runs, it says so in terms of the request: an unknown endpoint is not found,
        and models are managed on another desktop.
        """
        if not isinstance(error, OllamaDown):
            return error
        endpoint = find_endpoint(head)
        if endpoint is None:
            if self._dampers[Route.LOCAL].is_up:
                return error  # Ollama runs, and closed the connection
            refused = refusal_error(
                head, f"ctllm knows no endpoint {describe_request(head)} of Ollama."
            )
            return NotFound(refused.message) if isinstance(refused, Forbidden) else refused
        if endpoint.scope == "manage":
            return OllamaDown(self._explain_model_management(head))
        return error

    def _explain_model_management(self, head: RequestHead) -> str:
        reason = (
            "Models are managed on the desktop that has them, and no Ollama responds on this one "
            f"({self._name})."
        )
        others = self.remote_desktops.others
        names = [sanitize_line(each.name) for each in others if each.ollama == "up"]
        if not names:
            return f"{reason} Start Ollama here."
        url = f"{self.remote_desktops.cloud_url}{head.path.decode('latin-1')}"
        return (
            f"{reason} Your desktops with Ollama: {', '.join(names[:5])}. Manage the model there. "
            f"Or create a key here with `ctllm keys add NAME --scope manage`, and send the request "
            f"to {url} with the headers `Authorization: Bearer KEY` and "
            f"`Ctllm-Desktop: {quote_name(names[0]).decode()}`."
        )

    def route_failed(self, route: Route) -> None:
        """Damp `route`, on which a request failed before its response, and check its health."""
        self.request_counts["failovers"] += 1
        self._dampers[route].mark_request_failed(self._clock.seconds())
        if route is Route.LOCAL:
            self._ollama.request_poll()
        else:
            self.remote_desktops.poll_now()

    def request_finished(self, request: RequestSink) -> None:
        """Forget `request`, which has ended."""
        self._active.discard(cast(FailoverRequest, request))

"""What answers the loopback endpoint: this machine's Ollama, or the cloud, for each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError

from ctllm.common.memory_budget import BufferBudget
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.broker.failover_request import FailoverRequest
from ctllm.desktop.broker.flap_damping import FlapDamper
from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy, choose_route, failover_route
from ctllm.desktop.ollama_monitor import OllamaMonitor
from ctllm.errors import CtllmError, Forbidden, NotFound, OllamaDown
from ctllm.http.header_policy import DESKTOP, MODEL, ROUTE, quote_name
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.request_timeout import deduct_elapsed, set_timeout
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.upgrade import refuse_websocket
from ctllm.ollama.api import (
    asked_for,
    canonical,
    canonical_request,
    endpoint_of,
    goes_elsewhere,
    is_anywhere,
    model_in_path,
    refusal,
)
from ctllm.ollama.model_lists import Form, form_of, merge
from ctllm.ollama.requested_model import model_finder
from ctllm.reactor.services import MultiService
from ctllm.relay.fan_out import LIST_TIMEOUT, fetch_all
from ctllm.relay.replay_buffer import ReplayBuffer
from ctllm.tunnel.frames import Status

#: Most bytes of all request bodies together that are kept to be sent once more.
MAX_BUFFERED = 64 * 1024 * 1024
#: Seconds after a request for which the other side is still looked at often.
IN_USE_SECONDS = 60.0


_TEXT: Headers = ((b"Content-Type", b"text/plain; charset=utf-8"),)


class Broker(MultiService):
    """Both sides, what is thought of them, and the requests that are with them.

    `name` is this machine's; `on_change` is called when something of what is shown has changed.
    """

    def __init__(
        self,
        ollama: OllamaMonitor,
        remote_desktops: RemoteDesktops,
        policy_store: PolicyStore,
        reactor: Any,
        name: str,
    ) -> None:
        super().__init__()
        self.policy = policy_store.load()
        self.request_counts: Counter[str] = Counter()  # requests by how they went
        self.on_change: Callable[[], None] = lambda: None
        self._policy_store = policy_store
        self._ollama = ollama
        self.remote_desktops = remote_desktops
        self._reactor = reactor
        self._name = name
        self._buffer_budget = BufferBudget(MAX_BUFFERED)
        self._dampers = {Route.LOCAL: FlapDamper(), Route.CLOUD: FlapDamper()}
        self._active: set[FailoverRequest] = set()
        self._local_models: frozenset[str] = frozenset()
        self._last_request = -IN_USE_SECONDS
        ollama.listeners.append(self._local_status_changed)
        remote_desktops.on_change = self._remote_desktops_changed
        remote_desktops.setServiceParent(self)

    # -- what is known

    def _local_status_changed(self, status: Status) -> None:
        self._local_models = frozenset(map(canonical, status.models))
        self._update_route(Route.LOCAL, status.ollama != "down")

    def _remote_desktops_changed(self) -> None:
        self._update_route(Route.CLOUD, self.remote_desktops.is_up)

    def _update_route(self, route: Route, up: bool) -> None:
        now = self._reactor.seconds()
        trust = self._dampers[route]
        if up:
            trust.mark_up(now)
        elif trust.is_up:
            trust.mark_down(now)
            for each in [each for each in self._active if each.pending_route is route]:
                each.route_went_down()
        self.on_change()

    @property
    def current_route(self) -> Route:
        """Where a request would go now, were it for a model that both have."""
        return choose_route(self.policy, self._dampers, False, self._reactor.seconds())

    @property
    def active_requests(self) -> int:
        """How many requests are being answered."""
        return len(self._active)

    @property
    def is_in_use(self) -> bool:
        """Whether an app asked lately."""
        asked = self._reactor.seconds() - self._last_request < IN_USE_SECONDS
        return asked and self.policy is not RoutingPolicy.NEVER

    def set_policy(self, policy: RoutingPolicy) -> None:
        """From now on; raises CtllmError where it could not be kept for the next start."""
        self.policy = policy
        self.remote_desktops.poll_now()
        self.on_change()
        self._policy_store.save(policy)

    def abort_requests(self, error: CtllmError) -> None:
        """End every request that is still under way with `error`."""
        for each in list(self._active):
            each.abort(error)

    # -- requests

    async def handle_request(self, head: RequestHead, request: ServerRequest) -> None:
        """Have `incoming`, which asks `head`, answered; raises CtllmError."""
        self._last_request = self._reactor.seconds()
        head = request.head = canonical_request(head)
        refuse_websocket(head)
        if head.path == b"/" and is_anywhere(head) and self.choose_route(head, None) is Route.CLOUD:
            request.respond(200, b"Ollama is running", _TEXT)
            return
        form = form_of(head)
        if form is not None and await self._reply_with_merged_list(form, head, request):
            return
        name = model_finder(head, self._buffer_budget)
        anywhere = goes_elsewhere(head)
        signed_in = self.remote_desktops.is_logged_in and self.policy is not RoutingPolicy.NEVER
        failover_request = FailoverRequest(
            self, head, request, name, ReplayBuffer(self._buffer_budget, anywhere and signed_in)
        )  # fmt: skip
        self._active.add(failover_request)
        if name is None or not anywhere or not self._routes_by_model:
            failover_request.choose_route()
        request.relay_to(failover_request)

    @property
    def _routes_by_model(self) -> bool:
        return self.policy is RoutingPolicy.AUTO and all(
            each.is_up for each in self._dampers.values()
        )

    async def _reply_with_merged_list(
        self, form: Form, head: RequestHead, request: ServerRequest
    ) -> bool:
        """Answer with what both sides have, where an app could use both; whether that was done."""
        if not self._routes_by_model:
            return False
        began = self._reactor.seconds()
        way = Deferred.fromCoroutine(self.remote_desktops.upstream())
        try:
            sides = (self._ollama, await way.addTimeout(LIST_TIMEOUT, self._reactor))
        except (CtllmError, TimeoutError):
            return False
        head = deduct_elapsed(set_timeout(head, LIST_TIMEOUT), self._reactor.seconds() - began)
        bodies = await fetch_all(sides, head, self._reactor, self._buffer_budget)
        merged = merge(form, bodies)
        if merged is None:
            return False
        self.request_counts["both"] += 1
        request.respond(200, merged, ((b"Content-Type", form.content_type),))
        return True

    # -- the ways of a `Brokered`

    async def start_request(
        self, route: Route, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        """Begin the exchange there; raises CtllmError."""
        if route is Route.LOCAL:
            return self._ollama.start_request(head, sink)
        return (await self.remote_desktops.upstream()).start_request(head, sink)

    def choose_route(self, head: RequestHead, model: str | None) -> Route:
        """The side to ask first; what changes this machine's models stays on this machine.

        So does what no table knows: elsewhere it would be refused.
        """
        if not is_anywhere(head):
            return Route.LOCAL
        named = model or model_in_path(head)
        only_elsewhere = (
            named is not None
            and canonical(named) not in self._local_models
            and self.remote_desktops.has_model(named)
        )
        return choose_route(self.policy, self._dampers, only_elsewhere, self._reactor.seconds())

    def failover_route(self, failed: Route) -> Route | None:
        """The side to ask after that failed, or None."""
        return failover_route(self.policy, self._dampers, failed)

    def response_headers(self, route: Route, model: str | None) -> Headers:
        """What the answer says of who gave it; the cloud says itself which desktop it was."""
        self.request_counts[route] += 1
        said: Headers = ((ROUTE, route.encode()),)
        if route is Route.LOCAL:
            said = (*said, (DESKTOP, quote_name(self._name)))
        return said if model is None else (*said, (MODEL, quote_name(model)))

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """The last word on a request that failed: what helps, where there is no Ollama here."""
        if not isinstance(error, OllamaDown):
            return error
        endpoint = endpoint_of(head)
        if endpoint is None and self._dampers[Route.LOCAL].is_up:
            return error  # it is there, and broke off
        if endpoint is None:
            said = f"{asked_for(head)} is no endpoint of Ollama's that ctllm knows."
            wrong = refusal(head, said)
            return NotFound(wrong.message) if isinstance(wrong, Forbidden) else wrong
        return (
            OllamaDown(self._explain_model_management(head))
            if endpoint.scope == "manage"
            else error
        )

    def _explain_model_management(self, head: RequestHead) -> str:
        said = (
            "Models are changed on the machine that has them, and no Ollama answers on this one "
            f"({self._name})."
        )
        names = [
            sanitize_line(each.name) for each in self.remote_desktops.others if each.ollama == "up"
        ]
        if not names:
            return f"{said} Start Ollama here."
        path = head.path.decode("latin-1")
        return (
            f"{said} Your desktops with Ollama: {', '.join(names[:5])}. Do it there; or from "
            f"here, with a key made by `ctllm keys add NAME --manage`, ask "
            f"{self.remote_desktops.cloud_url}{path} with the headers `Authorization: Bearer KEY` and "
            f"`Ctllm-Desktop: {quote_name(names[0]).decode()}`."
        )

    def route_failed(self, route: Route) -> None:
        """A request failed there before it was answered: look what is the matter."""
        self.request_counts["moved"] += 1
        self._dampers[route].mark_request_failed(self._reactor.seconds())
        if route is Route.LOCAL:
            self._ollama.request_poll()
        else:
            self.remote_desktops.poll_now()

    def request_finished(self, request: RequestSink) -> None:
        """There is nothing more to do."""
        self._active.discard(request)

"""What answers the loopback endpoint: this machine's Ollama, or the cloud, for each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, TimeoutError

from ctllm.common.memory_budget import BufferBudget
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.broker.failover_request import FailoverRequest
from ctllm.desktop.broker.flap_damping import Trust
from ctllm.desktop.broker.preference_store import KeptPreference
from ctllm.desktop.broker.remote_desktops import Elsewhere
from ctllm.desktop.broker.routing_policy import Preference, Side, choose, second
from ctllm.desktop.ollama_monitor import Ollama
from ctllm.errors import CtllmError, Forbidden, NotFound, OllamaDown
from ctllm.http.header_policy import DESKTOP, MODEL, SIDE, quote_name
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
from ctllm.relay.fan_out import PATIENCE, ask_all
from ctllm.relay.replay_buffer import Replay
from ctllm.tunnel.frames import Status

#: Most bytes of all request bodies together that are kept to be sent once more.
MOST_KEPT = 64 * 1024 * 1024
#: Seconds after a request for which the other side is still looked at often.
ATTENTION = 60.0


_TEXT: Headers = ((b"Content-Type", b"text/plain; charset=utf-8"),)


class Broker(MultiService):
    """Both sides, what is thought of them, and the requests that are with them.

    `name` is this machine's; `on_change` is called when something of what is shown has changed.
    """

    def __init__(
        self, ollama: Ollama, elsewhere: Elsewhere, kept: KeptPreference, reactor: Any, name: str
    ) -> None:
        super().__init__()
        self.preference = kept.load()
        self.counts: Counter[str] = Counter()  # requests by how they went
        self.on_change: Callable[[], None] = lambda: None
        self._kept = kept
        self._ollama = ollama
        self.elsewhere = elsewhere
        self._reactor = reactor
        self._name = name
        self._room = BufferBudget(MOST_KEPT)
        self._trust = {Side.LOCAL: Trust(), Side.CLOUD: Trust()}
        self._open: set[FailoverRequest] = set()
        self._models: frozenset[str] = frozenset()
        self._last_asked = -ATTENTION
        ollama.listeners.append(self._local_changed)
        elsewhere.on_change = self._cloud_changed
        elsewhere.setServiceParent(self)

    # -- what is known

    def _local_changed(self, status: Status) -> None:
        self._models = frozenset(map(canonical, status.models))
        self._seen(Side.LOCAL, status.ollama != "down")

    def _cloud_changed(self) -> None:
        self._seen(Side.CLOUD, self.elsewhere.up)

    def _seen(self, side: Side, up: bool) -> None:
        now = self._reactor.seconds()
        trust = self._trust[side]
        if up:
            trust.rose(now)
        elif trust.up:
            trust.fell(now)
            for each in [each for each in self._open if each.asked is side]:
                each.side_died()
        self.on_change()

    @property
    def side(self) -> Side:
        """Where a request would go now, were it for a model that both have."""
        return choose(self.preference, self._trust, False, self._reactor.seconds())

    @property
    def under_way(self) -> int:
        """How many requests are being answered."""
        return len(self._open)

    @property
    def in_use(self) -> bool:
        """Whether an app asked lately."""
        asked = self._reactor.seconds() - self._last_asked < ATTENTION
        return asked and self.preference is not Preference.NEVER

    def prefer(self, preference: Preference) -> None:
        """From now on; raises CtllmError where it could not be kept for the next start."""
        self.preference = preference
        self.elsewhere.look()
        self.on_change()
        self._kept.save(preference)

    def dismiss(self, error: CtllmError) -> None:
        """End every request that is still under way with `error`."""
        for each in list(self._open):
            each.dismiss(error)

    # -- requests

    async def answer(self, head: RequestHead, incoming: ServerRequest) -> None:
        """Have `incoming`, which asks `head`, answered; raises CtllmError."""
        self._last_asked = self._reactor.seconds()
        head = incoming.head = canonical_request(head)
        refuse_websocket(head)
        if head.path == b"/" and is_anywhere(head) and self.first(head, None) is Side.CLOUD:
            incoming.respond(200, b"Ollama is running", _TEXT)
            return
        form = form_of(head)
        if form is not None and await self._list(form, head, incoming):
            return
        name = model_finder(head, self._room)
        anywhere = goes_elsewhere(head)
        signed_in = self.elsewhere.signed_in and self.preference is not Preference.NEVER
        brokered = FailoverRequest(
            self, head, incoming, name, Replay(self._room, anywhere and signed_in)
        )  # fmt: skip
        self._open.add(brokered)
        if name is None or not anywhere or not self._looks_at_models:
            brokered.decide()
        incoming.relay_to(brokered)

    @property
    def _looks_at_models(self) -> bool:
        return self.preference is Preference.AUTO and all(each.up for each in self._trust.values())

    async def _list(self, form: Form, head: RequestHead, incoming: ServerRequest) -> bool:
        """Answer with what both sides have, where an app could use both; whether that was done."""
        if not self._looks_at_models:
            return False
        began = self._reactor.seconds()
        way = Deferred.fromCoroutine(self.elsewhere.way())
        try:
            sides = (self._ollama, await way.addTimeout(PATIENCE, self._reactor))
        except (CtllmError, TimeoutError):
            return False
        head = deduct_elapsed(set_timeout(head, PATIENCE), self._reactor.seconds() - began)
        bodies = await ask_all(sides, head, self._reactor, self._room)
        merged = merge(form, bodies)
        if merged is None:
            return False
        self.counts["both"] += 1
        incoming.respond(200, merged, ((b"Content-Type", form.content_type),))
        return True

    # -- the ways of a `Brokered`

    async def open(self, side: Side, head: RequestHead, caller: ResponseSink) -> RequestSink:
        """Begin the exchange there; raises CtllmError."""
        if side is Side.LOCAL:
            return self._ollama.start_request(head, caller)
        return (await self.elsewhere.way()).start_request(head, caller)

    def first(self, head: RequestHead, model: str | None) -> Side:
        """The side to ask first; what changes this machine's models stays on this machine.

        So does what no table knows: elsewhere it would be refused.
        """
        if not is_anywhere(head):
            return Side.LOCAL
        named = model or model_in_path(head)
        only_elsewhere = (
            named is not None and canonical(named) not in self._models and self.elsewhere.has(named)
        )
        return choose(self.preference, self._trust, only_elsewhere, self._reactor.seconds())

    def second(self, tried: Side) -> Side | None:
        """The side to ask after that failed, or None."""
        return second(self.preference, self._trust, tried)

    def signed(self, side: Side, model: str | None) -> Headers:
        """What the answer says of who gave it; the cloud says itself which desktop it was."""
        self.counts[side] += 1
        said: Headers = ((SIDE, side.encode()),)
        if side is Side.LOCAL:
            said = (*said, (DESKTOP, quote_name(self._name)))
        return said if model is None else (*said, (MODEL, quote_name(model)))

    def explained(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """The last word on a request that failed: what helps, where there is no Ollama here."""
        if not isinstance(error, OllamaDown):
            return error
        endpoint = endpoint_of(head)
        if endpoint is None and self._trust[Side.LOCAL].up:
            return error  # it is there, and broke off
        if endpoint is None:
            said = f"{asked_for(head)} is no endpoint of Ollama's that ctllm knows."
            wrong = refusal(head, said)
            return NotFound(wrong.message) if isinstance(wrong, Forbidden) else wrong
        return OllamaDown(self._where_models_change(head)) if endpoint.scope == "manage" else error

    def _where_models_change(self, head: RequestHead) -> str:
        said = (
            "Models are changed on the machine that has them, and no Ollama answers on this one "
            f"({self._name})."
        )
        names = [sanitize_line(each.name) for each in self.elsewhere.others if each.ollama == "up"]
        if not names:
            return f"{said} Start Ollama here."
        path = head.path.decode("latin-1")
        return (
            f"{said} Your desktops with Ollama: {', '.join(names[:5])}. Do it there; or from "
            f"here, with a key made by `ctllm keys add NAME --manage`, ask "
            f"{self.elsewhere.cloud_url}{path} with the headers `Authorization: Bearer KEY` and "
            f"`Ctllm-Desktop: {quote_name(names[0]).decode()}`."
        )

    def failed(self, side: Side) -> None:
        """A request failed there before it was answered: look what is the matter."""
        self.counts["moved"] += 1
        self._trust[side].failed(self._reactor.seconds())
        if side is Side.LOCAL:
            self._ollama.look()
        else:
            self.elsewhere.look()

    def over(self, brokered: RequestSink) -> None:
        """There is nothing more to do."""
        self._open.discard(brokered)

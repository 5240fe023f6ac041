"""The routing policy for requests of local apps, as the page shows and sets it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.desktop.resources.json_exchange import JsonExchange, Response, json_response
from ctllm.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead

PATH = b"/ctllm/desktop/preference"
#: The largest body, in bytes.
MAX_BODY = 1024
#: The policies, by how many requests of local apps leave this machine: the fewest first.
_BY_EXPOSURE = (RoutingPolicy.NEVER, RoutingPolicy.LOCAL, RoutingPolicy.AUTO, RoutingPolicy.CLOUD)


class Preference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The routing policy."""

    routing_policy: RoutingPolicy


class RoutingPolicies(Protocol):
    """What has the policy: the broker."""

    policy: RoutingPolicy

    def set_policy(self, policy: RoutingPolicy) -> None:
        """Use `policy` from now on; raises BadConfiguration if it cannot be stored."""


class PreferenceResource:
    """The resource `preference`. An `Upstream`.

    Requests from the cloud may only let fewer requests leave this machine (`is_local` is False): a
    malicious cloud must not get the requests of local apps by choosing the policy for them.
    """

    def __init__(self, policies: RoutingPolicies, *, is_local: bool = False) -> None:
        self._policies = policies
        self._is_local = is_local

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises CtllmError."""
        if head.path != PATH:
            raise NotFound("The routing policy is at /ctllm/desktop/preference.")
        if head.method == b"GET":
            return JsonExchange(sink, 0, self._get)
        if head.method != b"PUT":
            raise MethodNotAllowed("The routing policy can be read or set.", allow="GET, PUT")
        return JsonExchange(sink, MAX_BODY, self._put)

    async def _get(self, _: bytes) -> Response:
        return json_response(200, Preference(self._policies.policy))

    async def _put(self, body: bytes) -> Response:
        try:
            wanted = decode_json(body, Preference).routing_policy
        except InvalidJson as error:
            raise BadRequest(f"The body is invalid: {error}") from None
        present = self._policies.policy
        if not self._is_local and _BY_EXPOSURE.index(wanted) > _BY_EXPOSURE.index(present):
            raise Forbidden(
                f"The policy {wanted} lets more requests leave the desktop than {present}. Set it "
                "on the desktop itself: in its own page, with the tray icon, or with "
                f"`ctllm prefer {wanted}`."
            )
        self._policies.set_policy(wanted)
        return await self._get(b"")

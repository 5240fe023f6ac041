"""What the cloud asks a streaming proxy about requests and tunnels in progress, and what it ends.

`GET /ctllm/control/requests` responds with the sealed grants of what is in progress, and with how
many requests were refused. `POST /ctllm/control/refusals` hands over the numbers of these by grant.
`POST /ctllm/control/aborts` aborts what has one of the grants in its body, with the error beside
it.
"""

from __future__ import annotations

import msgspec

from ctllm.auth.session_assertions import CONTROL, Claims
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, Forbidden, NotFound, error_from_wire
from ctllm.http.server.request import ServerRequest
from ctllm.proxy.direct_requests import DirectRequests

PREFIX = b"/ctllm/control/"
MAX_BODY = 8 * 1024 * 1024
"""Bytes of a list of grants."""


class EndedGrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sealed grant, and the error with which its requests end."""

    grant: str
    code: str
    message: str


class AbortList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to abort."""

    ended: tuple[EndedGrant, ...]


class ControlApi:
    """The paths below PREFIX."""

    def __init__(self, requests: DirectRequests) -> None:
        self._requests = requests

    async def handle(self, request: ServerRequest, claims: Claims) -> None:
        """Respond to a request; raises CtllmError."""
        if CONTROL not in claims.scopes:
            raise Forbidden("The session assertion does not have the scope control.")
        route = request.head.method, request.head.path.removeprefix(PREFIX)
        if route == (b"GET", b"requests"):
            grants = [each.decode("latin-1") for each in self._requests.grants]
            request.respond(200, {"grants": grants, "refused": self._requests.refused})
        elif route == (b"POST", b"refusals"):
            taken = self._requests.take_refusals()
            refusals = {grant.decode("latin-1"): number for grant, number in taken.items()}
            request.respond(200, {"refusals": refusals})
        elif route == (b"POST", b"aborts"):
            body = await request.read_body(MAX_BODY)
            try:
                ended = decode_json(body, AbortList).ended
            except InvalidJson as error:
                raise BadRequest("The body must be a list of grants.") from error
            aborted = self._requests.abort(
                {each.grant.encode(): error_from_wire(each.code, each.message) for each in ended}
            )
            request.respond(200, {"aborted": aborted})
        else:
            raise NotFound("A streaming proxy has no such control.")

"""The endpoints with which a person approves, lists, renames and removes their machines.

A machine that may manage models must not register further ones, nor may an API key: they need a
session or a provider's token.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.identity import (
    USE,
    AccessGrant,
    Machine,
    MachineRequest,
    MachineRequests,
    Machines,
    machine_credential,
)
from ctllm.errors import Forbidden, NotFound
from ctllm.http.client_address import parse_address, truncate_address
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock

#: The largest request body, in bytes.
MAX_BODY = 4096
MACHINES_PATH = "/ctllm/machines"

#: The code of a machine's request, and the name of a machine.
Code = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\Z", max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]

Authenticate = Callable[[], Awaitable[AccessGrant]]
Handler = Callable[[ServerRequest, Authenticate, tuple[str, ...]], Awaitable[None]]


class MachineCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to describe or decline a machine's request."""

    code: Code


class ApproveMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The approval of a machine's request. The scope `use` is always included."""

    code: Code
    name: Name
    scopes: Annotated[list[Literal["use", "manage"]], Meta(max_length=2)]

    def __post_init__(self) -> None:
        """Refuse names that a terminal or a page would show as something else."""
        _check_name(self.name)


class RenameMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new name of a machine."""

    name: Name

    def __post_init__(self) -> None:
        """Refuse names that a terminal or a page would show as something else."""
        _check_name(self.name)


def _check_name(name: str) -> None:
    if not name.isprintable() or name.strip() != name:
        raise ValueError("a name with control characters, or with space around it")


class MachineApi:
    """The handlers of `/ctllm/machines` and the paths below it.

    `check_active` raises Unauthorized for a grant that is no longer active. `end_access` aborts the
    requests in progress of the grant's user that are no longer allowed. `now` returns epoch
    seconds.
    """

    def __init__(
        self,
        machines: Machines,
        requests: MachineRequests,
        audit: AuditLog,
        check_active: Callable[[AccessGrant], None],
        end_access: Callable[[AccessGrant], object],
        now: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._machines = machines
        self._requests = requests
        self._audit = audit
        self._check_active = check_active
        self._end_access = end_access
        self._now = now
        self._clock = clock

    @property
    def routes(self) -> list[tuple[re.Pattern[str], dict[str, Handler]]]:
        """The paths as patterns, each with its handlers by method."""
        return [
            (re.compile(MACHINES_PATH), {"GET": self._list, "POST": self._approve}),
            (re.compile(f"{MACHINES_PATH}/introspect"), {"POST": self._introspect}),
            (re.compile(f"{MACHINES_PATH}/decline"), {"POST": self._decline}),
            (
                re.compile(f"{MACHINES_PATH}/([0-9a-f]{{64}})"),
                {"PATCH": self._rename, "DELETE": self._remove},
            ),
        ]

    async def _list(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant = await authenticate()
        machines = self._machines.of_user(grant.user)
        listed = [_machine_json(machine_id, each) for machine_id, each in machines.items()]
        request.respond(200, {"machines": listed})

    async def _introspect(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        """Respond with what is known of a machine that asks to be registered."""
        _grant, body = await self._read_from_person(request, authenticate)
        waiting = self._find(decode_json_body(body, MachineCode).code)
        request.respond(200, self._describe(waiting, request.client_address))

    async def _approve(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant, body = await self._read_from_person(request, authenticate)
        approval = decode_json_body(body, ApproveMachine)
        waiting = self._find(approval.code)
        scopes = frozenset({USE, *approval.scopes})
        machine = self._machines.register(waiting.key, grant, approval.name, scopes)
        self._requests.remove(approval.code)
        self._record("machine.approved", request, grant, waiting.key.id)
        request.respond(201, _machine_json(waiting.key.id, machine))

    async def _decline(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant, body = await self._read_from_person(request, authenticate)
        waiting = self._find(decode_json_body(body, MachineCode).code)
        self._requests.remove(waiting.code)
        self._record("machine.refused", request, grant, waiting.key.id)
        request.respond(204)

    async def _rename(
        self, request: ServerRequest, authenticate: Authenticate, groups: tuple[str, ...]
    ) -> None:
        grant, body = await self._read_from_person(request, authenticate)
        name = decode_json_body(body, RenameMachine).name
        machine = self._machines.rename(grant.user, groups[0], name)
        request.respond(200, _machine_json(groups[0], machine))

    async def _remove(
        self, request: ServerRequest, authenticate: Authenticate, groups: tuple[str, ...]
    ) -> None:
        grant = await _authenticate_person(authenticate)
        self._machines.remove(grant.user, groups[0])
        self._record("machine.revoked", request, grant, groups[0])
        self._end_access(grant)
        request.respond(204)

    def _record(
        self, event: IdentityEvent, request: ServerRequest, grant: AccessGrant, machine_id: str
    ) -> None:
        self._audit.record_identity(
            event,
            grant.user.id,
            address=request.client_address,
            credential=machine_credential(machine_id),
        )

    def _find(self, code: str) -> MachineRequest:
        waiting = self._requests.find(code)
        if waiting is None:
            raise NotFound(
                "This request of a machine has expired, or it was answered before. Run `ollama "
                "signin` there again."
            )
        return waiting

    def _describe(self, waiting: MachineRequest, address: str) -> dict[str, object]:
        now = self._now()
        return {
            "fingerprint": waiting.key.fingerprint,
            "address": waiting.address,
            "is_same_network": _is_same_network(waiting.address, address),
            "program": waiting.program,
            "seconds_ago": max(0, int(now - waiting.requested_at)),
            "expires_in": max(0, int(waiting.expires_at - now)),
        }

    async def _read_from_person(
        self, request: ServerRequest, authenticate: Authenticate
    ) -> tuple[AccessGrant, bytes]:
        """Return the grant of a person, and the body of the request."""
        grant = await _authenticate_person(authenticate)
        body = await read_json_body(request, MAX_BODY, self._clock)
        self._check_active(grant)  # it may have ended while the body arrived
        return grant, body


async def _authenticate_person(authenticate: Authenticate) -> AccessGrant:
    """Return the grant of a person; raises Forbidden for that of an API key or a machine."""
    grant = await authenticate()
    if grant.credential_id:
        raise Forbidden("Machines are changed by their user, and not with an API key.")
    return grant


def _is_same_network(network: str, address: str) -> bool | None:
    """Return whether a client's address is in a truncated one; None if that says nothing.

    It says nothing if one of them is not known, or if both are in the same private network: they
    may be those of a reverse proxy that `cloud.trusted_proxies` does not name.
    """
    parsed = parse_address(address)
    if parsed is None or not network:
        return None
    is_same = truncate_address(address) == network
    return None if is_same and not parsed.is_global else is_same


def _machine_json(machine_id: str, machine: Machine) -> dict[str, object]:
    return {
        "id": machine_id,
        "name": machine.name,
        "fingerprint": machine.fingerprint,
        "scopes": sorted(machine.scopes),
        "created": machine.created,
        "last_used": machine.last_used or None,
        "last_address": machine.last_address,
    }

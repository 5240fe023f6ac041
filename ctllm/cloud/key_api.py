"""The endpoints with which the page creates, lists and revokes API keys.

A key is created here and returned once. Its record reaches the desktop in the response to the
desktop's next lease, and so not through the streaming proxy, which must not create credentials.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.auth.api_keys import generate_key
from ctllm.auth.key_requests import CreateKey, describe_key
from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.identity import (
    CONVERSATIONS,
    MANAGE,
    AccessGrant,
    ApiKeyLeases,
    ListedKey,
    User,
    key_credential,
)
from ctllm.errors import Conflict, CtllmError, Forbidden
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock

#: The largest request body, in bytes.
MAX_BODY = 16 * 1024
KEYS_PATH = "/ctllm/keys"

Authenticate = Callable[[], Awaitable[AccessGrant]]
Handler = Callable[[ServerRequest, Authenticate, tuple[str, ...]], Awaitable[None]]


class Desktops(Protocol):
    """The desktops of users. Implemented by ConnectedDesktops."""

    async def ranked_ids(self, grant: AccessGrant) -> list[str]:
        """Return the ids of a user's desktops, the best first; raises CtllmError."""

    async def hasten_lease(self, grant: AccessGrant, desktop_id: str) -> None:
        """Have a desktop renew its lease now; raises CtllmError."""


class KeyApi:
    """The handlers of `/ctllm/keys` and the paths below it.

    `check_active` raises Unauthorized for a grant that is no longer active, `admit` RateLimited for
    a user who creates too many keys. `now` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        leases: ApiKeyLeases,
        desktops: Desktops,
        audit: AuditLog,
        check_active: Callable[[AccessGrant], None],
        admit: Callable[[User], None],
        now: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._leases = leases
        self._desktops = desktops
        self._audit = audit
        self._check_active = check_active
        self._admit = admit
        self._now = now
        self._clock = clock

    @property
    def routes(self) -> list[tuple[re.Pattern[str], dict[str, Handler]]]:
        """The paths as patterns, each with its handlers by method."""
        return [
            (re.compile(KEYS_PATH), {"GET": self._list, "POST": self._create}),
            (re.compile(f"{KEYS_PATH}/([0-9a-f]{{16}})"), {"DELETE": self._revoke}),
        ]

    async def _list(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant = await _authenticate_person(authenticate)
        request.respond(200, {"keys": [_to_json(key) for key in self._leases.list_keys(grant)]})

    async def _create(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant = await _authenticate_person(authenticate)
        wanted = decode_json_body(await read_json_body(request, MAX_BODY, self._clock), CreateKey)
        desktop_id = wanted.desktop or await self._choose_desktop(grant)
        self._check_active(grant)  # it may have ended meanwhile
        self._admit(grant.user)
        key = generate_key(grant.user.id)
        record = wanted.record(key, self._now())
        self._leases.create(grant, desktop_id, record)
        self._record("key.created", request, grant, record.id)
        self._hasten(grant, desktop_id)
        request.respond(201, {"id": record.id, "key": key, "desktop": desktop_id})

    async def _choose_desktop(self, grant: AccessGrant) -> str:
        """Return the best desktop that stores keys of the page; raises Conflict."""
        able = self._leases.desktops_of(grant)
        if len(able) > 1:
            ranked = await self._rank(grant)
            able = [each for each in ranked if each in able] or able
        if not able:
            raise Conflict(
                "No desktop that is connected now can store a new API key. Start ctllm on your "
                "desktop, upgrade it, or run `ctllm keys add NAME` on it."
            )
        return able[0]

    async def _rank(self, grant: AccessGrant) -> list[str]:
        try:
            return await self._desktops.ranked_ids(grant)
        except CtllmError:
            return []  # without the proxy, the desktop that renewed its lease last is taken

    async def _revoke(
        self, request: ServerRequest, authenticate: Authenticate, groups: tuple[str, ...]
    ) -> None:
        grant = await _authenticate_person(authenticate)
        desktop_id = self._leases.revoke(grant, groups[0])
        self._record("key.revoked", request, grant, groups[0])
        self._hasten(grant, desktop_id)
        self._leases.store_revocations(grant, desktop_id)
        request.respond(204)

    def _hasten(self, grant: AccessGrant, desktop_id: str) -> None:
        """Have the desktop renew its lease; if that fails, it does so by itself."""
        hastening = Deferred.fromCoroutine(self._desktops.hasten_lease(grant, desktop_id))
        hastening.addErrback(self._not_hastened)

    def _not_hastened(self, reason: Failure) -> None:
        if not isinstance(reason.value, CtllmError):
            self._log.failure("Cannot have a desktop renew its lease", reason)

    def _record(
        self, event: IdentityEvent, request: ServerRequest, grant: AccessGrant, id: str
    ) -> None:
        self._audit.record_identity(
            event, grant.user.id, address=request.client_address, credential=key_credential(id)
        )


async def _authenticate_person(authenticate: Authenticate) -> AccessGrant:
    """Return the grant of a browser's session; raises Forbidden for any other."""
    grant = await authenticate()
    grant.require_scope(MANAGE)
    if CONVERSATIONS not in grant.scopes:  # which browsers' sessions alone have
        raise Forbidden(
            "API keys are created and revoked on the page, by a person who is logged in there, or "
            "with `ctllm keys` on a desktop."
        )
    return grant


def _to_json(key: ListedKey) -> dict[str, object]:
    return describe_key(
        key.record,
        key.name,
        key.desktop_id,
        key.state,
        (key.last_used, key.last_address),
        key.message,
    )

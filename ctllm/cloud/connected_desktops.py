"""The desktops that a user's streaming proxy reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ctllm.auth.session_assertions import CONVERSATIONS, MANAGE, USE
from ctllm.cloud.identity import AccessGrant, AssertionSigner
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import ASSERTION, DESKTOP
from ctllm.http.message.head import RequestHead
from ctllm.reactor.interfaces import Clock

#: Limits of the response of a proxy that is asked for its desktops, in seconds and bytes.
DESKTOPS_TIMEOUT = 5.0
MAX_DESKTOPS_RESPONSE = 1 << 20

_NONE = b'{"desktops":[]}'
_RANKS = {"up": 2, "demo": 1, "down": 0}


class _Desktop(msgspec.Struct, frozen=True):
    id: str
    ollama: Literal["up", "demo", "down"] = "down"
    since: float = 0.0


class _Desktops(msgspec.Struct, frozen=True):
    desktops: tuple[_Desktop, ...] = ()


class ConnectedDesktops:
    """Asks the proxies of users. `proxy_id_of` returns the id of a user's proxy."""

    def __init__(
        self,
        proxies: ProxyManager,
        assertion_signer: AssertionSigner,
        proxy_id_of: Callable[[AccessGrant], str],
        clock: Clock,
    ) -> None:
        self._proxies = proxies
        self._assertion_signer = assertion_signer
        self._proxy_id_of = proxy_id_of
        self._clock = clock

    async def fetch_json(self, grant: AccessGrant) -> bytes:
        """Return the JSON of the proxy's response. Do not start a proxy. Raises CtllmError."""
        return await self._fetch_json(self._proxy_id_of(grant), grant.models)

    async def _fetch_json(self, proxy_id: str, models: tuple[str, ...] = ()) -> bytes:
        if self._proxies.status(proxy_id).state != "running":
            return _NONE
        connections = await self._proxies.ensure_running(proxy_id, is_new_request=False)
        scopes = frozenset((USE,))
        assertion = self._assertion_signer.sign(proxy_id, scopes, models).encode()
        head = RequestHead(b"GET", b"/ctllm/desktops", ((ASSERTION, assertion),))
        status, body = await fetch(
            connections, head, self._clock, DESKTOPS_TIMEOUT, MAX_DESKTOPS_RESPONSE
        )
        if status != 200:
            raise connections.unreachable_error(
                f"Your streaming proxy responded with the unexpected status {status}."
            )
        return body

    async def hasten_lease(self, grant: AccessGrant, desktop_id: str) -> None:
        """Have a desktop renew the lease of its API keys now, if it can be reached.

        That tells it nothing: what has changed is in the response to the lease. Raises CtllmError.
        """
        await self._hasten_lease(self._proxy_id_of(grant), desktop_id)

    async def hasten_leases(self, proxy_id: str) -> None:
        """Have all desktops of a user renew their leases now, as far as they can be reached.

        After a restart, the cloud knows no API key until then. Raises CtllmError.
        """
        for desktop_id in _ids_in(await self._fetch_json(proxy_id)):
            await self._hasten_lease(proxy_id, desktop_id)

    async def _hasten_lease(self, proxy_id: str, desktop_id: str) -> None:
        if self._proxies.status(proxy_id).state != "running":
            return
        connections = await self._proxies.ensure_running(proxy_id, is_new_request=False)
        scopes = frozenset((USE, MANAGE, CONVERSATIONS))
        assertion = self._assertion_signer.sign(proxy_id, scopes).encode()
        headers = ((ASSERTION, assertion), (DESKTOP, desktop_id.encode()))
        head = RequestHead(b"POST", b"/ctllm/desktop/lease", (*headers, (b"Content-Length", b"0")))
        await fetch(connections, head, self._clock, DESKTOPS_TIMEOUT, MAX_DESKTOPS_RESPONSE)

    async def ranked_ids(self, grant: AccessGrant) -> list[str]:
        """Return the ids of the desktops in the order in which the proxy would select them.

        A response that is not understood counts as none. Raises CtllmError.
        """
        return _ids_in(await self.fetch_json(grant))


def _ids_in(body: bytes) -> list[str]:
    """Return the ids in the list of desktops of a proxy, the best desktop first."""
    try:
        found = decode_json(body, _Desktops).desktops
    except InvalidJson:
        return []
    ranked = sorted(found, key=lambda each: (-_RANKS[each.ollama], each.since))
    return [each.id for each in ranked]

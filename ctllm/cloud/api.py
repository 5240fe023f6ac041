"""The cloud's own HTTP API, which `openapi.json` describes: sign-in, proxy, desktops."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm import __version__
from ctllm.auth.session_assertions import USE
from ctllm.cloud.identity import SERVE, AccessGrant, ApiKeyLeases, AssertionSigner
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.session_api import SessionApi
from ctllm.errors import MethodNotAllowed, NotFound
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import ASSERTION
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock

#: The largest body that a management call may have, in bytes.
MAX_BODY = 16 * 1024

_OPENAPI = files(__package__).joinpath("openapi.json").read_bytes()
_JSON: Headers = ((b"Content-Type", b"application/json"),)


KeyHash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class KeyLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The API keys of one desktop that count, by hash, for so many seconds.

    Those that are in `manage` too may also change models.
    """

    hashes: Annotated[list[KeyHash], Meta(max_length=100)]
    seconds: Annotated[float, Meta(ge=10, le=600)]
    manage: Annotated[list[KeyHash], Meta(max_length=100)] = []


Authenticate = Callable[[], Awaitable[AccessGrant]]
Handler = Callable[[ServerRequest, Authenticate, tuple[str, ...]], Awaitable[None]]


class ManagementApi:
    """The management endpoints."""

    def __init__(
        self,
        session_api: SessionApi,
        api_key_leases: ApiKeyLeases,
        assertion_signer: AssertionSigner,
        proxy_id_of: Callable[[AccessGrant], str],
        proxies: ProxyManager,
        clock: Clock,
    ) -> None:
        self._session_api = session_api
        self._api_key_leases = api_key_leases
        self._assertion_signer = assertion_signer
        self._proxy_id_of = proxy_id_of
        self._proxies = proxies
        self._clock = clock
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = [
            (re.compile("/health"), {"GET": self._get_health}),
            (re.compile("/ctllm/openapi.json"), {"GET": self._get_openapi}),
            (
                re.compile("/ctllm/session"),
                {
                    "POST": self._create_session,
                    "GET": self._get_session,
                    "DELETE": self._delete_session,
                },
            ),
            (re.compile("/ctllm/session/token"), {"POST": self._renew_token}),
            (re.compile("/ctllm/session/invite"), {"POST": self._create_login_code}),
            (re.compile("/ctllm/session/introspect"), {"POST": self._introspect_invite}),
            (
                re.compile("/ctllm/proxy"),
                {"GET": self._get_proxy, "PUT": self._start_proxy, "DELETE": self._stop_proxy},
            ),
            (re.compile("/ctllm/desktops"), {"GET": self._list_desktops}),
            (re.compile("/ctllm/desktops/([0-9a-f]{32})/keys"), {"PUT": self._lease_keys}),
        ]

    async def handle(self, incoming: ServerRequest, manager: Authenticate) -> None:
        """Answer one management call; `manager` says who asks, or raises."""
        path = incoming.head.path.decode("latin-1")
        method = incoming.head.method.decode("latin-1")
        for pattern, methods in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if method not in methods:
                raise MethodNotAllowed(f"{path} does not do {method}", allow=", ".join(methods))
            await methods[method](incoming, manager, found.groups())
            return
        raise NotFound(f"there is nothing at {path}")

    # -- without a token

    async def _get_health(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        trouble = self._proxies.problem
        status = "degraded" if trouble else "draining" if self._proxies.draining else "ok"
        told = {"status": status, "version": __version__, "proxies": self._proxies.active_count}
        incoming.respond(200, {**told, "error": trouble or None})

    async def _get_openapi(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        incoming.respond(200, _OPENAPI, _JSON)

    async def _create_session(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.create_session(
            incoming, await read_json_body(incoming, MAX_BODY, self._clock)
        )

    async def _renew_token(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.renew_token(
            incoming, await read_json_body(incoming, MAX_BODY, self._clock)
        )

    async def _introspect_invite(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.introspect_invite(
            incoming, await read_json_body(incoming, MAX_BODY, self._clock)
        )

    async def _delete_session(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.delete_session(incoming)

    # -- with one

    async def _get_session(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.get_session(incoming, await manager())

    async def _create_login_code(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.create_login_code(incoming, await manager())

    async def _get_proxy(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        incoming.respond(200, await self._proxy_status(self._proxy_id_of(await manager())))

    async def _start_proxy(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        proxy = self._proxy_id_of(await manager())
        await self._proxies.ensure_running(proxy)
        incoming.respond(200, await self._proxy_status(proxy))

    async def _stop_proxy(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._proxies.remove(self._proxy_id_of(await manager()), "stopped by its user")
        incoming.respond(204)

    async def _proxy_status(self, proxy: str) -> dict[str, object]:
        status = self._proxies.status(proxy)
        health = await self._proxies.health(proxy) or {}
        return {
            "state": status.state,
            "since": None if status.since is None else max(0.0, time.time() - status.since),
            "exchanges": health.get("exchanges", 0),
            "desktops": health.get("desktops", 0),
            "idle_seconds": health.get("idle_seconds"),
            "error": status.error,
        }

    async def _list_desktops(
        self, incoming: ServerRequest, manager: Authenticate, _: tuple[str, ...]
    ) -> None:
        """What the user's proxy says; asking does not start one."""
        proxy = self._proxy_id_of(await manager())
        if self._proxies.status(proxy).state != "running":
            incoming.respond(200, {"desktops": []})
            return
        origin = await self._proxies.ensure_running(proxy, is_new_request=False)
        assertion = self._assertion_signer.sign(proxy, frozenset((USE,))).encode()
        head = RequestHead(b"GET", b"/ctllm/desktops", ((ASSERTION, assertion),))
        status, told = await fetch(origin, head, self._clock, 5.0, 1 << 20)
        if status != 200:
            raise origin.unreachable_error(f"your streaming proxy answers with status {status}")
        incoming.respond(200, told, _JSON)

    async def _lease_keys(
        self, incoming: ServerRequest, manager: Authenticate, desktop: tuple[str, ...]
    ) -> None:
        grant = await manager()
        grant.require_scope(SERVE)
        lease = decode_json_body(await read_json_body(incoming, MAX_BODY, self._clock), KeyLease)
        self._api_key_leases.lease(grant, desktop[0], lease.hashes, lease.seconds, lease.manage)
        incoming.respond(204)

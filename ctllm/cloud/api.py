"""The cloud's management API, as described by `openapi.json`: sessions, proxy and desktops."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm import __version__
from ctllm.auth.api_keys import MAX_KEYS, KeyRecord, KeyReport
from ctllm.auth.session_assertions import LIFETIME_SECONDS, USE
from ctllm.cloud.browser_login.api import CALLBACK_PATH, LOGIN_PATH, BrowserLogin
from ctllm.cloud.connected_desktops import ConnectedDesktops
from ctllm.cloud.identity import SERVE, AccessGrant, ApiKeyLeases, AssertionSigner
from ctllm.cloud.key_api import KeyApi
from ctllm.cloud.limits.users import Tiers
from ctllm.cloud.machines import MachineApi
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.public_providers import public_providers
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.stream_probe import StreamProbe
from ctllm.config import Provider
from ctllm.errors import MethodNotAllowed, NotFound
from ctllm.http.message.head import Headers
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock

#: The largest request body, in bytes.
MAX_BODY = 16 * 1024
#: The largest body of a lease: 100 keys, each with 16 patterns of models.
MAX_LEASE_BODY = 512 * 1024

_OPENAPI = files(__package__).joinpath("openapi.json").read_bytes()
_JSON: Headers = ((b"Content-Type", b"application/json"),)


class KeyLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The records of a desktop's API keys, which the cloud accepts for `seconds`.

    A desktop without `report` does not know keys that are created on the page.
    """

    keys: Annotated[list[KeyRecord], Meta(max_length=MAX_KEYS)]
    seconds: Annotated[float, Meta(ge=10, le=600)]
    report: KeyReport | msgspec.UnsetType = msgspec.UNSET


Authenticate = Callable[[], Awaitable[AccessGrant]]
"""Returns the grant of the client, which has the scope `manage`; raises CtllmError."""

Handler = Callable[[ServerRequest, Authenticate, tuple[str, ...]], Awaitable[None]]
"""Responds to a request; the last argument has the groups of the route's pattern."""


class ManagementApi:
    """The routes of the management API."""

    def __init__(
        self,
        session_api: SessionApi,
        browser_login: BrowserLogin,
        api_key_leases: ApiKeyLeases,
        assertion_signer: AssertionSigner,
        proxy_id_of: Callable[[AccessGrant], str],
        proxies: ProxyManager,
        machine_api: MachineApi,
        key_api: KeyApi,
        connected_desktops: ConnectedDesktops,
        tiers: Tiers,
        clock: Clock,
        providers: Mapping[str, Provider] = MappingProxyType({}),
    ) -> None:
        self._session_api = session_api
        self._browser_login = browser_login
        self._api_key_leases = api_key_leases
        self._assertion_signer = assertion_signer
        self._proxy_id_of = proxy_id_of
        self._proxies = proxies
        self._connected_desktops = connected_desktops
        self._tiers = tiers
        self._clock = clock
        self._stream_probe = StreamProbe(clock)
        self._providers = public_providers(providers)
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = [
            (re.compile("/health"), {"GET": self._get_health}),
            (re.compile("/ctllm/health/stream"), {"GET": self._get_health_stream}),
            (re.compile("/ctllm/page"), {"GET": self._get_page}),
            (re.compile("/ctllm/openapi.json"), {"GET": self._get_openapi}),
            (re.compile("/ctllm/providers"), {"GET": self._list_providers}),
            (
                re.compile("/ctllm/session"),
                {
                    "POST": self._create_session,
                    "GET": self._get_session,
                    "DELETE": self._delete_session,
                },
            ),
            (re.compile(LOGIN_PATH), {"GET": self._begin_login}),
            (re.compile(CALLBACK_PATH), {"GET": self._finish_login}),
            (re.compile("/ctllm/session/token"), {"POST": self._renew_token}),
            (re.compile("/ctllm/session/invite"), {"POST": self._create_login_code}),
            (re.compile("/ctllm/session/pairing"), {"POST": self._create_pairing}),
            (re.compile("/ctllm/session/introspect"), {"POST": self._introspect_invite}),
            (
                re.compile("/ctllm/proxy"),
                {
                    "GET": self._get_proxy,
                    "PUT": self._start_proxy,
                    "POST": self._start_proxy,
                    "DELETE": self._stop_proxy,
                },
            ),
            (re.compile("/ctllm/tunnel/authorization"), {"POST": self._authorize_tunnel}),
            (re.compile("/ctllm/desktops"), {"GET": self._list_desktops}),
            (
                re.compile("/ctllm/desktops/([0-9a-f]{32})/keys"),
                {"PUT": self._lease_keys, "DELETE": self._withdraw_keys},
            ),
            *machine_api.routes,
            *key_api.routes,
        ]

    async def handle(self, request: ServerRequest, authenticate: Authenticate) -> None:
        """Respond to a request for the management API; raises CtllmError."""
        path = request.head.path.decode("latin-1")
        method = request.head.method.decode("latin-1")
        for pattern, handlers in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method not in handlers:
                raise MethodNotAllowed(
                    f"{path} does not support {method}.", allow=", ".join(handlers)
                )
            await handlers[method](request, authenticate, match.groups())
            return
        raise NotFound(f"This server has nothing at {path}.")

    # -- without a token

    async def _get_health(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        error = self._proxies.problem
        status = "degraded" if error else "draining" if self._proxies.draining else "ok"
        request.respond(
            200,
            {
                "status": status,
                "version": __version__,
                "proxies": self._proxies.active_count,
                "error": error or None,
            },
        )

    async def _get_health_stream(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._stream_probe.respond(request)

    async def _get_page(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        """Respond with who serves the page: this is a cloud."""
        request.respond(200, {"role": "cloud", "version": __version__})

    async def _get_openapi(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        request.respond(200, _OPENAPI, _JSON)

    async def _list_providers(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        request.respond(200, self._providers)

    async def _create_session(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._session_api.create_session(request, await self._read_body(request))

    async def _begin_login(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._browser_login.begin(request)

    async def _finish_login(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._browser_login.finish(request)

    async def _renew_token(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._session_api.renew_token(request, await self._read_body(request))

    async def _introspect_invite(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.introspect_invite(request, await self._read_body(request))

    async def _delete_session(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.delete_session(request)

    # -- with a token

    async def _get_session(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.get_session(request, await authenticate())

    async def _create_login_code(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.create_login_code(request, await authenticate())

    async def _create_pairing(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        self._session_api.create_pairing(request, await authenticate())

    async def _get_proxy(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        request.respond(200, await self._proxy_status(self._proxy_id_of(await authenticate())))

    async def _start_proxy(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        grant = await authenticate()
        proxy_id = self._proxy_id_of(grant)
        spawner = self._tiers.limits_of(grant).spawner
        await self._proxies.ensure_running(proxy_id, spawner=spawner)
        request.respond(200, await self._proxy_status(proxy_id))

    async def _stop_proxy(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        await self._proxies.remove(self._proxy_id_of(await authenticate()), "stopped by its user")
        request.respond(204)

    async def _list_desktops(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        """Respond with the desktops that the user's proxy reports. Do not start a proxy."""
        body = await self._connected_desktops.fetch_json(await authenticate())
        request.respond(200, body, _JSON)

    async def _authorize_tunnel(
        self, request: ServerRequest, authenticate: Authenticate, _: tuple[str, ...]
    ) -> None:
        """Respond with a session assertion that extends the authorization of a tunnel."""
        grant = await authenticate()
        grant.require_scope(SERVE)
        assertion = self._assertion_signer.sign(self._proxy_id_of(grant), frozenset((USE, SERVE)))
        # The signer reuses assertions for half of their lifetime.
        request.respond(200, {"assertion": assertion, "expires_in": LIFETIME_SECONDS // 2})

    async def _lease_keys(
        self, request: ServerRequest, authenticate: Authenticate, groups: tuple[str, ...]
    ) -> None:
        grant = await authenticate()
        grant.require_scope(SERVE)
        body = await read_json_body(request, MAX_LEASE_BODY, self._clock)
        lease = decode_json_body(body, KeyLease)
        report = None if lease.report is msgspec.UNSET else lease.report
        leases, desktop_id = self._api_key_leases, groups[0]
        uses = leases.lease(grant, desktop_id, lease.keys, lease.seconds, report)
        response: dict[str, object] = {"usage": uses}
        if report is not None:
            response["changes"] = leases.changes_for(grant, desktop_id)
        request.respond(200, response)

    async def _withdraw_keys(
        self, request: ServerRequest, authenticate: Authenticate, groups: tuple[str, ...]
    ) -> None:
        grant = await authenticate()
        grant.require_scope(SERVE)
        request.respond(200, {"usage": self._api_key_leases.withdraw(grant, groups[0])})

    async def _read_body(self, request: ServerRequest) -> bytes:
        return await read_json_body(request, MAX_BODY, self._clock)

    async def _proxy_status(self, proxy_id: str) -> dict[str, object]:
        status = self._proxies.status(proxy_id)
        health = await self._proxies.health(proxy_id) or {}
        is_running = status.state == "running"
        return {
            "state": status.state,
            "since": None if status.since is None else max(0.0, time.time() - status.since),
            "exchanges": health.get("exchanges", 0),
            "desktops": health.get("desktops", 0),
            "idle_seconds": health.get("idle_seconds"),
            "started_at": status.since if is_running else None,
            "memory_bytes": await self._proxies.memory_bytes(proxy_id) if is_running else None,
            "spawner": status.spawner,
            "error": status.error,
        }

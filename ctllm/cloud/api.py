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
from ctllm.cloud.identity import SERVE, ApiKeys, Assertions, Grant
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.sign_in import SignIn
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


Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The API keys of one desktop that count, by hash, for so many seconds.

    Those that are in `manage` too may also change models.
    """

    hashes: Annotated[list[Hash], Meta(max_length=100)]
    seconds: Annotated[float, Meta(ge=10, le=600)]
    manage: Annotated[list[Hash], Meta(max_length=100)] = []


Manager = Callable[[], Awaitable[Grant]]
Handler = Callable[[ServerRequest, Manager, tuple[str, ...]], Awaitable[None]]


class Api:
    """The management endpoints."""

    def __init__(
        self,
        sign_in: SignIn,
        keys: ApiKeys,
        assertions: Assertions,
        proxy_of: Callable[[Grant], str],
        proxies: ProxyManager,
        clock: Clock,
    ) -> None:
        self._sign_in = sign_in
        self._keys = keys
        self._assertions = assertions
        self._proxy_of = proxy_of
        self._proxies = proxies
        self._clock = clock
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = [
            (re.compile("/health"), {"GET": self._health}),
            (re.compile("/ctllm/openapi.json"), {"GET": self._openapi}),
            (
                re.compile("/ctllm/session"),
                {"POST": self._sign, "GET": self._who, "DELETE": self._sign_out},
            ),
            (re.compile("/ctllm/session/token"), {"POST": self._renew}),
            (re.compile("/ctllm/session/invite"), {"POST": self._invite}),
            (re.compile("/ctllm/session/introspect"), {"POST": self._introspect}),
            (
                re.compile("/ctllm/proxy"),
                {"GET": self._proxy, "PUT": self._start, "DELETE": self._stop},
            ),
            (re.compile("/ctllm/desktops"), {"GET": self._desktops}),
            (re.compile("/ctllm/desktops/([0-9a-f]{32})/keys"), {"PUT": self._lease}),
        ]

    async def answer(self, incoming: ServerRequest, manager: Manager) -> None:
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

    async def _health(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        trouble = self._proxies.trouble
        status = "degraded" if trouble else "draining" if self._proxies.draining else "ok"
        told = {"status": status, "version": __version__, "proxies": self._proxies.count}
        incoming.respond(200, {**told, "error": trouble or None})

    async def _openapi(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        incoming.respond(200, _OPENAPI, _JSON)

    async def _sign(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        self._sign_in.redeem(incoming, await read_json_body(incoming, MAX_BODY, self._clock))

    async def _renew(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        self._sign_in.renew(incoming, await read_json_body(incoming, MAX_BODY, self._clock))

    async def _introspect(
        self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]
    ) -> None:
        self._sign_in.introspect(incoming, await read_json_body(incoming, MAX_BODY, self._clock))

    async def _sign_out(
        self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]
    ) -> None:
        self._sign_in.sign_out(incoming)

    # -- with one

    async def _who(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        self._sign_in.who(incoming, await manager())

    async def _invite(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        self._sign_in.invite(incoming, await manager())

    async def _proxy(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        incoming.respond(200, await self._described(self._proxy_of(await manager())))

    async def _start(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        proxy = self._proxy_of(await manager())
        await self._proxies.ensure(proxy)
        incoming.respond(200, await self._described(proxy))

    async def _stop(self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]) -> None:
        await self._proxies.remove(self._proxy_of(await manager()), "stopped by its user")
        incoming.respond(204)

    async def _described(self, proxy: str) -> dict[str, object]:
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

    async def _desktops(
        self, incoming: ServerRequest, manager: Manager, _: tuple[str, ...]
    ) -> None:
        """What the user's proxy says; asking does not start one."""
        proxy = self._proxy_of(await manager())
        if self._proxies.status(proxy).state != "running":
            incoming.respond(200, {"desktops": []})
            return
        origin = await self._proxies.ensure(proxy, begins=False)
        assertion = self._assertions.sign(proxy, frozenset((USE,))).encode()
        head = RequestHead(b"GET", b"/ctllm/desktops", ((ASSERTION, assertion),))
        status, told = await fetch(origin, head, self._clock, 5.0, 1 << 20)
        if status != 200:
            raise origin.unreachable_error(f"your streaming proxy answers with status {status}")
        incoming.respond(200, told, _JSON)

    async def _lease(
        self, incoming: ServerRequest, manager: Manager, desktop: tuple[str, ...]
    ) -> None:
        grant = await manager()
        grant.require(SERVE)
        lease = decode_json_body(await read_json_body(incoming, MAX_BODY, self._clock), Lease)
        self._keys.lease(grant, desktop[0], lease.hashes, lease.seconds, lease.manage)
        incoming.respond(204)

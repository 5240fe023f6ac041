"""The requests that a reverse proxy sends to streaming proxies itself: which grants are in use.

The cloud authorizes each of them, and then does not see it any more. It gives each the grant of its
client, sealed, which the streaming proxy keeps with the request. So the cloud can ask for the
grants that are in use, also after a restart, and have those ended which have no access any more.
The tunnels that the cloud relays itself have a grant, too, and end in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.identity import AccessGrant, AssertionSigner
from ctllm.cloud.identity.sealed_tokens import TokenSealer
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import CtllmError, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import ASSERTION
from ctllm.http.message.head import RequestHead
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock, Timer

#: Seconds and bytes of the response of a proxy.
CONTROL_TIMEOUT, MAX_RESPONSE = 5.0, 8 * 1024 * 1024
#: Seconds between two questions to a proxy which grants are in use.
SYNC_INTERVAL = 20.0
#: Seconds after its last use for which a grant is kept that the proxy does not know.
#: nginx connects to the proxy at once, but it may be busy.
MIN_AGE = 60.0
#: Sealed grants that are reused. Of more, some are sealed twice.
MAX_SEALED = 8192
SEALED_LIFETIME = 600.0
#: A proxy that so often does not abort what has ended is stopped.
MAX_FAILURES = 5
#: The grants of which a proxy may report refused requests at a time.
MAX_REFUSED_GRANTS = 1024
#: Seconds for which a proxy is waited for that shall abort what has ended, before it is stopped.
REVOKE_TIMEOUT = 1.0


class _SealedGrant(msgspec.Struct, frozen=True):
    grant: AccessGrant
    is_tunnel: bool = False


_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _GrantList(msgspec.Struct, frozen=True):
    grants: tuple[str, ...] = ()
    refused: _Count = 0  # of requests; older proxies do not say


class _RefusalList(msgspec.Struct, frozen=True):
    refusals: Annotated[dict[str, _Count], Meta(max_length=MAX_REFUSED_GRANTS)] = {}


class _EndedGrant(msgspec.Struct, frozen=True):
    grant: str
    code: str
    message: str


class _AbortList(msgspec.Struct, frozen=True):
    ended: tuple[_EndedGrant, ...]


class GrantSealer:
    """Seals grants for one proxy each; `now` returns seconds."""

    def __init__(self, sealer: TokenSealer, now: Callable[[], float]) -> None:
        self._sealer = sealer
        self._now = now
        self._sealed: TtlCache[tuple[str, AccessGrant, bool], str] = TtlCache(MAX_SEALED, now)

    def __len__(self) -> int:
        """Return how many sealed grants are kept, to be reused."""
        return len(self._sealed)

    def seal(self, proxy_id: str, grant: AccessGrant, is_tunnel: bool) -> str:
        """Return the grant of a request or tunnel, sealed."""
        key = proxy_id, grant, is_tunnel
        sealed = self._sealed.get(key)
        if sealed is None:
            text = msgspec.json.encode(_SealedGrant(grant, is_tunnel)).decode()
            sealed = self._sealer.seal(text, _context(proxy_id))
            # No request has a grant that has expired: the client has another one by then.
            expires = min(grant.expires_at, self._now() + SEALED_LIFETIME)
            self._sealed.put(key, sealed, expires)
        return sealed

    def unseal(self, proxy_id: str, sealed: str) -> tuple[AccessGrant, bool] | None:
        """Return a grant and whether it is of a tunnel; None if it was not sealed so."""
        text = self._sealer.unseal(sealed, _context(proxy_id))
        if text is None:
            return None
        try:
            found = decode_json(text.encode(), _SealedGrant)
        except InvalidJson:  # of another version
            return None
        return found.grant, found.is_tunnel


def _context(proxy_id: str) -> str:
    return f"grant/{proxy_id}"


@dataclass(slots=True)
class _GrantInUse:
    unregister: Callable[[], None]
    used_at: float


class _Proxy:
    """What is known of one proxy. `connections` change when it is started again."""

    def __init__(self, connections: ConnectionPool | None) -> None:
        self.connections = connections
        self.grants: dict[str, _GrantInUse] = {}
        self.ended: dict[str, CtllmError] = {}  # that are to be aborted, each with its error
        self.stop_timer: Timer | None = None  # of a proxy that is stopped after that
        self.failures = 0
        self.synced_at: float | None = None
        self.task: Deferred[None] | None = None


class DirectRequests:
    """Registers the grants in use with `active_requests`, and has proxies abort those that end.

    `check_active` raises CtllmError for a grant that has ended. `proxy_found` is called once with
    the id of each proxy that runs; it raises CtllmError. `record_refusals` is called with the id of
    a proxy that has refused requests, as too many were in progress, with their grant if that can be
    read, and with their number.
    """

    _log = Logger()

    def __init__(
        self,
        active_requests: ActiveRequests,
        proxies: ProxyManager,
        assertion_signer: AssertionSigner,
        sealer: GrantSealer,
        check_active: Callable[[AccessGrant], None],
        proxy_found: Callable[[str], Awaitable[None]],
        record_refusals: Callable[[str, AccessGrant | None, int], None],
        clock: Clock,
    ) -> None:
        self._active_requests = active_requests
        self._proxies = proxies
        self._assertion_signer = assertion_signer
        self._sealer = sealer
        self._check_active = check_active
        self._proxy_found = proxy_found
        self._record_refusals = record_refusals
        self._clock = clock
        self._known: dict[str, _Proxy] = {}

    def authorize(self, proxy_id: str, grant: AccessGrant, is_tunnel: bool = False) -> bytes:
        """Register a grant whose request goes to a proxy now; return it sealed."""
        sealed = self._sealer.seal(proxy_id, grant, is_tunnel)
        proxy = self._know(proxy_id, self._proxies.direct_connections(proxy_id))
        self._register(proxy_id, proxy, sealed, grant, is_tunnel)
        return sealed.encode()

    def end(self, proxy_id: str, sealed: str, error: CtllmError) -> None:
        """Have a proxy abort, with `error`, what has a sealed grant."""
        proxy = self._know(proxy_id, self._proxies.direct_connections(proxy_id))
        proxy.grants.pop(sealed, None)
        proxy.ended[sealed] = error
        # In the next turn: what ends together is aborted together.
        self._clock.callLater(0, self._start, proxy_id, proxy)

    def revoke(self, proxy_id: str) -> None:
        """Stop a proxy whose user has no access any more, once it has aborted what has ended.

        So the clients are told why. It does not wait for more than REVOKE_TIMEOUT.
        """
        proxy = self._known.get(proxy_id)
        if proxy is None or proxy.connections is None or not proxy.ended:
            self._proxies.revoke(proxy_id)
        elif proxy.stop_timer is None:
            proxy.stop_timer = self._clock.callLater(REVOKE_TIMEOUT, self._stop, proxy_id, proxy)

    def _stop(self, proxy_id: str, proxy: _Proxy) -> None:
        timer, proxy.stop_timer = proxy.stop_timer, None
        if timer is not None and timer.active():
            timer.cancel()
        proxy.ended.clear()
        self._proxies.revoke(proxy_id)

    def poll(self) -> None:
        """Ask proxies, if it is time; abort what has ended. Called every second."""
        running = self._proxies.direct_proxies()
        for proxy_id in self._known.keys() - running.keys():
            self._forget(proxy_id)
        for proxy_id, connections in running.items():
            self._start(proxy_id, self._know(proxy_id, connections))

    def _know(self, proxy_id: str, connections: ConnectionPool | None) -> _Proxy:
        """Return what is known of a proxy, to which these are the connections now."""
        proxy = self._known.setdefault(proxy_id, _Proxy(connections))
        if connections is not None and proxy.connections is not connections:
            proxy.connections, proxy.synced_at = connections, None
        return proxy

    def _register(
        self, proxy_id: str, proxy: _Proxy, sealed: str, grant: AccessGrant, is_tunnel: bool
    ) -> None:
        known = proxy.grants.get(sealed)
        if known is not None:
            known.used_at = self._clock.seconds()
            return

        end = partial(self.end, proxy_id, sealed)
        unregister = self._active_requests.add(proxy_id, grant, end, is_tunnel)
        proxy.grants[sealed] = _GrantInUse(unregister, self._clock.seconds())

    def _forget(self, proxy_id: str) -> None:
        """Forget a proxy that does not run, unless it is just starting."""
        proxy, now = self._known[proxy_id], self._clock.seconds()
        for sealed, known in list(proxy.grants.items()):
            if now - known.used_at >= MIN_AGE:
                self._unregister(proxy, sealed)
        if not proxy.grants and proxy.task is None:
            del self._known[proxy_id]

    def _unregister(self, proxy: _Proxy, sealed: str) -> None:
        proxy.grants.pop(sealed).unregister()

    # -- asking a proxy, one request at a time

    def _start(self, proxy_id: str, proxy: _Proxy) -> None:
        is_idle = proxy.task is None and proxy.connections is not None
        if is_idle and (proxy.ended or self._is_sync_due(proxy)):
            task = proxy.task = Deferred.fromCoroutine(self._work(proxy_id, proxy))
            task.addErrback(self._failed, proxy_id, proxy)
            task.addBoth(self._finished, proxy)

    def _finished(self, result: object, proxy: _Proxy) -> None:
        proxy.task = None

    def _is_sync_due(self, proxy: _Proxy) -> bool:
        if proxy.synced_at is None:
            return True
        return bool(proxy.grants) and self._clock.seconds() - proxy.synced_at >= SYNC_INTERVAL

    async def _work(self, proxy_id: str, proxy: _Proxy) -> None:
        if proxy.synced_at is None:
            await self._proxy_found(proxy_id)
        if self._is_sync_due(proxy):
            await self._sync(proxy_id, proxy)
        while proxy.ended:
            await self._abort(proxy_id, proxy)
        proxy.failures = 0

    async def _sync(self, proxy_id: str, proxy: _Proxy) -> None:
        """Register the grants in use that are unknown; forget those that are not in use."""
        asked_at = self._clock.seconds()
        body = await self._ask(proxy_id, proxy, b"GET", b"requests", b"")
        found = decode_json(body, _GrantList)
        in_use = frozenset(found.grants)
        proxy.synced_at = asked_at
        for sealed in in_use - proxy.grants.keys() - proxy.ended.keys():
            self._discovered(proxy_id, proxy, sealed)
        for sealed in proxy.grants.keys() - in_use:
            if asked_at - proxy.grants[sealed].used_at >= MIN_AGE:
                self._unregister(proxy, sealed)
        if found.refused:
            await self._take_refusals(proxy_id, proxy)

    async def _take_refusals(self, proxy_id: str, proxy: _Proxy) -> None:
        """Record the requests that a proxy has refused, which can only be those of its user."""
        body = await self._ask(proxy_id, proxy, b"POST", b"refusals", b"")
        for sealed, number in decode_json(body, _RefusalList).refusals.items():
            found = self._sealer.unseal(proxy_id, sealed)
            if number:
                self._record_refusals(proxy_id, None if found is None else found[0], number)

    def _discovered(self, proxy_id: str, proxy: _Proxy, sealed: str) -> None:
        """Register a grant that was in use before this process started."""
        found = self._sealer.unseal(proxy_id, sealed)
        if found is None:
            proxy.ended[sealed] = Unauthorized("Your access has ended. Log in again.")
            return
        grant, is_tunnel = found
        try:
            self._check_active(grant)
        except CtllmError as error:
            proxy.ended[sealed] = error
        else:
            self._register(proxy_id, proxy, sealed, grant, is_tunnel)

    async def _abort(self, proxy_id: str, proxy: _Proxy) -> None:
        ended = dict(proxy.ended)
        aborts = [_EndedGrant(sealed, it.code, it.message) for sealed, it in ended.items()]
        body = msgspec.json.encode(_AbortList(tuple(aborts)))
        await self._ask(proxy_id, proxy, b"POST", b"aborts", body)
        for sealed in ended:
            proxy.ended.pop(sealed, None)
        if proxy.stop_timer is not None and not proxy.ended:
            self._stop(proxy_id, proxy)

    async def _ask(
        self, proxy_id: str, proxy: _Proxy, method: bytes, name: bytes, body: bytes
    ) -> bytes:
        assert proxy.connections is not None
        assertion = self._assertion_signer.sign_control(proxy_id).encode()
        headers = ((ASSERTION, assertion), (b"Content-Length", b"%d" % len(body)))
        head = RequestHead(method, b"/ctllm/control/" + name, headers)
        status, response = await fetch(
            proxy.connections, head, self._clock, CONTROL_TIMEOUT, MAX_RESPONSE, body
        )
        if status != 200:
            raise proxy.connections.unreachable_error(f"It responded with status {status}.")
        return response

    def _failed(self, reason: Failure, proxy_id: str, proxy: _Proxy) -> None:
        """Try again with the next poll. Stop a proxy that keeps what has ended."""
        trap(reason, CtllmError, InvalidJson, CancelledError)
        proxy.failures += 1
        self._log.warn(
            "Cannot ask {proxy} for its requests: {reason}", proxy=proxy_id, reason=reason.value
        )
        if proxy.ended and proxy.failures >= MAX_FAILURES:
            self._stop(proxy_id, proxy)

"""The cloud's side of the broker: what this user's other desktops have, and the way to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.cloud_endpoint import endpoint_for_url
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.ollama_monitor import MAX_NAME_LENGTH, is_model_name
from ctllm.errors import BadGateway, CtllmError, Forbidden, ProxyUnavailable, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import request_to_cloud, response_from_proxy
from ctllm.http.interfaces import RequestSink, ResponseSink, Upstream
from ctllm.http.message.head import RequestHead
from ctllm.ollama.api import asked_for, canonical, goes_elsewhere
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.tunnel.frames import MAX_MODELS

#: Seconds between two looks, and while nobody uses or watches this desktop.
WATCHED_INTERVAL = 2.0
IDLE_INTERVAL = 30.0
#: Seconds that a look may take.
POLL_TIMEOUT = 3.0
#: The largest list of desktops that is read, in bytes.
MAX_LIST = 4 * 1024 * 1024


class RemoteDesktop(msgspec.Struct, frozen=True):
    """A desktop as the cloud lists it; `ollama` is up, demo or down."""

    id: str
    name: str
    ollama: str
    models: tuple[str, ...] = ()


class _DesktopList(msgspec.Struct, frozen=True):
    desktops: tuple[RemoteDesktop, ...]


class _CloudUpstream(msgspec.Struct, frozen=True):
    """An `Upstream`: the cloud at `url`, asked as this desktop's user.

    What apps ask has a token for that alone, and none of the cloud's own paths.
    """

    pool: ConnectionPool
    url: str
    token: str
    desktop_id: str
    for_apps: bool

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange; raises Forbidden for what is not to leave this machine."""
        if self.for_apps and not goes_elsewhere(head):
            raise Forbidden(f"{asked_for(head)} is not asked of other desktops.")
        host = urlsplit(self.url).netloc.encode()
        return self.pool.start_request(
            request_to_cloud(head, host, self.token, self.desktop_id), sink
        )


def _sanitized(desktop: RemoteDesktop) -> RemoteDesktop:
    """The same, with names that steer nothing: they are shown, and lead requests."""
    models = tuple(model for model in desktop.models if is_model_name(model))
    return RemoteDesktop(
        sanitize_line(desktop.id, MAX_NAME_LENGTH), sanitize_line(desktop.name, MAX_NAME_LENGTH),
        desktop.ollama if desktop.ollama in ("up", "demo") else "down", models[:MAX_MODELS],
    )  # fmt: skip


def _cloud_name(url: str) -> str:
    return f"the cloud at {url}"


class RemoteDesktops(Service):
    """The other desktops, through the cloud. `on_change` is called when they are not as before.

    `wanted` says whether anybody would notice: an idle desktop asks its cloud ten times less.
    """

    _log = Logger()

    def __init__(self, session: CloudSession, reactor: Any, is_watched: Callable[[], bool]) -> None:
        self.desktops: tuple[RemoteDesktop, ...] = ()  # all of the user's, this one included
        self.error = ""  # why they are not known
        self.on_change: Callable[[], None] = lambda: None
        self._session = session
        self._reactor = reactor
        self._is_watched = is_watched
        self._periodic = PeriodicCall(self._poll_if_due, reactor, "looking for other desktops")
        self._last_poll = -math.inf
        self._polling: Deferred[None] | None = None
        self._pool: ConnectionPool | None = None
        self._models: frozenset[str] = frozenset()

    @property
    def is_up(self) -> bool:
        """Whether a desktop other than this one can answer."""
        return any(each.ollama == "up" for each in self.others)

    @property
    def others(self) -> tuple[RemoteDesktop, ...]:
        """The user's desktops without this one."""
        own = self._session.credentials.desktop_id
        return tuple(each for each in self.desktops if each.id != own)

    def has_model(self, model: str) -> bool:
        """Whether one of them has `model`."""
        return canonical(model) in self._models

    def startService(self) -> None:
        """Look at once, then again and again."""
        super().startService()
        self._periodic.start(1.0)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._periodic.stop()
        if self._polling is not None:
            self._polling.cancel()
        self._close_pool()

    # -- the way there

    @property
    def is_logged_in(self) -> bool:
        """Whether there is a cloud to ask."""
        return self._session.credentials.login is not None

    @property
    def cloud_url(self) -> str:
        """Where the cloud is; raises Unauthenticated where this desktop is not signed in."""
        return self._session.login.cloud_url

    async def upstream(self) -> Upstream:
        """The way to them, for what an app asks now; raises CtllmError."""
        return await self._cloud_upstream("use")

    async def _cloud_upstream(self, scope: str = "") -> Upstream:
        """The way to the cloud, with a token of `scope` alone, or one of this desktop's own."""
        url = self._session.login.cloud_url
        token = await self._session.access_token(scope)
        desktop = self._session.credentials.desktop_id
        return _CloudUpstream(self._pool_for(url), url, token, desktop, for_apps=bool(scope))

    def _pool_for(self, url: str) -> ConnectionPool:
        """The cloud at `url`, whose connections are kept while that is the one."""
        if self._pool is None or self._pool.name != _cloud_name(url):
            self._close_pool()
            endpoint = endpoint_for_url(url, self._reactor)
            self._pool = ConnectionPool(
                endpoint,
                self._reactor,
                _cloud_name(url),
                ProxyUnavailable,
                filter_head=response_from_proxy,
            )
        return self._pool

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # -- looking

    def poll_now(self) -> None:
        """Look as soon as can be."""
        self._last_poll = -math.inf
        if self.running:
            self._poll_if_due()

    def _poll_if_due(self) -> None:
        due = self._last_poll + (WATCHED_INTERVAL if self._is_watched() else IDLE_INTERVAL)
        if self._reactor.seconds() < due or (self._polling and not self._polling.called):
            return
        self._last_poll = self._reactor.seconds()
        self._polling = Deferred.fromCoroutine(self._poll())
        self._polling.addErrback(self._poll_failed)

    def _poll_failed(self, reason: Any) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("other desktops could not be looked at", reason)

    async def _poll(self) -> None:
        try:
            found, trouble = await self._fetch(), ""
        except CtllmError as error:
            found, trouble = (), error.message
            if isinstance(error, Unauthorized):
                self._session.discard_tokens()
        except CancelledError:
            raise
        except Exception as error:
            self._update((), f"something in ctllm broke: {error}")
            raise
        self._update(found, trouble)

    def _update(self, desktops: tuple[RemoteDesktop, ...], error: str) -> None:
        if (desktops, error) == (self.desktops, self.error):
            return
        self.desktops, self.error = desktops, error
        real = (each for each in self.others if each.ollama == "up")
        self._models = frozenset(canonical(model) for each in real for model in each.models)
        self.on_change()

    async def _fetch(self) -> tuple[RemoteDesktop, ...]:
        head = RequestHead(b"GET", b"/ctllm/desktops")
        status, body = await fetch(
            await self._cloud_upstream(), head, self._reactor, POLL_TIMEOUT, MAX_LIST
        )
        if status == 401:
            raise Unauthorized("the cloud does not accept this desktop's sign-in")
        if status != 200:
            raise BadGateway(f"the cloud answered with status {status}")
        try:
            listed = decode_json(body, _DesktopList, MAX_LIST).desktops
        except InvalidJson as error:
            raise BadGateway("what answers there is no ctllm cloud") from error
        return tuple(map(_sanitized, listed))

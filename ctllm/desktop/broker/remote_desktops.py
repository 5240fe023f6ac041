"""The user's other desktops: what the cloud lists, and the upstream to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.ollama_monitor import MAX_NAME_LENGTH, is_model_name
from ctllm.errors import BadGateway, CtllmError, Forbidden, ProxyUnavailable, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import request_to_cloud, response_from_proxy
from ctllm.http.interfaces import RequestSink, ResponseSink, Upstream
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import can_remote_ollama_answer, canonical_model, describe_request
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.tunnel.frames import MAX_MODELS

#: Seconds between two polls while the status is watched or apps send requests, and otherwise.
WATCHED_INTERVAL = 2.0
IDLE_INTERVAL = 30.0
#: Seconds after which a poll fails.
POLL_TIMEOUT = 3.0
#: The largest list of desktops that is read, in bytes.
MAX_LIST = 4 * 1024 * 1024
#: Seconds between two checks whether a poll is due.
_CHECK_INTERVAL = 1.0


class RemoteDesktop(msgspec.Struct, frozen=True):
    """A desktop in the cloud's list; `ollama` is up, demo or down."""

    id: str
    name: str
    ollama: str
    models: tuple[str, ...] = ()


class _DesktopList(msgspec.Struct, frozen=True):
    desktops: tuple[RemoteDesktop, ...]


class _CloudUpstream(msgspec.Struct, frozen=True):
    """An `Upstream`: the cloud at `url`, with an access token of this desktop's user.

    Requests of apps have a token of one scope, and do not reach the cloud's own API.
    """

    pool: ConnectionPool
    url: str
    token: str
    desktop_id: str
    for_apps: bool

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises Forbidden for one that must not leave this machine."""
        if self.for_apps and not can_remote_ollama_answer(head):
            raise Forbidden(f"{describe_request(head)} is not sent to other desktops.")
        host = urlsplit(self.url).netloc.encode()
        head = request_to_cloud(head, host, self.token, self.desktop_id)
        return self.pool.start_request(head, sink)


def _sanitized(desktop: RemoteDesktop) -> RemoteDesktop:
    """Return `desktop` with names that are safe to display and to use in requests."""
    models = tuple(model for model in desktop.models if is_model_name(model))
    return RemoteDesktop(
        sanitize_line(desktop.id, MAX_NAME_LENGTH),
        sanitize_line(desktop.name, MAX_NAME_LENGTH),
        desktop.ollama if desktop.ollama in ("up", "demo") else "down",
        models[:MAX_MODELS],
    )


def _cloud_name(url: str) -> str:
    return f"the cloud at {url}"


class RemoteDesktops(Service):
    """The user's desktops according to the cloud, which is polled for them.

    It polls often while `is_watched` returns true, and seldom otherwise. `endpoint_for` returns the
    endpoint of a cloud's URL. Observers are called when the list, or why there is none, changes.
    """

    _log = Logger()

    def __init__(
        self,
        session: CloudSession,
        clock: Clock,
        is_watched: Callable[[], bool],
        endpoint_for: Callable[[str], Endpoint],
    ) -> None:
        self.desktops: tuple[RemoteDesktop, ...] = ()  # this one included
        self.error = ""  # why the desktops are not known
        self._observers: list[Callable[[], None]] = []
        self._session = session
        self._clock = clock
        self._is_watched = is_watched
        self._endpoint_for = endpoint_for
        self._periodic = PeriodicCall(self._poll_if_due, clock, "Polling for other desktops")
        self._last_poll = -math.inf
        self._polling: Deferred[None] | None = None
        self._pool: ConnectionPool | None = None
        self._models: frozenset[str] = frozenset()

    def add_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` whenever `desktops` or `error` changes."""
        self._observers.append(observer)

    @property
    def is_up(self) -> bool:
        """Whether Ollama runs on another desktop."""
        return any(each.ollama == "up" for each in self.others)

    @property
    def own_id(self) -> str:
        """The id of this desktop."""
        return self._session.credentials.desktop_id

    @property
    def others(self) -> tuple[RemoteDesktop, ...]:
        """The user's desktops without this one."""
        return tuple(each for each in self.desktops if each.id != self.own_id)

    def has_model(self, model: str) -> bool:
        """Return whether Ollama has `model` on another desktop."""
        return canonical_model(model) in self._models

    def startService(self) -> None:
        """Start to poll."""
        super().startService()
        self._periodic.start(_CHECK_INTERVAL)

    def stopService(self) -> None:
        """Stop to poll, and close the connections to the cloud."""
        super().stopService()
        self._periodic.stop()
        if self._polling is not None:
            self._polling.cancel()
        self._close_pool()

    # -- the cloud

    @property
    def is_logged_in(self) -> bool:
        """Whether this desktop is logged in to a cloud, which has not ended that."""
        login = self._session.credentials.login
        return login is not None and not login.ended

    @property
    def cloud_url(self) -> str:
        """The URL of the cloud; raises Unauthorized if this desktop is not logged in."""
        return self._session.login.cloud_url

    async def upstream(self) -> Upstream:
        """Return the upstream for requests of apps; raises CtllmError."""
        return await self._cloud_upstream("use")

    async def _cloud_upstream(self, scope: str = "") -> Upstream:
        """Return the cloud with a token of `scope`, or of all scopes of this desktop."""
        url = self._session.login.cloud_url
        token = await self._session.access_token(scope)
        desktop_id = self._session.credentials.desktop_id
        return _CloudUpstream(self._pool_for(url), url, token, desktop_id, for_apps=bool(scope))

    def _pool_for(self, url: str) -> ConnectionPool:
        """Return the connection pool of `url`; close the pool of any other URL."""
        if self._pool is None or self._pool.name != _cloud_name(url):
            self._close_pool()
            self._pool = ConnectionPool(
                self._endpoint_for(url), self._clock, _cloud_name(url), ProxyUnavailable,
                filter_head=response_from_proxy,
            )  # fmt: skip
        return self._pool

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # -- polling

    def poll_now(self) -> None:
        """Poll at once, or as soon as the current poll has ended."""
        self._last_poll = -math.inf
        if self.running:
            self._poll_if_due()

    def _poll_if_due(self) -> None:
        interval = WATCHED_INTERVAL if self._is_watched() else IDLE_INTERVAL
        is_due = self._clock.seconds() >= self._last_poll + interval
        if not is_due or (self._polling is not None and not self._polling.called):
            return
        self._last_poll = self._clock.seconds()
        self._polling = Deferred.fromCoroutine(self._poll())
        self._polling.addErrback(self._poll_failed)

    def _poll_failed(self, reason: Failure) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("Polling for other desktops failed", reason)

    async def _poll(self) -> None:
        try:
            desktops, error = await self._fetch(), ""
        except CtllmError as failure:
            desktops, error = (), failure.message
            if isinstance(failure, Unauthorized):
                self._session.discard_tokens()
        except CancelledError:
            raise
        except Exception as failure:
            self._update((), f"Internal error of ctllm: {failure}")
            raise
        self._update(desktops, error)

    def _update(self, desktops: tuple[RemoteDesktop, ...], error: str) -> None:
        if (desktops, error) == (self.desktops, self.error):
            return
        self.desktops, self.error = desktops, error
        up = (each for each in self.others if each.ollama == "up")
        self._models = frozenset(canonical_model(model) for each in up for model in each.models)
        for observer in self._observers:
            observer()

    async def _fetch(self) -> tuple[RemoteDesktop, ...]:
        head = RequestHead(b"GET", b"/ctllm/desktops")
        upstream = await self._cloud_upstream()
        status, body = await fetch(upstream, head, self._clock, POLL_TIMEOUT, MAX_LIST)
        if status == 401:
            raise Unauthorized("The cloud rejects this desktop's login.")
        if status != 200:
            raise BadGateway(f"The cloud responded with status {status}.")
        try:
            desktops = decode_json(body, _DesktopList, MAX_LIST).desktops
        except InvalidJson as error:
            raise BadGateway("The server at the cloud's URL is not a ctllm cloud.") from error
        return tuple(map(_sanitized, desktops))

"""The cloud's side of the broker: what this user's other desktops have, and the way to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.cloud_endpoint import dialler
from ctllm.desktop.cloud_session import Session
from ctllm.desktop.ollama_monitor import LONGEST, is_model_name
from ctllm.errors import BadGateway, CtllmError, Forbidden, ProxyUnavailable, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import request_to_cloud, response_from_proxy
from ctllm.http.interfaces import RequestSink, ResponseSink, Upstream
from ctllm.http.message.head import RequestHead
from ctllm.ollama.api import asked_for, canonical, goes_elsewhere
from ctllm.reactor.periodic import PeriodicCall
from ctllm.tunnel.frames import MAX_MODELS

#: Seconds between two looks, and while nobody uses or watches this desktop.
OFTEN = 2.0
SELDOM = 30.0
#: Seconds that a look may take.
PATIENCE = 3.0
#: The largest list of desktops that is read, in bytes.
MOST = 4 * 1024 * 1024


class OtherDesktop(msgspec.Struct, frozen=True):
    """A desktop as the cloud lists it; `ollama` is up, demo or down."""

    id: str
    name: str
    ollama: str
    models: tuple[str, ...] = ()


class _Listed(msgspec.Struct, frozen=True):
    desktops: tuple[OtherDesktop, ...]


class _Way(msgspec.Struct, frozen=True):
    """An `Upstream`: the cloud at `url`, asked as this desktop's user.

    What apps ask has a token for that alone, and none of the cloud's own paths.
    """

    origin: ConnectionPool
    url: str
    token: str
    desktop: str
    for_apps: bool

    def start_request(self, head: RequestHead, caller: ResponseSink) -> RequestSink:
        """Begin an exchange; raises Forbidden for what is not to leave this machine."""
        if self.for_apps and not goes_elsewhere(head):
            raise Forbidden(f"{asked_for(head)} is not asked of other desktops.")
        host = urlsplit(self.url).netloc.encode()
        return self.origin.start_request(
            request_to_cloud(head, host, self.token, self.desktop), caller
        )


def _harmless(desktop: OtherDesktop) -> OtherDesktop:
    """The same, with names that steer nothing: they are shown, and lead requests."""
    models = tuple(model for model in desktop.models if is_model_name(model))
    return OtherDesktop(
        sanitize_line(desktop.id, LONGEST), sanitize_line(desktop.name, LONGEST),
        desktop.ollama if desktop.ollama in ("up", "demo") else "down", models[:MAX_MODELS],
    )  # fmt: skip


def _name(url: str) -> str:
    return f"the cloud at {url}"


class Elsewhere(Service):
    """The other desktops, through the cloud. `on_change` is called when they are not as before.

    `wanted` says whether anybody would notice: an idle desktop asks its cloud ten times less.
    """

    _log = Logger()

    def __init__(self, session: Session, reactor: Any, wanted: Callable[[], bool]) -> None:
        self.desktops: tuple[OtherDesktop, ...] = ()  # all of the user's, this one included
        self.trouble = ""  # why they are not known
        self.on_change: Callable[[], None] = lambda: None
        self._session = session
        self._reactor = reactor
        self._wanted = wanted
        self._loop = PeriodicCall(self._tick, reactor, "looking for other desktops")
        self._looked = -math.inf
        self._looking: Deferred[None] | None = None
        self._origin: ConnectionPool | None = None
        self._models: frozenset[str] = frozenset()

    @property
    def up(self) -> bool:
        """Whether a desktop other than this one can answer."""
        return any(each.ollama == "up" for each in self.others)

    @property
    def others(self) -> tuple[OtherDesktop, ...]:
        """The user's desktops without this one."""
        own = self._session.credentials.desktop_id
        return tuple(each for each in self.desktops if each.id != own)

    def has(self, model: str) -> bool:
        """Whether one of them has `model`."""
        return canonical(model) in self._models

    def startService(self) -> None:
        """Look at once, then again and again."""
        super().startService()
        self._loop.start(1.0)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._loop.stop()
        if self._looking is not None:
            self._looking.cancel()
        self._leave()

    # -- the way there

    @property
    def signed_in(self) -> bool:
        """Whether there is a cloud to ask."""
        return self._session.credentials.sign_in is not None

    @property
    def cloud_url(self) -> str:
        """Where the cloud is; raises Unauthenticated where this desktop is not signed in."""
        return self._session.sign_in.cloud_url

    async def way(self) -> Upstream:
        """The way to them, for what an app asks now; raises CtllmError."""
        return await self._way("use")

    async def _way(self, scope: str = "") -> Upstream:
        """The way to the cloud, with a token of `scope` alone, or one of this desktop's own."""
        url = self._session.sign_in.cloud_url
        token = await self._session.token(scope)
        desktop = self._session.credentials.desktop_id
        return _Way(self._to(url), url, token, desktop, for_apps=bool(scope))

    def _to(self, url: str) -> ConnectionPool:
        """The cloud at `url`, whose connections are kept while that is the one."""
        if self._origin is None or self._origin.name != _name(url):
            self._leave()
            endpoint = dialler(url, self._reactor)
            self._origin = ConnectionPool(
                endpoint,
                self._reactor,
                _name(url),
                ProxyUnavailable,
                filter_head=response_from_proxy,
            )
        return self._origin

    def _leave(self) -> None:
        if self._origin is not None:
            self._origin.close()
            self._origin = None

    # -- looking

    def look(self) -> None:
        """Look as soon as can be."""
        self._looked = -math.inf
        if self.running:
            self._tick()

    def _tick(self) -> None:
        due = self._looked + (OFTEN if self._wanted() else SELDOM)
        if self._reactor.seconds() < due or (self._looking and not self._looking.called):
            return
        self._looked = self._reactor.seconds()
        self._looking = Deferred.fromCoroutine(self._look())
        self._looking.addErrback(self._stumbled)

    def _stumbled(self, reason: Any) -> None:
        if not reason.check(CancelledError):
            self._log.failure("other desktops could not be looked at", reason)

    async def _look(self) -> None:
        try:
            found, trouble = await self._ask(), ""
        except CtllmError as error:
            found, trouble = (), error.message
            if isinstance(error, Unauthorized):
                self._session.distrust()
        except CancelledError:
            raise
        except Exception as error:
            self._become((), f"something in ctllm broke: {error}")
            raise
        self._become(found, trouble)

    def _become(self, found: tuple[OtherDesktop, ...], trouble: str) -> None:
        if (found, trouble) == (self.desktops, self.trouble):
            return
        self.desktops, self.trouble = found, trouble
        real = (each for each in self.others if each.ollama == "up")
        self._models = frozenset(canonical(model) for each in real for model in each.models)
        self.on_change()

    async def _ask(self) -> tuple[OtherDesktop, ...]:
        head = RequestHead(b"GET", b"/ctllm/desktops")
        status, body = await fetch(await self._way(), head, self._reactor, PATIENCE, MOST)
        if status == 401:
            raise Unauthorized("the cloud does not accept this desktop's sign-in")
        if status != 200:
            raise BadGateway(f"the cloud answered with status {status}")
        try:
            listed = decode_json(body, _Listed, MOST).desktops
        except InvalidJson as error:
            raise BadGateway("what answers there is no ctllm cloud") from error
        return tuple(map(_harmless, listed))

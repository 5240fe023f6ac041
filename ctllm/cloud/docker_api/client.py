"""Calls of the Docker Engine API."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import treq
from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.error import ConnectError
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers

from ctllm.cloud.docker_api.errors import (
    EngineAbsent,
    EngineRefused,
    EngineTooOld,
    Missing,
    absence,
    complaint,
)
from ctllm.cloud.docker_api.models import (
    Container,
    Created,
    Happened,
    Image,
    Listed,
    Network,
    Stats,
    read,
)
from ctllm.cloud.docker_api.streams import Given, Lines, Whole, demultiplexed
from ctllm.cloud.docker_api.transport import Way
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock

#: The versions of the API that this speaks: docker 19.03's, and the one that it was written for.
OLDEST, NEWEST = (1, 40), (1, 47)
#: Seconds for one call; making a container on a busy machine takes some.
PATIENCE = 30.0
T = TypeVar("T")
_LOST = (ConnectError, ResponseFailed, RequestTransmissionFailed, OSError)


class DockerClient:
    """The engine at the end of `way`.

    Every call raises an `EngineRefused`, which one `complaints` tells, and may be cancelled.
    """

    def __init__(self, way: Way, clock: Clock, patience: float = PATIENCE) -> None:
        self._way = way
        self._clock = clock
        self._patience = patience
        self._treq = treq.client.HTTPClient(way.agent)
        self._version = ""  # as in a URL; empty until the engine was asked

    # -- containers

    async def containers(self, label: str) -> list[Listed]:
        """All containers with that label (`name` or `name=value`), those that ended included."""
        query = {"all": "1", "filters": _filters(label=[label])}
        return read(await self._call("GET", "/containers/json", query), list[Listed])

    async def container(self, name: str) -> Container:
        """The container of that name or id; raises Missing."""
        return read(await self._call("GET", f"/containers/{_word(name)}/json"), Container)

    async def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container, and give its id. Raises Conflict, ImageMissing, NoRoom."""
        made = await self._call("POST", "/containers/create", {"name": name}, body)
        return read(made, Created).id

    async def start_container(self, name: str) -> None:
        """Start it, unless it runs."""
        await self._call("POST", f"/containers/{_word(name)}/start")

    async def stop_container(self, name: str, seconds: int) -> None:
        """Ask it to end, and end it when it has not after so many seconds."""
        path = f"/containers/{_word(name)}/stop"
        await self._call("POST", path, {"t": str(seconds)}, patience=self._patience + seconds)

    async def remove_container(self, name: str) -> None:
        """End it and remove what is left of it; it may be gone."""
        query = {"force": "1", "v": "1"}
        await self._gone("DELETE", f"/containers/{_word(name)}", query)

    async def stats(self, name: str) -> Stats:
        """What it uses, at this moment."""
        query = {"stream": "0", "one-shot": "1"}
        return read(await self._call("GET", f"/containers/{_word(name)}/stats", query), Stats)

    async def last_words(self, name: str, lines: int = 5) -> str:
        """The last lines that it wrote."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        answer = await self._call("GET", f"/containers/{_word(name)}/logs", query)
        return demultiplexed(answer).decode("utf-8", "replace").strip()

    # -- networks

    async def networks(self, label: str | None = None) -> list[Network]:
        """All networks, or those with a label."""
        query = {} if label is None else {"filters": _filters(label=[label])}
        return read(await self._call("GET", "/networks", query), list[Network])

    async def network(self, name: str) -> Network:
        """The network of that name or id; raises Missing."""
        return read(await self._call("GET", f"/networks/{_word(name)}"), Network)

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """Make a network, and give its id. Raises Conflict, NoSubnet."""
        return read(await self._call("POST", "/networks/create", body=body), Created).id

    async def remove_network(self, name: str) -> None:
        """Remove it; it may be gone."""
        await self._gone("DELETE", f"/networks/{_word(name)}")

    # -- images, events, the engine itself

    async def image(self, name: str) -> Image:
        """The image of that name or id; raises ImageMissing."""
        return read(await self._call("GET", f"/images/{quote(name, safe='')}/json"), Image)

    async def events(
        self, filters: Mapping[str, list[str]], since: float, heard: Callable[[Happened], None]
    ) -> None:
        """Give each event since then (epoch seconds), as far as the engine remembers, to `heard`.

        That goes on until the engine ends; cancel to hear no more.
        """
        query = {"filters": _filters(**filters), "since": f"{since:.6f}"}
        response = await self._within(self._patience, self._reach("GET", "/events", query, None))
        lines = Lines(lambda line: heard(read(line, Happened)))
        response.deliverBody(lines)
        try:
            await lines.done
        finally:
            self._version = ""  # whoever answers next may be another engine

    async def version(self) -> str:
        """The version of the API that is spoken: the newest that both sides know.

        Raises EngineTooOld, or EngineAbsent when nobody answers.
        """
        response = await self._within(self._patience, self._ask("GET", "/_ping", {}, None))
        await self._within(self._patience, _body(response))
        said = (response.headers.getRawHeaders(b"api-version") or [b""])[0]
        theirs = _numbers(said.decode("ascii", "replace"))
        if theirs is None or response.code != 200:
            raise EngineRefused(f"What answers at {self._way.where} is no Docker engine")
        if theirs < OLDEST:
            raise EngineTooOld(
                f"{self._way.where} speaks version {_dotted(theirs)} of its API; ctllm needs "
                f"{_dotted(OLDEST)} (Docker 19.03) or later"
            )
        return _dotted(min(theirs, NEWEST))

    # -- underneath

    async def _gone(self, method: str, path: str, query: Mapping[str, str] | None = None) -> None:
        with suppress(Missing):
            await self._call(method, path, query)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        patience: float | None = None,
    ) -> bytes:
        exchange = self._exchange(method, path, query or {}, body)
        return await self._within(patience or self._patience, exchange)

    async def _within(self, limit: float, doing: Coroutine[Any, Any, T]) -> T:
        try:
            return await run_with_timeout(self._clock, limit, doing)
        except TimeoutError:
            self._version = ""
            raise EngineAbsent(f"{self._way.where} did not answer within {limit:g} s") from None

    async def _exchange(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> bytes:
        return await _body(await self._reach(method, path, query, body))

    async def _reach(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Any:
        try:
            return await self._ask(method, await self._path(path), query, body)
        except EngineTooOld:
            self._version = ""  # another engine than the one that was asked
            raise

    async def _path(self, path: str) -> str:
        # Asked again after every failure: another engine may be there since.
        if not self._version:
            self._version = await self.version()
        return f"/v{self._version}{path}"

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Any:
        """Give the answer, once its head is there and good."""
        data: Any = None if body is None else Given(msgspec.json.encode(body))
        try:
            response = await self._treq.request(
                method,
                self._way.base + path,
                params=dict(query),
                data=data,
                headers=Headers({} if body is None else {"Content-Type": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
            )
        except CancelledError:
            raise
        except _LOST as error:
            self._version = ""
            if _is_cancelled(error):
                raise CancelledError from error
            raise absence(make_failure(error), self._way.where) from error
        if response.code >= 300 and response.code != 304:
            raise complaint(response.code, await _body(response))
        return response.original


def _is_cancelled(error: Exception) -> bool:
    """Whether it is how Twisted's client says that a request was cancelled on its way."""
    return any(isinstance(reason.value, CancelledError) for reason in getattr(error, "reasons", ()))


async def _body(response: Any) -> bytes:
    whole = Whole()
    response.deliverBody(whole)
    return await whole.done


def _filters(**filters: list[str]) -> str:
    return json.dumps(filters)


def _word(name: str) -> str:
    return quote(name, safe="")


def _numbers(version: str) -> tuple[int, int] | None:
    major, dot, minor = version.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

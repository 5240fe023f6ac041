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
    DockerError,
    DockerNotFound,
    DockerTooOld,
    DockerUnavailable,
    error_from_response,
    unavailable_from_failure,
)
from ctllm.cloud.docker_api.models import (
    Container,
    ContainerStats,
    ContainerSummary,
    CreateResponse,
    DockerEvent,
    Image,
    Network,
    decode_response,
)
from ctllm.cloud.docker_api.streams import (
    BodyCollector,
    BytesProducer,
    LineCollector,
    demultiplex_logs,
)
from ctllm.cloud.docker_api.transport import DockerTransport
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock

#: The versions of the API that this speaks: docker 19.03's, and the one that it was written for.
MIN_API_VERSION, MAX_API_VERSION = (1, 40), (1, 47)
#: Seconds for one call; making a container on a busy machine takes some.
CALL_TIMEOUT = 30.0
T = TypeVar("T")
_CONNECTION_ERRORS = (ConnectError, ResponseFailed, RequestTransmissionFailed, OSError)


class DockerClient:
    """The engine at the end of `way`.

    Every call raises an `EngineRefused`, which one `complaints` tells, and may be cancelled.
    """

    def __init__(
        self, transport: DockerTransport, clock: Clock, timeout: float = CALL_TIMEOUT
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._treq = treq.client.HTTPClient(transport.agent)
        self._version = ""  # as in a URL; empty until the engine was asked

    # -- containers

    async def list_containers(self, label: str) -> list[ContainerSummary]:
        """All containers with that label (`name` or `name=value`), those that ended included."""
        query = {"all": "1", "filters": _encode_filters(label=[label])}
        return decode_response(
            await self._call("GET", "/containers/json", query), list[ContainerSummary]
        )

    async def inspect_container(self, name: str) -> Container:
        """The container of that name or id; raises Missing."""
        return decode_response(
            await self._call("GET", f"/containers/{_quote(name)}/json"), Container
        )

    async def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container, and give its id. Raises Conflict, ImageMissing, NoRoom."""
        response = await self._call("POST", "/containers/create", {"name": name}, body)
        return decode_response(response, CreateResponse).id

    async def start_container(self, name: str) -> None:
        """Start it, unless it runs."""
        await self._call("POST", f"/containers/{_quote(name)}/start")

    async def stop_container(self, name: str, seconds: int) -> None:
        """Ask it to end, and end it when it has not after so many seconds."""
        path = f"/containers/{_quote(name)}/stop"
        await self._call("POST", path, {"t": str(seconds)}, timeout=self._timeout + seconds)

    async def remove_container(self, name: str) -> None:
        """End it and remove what is left of it; it may be gone."""
        query = {"force": "1", "v": "1"}
        await self._delete("DELETE", f"/containers/{_quote(name)}", query)

    async def container_stats(self, name: str) -> ContainerStats:
        """What it uses, at this moment."""
        query = {"stream": "0", "one-shot": "1"}
        return decode_response(
            await self._call("GET", f"/containers/{_quote(name)}/stats", query), ContainerStats
        )

    async def container_logs(self, name: str, lines: int = 5) -> str:
        """The last lines that it wrote."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        answer = await self._call("GET", f"/containers/{_quote(name)}/logs", query)
        return demultiplex_logs(answer).decode("utf-8", "replace").strip()

    # -- networks

    async def list_networks(self, label: str | None = None) -> list[Network]:
        """All networks, or those with a label."""
        query = {} if label is None else {"filters": _encode_filters(label=[label])}
        return decode_response(await self._call("GET", "/networks", query), list[Network])

    async def inspect_network(self, name: str) -> Network:
        """The network of that name or id; raises Missing."""
        return decode_response(await self._call("GET", f"/networks/{_quote(name)}"), Network)

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """Make a network, and give its id. Raises Conflict, NoSubnet."""
        return decode_response(
            await self._call("POST", "/networks/create", body=body), CreateResponse
        ).id

    async def remove_network(self, name: str) -> None:
        """Remove it; it may be gone."""
        await self._delete("DELETE", f"/networks/{_quote(name)}")

    # -- images, events, the engine itself

    async def inspect_image(self, name: str) -> Image:
        """The image of that name or id; raises ImageMissing."""
        return decode_response(
            await self._call("GET", f"/images/{quote(name, safe='')}/json"), Image
        )

    async def follow_events(
        self,
        filters: Mapping[str, list[str]],
        since: float,
        on_event: Callable[[DockerEvent], None],
    ) -> None:
        """Give each event since then (epoch seconds), as far as the engine remembers, to `heard`.

        That goes on until the engine ends; cancel to hear no more.
        """
        query = {"filters": _encode_filters(**filters), "since": f"{since:.6f}"}
        response = await self._with_timeout(
            self._timeout, self._request("GET", "/events", query, None)
        )
        lines = LineCollector(lambda line: on_event(decode_response(line, DockerEvent)))
        response.deliverBody(lines)
        try:
            await lines.done
        finally:
            self._version = ""  # whoever answers next may be another engine

    async def negotiate_version(self) -> str:
        """The version of the API that is spoken: the newest that both sides know.

        Raises EngineTooOld, or EngineAbsent when nobody answers.
        """
        response = await self._with_timeout(self._timeout, self._send("GET", "/_ping", {}, None))
        await self._with_timeout(self._timeout, _read_body(response))
        header = (response.headers.getRawHeaders(b"api-version") or [b""])[0]
        engine_version = _parse_version(header.decode("ascii", "replace"))
        if engine_version is None or response.code != 200:
            raise DockerError(f"What answers at {self._transport.description} is no Docker engine")
        if engine_version < MIN_API_VERSION:
            raise DockerTooOld(
                f"{self._transport.description} speaks version {_format_version(engine_version)} of its API; ctllm needs "
                f"{_format_version(MIN_API_VERSION)} (Docker 19.03) or later"
            )
        return _format_version(min(engine_version, MAX_API_VERSION))

    # -- underneath

    async def _delete(self, method: str, path: str, query: Mapping[str, str] | None = None) -> None:
        with suppress(DockerNotFound):
            await self._call(method, path, query)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        exchange = self._fetch_body(method, path, query or {}, body)
        return await self._with_timeout(timeout or self._timeout, exchange)

    async def _with_timeout(self, timeout: float, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await run_with_timeout(self._clock, timeout, coroutine)
        except TimeoutError:
            self._version = ""
            raise DockerUnavailable(
                f"{self._transport.description} did not answer within {timeout:g} s"
            ) from None

    async def _fetch_body(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> bytes:
        return await _read_body(await self._request(method, path, query, body))

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Any:
        try:
            return await self._send(method, await self._versioned_path(path), query, body)
        except DockerTooOld:
            self._version = ""  # another engine than the one that was asked
            raise

    async def _versioned_path(self, path: str) -> str:
        # Asked again after every failure: another engine may be there since.
        if not self._version:
            self._version = await self.negotiate_version()
        return f"/v{self._version}{path}"

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Any:
        """Give the answer, once its head is there and good."""
        data: Any = None if body is None else BytesProducer(msgspec.json.encode(body))
        try:
            response = await self._treq.request(
                method,
                self._transport.base_url + path,
                params=dict(query),
                data=data,
                headers=Headers({} if body is None else {"Content-Type": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
            )
        except CancelledError:
            raise
        except _CONNECTION_ERRORS as error:
            self._version = ""
            if _is_cancelled(error):
                raise CancelledError from error
            raise unavailable_from_failure(
                make_failure(error), self._transport.description
            ) from error
        if response.code >= 300 and response.code != 304:
            raise error_from_response(response.code, await _read_body(response))
        return response.original


def _is_cancelled(error: Exception) -> bool:
    """Whether it is how Twisted's client says that a request was cancelled on its way."""
    return any(isinstance(reason.value, CancelledError) for reason in getattr(error, "reasons", ()))


async def _read_body(response: Any) -> bytes:
    collector = BodyCollector()
    response.deliverBody(collector)
    return await collector.done


def _encode_filters(**filters: list[str]) -> str:
    return json.dumps(filters)


def _quote(name: str) -> str:
    return quote(name, safe="")


def _parse_version(version: str) -> tuple[int, int] | None:
    major, dot, minor = version.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def _format_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

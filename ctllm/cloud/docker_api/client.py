"""The client of the Docker Engine API."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast
from urllib.parse import quote

import msgspec
import treq
from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from ctllm.cloud.docker_api.errors import (
    DockerError,
    DockerNotFound,
    DockerTooOld,
    DockerUnavailable,
    DockerVersionMismatch,
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
    Response,
    demultiplex_logs,
)
from ctllm.cloud.docker_api.transport import DockerTransport
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock

#: The versions of the API that are supported: from that of Docker 19.03 to that of Docker 27.
MIN_API_VERSION, MAX_API_VERSION = (1, 40), (1, 47)
#: Seconds until a request fails. Docker may be slow to create a container on a busy machine.
CALL_TIMEOUT = 30.0
T = TypeVar("T")
_CONNECTION_ERRORS = (ConnectError, ResponseFailed, RequestTransmissionFailed, OSError)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request: its path without the version of the API, and what is sent as JSON, if anything."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] | None = None


class DockerClient:
    """A client of the engine that `transport` reaches.

    Every method raises a `DockerError` if the request fails, and can be cancelled. `timeout` is in
    seconds.
    """

    def __init__(
        self, transport: DockerTransport, clock: Clock, timeout: float = CALL_TIMEOUT
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._treq = treq.client.HTTPClient(transport.agent)
        self._version = ""  # of the API; empty until it is negotiated

    # -- containers

    async def list_containers(self, label: str) -> list[ContainerSummary]:
        """Return all containers with a label (`name` or `name=value`), also those that exited."""
        query = {"all": "1", "filters": encode_filters(label=[label])}
        body = await self._call("GET", "/containers/json", query)
        return decode_response(body, list[ContainerSummary])

    async def inspect_container(self, name: str) -> Container:
        """Return the container with a name or id. Raises DockerNotFound."""
        return decode_response(
            await self._call("GET", f"/containers/{quote_name(name)}/json"), Container
        )

    async def create_container(self, name: str, config: Mapping[str, object]) -> str:
        """Create a container and return its id.

        Raises DockerConflict, ImageNotFound or DiskFull.
        """
        body = await self._call("POST", "/containers/create", {"name": name}, config)
        return decode_response(body, CreateResponse).id

    async def start_container(self, name: str) -> None:
        """Start a container, unless it runs."""
        await self._call("POST", f"/containers/{quote_name(name)}/start")

    async def rename_container(self, id: str, name: str) -> None:
        """Give a container another name. Raises DockerConflict if that is in use."""
        await self._call("POST", f"/containers/{quote_name(id)}/rename", {"name": name})

    async def limit_processors(self, name: str, nano_cpus: int) -> None:
        """Limit the processor time of a container, in units of 1e-9 processors."""
        await self._call(
            "POST", f"/containers/{quote_name(name)}/update", config={"NanoCpus": nano_cpus}
        )

    async def stop_container(self, name: str, seconds: int) -> None:
        """Send SIGTERM to a container, and SIGKILL after `seconds`."""
        path = f"/containers/{quote_name(name)}/stop"
        await self._call("POST", path, {"t": str(seconds)}, timeout=self._timeout + seconds)

    async def remove_container(self, name: str) -> None:
        """Kill and remove a container, if it exists."""
        query = {"force": "1", "v": "1"}
        await self._delete(f"/containers/{quote_name(name)}", query)

    async def container_stats(self, name: str) -> ContainerStats:
        """Return the resources that a container uses now."""
        query = {"stream": "0", "one-shot": "1"}
        body = await self._call("GET", f"/containers/{quote_name(name)}/stats", query)
        return decode_response(body, ContainerStats)

    async def container_logs(self, name: str, lines: int = 5) -> str:
        """Return the last lines of a container's output."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        body = await self._call("GET", f"/containers/{quote_name(name)}/logs", query)
        return demultiplex_logs(body).decode("utf-8", "replace").strip()

    # -- networks

    async def list_networks(self, label: str | None = None) -> list[Network]:
        """Return all networks, or those with a label."""
        query = {} if label is None else {"filters": encode_filters(label=[label])}
        return decode_response(await self._call("GET", "/networks", query), list[Network])

    async def inspect_network(self, name: str) -> Network:
        """Return the network with a name or id. Raises DockerNotFound."""
        return decode_response(await self._call("GET", f"/networks/{quote_name(name)}"), Network)

    async def create_network(self, config: Mapping[str, object]) -> str:
        """Create a network and return its id. Raises DockerConflict or SubnetOverlap."""
        body = await self._call("POST", "/networks/create", config=config)
        return decode_response(body, CreateResponse).id

    async def remove_network(self, name: str) -> None:
        """Remove a network, if it exists."""
        await self._delete(f"/networks/{quote_name(name)}")

    # -- images and events

    async def inspect_image(self, name: str) -> Image:
        """Return the image with a name or id. Raises ImageNotFound."""
        return decode_response(await self._call("GET", f"/images/{quote_name(name)}/json"), Image)

    async def follow_events(
        self,
        filters: Mapping[str, list[str]],
        since: float,
        on_event: Callable[[DockerEvent], None],
    ) -> None:
        """Call `on_event` for each event since `since` (epoch seconds) that Docker remembers.

        Returns when the engine stops. Cancel it to stop following.
        """
        query = {"filters": encode_filters(**filters), "since": f"{since:.6f}"}
        response = await self._with_timeout(
            self._timeout, self._request(_Request("GET", "/events", query))
        )
        lines = LineCollector(lambda line: on_event(decode_response(line, DockerEvent)))
        response.deliverBody(lines)
        try:
            await lines.done
        finally:
            self._version = ""  # the next engine may have another version

    async def negotiate_version(self) -> str:
        """Return the newest version of the API that both the engine and this client support.

        Raises DockerTooOld if there is none, and DockerUnavailable.
        """
        response = await self._with_timeout(self._timeout, self._send(_Request("GET", "/_ping")))
        await self._with_timeout(self._timeout, _read_body(response))
        header = (response.headers.getRawHeaders(b"api-version") or [b""])[0]
        engine_version = _parse_version(header.decode("ascii", "replace"))
        if engine_version is None or response.code != 200:
            raise DockerError(f"{self._transport.description}: the server is not a Docker engine")
        if engine_version < MIN_API_VERSION:
            raise DockerTooOld(
                f"{self._transport.description} supports version "
                f"{_format_version(engine_version)} of its API, but ctllm requires "
                f"{_format_version(MIN_API_VERSION)} (Docker 19.03) or later. Update Docker"
            )
        return _format_version(min(engine_version, MAX_API_VERSION))

    # -- requests

    async def _delete(self, path: str, query: Mapping[str, str] | None = None) -> None:
        with suppress(DockerNotFound):
            await self._call("DELETE", path, query)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        config: Mapping[str, object] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send a request and return the body of the response."""
        request = _Request(method, path, query or {}, config)
        return await self._with_timeout(timeout or self._timeout, self._fetch_body(request))

    async def _with_timeout(self, timeout: float, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await run_with_timeout(self._clock, timeout, coroutine)
        except TimeoutError:
            self._version = ""
            raise DockerUnavailable(
                f"{self._transport.description} did not respond within {timeout:g} s"
            ) from None

    async def _fetch_body(self, request: _Request) -> bytes:
        return await _read_body(await self._request(request))

    async def _request(self, request: _Request) -> Response:
        """Send a request with the API's version before its path. The version is cached.

        An engine that refuses a cached version has replaced the one that it was negotiated with,
        and has not acted on the request: it is sent again.
        """
        was_cached = bool(self._version)
        try:
            return await self._send_versioned(request)
        except DockerVersionMismatch:
            if not was_cached:
                raise
            return await self._send_versioned(request)

    async def _send_versioned(self, request: _Request) -> Response:
        if not self._version:  # after each failure: the engine may have been replaced
            self._version = await self.negotiate_version()
        try:
            return await self._send(replace(request, path=f"/v{self._version}{request.path}"))
        except DockerVersionMismatch:
            self._version = ""
            raise

    async def _send(self, request: _Request) -> Response:
        """Send a request and return the response when its head has arrived.

        Raises the `DockerError` for its status.
        """
        config = request.config
        data = None if config is None else BytesProducer(msgspec.json.encode(config))
        try:
            response = await self._treq.request(
                request.method,
                self._transport.base_url + request.path,
                params=dict(request.query),
                data=cast(IBodyProducer, data),
                headers=Headers({} if config is None else {"Content-Type": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
            )
        except CancelledError:
            raise
        except ConnectingCancelledError as error:  # what an endpoint makes of the cancellation
            raise CancelledError from error
        except _CONNECTION_ERRORS as error:
            self._version = ""
            if _is_cancelled(error):
                raise CancelledError from error
            raise unavailable_from_failure(
                make_failure(error), self._transport.description
            ) from error
        if response.code >= 300 and response.code != 304:
            raise error_from_response(response.code, await _read_body(response))
        return cast(Response, response.original)


def _is_cancelled(error: Exception) -> bool:
    """Return whether `twisted.web.client` reports that a request was cancelled."""
    return any(isinstance(reason.value, CancelledError) for reason in getattr(error, "reasons", ()))


async def _read_body(response: Response) -> bytes:
    collector = BodyCollector()
    response.deliverBody(collector)
    return await collector.done


def encode_filters(**filters: list[str]) -> str:
    """Return the value of the query parameter `filters`."""
    return json.dumps(filters)


def quote_name(name: str) -> str:
    """Return a name or id as a segment of a path."""
    return quote(name, safe="")


def _parse_version(version: str) -> tuple[int, int] | None:
    major, dot, minor = version.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def _format_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

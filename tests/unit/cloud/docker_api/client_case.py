"""A test case with a Docker client and a fake API, over memory."""

from __future__ import annotations

import json
from typing import Any, cast
from urllib.parse import parse_qs

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ctllm.cloud.docker_api import DockerClient, DockerTransport


class FakeDockerApi(Resource):
    """Responds to every request with `status` and `body`.

    As a real engine, it refuses versions of the API below `min_version` and above `version`.
    With `keeps_open` the response does not end, and its request is in `open_requests`.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.min_version, self.version = "1.12", "1.41"
        self.status, self.body = 200, b"{}"
        self.keeps_open = False
        self.is_silent = False
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.queries: list[dict[str, list[str]]] = []
        self.open_requests: list[Any] = []
        self.disconnected: list[Any] = []

    def render(self, request: Any) -> Any:
        method, path = request.method.decode(), request.path.decode()
        self.requests.append((method, path))
        self.queries.append(parse_qs(request.uri.decode().partition("?")[2]))
        self.bodies.append(request.content.read())
        if self.is_silent:
            return NOT_DONE_YET
        if path == "/_ping":
            request.setHeader("Api-Version", self.version)
            return b"OK"
        if refusal := self._refuse_version(path):
            request.setResponseCode(400)
            return json.dumps({"message": refusal}).encode()
        request.setResponseCode(self.status)
        if not self.keeps_open:
            return self.body
        request.notifyFinish().addErrback(self.disconnected.append)
        request.write(self.body)
        self.open_requests.append(request)
        return NOT_DONE_YET

    def _refuse_version(self, path: str) -> str:
        """Return what an engine of the range answers to an unsuitable version, or nothing."""
        asked = path.split("/")[1].removeprefix("v")
        if _key(asked) < _key(self.min_version):
            return (
                f"client version {asked} is too old. Minimum supported API version is "
                f"{self.min_version}, please upgrade your client to a newer version"
            )
        if _key(asked) > _key(self.version):
            return (
                f"client version {asked} is too new. Maximum supported API version is "
                f"{self.version}"
            )
        return ""


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if version[:1].isdecimal() else ()


class DockerClientCase(SynchronousTestCase):
    """A client of a `FakeDockerApi`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.api = FakeDockerApi()
        self.agent = RequestTraversalAgent(self.api)
        self.connection_error: Exception | None = (
            None  # of the next requests, instead of a response
        )
        self.docker = DockerClient(
            DockerTransport(cast(IAgent, self), "http://docker", "the engine"), self.clock, 30
        )

    def request(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Send a request, as an agent does."""
        return (
            self.agent.request(*args, **kwargs)
            if self.connection_error is None
            else fail(self.connection_error)
        )

    def start(self, doing: Any) -> Deferred[Any]:
        done = Deferred.fromCoroutine(doing)
        self.agent.flush()
        return done

    def call(self, doing: Any) -> Any:
        return self.successResultOf(self.start(doing))

    def failure(self, doing: Any, kind: type[Exception]) -> str:
        return str(self.failureResultOf(self.start(doing), kind).value)

    def respond_with(self, value: Any, status: int = 200) -> None:
        self.api.status, self.api.body = status, json.dumps(value).encode()

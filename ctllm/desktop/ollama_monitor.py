"""This machine's Ollama: its health, its models, and requests to it.

Where the demo is enabled, it takes the requests until Ollama responds for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.memory_budget import BufferBudget
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.hosted_model_filter import RemoteModelFilter
from ctllm.errors import CtllmError, OllamaDown
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import get
from ctllm.http.header_policy import request_to_ollama
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import changes_models
from ctllm.reactor.endpoints import client_from_string
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.relay.completion_observer import CompletionObserver
from ctllm.tunnel.frames import MAX_MODELS, Status

#: Seconds for a health check. A busy Ollama still responds at once.
HEALTH_TIMEOUT = 3
#: Seconds for the list of loaded models, which is optional.
LOADED_TIMEOUT = 1
#: The longest name of a model, and the longest version, that the cloud is sent.
MAX_NAME_LENGTH = 256
#: The largest response that is read, in bytes: a list of models.
MAX_RESPONSE = 8 * 1024 * 1024

#: The most bytes of compressed bodies that are buffered to read the model from them.
MAX_BUFFERED = 64 * 1024 * 1024

DOWN = Status("down")


class _VersionResponse(msgspec.Struct):
    version: str


class _Model(msgspec.Struct):
    name: str
    remote_host: object = None


class _PsResponse(msgspec.Struct):
    models: list[_Model] | None = None


class _TagsResponse(msgspec.Struct):
    models: list[_Model] | None = None


def is_model_name(text: str) -> bool:
    """Return whether `text` can name a model: the names of all of them must fit into one frame."""
    return text.isprintable() and len(text) <= MAX_NAME_LENGTH


class OllamaServer:
    """A server with Ollama's API at `url`, whose path precedes those of the API. An `Upstream`.

    `kind` is the state that its status has while it responds: up or demo. With `refuse_remote`,
    requests for models that Ollama would forward to ollama.com are refused.
    """

    def __init__(
        self,
        url: str,
        kind: str,
        reactor: Clock,
        refuse_remote: bool = False,
        *,
        endpoint_from_string: Callable[[Clock, str], Endpoint] = client_from_string,
    ) -> None:
        self.url = url
        self.remote_models = RemoteModelFilter(self._start_request, BufferBudget(MAX_BUFFERED))
        self._refuses_remote = refuse_remote
        self._kind = kind
        self._clock = reactor
        parts = urlsplit(url)
        self._host = parts.netloc.encode()
        self._base_path = parts.path.rstrip("/").encode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or "127.0.0.1"
        endpoint = endpoint_from_string(reactor, "tcp:{}:{}".format(host.replace(":", r"\:"), port))
        if parts.scheme == "https":
            from ctllm.http.client.tls_endpoint import TlsEndpoint  # late: it takes much memory

            endpoint = TlsEndpoint(endpoint, host, reactor)
        self._pool = ConnectionPool(endpoint, reactor, f"Ollama at {url}", OllamaDown, self._host)

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request, as from this machine; raises Forbidden."""
        if self._refuses_remote:
            return self.remote_models.start_request(head, sink)
        return self._start_request(head, sink)

    def _start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        filtered = request_to_ollama(head, self._host)
        target = self._base_path + filtered.target
        return self._pool.start_request(
            RequestHead(filtered.method, target, filtered.headers), sink
        )

    def _is_listed(self, name: str) -> bool:
        is_refused = self._refuses_remote and self.remote_models.is_remote(name)
        return is_model_name(name) and not is_refused

    async def fetch_status(self) -> Status:
        """Return the status, from two cheap requests; DOWN where either fails."""
        try:
            version = decode_json(await self._get(b"/api/version"), _VersionResponse)
            tags = decode_json(await self._get(b"/api/tags"), _TagsResponse)
        except (CtllmError, InvalidJson):
            return DOWN
        models = tags.models or ()
        self.remote_models.set_remote(model.name for model in models if model.remote_host)
        names = tuple(model.name for model in models if self._is_listed(model.name))
        return Status(
            self._kind, sanitize_line(version.version, MAX_NAME_LENGTH), names[:MAX_MODELS]
        )

    async def fetch_loaded_models(self) -> tuple[str, ...]:
        """Return the models in memory; none where the request fails."""
        try:
            found = decode_json(await self._get(b"/api/ps", LOADED_TIMEOUT), _PsResponse)
        except (CtllmError, InvalidJson):
            return ()
        return tuple(model.name for model in found.models or () if is_model_name(model.name))

    async def _get(self, path: bytes, timeout: float = HEALTH_TIMEOUT) -> bytes:
        target = self._base_path + path
        status, body = await get(self._pool, target, self._clock, timeout, MAX_RESPONSE)
        if status != 200:
            raise OllamaDown(f"{path.decode()} responded with status {status}")
        return body

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class OllamaMonitor(Service):
    """Polls Ollama's health every `interval` seconds, and passes requests on. An `Upstream`.

    The models in memory are polled only while `is_watched` returns true.
    """

    _log = Logger()

    def __init__(
        self,
        server: OllamaServer,
        clock: Clock,
        interval: float,
        is_watched: Callable[[], bool] = lambda: False,
    ) -> None:
        self.status = DOWN
        self.loaded_models: tuple[str, ...] = ()
        self.server = server
        self._demo: OllamaServer | None = None
        self._interval = interval
        self._is_watched = is_watched
        self._observers: list[Callable[[Status], None]] = []
        self._loaded_models_observers: list[Callable[[], None]] = []
        self._poller = PeriodicCall(self.poll_health, clock, "checking Ollama's health")
        self._extra_poll: Deferred[None] | None = None
        self._is_poll_requested = False

    def use_demo(self, demo: OllamaServer) -> None:
        """Use `demo` until Ollama responds for the first time."""
        self._demo = demo

    def add_observer(self, observer: Callable[[Status], None]) -> None:
        """Call `observer` with each new status."""
        self._observers.append(observer)

    def add_loaded_models_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` when other models are in memory than before."""
        self._loaded_models_observers.append(observer)

    @property
    def current(self) -> OllamaServer:
        """The server that gets the requests now."""
        return self._demo if self._demo is not None else self.server

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; one that can change the models is followed by a health check."""
        if changes_models(head):
            sink = CompletionObserver(sink, self.request_poll)
        return self.current.start_request(head, sink)

    def startService(self) -> None:
        """Start to poll, at once."""
        super().startService()
        self._poller.start(self._interval)

    def stopService(self) -> None:
        """Stop polling, and close the connections."""
        super().stopService()
        self._poller.stop()
        if self._extra_poll is not None:
            self._extra_poll.cancel()
        for server in (self.server, self._demo):
            if server is not None:
                server.close()

    def request_poll(self) -> None:
        """Poll as soon as possible; once more afterwards where a poll is in progress."""
        self._is_poll_requested = True
        if self.running and (self._extra_poll is None or self._extra_poll.called):
            self._extra_poll = Deferred.fromCoroutine(self._poll_while_requested())
            self._extra_poll.addErrback(self._log_failure)

    def _log_failure(self, reason: Failure) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("Checking Ollama's health failed", reason)

    async def _poll_while_requested(self) -> None:
        while self._is_poll_requested:
            self._is_poll_requested = False
            await self.poll_health()

    async def poll_health(self) -> Status:
        """Poll now; return the status, of which observers are notified where it has changed."""
        try:
            status = await self._fetch_status()
        except CancelledError:
            raise
        except Exception:
            self._set_status(DOWN)  # a defect: the status is not known
            raise
        self._set_status(status)
        if self._is_watched():
            await self.poll_loaded_models()
        return status

    async def _fetch_status(self) -> Status:
        status = await self.server.fetch_status()
        demo = self._demo
        if demo is None:
            return status
        if status is DOWN:
            return await demo.fetch_status()
        self._demo = None  # the demo does not come back when Ollama stops
        demo.close()
        return status

    async def poll_loaded_models(self) -> None:
        """Poll which models are in memory."""
        loaded = () if self.status is DOWN else await self.current.fetch_loaded_models()
        if loaded != self.loaded_models:
            self.loaded_models = loaded
            for observer in self._loaded_models_observers:
                observer()

    def _set_status(self, status: Status) -> None:
        if status == self.status:
            return
        if status.ollama != self.status.ollama:
            self._log.info("Ollama at {url} is {state}", url=self.current.url, state=status.ollama)
        self.status = status
        for observer in self._observers:
            try:
                observer(status)
            except Exception:
                self._log.failure("An observer of Ollama's status failed")

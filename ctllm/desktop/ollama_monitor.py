"""The Ollama of this machine: is it there, what can it do, and the way to it.

Where none answers and a demo is wanted, a stand-in answers until the real one appears.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.memory_budget import BufferBudget
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.remote_models import RemoteModelFilter
from ctllm.errors import CtllmError, OllamaDown
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import get
from ctllm.http.header_policy import request_to_ollama
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ollama.api import changes_models
from ctllm.reactor.endpoints import client_from_string
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.relay.completion_observer import CompletionObserver
from ctllm.tunnel.frames import MAX_MODELS, Status

#: Seconds that the cheap questions may take. A busy Ollama still answers these at once.
HEALTH_TIMEOUT = 3
#: Seconds for what is only nice to know, for which somebody waits.
LOADED_TIMEOUT = 1
#: Longest name of a model, and longest version, that is told to the cloud.
MAX_NAME_LENGTH = 256
#: The largest list of models that is read, in bytes.
MAX_RESPONSE = 8 * 1024 * 1024

#: Most bytes that are held of compressed bodies while the model is looked for in them.
MAX_BUFFERED = 64 * 1024 * 1024

DOWN = Status("down")


class _VersionResponse(msgspec.Struct):
    version: str


class _Model(msgspec.Struct):
    name: str
    remote_host: Any = None


class _PsResponse(msgspec.Struct):
    models: list[_Model] | None = None


class _TagsResponse(msgspec.Struct):
    models: list[_Model] | None = None


def is_model_name(text: str) -> bool:
    """Whether it can be a model's: what is told of all of them must fit into one frame."""
    return text.isprintable() and len(text) <= MAX_NAME_LENGTH


class OllamaServer:
    """One server that speaks Ollama, at `url`; answers exchanges and says how it is.

    With `refuse_remote`, nothing is asked of it that it would pass on to ollama.com.
    """

    def __init__(self, url: str, kind: str, reactor: Any, refuse_remote: bool = False) -> None:
        self.url = url
        self._refuses_remote = refuse_remote
        self.remote_models = RemoteModelFilter(self._start_request, BufferBudget(MAX_BUFFERED))
        self._kind = kind
        self._reactor = reactor
        parts = urlsplit(url)
        self._host = parts.netloc.encode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = (parts.hostname or "127.0.0.1").replace(":", r"\:")
        scheme = "tls" if parts.scheme == "https" else "tcp"
        endpoint = client_from_string(reactor, f"{scheme}:{host}:{port}")
        self._pool = ConnectionPool(endpoint, reactor, f"Ollama at {url}", OllamaDown, self._host)

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange with it, as from this machine; raises Forbidden."""
        return (self.remote_models.start_request if self._refuses_remote else self._start_request)(
            head, sink
        )

    def _is_listed(self, name: str) -> bool:
        return is_model_name(name) and not (
            self._refuses_remote and self.remote_models.is_remote(name)
        )

    def _start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        return self._pool.start_request(request_to_ollama(head, self._host), sink)

    async def fetch_status(self) -> Status:
        """How it is: two cheap calls; DOWN where it does not answer them."""
        try:
            version = decode_json(await self._get(b"/api/version"), _VersionResponse)
            tags = decode_json(await self._get(b"/api/tags"), _TagsResponse)
        except (CtllmError, InvalidJson):
            return DOWN  # whatever is wrong, it cannot be used now
        models = tags.models or ()
        self.remote_models.set_remote(model.name for model in models if model.remote_host)
        names = tuple(model.name for model in models if self._is_listed(model.name))
        return Status(
            self._kind, sanitize_line(version.version, MAX_NAME_LENGTH), names[:MAX_MODELS]
        )

    async def fetch_loaded_models(self) -> tuple[str, ...]:
        """The models that are in memory now, as far as it says."""
        try:
            found = decode_json(await self._get(b"/api/ps", LOADED_TIMEOUT), _PsResponse)
        except (CtllmError, InvalidJson):
            return ()  # nice to know, and no more
        return tuple(model.name for model in found.models or () if is_model_name(model.name))

    async def _get(self, path: bytes, timeout: float = HEALTH_TIMEOUT) -> bytes:
        status, body = await get(self._pool, path, self._reactor, timeout, MAX_RESPONSE)
        if status != 200:
            raise OllamaDown(f"{path.decode()} answers with status {status}")
        return body

    def close(self) -> None:
        """Let go of its connections."""
        self._pool.close()


class OllamaMonitor(Service):
    """The real server or, until it first appears, the stand-in. An `Upstream`."""

    _log = Logger()

    def __init__(self, real: OllamaServer, reactor: Any, interval: float) -> None:
        self.status = DOWN
        self.loaded_models: tuple[str, ...] = ()  # the models in memory
        self.on_loaded: Callable[[], None] = lambda: None
        self.watched: Callable[[], bool] = lambda: False
        self.listeners: list[Callable[[Status], None]] = []
        self.real = real
        self._demo: OllamaServer | None = None
        self._interval = interval
        self._poller = PeriodicCall(self.poll_health, reactor, "looking for Ollama")
        self._extra_poll: Deferred[None] | None = None  # a look out of turn, while it lasts
        self._is_poll_requested = False

    def use_demo(self, demo: OllamaServer) -> None:
        """Use `demo` until the real one appears."""
        self._demo = demo

    @property
    def current(self) -> OllamaServer:
        """Where exchanges go now."""
        return self._demo if self._demo is not None else self.real

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange; when one may have changed the models, they are looked at again."""
        if changes_models(head):
            sink = CompletionObserver(sink, self.request_poll)
        return self.current.start_request(head, sink)

    def startService(self) -> None:
        """Look at once, then again and again."""
        super().startService()
        self._poller.start(self._interval)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._poller.stop()
        if self._extra_poll is not None:
            self._extra_poll.cancel()
        for server in (self.real, self._demo):
            if server is not None:
                server.close()

    def request_poll(self) -> None:
        """Look as soon as can be, out of turn; once more if that was asked for while looking."""
        self._is_poll_requested = True
        if self.running and (self._extra_poll is None or self._extra_poll.called):
            self._extra_poll = Deferred.fromCoroutine(self._poll_while_requested())
            self._extra_poll.addErrback(self._log_failure)

    def _log_failure(self, reason: Failure) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("looking for Ollama failed", reason)

    async def _poll_while_requested(self) -> None:
        while self._is_poll_requested:
            self._is_poll_requested = False
            await self.poll_health()

    async def poll_health(self) -> Status:
        """Look now; tells the listeners of a change."""
        try:
            status = await self._fetch_status()
        except CancelledError:
            raise
        except Exception:
            self._set_status(DOWN)  # nothing is known of it, so it is not claimed to be up
            raise
        self._set_status(status)
        if self.watched():
            await self.poll_loaded_models()
        return status

    async def _fetch_status(self) -> Status:
        status = await self.real.fetch_status()
        demo = self._demo
        if demo is not None and status is not DOWN:
            self._demo = None  # once the real one was seen, nothing stands in for it any more
            demo.close()
        elif demo is not None:
            status = await demo.fetch_status()
        return status

    async def poll_loaded_models(self) -> None:
        """Ask which models are in memory; nobody needs to know but who watches."""
        loaded = () if self.status is DOWN else await self.current.fetch_loaded_models()
        if loaded != self.loaded_models:
            self.loaded_models = loaded
            self.on_loaded()

    def _set_status(self, status: Status) -> None:
        if status == self.status:
            return
        if status.ollama != self.status.ollama:
            self._log.info("Ollama at {url} is {state}", url=self.current.url, state=status.ollama)
        self.status = status
        for listener in self.listeners:
            try:
                listener(status)
            except Exception:
                self._log.failure("a listener to Ollama's status failed; the others are told")

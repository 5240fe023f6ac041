"""All generations of a desktop: started, found, listed, and removed in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.resources.generations.generation import Generation, State
from ctllm.desktop.resources.generations.messages import (
    GenerationStatus,
    RequestedModel,
    StartGeneration,
)
from ctllm.errors import Gone, NotFound, TooManyRequests
from ctllm.http.header_policy import ALLOWED_MODELS, SCOPE
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

MEBIBYTE = 1024 * 1024
StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """Limits of all generations together.

    One that nobody reads is cancelled after `grace` seconds. One that has ended is retained for
    `retention` seconds after its last reader. `max_bytes` are those of one response,
    `max_total_bytes` those of all. `max_request_bytes` are those of all requests that were not sent
    to Ollama yet.
    """

    grace: float = 120
    retention: float = 600
    max_running: int = 32
    max_retained: int = 128
    max_bytes: int = 32 * MEBIBYTE
    max_total_bytes: int = 128 * MEBIBYTE
    max_request_bytes: int = 128 * MEBIBYTE


@dataclass(slots=True)
class _Entry:
    status: GenerationStatus
    generation: Generation
    timeout: Timeout


class GenerationRegistry:
    """The generations, by id. `start_request` is that of the policy for requests of clients.

    `now` returns epoch seconds. `request_bytes` counts the requests that are received or were not
    sent to Ollama yet.
    """

    def __init__(
        self,
        start_request: StartRequest,
        clock: Clock,
        now: Callable[[], float],
        limits: GenerationLimits,
    ) -> None:
        self._start_request = start_request
        self._clock = clock
        self._now = now
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        self._retained_bytes = 0
        self._is_closed = False
        self.request_bytes = BufferBudget(limits.max_request_bytes)

    @property
    def running(self) -> int:
        """The number of generations that have not ended."""
        return sum(each.generation.state is State.RUNNING for each in self._entries.values())

    def list(self) -> list[GenerationStatus]:
        """Return the generations, oldest first."""
        return [_describe(entry) for entry in self._entries.values()]

    def get(self, id: str) -> Generation:
        """Return a generation; raises NotFound."""
        entry = self._entries.get(id)
        if entry is None:
            raise NotFound(
                "There is no such response on this desktop: it was not started, or ended too long "
                "ago, or ctllm was restarted there."
            )
        return entry.generation

    def start(self, parameters: StartGeneration, scopes: bytes, models: bytes | None) -> Generation:
        """Start a generation, or return the one with this id; raises CtllmError.

        `scopes` and `models` are what its client may do: the values of Ctllm-Scope and
        Ctllm-Allowed-Models.
        """
        if self._is_closed:
            raise Gone("The desktop was stopped, or another user has logged in on it.")
        known = self._entries.get(parameters.id)
        if known is not None:
            return known.generation
        self._make_room()
        generation = Generation(
            self._limits.max_bytes, self._reserve, lambda: self._changed(parameters.id)
        )
        timeout = Timeout(self._clock, lambda: self._expired(parameters.id))
        body = bytes(parameters.request)
        status = GenerationStatus(
            parameters.id, parameters.conversation, parameters.message, _model_of(body),
            State.RUNNING, 0, 0, self._now(),
        )  # fmt: skip
        head = _request_head(parameters.path, len(body), scopes, models)
        self._entries[parameters.id] = _Entry(status, generation, timeout)
        self.request_bytes.reserve(len(body))
        release = partial(self.request_bytes.release, len(body))
        try:
            generation.start(self._start_request, head, body, release)
        except BaseException:
            del self._entries[parameters.id]
            raise
        self._changed(parameters.id)
        return generation

    def close(self) -> None:
        """Cancel all that run, forget all, and start none any more."""
        self._is_closed = True
        for id in list(self._entries):
            self._remove(id)

    def _reserve(self, count: int) -> bool:
        """Return whether `count` more bytes can be retained; forget the oldest if need be."""
        while self._retained_bytes + count > self._limits.max_total_bytes:
            if not self._remove_oldest_ended():
                return False
        self._retained_bytes += count
        return True

    def _make_room(self) -> None:
        if self.running >= self._limits.max_running:
            raise TooManyRequests(
                f"{self._limits.max_running} responses are in progress on this desktop already. "
                "Wait until one has ended, or stop one.",
                retry_after=5,
            )
        if len(self._entries) >= self._limits.max_retained:
            self._remove_oldest_ended()

    def _remove_oldest_ended(self) -> bool:
        for id, entry in self._entries.items():
            if entry.generation.state is not State.RUNNING:
                self._remove(id)
                return True
        return False

    def _changed(self, id: str) -> None:
        entry = self._entries.get(id)
        if entry is None:
            return
        if entry.generation.state is not State.RUNNING:
            entry.timeout.start(self._limits.retention)
        elif entry.generation.reader_count:
            entry.timeout.cancel()
        else:
            entry.timeout.start(self._limits.grace)

    def _expired(self, id: str) -> None:
        """Cancel what nobody reads any more, and forget what ended long ago."""
        generation = self._entries[id].generation
        if generation.state is State.RUNNING:
            generation.cancel()
        elif generation.reader_count:
            self._entries[id].timeout.start(self._limits.retention)
        else:
            self._remove(id)

    def _remove(self, id: str) -> None:
        entry = self._entries.pop(id)
        entry.timeout.cancel()
        entry.generation.cancel()
        self._retained_bytes -= entry.generation.size
        entry.generation.release()


def _describe(entry: _Entry) -> GenerationStatus:
    status, generation = entry.status, entry.generation
    return GenerationStatus(
        status.id, status.conversation, status.message, status.model, generation.state,
        generation.size, generation.reader_count, status.started_at,
    )  # fmt: skip


def _model_of(body: bytes) -> str:
    try:
        model = decode_json(body, RequestedModel).model
    except InvalidJson:
        return ""
    return model[:256] if isinstance(model, str) else ""


def _request_head(path: str, length: int, scopes: bytes, models: bytes | None) -> RequestHead:
    headers: Headers = (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % length),
        (b"Accept", b"application/x-ndjson"),
        (SCOPE, scopes),
    )
    if models is not None:
        headers += ((ALLOWED_MODELS, models),)
    return RequestHead(b"POST", path.encode(), headers)

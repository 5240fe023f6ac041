"""Answers under way to every official client, in every dialect, until something dies."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.compatibility.clients import Client
from tests.compatibility.driver import Driver, Outcome, client_calls
from tests.compatibility.stream_ends import streamed_calls
from tests.e2e.cluster import ChildProcess, wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader, send_request

NDJSON = rb'\n{"error":"[^"]+"}\n$'
DATA = rb'\n\ndata: {"error":{"message":"[^"]+",[^}]*}}\n\n$'
EVENT = rb'\n\nevent: error\ndata: {"type":"error",.*"message":"[^"]+".*}\n\n$'
#: For each path that streams: how an error in the stream looks, and what only a whole answer says.
DIALECTS = {
    "/api/chat": (NDJSON, b'"done":true'),
    "/api/generate": (NDJSON, b'"done":true'),
    "/api/pull": (NDJSON, b"success"),
    "/v1/chat/completions": (DATA, b"[DONE]"),
    "/v1/completions": (DATA, b"[DONE]"),
    "/v1/responses": (EVENT, b"response.completed"),
    "/v1/messages": (EVENT, b"message_stop"),
}
BODY = {
    "model": "llama3.2",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "max_tokens": 1000,
    "stream": True,
}
#: An answer for longer than any test waits: what ends must have been ended.
ENDLESS = {"lines": 10_000, "line_interval": 0.05}
#: The same where it is not words that are streamed.
SILENT = {"pause_after": (3, 600)}
#: A desktop and a proxy that give up on each other soon.
FAST_TIMEOUTS = (
    "--reconnect-grace-seconds=2",
    "--ping-interval-seconds=1",
    "--ping-timeout-seconds=1",
)


def streaming_calls(client: Client) -> list[str]:
    """What is asked of a client: each path that streams, in both ways, where it has both."""
    known = [call for call in client_calls(client) if call.split(" ")[1] in DIALECTS]
    wholes = [call for call in known if call.endswith(" whole")]
    if client.package == "langchain-ollama":
        wholes = []  # it streams whatever it is asked for
    return [*(call for call in streamed_calls(client) if call in known), *wholes]


class ClientStreams:
    """A place with an Ollama that can be killed, and all clients asking it."""

    def __init__(self, faulty: FaultyCluster) -> None:
        self.faulty = faulty
        self.ollama: ChildProcess
        self.readers: dict[str, ResponseReader] = {}
        self.outcomes: Deferred[list[list[Outcome]]]

    async def start(self, drivers: list[Driver]) -> ClientStreams:
        """Everything runs, and every stream has begun to arrive."""
        await self._start_ollama()
        await self.faulty.start(*FAST_TIMEOUTS)
        self.relay = await self.faulty.add_desktop(*FAST_TIMEOUTS)
        self.outcomes = gatherResults([self._drive(driver) for driver in drivers])
        asked = [call for driver in drivers for call in streaming_calls(driver.client)]
        await wait_until(lambda: self._all_started(asked), "all of the clients' answers to begin")
        # Later than theirs, so whatever these have got of the streams the clients have too.
        for path in DIALECTS:
            front = self.faulty.cluster.cloud_port
            self.readers[path] = await send_request(front, "POST", path, self.faulty.token, BODY)
        self.faulty.readers.extend(self.readers.values())
        for path, reader in self.readers.items():
            await wait_until(lambda reader=reader: reader.line_count > 2, f"{path} to begin")
        return self

    async def _start_ollama(self) -> None:
        arguments = ("--port=0", "--model=llama3.2", "--control")
        self.ollama = self.faulty.cluster.start_process(
            "ollama", "python", "-m", "tests.fake_ollama", *arguments
        )
        await wait_until(lambda: '"port"' in self.ollama.output, "the fake Ollama to listen")
        self.faulty.ollama_port = json.loads(self.ollama.output)["port"]
        for path in DIALECTS:
            order = {"path": path, "script": SILENT if path == "/api/pull" else ENDLESS}
            assert (await self._control("POST", "/fake/scripts", order))[0] == 204

    async def _control(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        status, _, answer = await self.faulty.cluster.request(
            method, path, body, port=self.faulty.ollama_port
        )
        return status, answer

    def _drive(self, driver: Driver) -> Deferred[list[Outcome]]:
        jobs = [{"call": call, "text": "hello"} for call in streaming_calls(driver.client)]
        url, token = self.faulty.cluster.url, self.faulty.token
        return deferToThread(driver.run_jobs, url, token, jobs, concurrently=True)

    async def _all_started(self, calls: list[str]) -> bool:
        _, body = await self._control("GET", "/fake/requests")
        here = [record for record in json.loads(body) if record["target"] in DIALECTS]
        streaming = [record for record in here if record["lines_sent"] > 2]
        whole = [call for call in calls if call.endswith(" whole")]
        assert all(record["closed_by"] is None for record in here), here
        return len(here) == len(calls) and len(streaming) == len(calls) - len(whole)

    async def assert_errors_received(self) -> None:
        """By raw HTTP: the dialect's error, the end of the connection, and no end of an answer."""
        for path, (error, end) in DIALECTS.items():
            reader = await self.readers[path].wait_closed(30)
            assert (path, reader.status, reader.complete) == (path, 200, False)
            assert re.search(error, reader.body, re.DOTALL), (path, bytes(reader.body[-500:]))
            assert end not in reader.body

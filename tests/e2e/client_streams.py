"""Streamed responses to every official client, in every dialect, for tests that interrupt them."""

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
#: For each streaming path: the pattern of an error in the stream, and the mark of a complete one.
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
#: A stream that lasts longer than any test waits.
ENDLESS = {"lines": 10_000, "line_interval": 0.05}
#: The same for a path that does not stream words.
SILENT = {"pause_after": (3, 600)}
#: Options with which a desktop and a proxy detect a lost tunnel soon.
FAST_TIMEOUTS = (
    "--reconnect-grace-seconds=2",
    "--ping-interval-seconds=1",
    "--ping-timeout-seconds=1",
)


def streaming_calls(client: Client) -> list[str]:
    """Return the client's calls of streaming paths, both streamed and not where it has both."""
    known = [call for call in client_calls(client) if call.split(" ")[1] in DIALECTS]
    wholes = [call for call in known if call.endswith(" whole")]
    if client.package == "langchain-ollama":
        wholes = []  # it always streams
    return [*(call for call in streamed_calls(client) if call in known), *wholes]


class ClientStreams:
    """A cluster whose Ollama can be killed, and responses in progress to all clients."""

    def __init__(self, faulty: FaultyCluster) -> None:
        self.faulty = faulty
        self.ollama: ChildProcess
        self.readers: dict[str, ResponseReader] = {}
        self.outcomes: Deferred[list[list[Outcome]]]

    async def start(self, drivers: list[Driver]) -> ClientStreams:
        """Start the cluster and the clients; wait until every stream has begun."""
        await self._start_ollama()
        await self.faulty.start(*FAST_TIMEOUTS)
        self.relay = await self.faulty.add_desktop(*FAST_TIMEOUTS)
        self.outcomes = gatherResults([self._drive(driver) for driver in drivers])
        expected = [call for driver in drivers for call in streaming_calls(driver.client)]
        await wait_until(
            lambda: self._all_started(expected), "the responses to all clients to begin"
        )
        # These begin later, so once they have received data, so have the clients.
        for path in DIALECTS:
            port = self.faulty.cluster.cloud_port
            self.readers[path] = await send_request(port, "POST", path, self.faulty.token, BODY)
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
            command = {"path": path, "script": SILENT if path == "/api/pull" else ENDLESS}
            assert (await self._control("POST", "/fake/scripts", command))[0] == 204

    async def _control(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        status, _, response = await self.faulty.cluster.request(
            method, path, body, port=self.faulty.ollama_port
        )
        return status, response

    def _drive(self, driver: Driver) -> Deferred[list[Outcome]]:
        jobs = [{"call": call, "text": "hello"} for call in streaming_calls(driver.client)]
        url, token = self.faulty.cluster.url, self.faulty.token
        return deferToThread(driver.run_jobs, url, token, jobs, concurrently=True)

    async def _all_started(self, calls: list[str]) -> bool:
        _, body = await self._control("GET", "/fake/requests")
        records = [record for record in json.loads(body) if record["target"] in DIALECTS]
        streaming = [record for record in records if record["lines_sent"] > 2]
        whole = [call for call in calls if call.endswith(" whole")]
        assert all(record["closed_by"] is None for record in records), records
        return len(records) == len(calls) and len(streaming) == len(calls) - len(whole)

    async def assert_errors_received(self, are_told_why: bool = True) -> None:
        """Assert that each raw response has its dialect's error, if it is, and is not complete."""
        for path, (error, end) in DIALECTS.items():
            reader = await self.readers[path].wait_closed(30)
            assert (path, reader.status, reader.complete) == (path, 200, False)
            found = re.search(error, reader.body, re.DOTALL)
            assert bool(found) == are_told_why, (path, bytes(reader.body[-500:]))
            assert end not in reader.body

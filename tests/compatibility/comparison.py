"""Compare a client's calls to the fake Ollama with the same calls through ctllm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.threads import deferToThread

from tests.compatibility.calls import endpoint
from tests.compatibility.clients import Client
from tests.compatibility.driver import Driver, Outcome, client_calls
from tests.e2e.mirrored_requests import MirroredCluster
from tests.fake_ollama import Record

TEXT = "hello ünïcode \N{SNOWMAN}"


@dataclass(frozen=True)
class CallResult:
    """A call's outcome in the client, and the requests that reached Ollama."""

    outcome: Outcome
    records: tuple[Record, ...]

    @property
    def requests(self) -> list[tuple[str, str, str]]:
        """The requests' methods, targets and body hashes."""
        return [(r.method, r.target, r.body_sha256) for r in self.records]

    @property
    def with_credentials(self) -> CallResult:
        """Without requests that have no credentials: the cloud refuses those."""
        records = [r for r in self.records if r.header("authorization") or r.header("x-api-key")]
        return CallResult(self.outcome, tuple(records))


@dataclass(frozen=True)
class Comparison:
    """One call of one client; `difference` is empty if there is none."""

    client: Client
    call: str
    difference: str


async def compare(cluster: MirroredCluster, client: Client, driver: Driver) -> list[Comparison]:
    """Compare all calls of a client."""
    direct = await _run_calls(cluster, client, driver, f"http://127.0.0.1:{cluster.port}")
    relayed = await _run_calls(cluster, client, driver, cluster.cluster.url)
    return [
        Comparison(client, call, _difference(*each) or _missing_request(call, each[1]))
        for call, *each in zip(client_calls(client), direct, relayed, strict=True)
    ]


async def _run_calls(
    cluster: MirroredCluster, client: Client, driver: Driver, base: str
) -> list[CallResult]:
    cluster.fake_ollama.reset()
    return [await _run_call(cluster, driver, base, call) for call in client_calls(client)]


async def _run_call(cluster: MirroredCluster, driver: Driver, base: str, call: str) -> CallResult:
    before = set(cluster.fake_ollama.requests)
    work: Callable[..., Any] = driver.run_jobs
    job = {"call": call, "text": TEXT}
    [outcome] = await deferToThread(work, base, cluster.cluster.api_key, [job])
    # The desktop's own requests have no User-Agent.
    new = [record for record in cluster.fake_ollama.requests if record not in before]
    return CallResult(outcome, tuple(record for record in new if record.header("user-agent")))


def _difference(direct: CallResult, relayed: CallResult) -> str:
    expected, actual = direct.outcome, relayed.outcome
    if "value" not in expected:
        return f"fails directly: {expected['error']}"
    if "value" not in actual:
        return f"fails through ctllm: {actual['error']}"
    if expected["value"] != actual["value"]:
        return f"differs: {str(actual['value'])[:500]} for {str(expected['value'])[:500]}"
    if direct.with_credentials.requests != relayed.requests:
        return f"Ollama receives {relayed.requests} for {direct.with_credentials.requests}"
    return ""


def _missing_request(call: str, relayed: CallResult) -> str:
    method, path = endpoint(call)
    if any(verb == method and target.startswith(path) for verb, target, _ in relayed.requests):
        return ""
    return f"sent no request for {method} {path}"

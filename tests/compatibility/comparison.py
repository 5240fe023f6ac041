"""The same calls of a client twice: straight to the fake Ollama, and through ctllm."""

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
    """What a client said of one call, and what Ollama was asked."""

    outcome: Outcome
    records: tuple[Record, ...]

    @property
    def requests(self) -> list[tuple[str, str, str]]:
        """Methods, targets, hashes of bodies."""
        return [(r.method, r.target, r.body_sha256) for r in self.records]

    @property
    def with_credentials(self) -> CallResult:
        """Less what the client asked without its key: that gets no further than the cloud."""
        records = [r for r in self.records if r.header("authorization") or r.header("x-api-key")]
        return CallResult(self.outcome, tuple(records))


@dataclass(frozen=True)
class Comparison:
    """One call of one client. `wrong` says what is, and is empty where nothing is."""

    client: Client
    call: str
    difference: str


async def compare(cluster: MirroredCluster, client: Client, driver: Driver) -> list[Comparison]:
    """All calls that a client knows."""
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
    # The desktop asks too, but it does not say what it is.
    new = [record for record in cluster.fake_ollama.requests if record not in before]
    return CallResult(outcome, tuple(record for record in new if record.header("user-agent")))


def _difference(direct: CallResult, relayed: CallResult) -> str:
    expected, actual = direct.outcome, relayed.outcome
    if "value" not in expected:
        return f"fails where it asks directly: {expected['error']}"
    if "value" not in actual:
        return f"fails: {actual['error']}"
    if expected["value"] != actual["value"]:
        return f"differs: {str(actual['value'])[:500]} for {str(expected['value'])[:500]}"
    if direct.with_credentials.requests != relayed.requests:
        return f"Ollama is asked {relayed.requests} for {direct.with_credentials.requests}"
    return ""


def _missing_request(call: str, relayed: CallResult) -> str:
    method, path = endpoint(call)
    if any(each == method and at.startswith(path) for each, at, _ in relayed.requests):
        return ""
    return f"never asked for {method} {path}"

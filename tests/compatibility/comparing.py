"""The same calls of a client twice: straight to the fake Ollama, and through ctllm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.threads import deferToThread

from tests.compatibility.calls import endpoint
from tests.compatibility.clients import Client
from tests.compatibility.driving import Driver, Outcome, calls_of
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
    def keyed(self) -> CallResult:
        """Less what the client asked without its key: that gets no further than the cloud."""
        kept = [r for r in self.records if r.header("authorization") or r.header("x-api-key")]
        return CallResult(self.outcome, tuple(kept))


@dataclass(frozen=True)
class Comparison:
    """One call of one client. `wrong` says what is, and is empty where nothing is."""

    client: Client
    call: str
    wrong: str


async def compare(twice: MirroredCluster, client: Client, driver: Driver) -> list[Comparison]:
    """All calls that a client knows."""
    direct = await _run(twice, client, driver, f"http://127.0.0.1:{twice.port}")
    through = await _run(twice, client, driver, twice.cluster.url)
    return [
        Comparison(client, call, _wrong(*each) or _unasked(call, each[1]))
        for call, *each in zip(calls_of(client), direct, through, strict=True)
    ]


async def _run(
    twice: MirroredCluster, client: Client, driver: Driver, base: str
) -> list[CallResult]:
    twice.fake_ollama.reset()
    return [await _call(twice, driver, base, call) for call in calls_of(client)]


async def _call(twice: MirroredCluster, driver: Driver, base: str, call: str) -> CallResult:
    before = set(twice.fake_ollama.requests)
    work: Callable[..., Any] = driver.carry_out
    job = {"call": call, "text": TEXT}
    [outcome] = await deferToThread(work, base, twice.cluster.api_key, [job])
    # The desktop asks too, but it does not say what it is.
    new = [record for record in twice.fake_ollama.requests if record not in before]
    return CallResult(outcome, tuple(record for record in new if record.header("user-agent")))


def _wrong(direct: CallResult, through: CallResult) -> str:
    asked, heard = direct.outcome, through.outcome
    if "value" not in asked:
        return f"fails where it asks directly: {asked['error']}"
    if "value" not in heard:
        return f"fails: {heard['error']}"
    if asked["value"] != heard["value"]:
        return f"differs: {str(heard['value'])[:500]} for {str(asked['value'])[:500]}"
    if direct.keyed.requests != through.requests:
        return f"Ollama is asked {through.requests} for {direct.keyed.requests}"
    return ""


def _unasked(call: str, through: CallResult) -> str:
    method, path = endpoint(call)
    if any(each == method and at.startswith(path) for each, at, _ in through.requests):
        return ""
    return f"never asked for {method} {path}"

"""The same calls of a client twice: straight to the stand-in, and through ctllm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.threads import deferToThread

from tests.compatibility.calls import endpoint
from tests.compatibility.clients import Client
from tests.compatibility.driving import Driver, Outcome, calls_of
from tests.e2e.faithful import Twice

TEXT = "hello ünïcode \N{SNOWMAN}"


@dataclass(frozen=True)
class Compared:
    """One call of one client. `wrong` says what is, and is empty where nothing is."""

    client: Client
    call: str
    wrong: str


async def compare(twice: Twice, client: Client, driver: Driver) -> list[Compared]:
    """All calls that a client knows."""
    jobs = [{"call": call, "text": TEXT} for call in calls_of(client)]

    async def run(base: str) -> tuple[list[Outcome], set[tuple[str, str]]]:
        twice.standin.reset()
        work: Callable[..., Any] = driver.carry_out
        outcomes = await deferToThread(work, base, twice.world.key, jobs)
        asked = {(r.method, r.path) for r in twice.standin.requests if r.header("user-agent")}
        return outcomes, asked

    direct, _ = await run(f"http://127.0.0.1:{twice.port}")
    through, asked = await run(twice.world.url)
    return [
        Compared(client, job["call"], _wrong(*each) or _unasked(job["call"], asked))
        for job, *each in zip(jobs, direct, through, strict=True)
    ]


def _wrong(direct: Outcome, through: Outcome) -> str:
    if "value" not in direct:
        return f"fails where it asks directly: {direct['error']}"
    if "value" not in through:
        return f"fails: {through['error']}"
    if direct["value"] != through["value"]:
        return f"differs: {str(through['value'])[:500]} for {str(direct['value'])[:500]}"
    return ""


def _unasked(call: str, asked: set[tuple[str, str]]) -> str:
    method, path = endpoint(call)
    if any(each == method and at.startswith(path) for each, at in asked):
        return ""
    return f"never asked for {method} {path}"

"""Every endpoint by raw HTTP, straight to the fake Ollama and through ctllm: the second table."""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.endpoint_cases import BLOB_PATH, HEADS, MODEL, OLLAMA, OTHERS, UNKNOWN
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest

#: What a request has on its way that Ollama is not told.
STRIPPED = {"host", "authorization"}
#: The requests, by what they are of. Those of the last have no rows of their own.
GROUPS = {
    "Ollama's description": OLLAMA,
    "others that it has": OTHERS,
    "HEAD": HEADS,
    "unknown methods, paths and queries": UNKNOWN,
}


@dataclass(frozen=True)
class RawComparison:
    """One request that was asked twice. `wrong` says what is, and is empty where nothing is."""

    group: str
    row: str
    status: int
    wrong: str


def differences(both: MirroredResult) -> str:
    """What Ollama or the client got otherwise than directly; nothing where all is the same."""
    sent, arrived, direct, through = both.sent, both.arrived, both.direct, both.through
    pairs = {
        "request line": (sent.line, arrived.line),
        "request headers": (sent.passed(STRIPPED), arrived.passed(STRIPPED)),
        "request framing": (sent.framing, arrived.framing),
        "request length": (sent.record.body_length, arrived.record.body_length),
        "request body": (sent.record.body_sha256, arrived.record.body_sha256),
        "answer": (direct.told, through.told),
        "answer framing": (direct.framing, through.framing),
    }
    found = [f"{name}: {b!r} for {a!r}" for name, (a, b) in pairs.items() if a != b]
    return "\n".join(found)


async def compare_raw(twice: MirroredCluster) -> list[RawComparison]:
    """All requests of all groups."""
    found = []
    for group, asks in GROUPS.items():
        for ask in asks:
            both = await twice.send_both(ask)
            found.append(
                RawComparison(group, _row(group, ask), both.direct.status, differences(both))
            )
    return found


def _row(group: str, ask: RawRequest) -> str:
    if GROUPS[group] is UNKNOWN:
        return group
    target = ask.target.replace(BLOB_PATH, "/api/blobs/sha256:…").replace(f"/{MODEL}", "/…")
    return f"`{ask.method} {target}`"

"""Every endpoint by raw HTTP, straight to the fake Ollama and through ctllm: the second table."""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.endpoint_cases import BLOB_PATH, COMPATIBLE, HEADS, MODEL, OLLAMA, UNKNOWN
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest

#: What a request has on its way that Ollama is not told.
STRIPPED = {"host", "authorization"}
#: The requests, by what they are of. Those of the last have no rows of their own.
GROUPS = {
    "Ollama's description": OLLAMA,
    "others that it has": COMPATIBLE,
    "HEAD": HEADS,
    "unknown methods, paths and queries": UNKNOWN,
}


@dataclass(frozen=True)
class RawComparison:
    """One request that was asked twice. `wrong` says what is, and is empty where nothing is."""

    group: str
    row: str
    status: int
    difference: str


def differences(result: MirroredResult) -> str:
    """What Ollama or the client got otherwise than directly; nothing where all is the same."""
    direct_request, relayed_request, direct_response, relayed_response = (
        result.direct_request,
        result.relayed_request,
        result.direct_response,
        result.relayed_response,
    )
    pairs = {
        "request line": (direct_request.line, relayed_request.line),
        "request headers": (
            direct_request.forwarded_headers(STRIPPED),
            relayed_request.forwarded_headers(STRIPPED),
        ),
        "request framing": (direct_request.framing, relayed_request.framing),
        "request length": (direct_request.record.body_length, relayed_request.record.body_length),
        "request body": (direct_request.record.body_sha256, relayed_request.record.body_sha256),
        "answer": (direct_response.relayed_parts, relayed_response.relayed_parts),
        "answer framing": (direct_response.framing, relayed_response.framing),
    }
    found = [f"{name}: {b!r} for {a!r}" for name, (a, b) in pairs.items() if a != b]
    return "\n".join(found)


async def compare_raw(cluster: MirroredCluster) -> list[RawComparison]:
    """All requests of all groups."""
    comparisons = []
    for group, requests in GROUPS.items():
        for request in requests:
            result = await cluster.send_both(request)
            comparisons.append(
                RawComparison(
                    group, _row(group, request), result.direct_response.status, differences(result)
                )
            )
    return comparisons


def _row(group: str, request: RawRequest) -> str:
    if GROUPS[group] is UNKNOWN:
        return group
    target = request.target.replace(BLOB_PATH, "/api/blobs/sha256:…").replace(f"/{MODEL}", "/…")
    return f"`{request.method} {target}`"

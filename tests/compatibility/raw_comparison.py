"""Compare raw HTTP requests to every endpoint, directly and through ctllm: the second table."""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.endpoint_cases import BLOB_PATH, COMPATIBLE, HEADS, MODEL, OLLAMA, UNKNOWN
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest

#: Request headers that ctllm does not relay.
STRIPPED = {"host", "authorization"}
#: Requests by group. The last group has one row.
GROUPS = {
    "Ollama's documented API": OLLAMA,
    "other endpoints of Ollama": COMPATIBLE,
    "HEAD": HEADS,
    "unknown methods, paths and queries": UNKNOWN,
}


@dataclass(frozen=True)
class RawComparison:
    """A request sent directly and through ctllm; `difference` is empty if there is none."""

    group: str
    row: str
    status: int
    difference: str


def differences(result: MirroredResult) -> str:
    """Return the differences between the direct and the relayed request and response."""
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
        "response": (direct_response.relayed_parts, relayed_response.relayed_parts),
        "response framing": (direct_response.framing, relayed_response.framing),
    }
    found = [f"{name}: {b!r} for {a!r}" for name, (a, b) in pairs.items() if a != b]
    return "\n".join(found)


async def compare_raw(cluster: MirroredCluster) -> list[RawComparison]:
    """Compare the requests of all groups."""
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

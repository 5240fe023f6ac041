"""Every endpoint and method, and some that do not exist: the same through ctllm as directly."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.compatibility.raw_comparison import differences
from tests.e2e.endpoint_cases import BLOB, BLOB_PATH, COMPATIBLE, HEADS, OLLAMA, TAGS_PATHS, UNKNOWN
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest


def check_same(both: MirroredResult) -> None:
    """Ollama got the same, and so did the client."""
    assert not differences(both)


@pytest.mark.parametrize("ask", OLLAMA, ids=str)
@ensureDeferred
async def test_ollamas_endpoints(mirrored: MirroredCluster, ask: RawRequest) -> None:
    """All that Ollama's description lists: status, reason, headers and body, byte for byte."""
    both = await mirrored.send_both(ask)
    assert both.direct_response.status == 200, both.direct_response
    check_same(both)


@pytest.mark.parametrize("ask", COMPATIBLE, ids=str)
@ensureDeferred
async def test_other_endpoints(mirrored: MirroredCluster, ask: RawRequest) -> None:
    """So do the dialects of OpenAI and Anthropic, blobs and what is older."""
    both = await mirrored.send_both(ask)
    assert both.direct_response.status in (200, 201), both.direct_response
    check_same(both)


@pytest.mark.parametrize("ask", HEADS, ids=str)
@ensureDeferred
async def test_heads(mirrored: MirroredCluster, ask: RawRequest) -> None:
    """HEAD has the answer's headers and no body, and the connection goes on."""
    both = await mirrored.send_both(ask)
    assert both.direct_response.header("content-length") is not None
    check_same(both)


@ensureDeferred
async def test_head_of_a_blob_that_is_there(mirrored: MirroredCluster) -> None:
    """200 and nothing, where a missing one gets 404."""

    def taken_in(fake_ollama: object) -> None:
        mirrored.fake_ollama.settings.models.blobs.add(BLOB_PATH.rpartition("/")[2])

    both = await mirrored.send_both(RawRequest("HEAD", BLOB_PATH), taken_in)
    assert both.direct_response.status == 200
    check_same(both)
    assert len(BLOB) > 65536


@pytest.mark.parametrize("ask", UNKNOWN, ids=lambda ask: str(ask)[:60])
@ensureDeferred
async def test_what_ctllm_does_not_know(mirrored: MirroredCluster, ask: RawRequest) -> None:
    """Methods, paths and queries are Ollama's to understand; they arrive as they were sent."""
    check_same(await mirrored.send_both(ask))


@pytest.mark.parametrize("target", TAGS_PATHS)
@ensureDeferred
async def test_paths_as_ollama_reads_them(mirrored: MirroredCluster, target: str) -> None:
    """What is judged is what arrives: one path, however it was written."""
    both = await mirrored.send_both(RawRequest("GET", f"{target}?a=%2F"))
    assert both.relayed_request.line == "GET /api/tags?a=%2F HTTP/1.1"
    assert both.relayed_response.status == 200

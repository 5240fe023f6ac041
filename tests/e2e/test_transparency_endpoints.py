"""Every endpoint and method, known or not: ctllm relays request and response unchanged."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.compatibility.raw_comparison import differences
from tests.e2e.endpoint_cases import BLOB, BLOB_PATH, COMPATIBLE, HEADS, OLLAMA, TAGS_PATHS, UNKNOWN
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest


def check_same(result: MirroredResult) -> None:
    """Check that Ollama and the client receive the same through ctllm as directly."""
    assert not differences(result)


@pytest.mark.parametrize("raw_request", OLLAMA, ids=str)
@ensureDeferred
async def test_endpoints_of_ollamas_api_are_relayed_unchanged(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """Status, reason, headers and body, byte for byte."""
    result = await mirrored.send_both(raw_request)
    assert result.direct_response.status == 200, result.direct_response
    check_same(result)


@pytest.mark.parametrize("raw_request", COMPATIBLE, ids=str)
@ensureDeferred
async def test_compatible_endpoints_are_relayed_unchanged(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """The APIs of OpenAI and Anthropic, blobs, and deprecated endpoints."""
    result = await mirrored.send_both(raw_request)
    assert result.direct_response.status in (200, 201), result.direct_response
    check_same(result)


@pytest.mark.parametrize("raw_request", HEADS, ids=str)
@ensureDeferred
async def test_head_responses_are_relayed_unchanged(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """They have headers and no body, and the connection stays open."""
    result = await mirrored.send_both(raw_request)
    assert result.direct_response.header("content-length") is not None
    check_same(result)


@ensureDeferred
async def test_head_of_an_existing_blob_is_relayed_unchanged(mirrored: MirroredCluster) -> None:

    def add_blob(fake_ollama: object) -> None:
        mirrored.fake_ollama.settings.models.blobs.add(BLOB_PATH.rpartition("/")[2])

    result = await mirrored.send_both(RawRequest("HEAD", BLOB_PATH), add_blob)
    assert result.direct_response.status == 200
    check_same(result)
    assert len(BLOB) > 65536


@pytest.mark.parametrize("raw_request", UNKNOWN, ids=lambda each: str(each)[:60])
@ensureDeferred
async def test_unknown_endpoints_are_relayed_unchanged(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """Methods, paths and queries that ctllm does not know."""
    check_same(await mirrored.send_both(raw_request))


@pytest.mark.parametrize("target", TAGS_PATHS)
@ensureDeferred
async def test_paths_are_normalised_as_by_ollama(mirrored: MirroredCluster, target: str) -> None:
    """The path that access checks see is the path that Ollama receives."""
    result = await mirrored.send_both(RawRequest("GET", f"{target}?a=%2F"))
    assert result.relayed_request.line == "GET /api/tags?a=%2F HTTP/1.1"
    assert result.relayed_response.status == 200

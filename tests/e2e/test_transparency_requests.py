"""Request bodies of every kind reach Ollama unchanged."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import FRONT
from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}


def check_received(result: MirroredResult, content: bytes) -> None:
    """Check that Ollama received this body, and that the response is the direct one.

    nginx sends a length where it has all chunks before it sends the first one.
    """
    digest = hashlib.sha256(content).hexdigest()
    for record in (result.direct_request.record, result.relayed_request.record):
        assert (record.body_length, record.body_sha256) == (len(content), digest)
    if FRONT == "cloud":
        assert result.relayed_request.framing == result.direct_request.framing
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 65536, 300_000, 6_000_000])
@ensureDeferred
async def test_uploads_of_any_size_are_relayed_unchanged(
    mirrored: MirroredCluster, size: int, chunked: bool
) -> None:
    blob = os.urandom(size)
    path = f"/api/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"
    result = await mirrored.send_both(RawRequest("POST", path, blob, chunked=chunked))
    assert result.relayed_response.status == 201
    check_received(result, blob)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"])
@ensureDeferred
async def test_requests_of_every_method_keep_their_body(
    mirrored: MirroredCluster, method: str, chunked: bool
) -> None:
    content = json.dumps(CHAT).encode()
    result = await mirrored.send_both(RawRequest(method, "/api/chat", CHAT, chunked=chunked))
    check_received(result, content)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@ensureDeferred
async def test_expect_100_continue(mirrored: MirroredCluster, chunked: bool) -> None:
    """A client that waits for 100 Continue receives it."""
    blob = os.urandom(200_000)
    path = f"/api/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"
    result = await mirrored.send_both(
        RawRequest("POST", path, blob, (("Expect", "100-continue"),), chunked)
    )
    assert (
        result.relayed_response.interim_statuses
        == result.direct_response.interim_statuses
        == (100,)
    )
    assert result.relayed_response.status == 201
    check_received(result, blob)


@ensureDeferred
async def test_an_empty_body_differs_from_no_body(mirrored: MirroredCluster) -> None:
    """`Content-Length: 0` and no length are relayed as they are."""
    for raw_request in (
        RawRequest("POST", "/api/chat", b""),
        RawRequest("POST", "/api/chat"),
        RawRequest("DELETE", "/api/x"),
    ):
        result = await mirrored.send_both(raw_request)
        check_received(result, b"")


@ensureDeferred
async def test_json_is_not_reencoded(mirrored: MirroredCluster) -> None:
    """Spaces, escapes, other encodings and invalid text reach Ollama unchanged."""
    odd = '{ "model" : "llama3.2",\r\n\t"prompt":"\\u0000é漢字🙂\\ud83d","messages":[],'
    odd += '"options":{"seed":1e400,"big":123456789012345678901234567890},"stop":null}\n\n'
    for content in (odd.encode(), odd.encode("utf-16"), b"\xff\xfe{", b"not JSON"):
        check_received(await mirrored.send_both(RawRequest("POST", "/api/chat", content)), content)

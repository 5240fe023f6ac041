"""Requests of every shape: Ollama receives what was sent."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}


def check_received(both: MirroredResult, content: bytes) -> None:
    """The body arrived, and the answer to it is the direct one."""
    digest = hashlib.sha256(content).hexdigest()
    for record in (both.direct_request.record, both.relayed_request.record):
        assert (record.body_length, record.body_sha256) == (len(content), digest)
    assert both.relayed_request.framing == both.direct_request.framing
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 65536, 300_000, 6_000_000])
@ensureDeferred
async def test_blobs(mirrored: MirroredCluster, size: int, chunked: bool) -> None:
    """Uploads of any size and any bytes, with a length or in chunks."""
    blob = os.urandom(size)
    path = f"/api/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"
    both = await mirrored.send_both(RawRequest("POST", path, blob, chunked=chunked))
    assert both.relayed_response.status == 201
    check_received(both, blob)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"])
@ensureDeferred
async def test_bodies_of_every_method(
    mirrored: MirroredCluster, method: str, chunked: bool
) -> None:
    """Whatever the method, a body goes with it."""
    content = json.dumps(CHAT).encode()
    both = await mirrored.send_both(RawRequest(method, "/api/chat", CHAT, chunked=chunked))
    check_received(both, content)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@ensureDeferred
async def test_expect_100_continue(mirrored: MirroredCluster, chunked: bool) -> None:
    """A client that waits to be asked for its body is asked."""
    blob = os.urandom(200_000)
    path = f"/api/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"
    both = await mirrored.send_both(
        RawRequest("POST", path, blob, (("Expect", "100-continue"),), chunked)
    )
    assert both.relayed_response.interim_statuses == both.direct_response.interim_statuses == (100,)
    assert both.relayed_response.status == 201
    check_received(both, blob)


@ensureDeferred
async def test_an_empty_body_is_not_none(mirrored: MirroredCluster) -> None:
    """Content-Length: 0 and no length at all arrive as they were."""
    for ask in (
        RawRequest("POST", "/api/chat", b""),
        RawRequest("POST", "/api/chat"),
        RawRequest("DELETE", "/api/x"),
    ):
        both = await mirrored.send_both(ask)
        check_received(both, b"")


@ensureDeferred
async def test_text_of_every_script_arrives(mirrored: MirroredCluster) -> None:
    """JSON is not read, so neither its spaces nor its escapes nor broken characters change."""
    odd = '{ "model" : "llama3.2",\r\n\t"prompt":"\\u0000é漢字🙂\\ud83d","messages":[],'
    odd += '"options":{"seed":1e400,"big":123456789012345678901234567890},"stop":null}\n\n'
    for content in (odd.encode(), odd.encode("utf-16"), b"\xff\xfe{", b"not JSON"):
        check_received(await mirrored.send_both(RawRequest("POST", "/api/chat", content)), content)

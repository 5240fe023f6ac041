"""Every endpoint and method, and some that do not exist: the same through ctllm as directly."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.compatibility.raw import differences
from tests.e2e.endpoint_cases import BLOB, BLOB_PATH, HEADS, OLLAMA, OTHERS, UNKNOWN, WRITTEN
from tests.e2e.mirrored_requests import Ask, Both, Twice


def same(both: Both) -> None:
    """Ollama got the same, and so did the client."""
    assert not differences(both)


@pytest.mark.parametrize("ask", OLLAMA, ids=str)
@ensureDeferred
async def test_ollamas_endpoints(asker: Twice, ask: Ask) -> None:
    """All that Ollama's description lists: status, reason, headers and body, byte for byte."""
    both = await asker.ask(ask)
    assert both.direct.status == 200, both.direct
    same(both)


@pytest.mark.parametrize("ask", OTHERS, ids=str)
@ensureDeferred
async def test_other_endpoints(asker: Twice, ask: Ask) -> None:
    """So do the dialects of OpenAI and Anthropic, blobs and what is older."""
    both = await asker.ask(ask)
    assert both.direct.status in (200, 201), both.direct
    same(both)


@pytest.mark.parametrize("ask", HEADS, ids=str)
@ensureDeferred
async def test_heads(asker: Twice, ask: Ask) -> None:
    """HEAD has the answer's headers and no body, and the connection goes on."""
    both = await asker.ask(ask)
    assert both.direct.header("content-length") is not None
    same(both)


@ensureDeferred
async def test_head_of_a_blob_that_is_there(asker: Twice) -> None:
    """200 and nothing, where a missing one gets 404."""

    def taken_in(fake_ollama: object) -> None:
        asker.fake_ollama.settings.models.blobs.add(BLOB_PATH.rpartition("/")[2])

    both = await asker.ask(Ask("HEAD", BLOB_PATH), taken_in)
    assert both.direct.status == 200
    same(both)
    assert len(BLOB) > 65536


@pytest.mark.parametrize("ask", UNKNOWN, ids=lambda ask: str(ask)[:60])
@ensureDeferred
async def test_what_ctllm_does_not_know(asker: Twice, ask: Ask) -> None:
    """Methods, paths and queries are Ollama's to understand; they arrive as they were sent."""
    same(await asker.ask(ask))


@pytest.mark.parametrize("target", WRITTEN)
@ensureDeferred
async def test_paths_as_ollama_reads_them(asker: Twice, target: str) -> None:
    """What is judged is what arrives: one path, however it was written."""
    both = await asker.ask(Ask("GET", f"{target}?a=%2F"))
    assert both.arrived.line == "GET /api/tags?a=%2F HTTP/1.1"
    assert both.through.status == 200

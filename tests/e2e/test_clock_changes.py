"""The clock of a desktop's machine jumps, as after a sleep or when somebody sets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, read_response, wait_until
from tests.ports import free_port

#: Makes a process see another time of day than there is, and the steady clock as it is.
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (see tests/system)")
@ensureDeferred
async def test_it_jumps(cluster: Cluster) -> None:
    """Forward and far back: the bridge dials again at once, and an answer under way is whole."""
    await cluster.start_cloud()
    port, endpoint = free_port(), free_port()
    await cluster.run_fake_ollama(port, "llama3.2")
    await cluster.set_script(port, "/api/generate", lines=60, line_interval=0.1)
    await cluster.run_ctllm("alice", "login", await cluster.create_invite("alice"))
    offset = cluster.directory / "offset"
    offset.write_text("+0")
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    desktop = cluster.start_process(
        "desktop", "python", "-m", "ctllm", "desktop", f"--state-dir={cluster.state_dir('alice')}",
        f"--ollama-host=127.0.0.1:{port}", f"--desktop-listen=127.0.0.1:{endpoint}",
        env={**cluster.environment(), **fake},
    )  # fmt: skip
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "tests")
    await cluster.wait_for_api_key()
    body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
    answer = deferToThread(
        read_response, cluster.cloud_port, "/api/generate", body, cluster.api_key
    )
    jumps, again = "the clock jumped", "Cloud connection: connected"
    for number, jump in enumerate(("+2h", "-3h"), 1):
        offset.write_text(jump)
        await wait_until(lambda n=number: desktop.output.count(jumps) == n, "it to be noticed", 5)
        await wait_until(lambda n=number: desktop.output.count(again) == n + 1, "the bridge", 5)
    lines = [json.loads(line) for line in (await answer).splitlines()]
    assert len(lines) == 61 and lines[-1]["done"] is True

"""The wall clock of a desktop jumps, as after a suspend or when it is set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, read_response, wait_until
from tests.ports import free_port

#: A library that changes the wall clock that a process sees, but not its monotonic clock.
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (see tests/system)")
@ensureDeferred
async def test_the_desktop_reconnects_when_the_clock_jumps(cluster: Cluster) -> None:
    """Forward and back: it reconnects at once, and an active response is complete."""
    await cluster.start_cloud()
    port, endpoint_port = free_port(), free_port()
    await cluster.run_fake_ollama(port, "llama3.2")
    await cluster.set_script(port, "/api/generate", lines=60, line_interval=0.1)
    await cluster.run_ctllm("alice", "login", await cluster.create_invite("alice"))
    offset = cluster.directory / "offset"
    offset.write_text("+0")
    faketime = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    desktop = cluster.start_process(
        "desktop", "python", "-m", "ctllm", "desktop", f"--state-dir={cluster.state_dir('alice')}",
        f"--ollama-host=127.0.0.1:{port}", f"--desktop-listen=127.0.0.1:{endpoint_port}",
        env={**cluster.environment(), **faketime},
    )  # fmt: skip
    await wait_until(
        lambda: "Cloud connection: connected" in desktop.output, "the desktop to connect"
    )
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "tests")
    await cluster.wait_for_api_key()
    body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
    response = deferToThread(
        read_response, cluster.cloud_port, "/api/generate", body, cluster.api_key
    )
    clock_jumped, connected = "the clock jumped", "Cloud connection: connected"
    for number, offset_text in enumerate(("+2h", "-3h"), 1):
        offset.write_text(offset_text)
        await wait_until(
            lambda n=number: desktop.output.count(clock_jumped) == n, "the jump to be detected", 5
        )
        await wait_until(
            lambda n=number: desktop.output.count(connected) == n + 1, "the desktop to reconnect", 5
        )
    lines = [json.loads(line) for line in (await response).splitlines()]
    assert len(lines) == 61 and lines[-1]["done"] is True

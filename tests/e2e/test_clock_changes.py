"""The clock of a desktop's machine jumps, as after a sleep or when somebody sets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import World, read_all, until
from tests.ports import free_port

#: Makes a process see another time of day than there is, and the steady clock as it is.
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (see tests/system)")
@ensureDeferred
async def test_it_jumps(world: World) -> None:
    """Forward and far back: the bridge dials again at once, and an answer under way is whole."""
    await world.cloud()
    port, endpoint = free_port(), free_port()
    await world.ollama_process(port, "llama3.2")
    await world.script(port, "/api/generate", lines=60, line_interval=0.1)
    await world.command("alice", "login", await world.invite("alice"))
    offset = world.folder / "offset"
    offset.write_text("+0")
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    desktop = world.run(
        "desktop", "python", "-m", "ctllm", "desktop", f"--state={world.state('alice')}",
        f"--ollama=127.0.0.1:{port}", f"--endpoint=127.0.0.1:{endpoint}",
        env={**world.environment(), **fake},
    )  # fmt: skip
    await until(lambda: "bridge: connected" in desktop.printed, "the bridge")
    world.key = await world.command("alice", "keys", "add", "tests")
    await world.key_works()
    body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
    answer = deferToThread(read_all, world.cloud_port, "/api/generate", body, world.key)
    jumps, again = "the clock jumped", "bridge: connected"
    for number, jump in enumerate(("+2h", "-3h"), 1):
        offset.write_text(jump)
        await until(lambda n=number: desktop.printed.count(jumps) == n, "it to be noticed", 5)
        await until(lambda n=number: desktop.printed.count(again) == n + 1, "the bridge", 5)
    lines = [json.loads(line) for line in (await answer).splitlines()]
    assert len(lines) == 61 and lines[-1]["done"] is True

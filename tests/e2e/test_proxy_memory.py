"""A streaming proxy is small, and otherwise what `twistd ctllm proxy` is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.process_info import child_pids, linux_only, proc_status, resident_megabytes
from tests.ports import free_port

#: Megabytes that an idle proxy may keep in memory (VmRSS), shared libraries included.
MOST = 32.0
CHAT = b'{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}'

LEAN = ("python", "-P", "-m", "ctllm.proxy_main")
TWISTD = ("twistd", "-n", "--pidfile=", "--rundir=/", "ctllm", "proxy")
TOLD = ("--id=p", f"--cloud-key={'A' * 43}")


async def proxy(cluster: Cluster, way: tuple[str, ...], *options: str) -> tuple[ChildProcess, int]:
    """A proxy started by hand, and its port, once it answers."""
    port = free_port()
    program = cluster.start_process("proxy", *way, f"--port={port}", *TOLD, *options)

    async def answers() -> bool:
        assert program.exit_code is None, program.output
        try:
            return (await cluster.request("GET", "/health", port=port))[0] == 200
        except OSError:
            return False

    await wait_until(answers, "the proxy to answer")
    return program, port


async def facts(cluster: Cluster, way: tuple[str, ...]) -> dict[str, Any]:
    """What can be seen of a proxy from the outside, from its start to its end."""
    program, port = await proxy(cluster, way)
    told = Path(f"/proc/{program.pid}")
    found: dict[str, Any] = {
        path: (await cluster.request(method, path, port=port))[::2]
        for method, path in (("GET", "/api/tags"), ("POST", "/api/chat"), ("GET", "/ws/tunnel"))
    }
    found |= {
        "health": sorted(json.loads((await cluster.request("GET", "/health", port=port))[2])),
        "limits": (told / "limits").read_text(),
        "folder": (told / "cwd").readlink(),
        "umask": proc_status(program.pid)["Umask"],
    }
    await program.stop()
    found["end"] = program.exit_code
    return found


@linux_only
@ensureDeferred
async def test_an_idle_proxy_is_small(cluster: Cluster) -> None:
    """With a desktop connected, and after it was of use: at most 32 MB resident."""
    cloud = await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    (pid,) = child_pids(cloud.pid)
    assert resident_megabytes(pid) <= MOST
    token = await cluster.create_token("alice")
    for _ in range(20):
        assert (await cluster.request("POST", "/api/chat", CHAT, token))[0] == 200
    assert child_pids(cloud.pid) == [pid]
    assert resident_megabytes(pid) <= MOST


@linux_only
@ensureDeferred
async def test_it_is_what_twistd_would_start(cluster: Cluster) -> None:
    """The same answers, limits, folder, umask and end."""
    assert await facts(cluster, LEAN) == await facts(cluster, TWISTD)


@pytest.mark.parametrize("way", [LEAN, TWISTD], ids=["lean", "twistd"])
@ensureDeferred
async def test_its_log(cluster: Cluster, way: tuple[str, ...]) -> None:
    """One line each, with its time, as text or as JSON."""
    text, _ = await proxy(cluster, way)
    objects, _ = await proxy(cluster, way, "--log-format=json")
    for program in (text, objects):
        await program.stop()
        assert "Main loop terminated." in program.output
    for line in text.output.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[\S+\] ", line), line
    for line in objects.output.splitlines():
        assert {"time", "level", "system", "message"} <= set(json.loads(line))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give one of them"),
        (("--port=1", "--socket=/nowhere"), "give one of them"),
        (("--port=many",), "must be a whole number"),
        (("--prot=1",), "no such option"),
        (("--socket=/nowhere/at/all",), "cannot listen"),
    ],
)
@ensureDeferred
async def test_what_it_cannot_do(cluster: Cluster, options: tuple[str, ...], words: str) -> None:
    """It ends with one sentence that says what is wrong."""
    program = cluster.start_process("proxy", *LEAN, *options, *TOLD)
    assert await program.exited == 1
    assert words in program.output
    assert "Traceback" not in program.output

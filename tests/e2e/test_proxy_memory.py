"""`ctllm.proxy_main` uses little memory and otherwise behaves like `twistd ctllm proxy`."""

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

#: The limit of an idle proxy's resident memory (VmRSS) in MB, with shared libraries.
MAX_RESIDENT_MB = 32.0
CHAT = b'{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}'

PROXY_MAIN = ("python", "-P", "-m", "ctllm.proxy_main")
TWISTD = ("twistd", "-n", "--pidfile=", "--rundir=/", "ctllm", "proxy")
REQUIRED = ("--id=p", f"--cloud-key={'A' * 43}")


async def start_proxy(
    cluster: Cluster, command: tuple[str, ...], *options: str
) -> tuple[ChildProcess, int]:
    """Start a proxy with `command`; returns it and its port once it responds."""
    port = free_port()
    program = cluster.start_process("proxy", *command, f"--port={port}", *REQUIRED, *options)

    async def responds() -> bool:
        assert program.exit_code is None, program.output
        try:
            return (await cluster.request("GET", "/health", port=port))[0] == 200
        except OSError:
            return False

    await wait_until(responds, "the proxy to respond")
    return program, port


async def observe(cluster: Cluster, command: tuple[str, ...]) -> dict[str, Any]:
    """Start and stop a proxy; returns its responses, its attributes in /proc and its exit code."""
    program, port = await start_proxy(cluster, command)
    proc = Path(f"/proc/{program.pid}")
    observed: dict[str, Any] = {
        path: (await cluster.request(method, path, port=port))[::2]
        for method, path in (("GET", "/api/tags"), ("POST", "/api/chat"), ("GET", "/ws/tunnel"))
    }
    observed |= {
        "health": sorted(json.loads((await cluster.request("GET", "/health", port=port))[2])),
        "limits": (proc / "limits").read_text(),
        "folder": (proc / "cwd").readlink(),
        "umask": proc_status(program.pid)["Umask"],
    }
    await program.stop()
    observed["exit_code"] = program.exit_code
    return observed


@linux_only
@ensureDeferred
async def test_an_idle_proxy_uses_at_most_32_megabytes(cluster: Cluster) -> None:
    """Measured with a connected desktop, before and after 20 requests."""
    cloud = await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    (pid,) = child_pids(cloud.pid)
    assert resident_megabytes(pid) <= MAX_RESIDENT_MB
    token = await cluster.create_token("alice")
    for _ in range(20):
        assert (await cluster.request("POST", "/api/chat", CHAT, token))[0] == 200
    assert child_pids(cloud.pid) == [pid]
    assert resident_megabytes(pid) <= MAX_RESIDENT_MB


@linux_only
@ensureDeferred
async def test_proxy_main_behaves_like_twistd(cluster: Cluster) -> None:
    """Responses, limits, working directory, umask and exit code are the same."""
    assert await observe(cluster, PROXY_MAIN) == await observe(cluster, TWISTD)


@pytest.mark.parametrize("command", [PROXY_MAIN, TWISTD], ids=["proxy_main", "twistd"])
@ensureDeferred
async def test_each_log_line_has_a_time(cluster: Cluster, command: tuple[str, ...]) -> None:
    """In both formats, text and JSON."""
    text_proxy, _ = await start_proxy(cluster, command)
    json_proxy, _ = await start_proxy(cluster, command, "--log-format=json")
    for program in (text_proxy, json_proxy):
        await program.stop()
        assert "Main loop terminated." in program.output
    for line in text_proxy.output.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[\S+\] ", line), line
    for line in json_proxy.output.splitlines():
        assert {"time", "level", "system", "message"} <= set(json.loads(line))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --socket or --port"),
        (("--port=1", "--socket=/nowhere"), "give either --socket or --port"),
        (("--port=many",), "must be a whole number"),
        (("--prot=1",), "no such option"),
        (("--socket=/nowhere/at/all",), "Cannot listen"),
    ],
)
@ensureDeferred
async def test_invalid_options_are_reported(
    cluster: Cluster, options: tuple[str, ...], message: str
) -> None:
    """The proxy exits with an error message and no traceback."""
    program = cluster.start_process("proxy", *PROXY_MAIN, *options, *REQUIRED)
    assert await program.exited == 1
    assert message in program.output
    assert "Traceback" not in program.output

"""Isolation of the process spawner: what a compromised proxy can do to the cloud and to others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from ctllm.system.sandbox import landlock_version
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.lifecycle_cases import CHAT, start_proxy, start_with_desktop
from tests.e2e.process_info import child_pids, linux_only, proc_status
from tests.ports import free_port

#: A proxy as the cloud starts it. Once it serves, it attempts attacks and prints which succeed.
COMPROMISED_PROXY = """
import json, os, socket, sys
import ctllm.proxy_main
ctllm.proxy_main.install_lazy_imports()
from twisted.internet import reactor
from ctllm.http.message.content_coding import load_zstd
key, cloud, port, *rest = sys.argv[1:]
def attempt(action):
    try:
        action()
    except (OSError, ImportError, LookupError):  # modules may be unreadable as well
        return False
    return True
def attack():
    print("tried:", json.dumps({
        "key": attempt(lambda: open(key).read()),
        "users": attempt(lambda: open("/etc/passwd").read()),
        "memory": attempt(lambda: open(f"/proc/{cloud}/mem", "rb").close()),
        "environment": attempt(lambda: open(f"/proc/{cloud}/environ").read()),
        "write": attempt(lambda: open("/tmp/ctllm-attack", "w")),
        "process": attempt(lambda: os._exit(0) if os.fork() == 0 else None),
        "program": attempt(lambda: os.execv("/bin/true", ["true"])),
        "signal": attempt(lambda: os.kill(int(cloud), 0)),
        "dial": attempt(lambda: socket.create_connection(("127.0.0.1", int(port)), 5)),
        "module": attempt(lambda: __import__("wave")),
        "late": attempt(lambda: (load_zstd(), __import__("multipart"))),
    }), flush=True)
reactor.callWhenRunning(reactor.callLater, 0, attack)
ctllm.proxy_main.main(rest)
"""


@linux_only
@ensureDeferred
async def test_each_proxy_runs_as_its_own_unprivileged_user(cluster: Cluster) -> None:
    """With a cloud of root, each has its own UID and no groups or capabilities, and it works."""
    assert os.geteuid() == 0, "These tests must run as root."
    cloud = await start_with_desktop(cluster)
    await start_proxy(cluster, await cluster.create_token("bob"))
    statuses = [proc_status(pid) for pid in child_pids(cloud.pid)]
    uids = [each["Uid"].split() for each in statuses]
    assert len(uids) == 2 and all(len(set(each)) == 1 for each in uids)
    assert {each[0] for each in uids} == {"60706", "60707"}
    for each in statuses:
        assert each["Gid"].split() == each["Uid"].split() and each["Groups"].strip() == ""
        assert each["NoNewPrivs"] == "1" and int(each["CapEff"], 16) == 0
    for pid in (cloud.pid, *child_pids(cloud.pid)):
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0
    code, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert code == 200 and json.loads(body.splitlines()[-1])["done"] is True
    await cloud.stop()
    assert (
        "Traceback" not in cloud.output
        and list((cluster.state_dir("cloud") / "run").iterdir()) == []
    )


@linux_only
@pytest.mark.parametrize("user", [("--uid=60706",), ()], ids=["own-uid", "uid-of-the-cloud"])
@ensureDeferred
async def test_a_compromised_proxy_is_confined(cluster: Cluster, tmp_path: Path, user: Any) -> None:
    """It cannot read the cloud's key or memory; it continues to serve and exits cleanly."""
    assert landlock_version() >= 6, "This test needs Landlock 6 (Linux 6.12)."
    cloud = await cluster.start_cloud("--proxy-uids=off")
    key, port = cluster.state_dir("cloud") / "cloud" / "signing-key", free_port()
    assert key.exists()
    arguments = (str(key), str(cloud.pid), str(cluster.cloud_port), f"--port={port}", "--id=p")
    program = cluster.start_process(
        "proxy",
        "python",
        "-P",
        "-c",
        COMPROMISED_PROXY,
        *arguments,
        f"--cloud-key={'A' * 43}",
        *user,
    )
    await wait_until(lambda: "tried: " in program.output, f"the attempts:\n{program.output}")
    line = next(each for each in program.output.splitlines() if "tried: " in each)
    tried = json.loads(line.partition("tried: ")[2])
    assert tried.pop("late"), "The sandbox blocks a module that is imported on first use."
    succeeded = {name for name, success in tried.items() if success}
    # RLIMIT_NPROC does not apply to root, but child processes are in the sandbox as well. Another
    # user cannot read the modules of a Python in root's folders.
    assert succeeded - {"module"} == (set() if user else {"process"})
    assert user or "module" in succeeded
    assert (await cluster.request("GET", "/health", port=port))[0] == 200
    await program.stop()
    assert "Main loop terminated." in program.output and "Traceback" not in program.output

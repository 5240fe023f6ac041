"""Proxies that are processes: what one that was taken over can do to the cloud and to others."""

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

#: A proxy as the cloud starts it, that tries things once it serves, and prints what went well.
TAKEN_OVER = """
import json, os, socket, sys
import ctllm.proxy_main
ctllm.proxy_main.install_lazy_imports()
from twisted.internet import reactor
from ctllm.http.message.content_coding import load_zstd
key, cloud, port, *rest = sys.argv[1:]
def attempt(doing):
    try:
        doing()
    except (OSError, ImportError, LookupError):  # modules may be out of reach, too
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
async def test_users_of_their_own(cluster: Cluster) -> None:
    """Each proxy of root's cloud is another user, with no groups, no privileges; and it works."""
    assert os.geteuid() == 0, "these tests run as root"
    cloud = await start_with_desktop(cluster)
    await start_proxy(cluster, await cluster.create_token("bob"))
    found = [proc_status(pid) for pid in child_pids(cloud.pid)]
    users = [each["Uid"].split() for each in found]
    assert len(users) == 2 and all(len(set(each)) == 1 for each in users)
    assert {each[0] for each in users} == {"60706", "60707"}
    for each in found:
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
@pytest.mark.parametrize("user", [("--uid=60706",), ()], ids=["another", "the-clouds"])
@ensureDeferred
async def test_a_proxy_that_was_taken_over(cluster: Cluster, tmp_path: Path, user: Any) -> None:
    """Has neither the cloud's key nor its memory; it goes on serving, and ends in order."""
    assert landlock_version() >= 6, "this test needs Landlock 6 (Linux 6.12)"
    cloud = await cluster.start_cloud("--proxy-uids=off")
    key, port = cluster.state_dir("cloud") / "cloud" / "signing-key", free_port()
    assert key.exists()
    told = (str(key), str(cloud.pid), str(cluster.cloud_port), f"--port={port}", "--id=p")
    program = cluster.start_process(
        "proxy", "python", "-P", "-c", TAKEN_OVER, *told, f"--cloud-key={'A' * 43}", *user
    )
    await wait_until(lambda: "tried: " in program.output, f"the attempts:\n{program.output}")
    line = next(each for each in program.output.splitlines() if "tried: " in each)
    tried = json.loads(line.partition("tried: ")[2])
    assert tried.pop("late"), "what a proxy imports when it is first needed"
    went_well = {name for name, well in tried.items() if well}
    # Root may start processes whatever its limit; what runs in them is closed in as well. Modules
    # of a Python in root's own folders are nobody else's to read.
    assert went_well - {"module"} == (set() if user else {"process"})
    assert user or "module" in went_well
    assert (await cluster.request("GET", "/health", port=port))[0] == 200
    await program.stop()
    assert "Main loop terminated." in program.output and "Traceback" not in program.output

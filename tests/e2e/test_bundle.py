"""The bundle, built and run: programs that need no Python of the machine's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.desktop_session import DesktopSession, labels
from tests.e2e.process_info import is_running
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make bundle` makes."""
    made = tmp_path_factory.mktemp("bundle")
    argv = [str(BIN / "pyinstaller"), "--noconfirm", "--log-level=WARN", "--distpath", str(made)]
    argv += ["--workpath", str(made / "work"), str(ROOT / "bundle" / "ctllm.spec")]
    env = {**os.environ, "PYTHONPATH": str(_modules(made))}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return made / "ctllm"


def _modules(made: Path) -> Path:
    """What the distribution has of PyGObject, with what pip would know of it."""
    folder = made / "modules"
    folder.mkdir()
    for each in Path("/usr/lib/python3/dist-packages").glob("[gP][iy]*"):
        if each.name == "gi" or each.name.startswith("PyGObject"):
            (folder / each.name).symlink_to(each)
    return folder


def environment(cluster: Cluster) -> dict[str, str]:
    """Nothing of this Python's."""
    return {**cluster.environment(), "PATH": "/usr/bin:/bin"}


@ensureDeferred
async def test_the_whole_way(bundle: Path, cluster: Cluster) -> None:
    """Signed in by its command, the bundled desktop connects, answers apps, and quits in order."""
    await cluster.start_cloud()
    fake_ollama, port = cluster.start_fake_ollama("llama3.2")
    state, endpoint = cluster.directory / "alice", free_port()
    env = environment(cluster)

    async def run(*words: str) -> str:
        argv = [str(bundle / "ctllm"), f"--state-dir={state}", *words]
        done = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    await run("login", await cluster.create_invite("alice"))
    options = [
        f"--state-dir={state}",
        f"--ollama-host=127.0.0.1:{port}",
        f"--desktop-listen=127.0.0.1:{endpoint}",
    ]
    desktop = ChildProcess("desktop", [str(bundle / "ctllm-desktop"), *options], env)
    cluster.processes.append(desktop)
    await wait_until(
        lambda: "Cloud connection: connected" in desktop.output, "the bridge of the bundle"
    )
    body = {"model": "llama3.2", "prompt": "hello", "stream": False}
    status, headers, _ = await cluster.request("POST", "/api/generate", body, port=endpoint)
    assert (status, headers["ctllm-route"]) == (200, "local")
    status, _, _ = await cluster.request(
        "POST", "/api/generate", body, await cluster.create_token("alice")
    )
    assert (status, len(fake_ollama.requests) > 0) == (200, True)
    assert "● connected" in await run("status")
    assert await run("quit") == "The desktop stopped.\n"


@ensureDeferred
async def test_the_tray(bundle: Path, cluster: Cluster) -> None:
    """It starts the bundle's desktop, and both end when it is told to quit."""
    session = DesktopSession(cluster)
    await session.start()
    state = cluster.directory / "state"
    env = {**session.env, **environment(cluster), "PYTHONPATH": ""}
    tray = ChildProcess("tray", [str(bundle / "ctllm-tray"), f"--state-dir={state}"], env)
    cluster.processes.append(tray)
    look = await session.shows("Not logged in", 30)
    assert "Log in …" in labels(look)
    argv = [str(bundle / "ctllm"), f"--state-dir={state}", "status", "--json"]
    done = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
    pid = json.loads(done.stdout)["pid"]
    assert Path(os.readlink(f"/proc/{pid}/exe")) == bundle / "ctllm-desktop"
    await session.click("Quit")
    await wait_until(lambda: tray.exited.called, "the tray to end")
    assert not is_running(pid)
    await session.close()

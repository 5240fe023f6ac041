"""The PyInstaller bundle runs without the Python of this environment."""

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
from tests.e2e.keyring_session import KeyringSession
from tests.e2e.process_info import is_running
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, built as by `make bundle`."""
    dist = tmp_path_factory.mktemp("bundle")
    argv = [str(BIN / "pyinstaller"), "--noconfirm", "--log-level=WARN", "--distpath", str(dist)]
    argv += ["--workpath", str(dist / "work"), str(ROOT / "bundle" / "ctllm.spec")]
    env = {**os.environ, "PYTHONPATH": str(_pygobject_modules(dist))}
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stderr
    return dist / "ctllm"


def _pygobject_modules(dist: Path) -> Path:
    """Link the system's PyGObject, with its metadata, into a folder for PYTHONPATH."""
    folder = dist / "modules"
    folder.mkdir()
    for each in Path("/usr/lib/python3/dist-packages").glob("[gP][iy]*"):
        if each.name == "gi" or each.name.startswith("PyGObject"):
            (folder / each.name).symlink_to(each)
    return folder


def environment(cluster: Cluster) -> dict[str, str]:
    """The environment of a process, without this virtual environment in PATH."""
    return {**cluster.environment(), "PATH": "/usr/bin:/bin"}


@ensureDeferred
async def test_the_bundled_desktop_connects_and_serves_requests(
    bundle: Path, cluster: Cluster
) -> None:
    """The bundled commands log it in, show its status and stop it."""
    await cluster.start_cloud()
    fake_ollama, port = cluster.start_fake_ollama("llama3.2")
    state, endpoint_port = cluster.directory / "alice", free_port()
    env = environment(cluster)

    async def run(*words: str) -> str:
        argv = [str(bundle / "ctllm"), f"--state-dir={state}", *words]
        result = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    await run("login", await cluster.create_invite("alice"))
    options = [
        f"--state-dir={state}",
        f"--ollama-host=127.0.0.1:{port}",
        f"--desktop-listen=127.0.0.1:{endpoint_port}",
    ]
    desktop = ChildProcess("desktop", [str(bundle / "ctllm-desktop"), *options], env)
    cluster.processes.append(desktop)
    await wait_until(
        lambda: "Cloud connection: connected" in desktop.output, "the bundled desktop to connect"
    )
    body = {"model": "llama3.2", "prompt": "hello", "stream": False}
    status, headers, _ = await cluster.request("POST", "/api/generate", body, port=endpoint_port)
    assert (status, headers["ctllm-route"]) == (200, "local")
    status, _, _ = await cluster.request(
        "POST", "/api/generate", body, await cluster.create_token("alice")
    )
    assert (status, len(fake_ollama.requests) > 0) == (200, True)
    assert "● Connected" in await run("status")
    assert await run("quit") == "The desktop stopped.\n"


@ensureDeferred
async def test_the_bundled_commands_use_the_keyring(bundle: Path, cluster: Cluster) -> None:
    """Its process is a program of the bundle, too."""
    await cluster.start_cloud()
    session = KeyringSession(cluster)
    await session.start_bus()
    await session.start_keyring()
    argv = [str(bundle / "ctllm"), f"--state-dir={cluster.directory / 'alice'}"]
    env = {**environment(cluster), **session.environment}
    for words, output in (
        (["login", await cluster.create_invite("alice")], "in the system's keyring"),
        (["logout"], "Logged out"),
    ):
        result = await deferToThread(
            subprocess.run, [*argv, *words], capture_output=True, text=True, env=env
        )
        assert output in result.stdout, result.stdout + result.stderr


@ensureDeferred
async def test_the_bundled_tray_starts_and_stops_the_desktop(
    bundle: Path, cluster: Cluster
) -> None:
    """It starts the desktop of the bundle; Quit ends both."""
    session = DesktopSession(cluster)
    await session.start()
    state = cluster.directory / "state"
    env = {**session.env, **environment(cluster), "PYTHONPATH": ""}
    tray = ChildProcess("tray", [str(bundle / "ctllm-tray"), f"--state-dir={state}"], env)
    cluster.processes.append(tray)
    menu = await session.shows("Not logged in", 30)
    assert "Log in …" in labels(menu)
    argv = [str(bundle / "ctllm"), f"--state-dir={state}", "status", "--json"]
    result = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
    pid = json.loads(result.stdout)["pid"]
    assert Path(os.readlink(f"/proc/{pid}/exe")) == bundle / "ctllm-desktop"
    await session.click("Quit")
    await wait_until(lambda: tray.exited.called, "the tray to exit")
    assert not is_running(pid)
    await session.close()

"""The real tray in a session of its own: what it says, what its menu does, what it survives."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.errors import CtllmError
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import Status
from tests.e2e.cluster import BIN, ChildProcess, Cluster, read_response, wait_until
from tests.e2e.desktop_session import DesktopSession, entry, labels
from tests.e2e.process_info import is_running
from tests.e2e.test_ipc import BROWSER
from tests.ports import free_port


class Desk:
    """Alice's machine with its session: the tray starts the desktop by itself."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = DesktopSession(cluster)
        self.ollama_port = free_port()
        self.endpoint = free_port()
        self.config = cluster.directory / "ctllm.toml"
        self.state = cluster.directory / "alice"
        self._ollama: ChildProcess | None = None
        self._program: ChildProcess | None = None

    @property
    def ollama(self) -> ChildProcess:
        assert self._ollama is not None
        return self._ollama

    @property
    def program(self) -> ChildProcess:
        assert self._program is not None
        return self._program

    async def begin(self) -> None:
        cluster = self.cluster
        browser = cluster.directory / "browser"
        browser.write_text(BROWSER.format(cluster.directory))
        browser.chmod(0o755)
        dialog = cluster.directory / "bin" / "zenity"
        dialog.parent.mkdir()
        dialog.write_text(f'#!/bin/sh\ncat "{cluster.directory}/typed"\n')
        dialog.chmod(0o755)
        cluster.extra_environment = {
            "BROWSER": f"{browser} %s", "PATH": f"{dialog.parent}:{os.environ['PATH']}",
        }  # fmt: skip
        self.config.write_text(
            f'state_dir = "{self.state}"\n[desktop]\nollama_host = "127.0.0.1:{self.ollama_port}"\n'
            f'listen = "127.0.0.1:{self.endpoint}"\ndesktop_name = "home"\n'
            'page_window = "off"\n'
        )
        await cluster.start_cloud()
        await self.session.start()
        await cluster.run_ctllm_in(self.state, "login", await cluster.create_invite("alice"))

    async def start(self) -> None:
        if self._ollama is None or self.ollama.exited.called:
            await self.start_ollama()
        if self._program is None or self.program.exited.called:
            self._program = self.cluster.start_process(
                "tray", "ctllm-tray", f"--config={self.config}", env=self.session.env
            )
        await self.session.shows("")
        if "Not running" in (await self.session.look())["title"]:
            await self.session.click("Start")
        await self.session.shows(": Connected")

    async def start_ollama(self) -> None:
        self._ollama = await self.cluster.run_fake_ollama(self.ollama_port, "llama3.2")

    async def script(self, path: str, **script: Any) -> None:
        await self.cluster.set_script(self.ollama_port, path, **script)

    async def ask(self, kind: Any, **told: Any) -> Any:
        def work() -> Any:
            with IpcClient(self.state) as daemon:
                return daemon.call(kind, **told)

        return await deferToThread(work)

    async def status(self) -> Status:
        def work() -> Status:
            with IpcClient(self.state) as daemon:
                return daemon.status()

        return await deferToThread(work)

    async def streaming(self) -> Deferred[bytes]:
        """An answer that has begun; fires when it is over."""
        body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
        answer = deferToThread(read_response, self.endpoint, "/api/generate", body)

        async def begun() -> bool:
            return (await self.status()).traffic.active_requests == 1

        await wait_until(begun, "the answer to begin")
        return answer

    async def end(self) -> None:
        with suppress(CtllmError):  # it is gone already
            await self.ask(protocol.Quit, seconds=0)
        await self.session.close()


@pytest.fixture(scope="module")
def desk_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(Cluster(tmp_path_factory.mktemp("tray")))
    pytest_twisted.blockon(Deferred.fromCoroutine(made.begin()))
    yield made

    async def close() -> None:
        await made.end()
        await made.cluster.stop()

    pytest_twisted.blockon(Deferred.fromCoroutine(close()))


@pytest_twisted.async_yield_fixture()
async def desk(desk_of_module: Desk) -> Any:
    """Tray, desktop and Ollama run, and all is well; a test may end any of them."""
    await desk_of_module.start()
    yield desk_of_module


@ensureDeferred
async def test_it_starts_the_daemon(desk: Desk) -> None:
    """One that is no child of the tray's session, with the tray's configuration."""
    status = await desk.status()
    assert status.endpoint == f"http://127.0.0.1:{desk.endpoint}"
    assert os.getsid(status.pid) != os.getsid(desk.program.pid)
    look = await desk.session.look()
    assert look["title"] == "CloudToLocalLLM: Connected"
    assert labels(look) == [
        "Connected", "Show CloudToLocalLLM", "Hide CloudToLocalLLM", "Routing",
        "Models in memory", "Log out", "Settings", "About", "Quit",
    ]  # fmt: skip
    assert not entry(look, "Connected")["enabled"]
    chosen = [each["label"] for each in entry(look, "Routing")["menu"] if each["checked"]]
    assert chosen == ["Automatic"]


@ensureDeferred
async def test_icons_follow(desk: Desk) -> None:
    """Each state has pixels and words of its own; a flap is not notified, what lasts is."""
    seen = {"connected": (await desk.session.look())["pixels"]}
    await desk.ollama.stop(signal.SIGKILL)
    seen["degraded"] = (await desk.session.shows("Ollama is not responding", 6))["pixels"]
    await desk.start_ollama()
    assert (await desk.session.shows(": Connected", 6))["pixels"] == seen["connected"]
    assert not [
        each for each in (await desk.session.look())["notifications"] if "Ollama" in each[0]
    ]
    await desk.ollama.stop(signal.SIGKILL)
    assert "Ollama is not responding" in await desk.session.notified("Ollama is not responding")
    await desk.start_ollama()
    await desk.session.shows(": Connected")
    await desk.ask(protocol.Logout)
    seen["disconnected"] = (await desk.session.shows("Not logged in"))["pixels"]
    await desk.cluster.run_ctllm_in(desk.state, "login", await desk.cluster.create_invite("alice"))
    await desk.session.shows(": Connected")
    cloud = desk.cluster.processes[0]
    cloud.send_signal(signal.SIGSTOP)
    seen["connecting"] = (await desk.session.shows("Connecting", 30))["pixels"]
    cloud.send_signal(signal.SIGCONT)
    await desk.session.shows(": Connected", 30)
    await cloud.stop(signal.SIGKILL)
    seen["error"] = (await desk.session.shows("", 15, "Not connected: "))["pixels"]
    await desk.cluster.start_cloud()
    await desk.session.shows(": Connected", 60)
    assert len(set(seen.values())) == 5, seen


@ensureDeferred
async def test_preferences(desk: Desk) -> None:
    """What is clicked counts, and has the check mark; what a command says, too."""
    for label, name in (
        ("This machine first", "local"), ("Other desktops first", "cloud"),
        ("Never the cloud", "never"), ("Automatic", "auto"),
    ):  # fmt: skip
        await desk.session.click("Routing", label)

        async def counts(name: str = name, label: str = label) -> bool:
            entries = entry(await desk.session.look(), "Routing")["menu"]
            checked = [each["label"] for each in entries if each["checked"]]
            return (await desk.status()).policy == name and checked == [label]

        await wait_until(counts, f"{name} to count")
    await desk.cluster.run_ctllm_in(desk.state, "prefer", "never")

    async def shown() -> bool:
        entries = entry(await desk.session.look(), "Routing")["menu"]
        return [each["label"] for each in entries if each["checked"]] == ["Never the cloud"]

    await wait_until(shown, "the check mark to move")
    await desk.cluster.run_ctllm_in(desk.state, "prefer", "auto")


@ensureDeferred
async def test_show_and_settings(desk: Desk) -> None:
    """The browser opens the page."""
    noted = desk.cluster.directory / "file"
    for label, view in (("Show CloudToLocalLLM", ""), ("Settings", "view=settings")):
        noted.unlink(missing_ok=True)
        await desk.session.click(label)
        await wait_until(lambda: noted.exists() and "#invite=" in noted.read_text(), label)
        assert view in noted.read_text()
    await desk.session.click("Hide CloudToLocalLLM")
    assert "no window" in await desk.session.notified("Command failed")


@ensureDeferred
async def test_about(desk: Desk) -> None:
    await desk.session.click("About")
    assert str(desk.state) in await desk.session.notified("ctllm (CloudToLocalLLM)")


@ensureDeferred
async def test_models_in_memory(desk: Desk) -> None:
    """Those that Ollama has loaded."""
    body = {"model": "llama3.2", "prompt": ""}
    await desk.cluster.request("POST", "/api/generate", body, port=desk.endpoint)

    async def shown() -> bool:
        menu = entry(await desk.session.look(), "Models in memory")["menu"]
        return [each["label"] for each in menu] == ["llama3.2:latest"]

    await wait_until(shown, "the model to be listed")


@ensureDeferred
async def test_signing_out_and_in(desk: Desk) -> None:
    """A link is asked for in a window; a bad one is answered with why."""
    await desk.session.click("Log out")
    look = await desk.session.shows("Not logged in")
    assert not entry(look, "Show CloudToLocalLLM")["enabled"]
    typed = desk.cluster.directory / "typed"
    typed.write_text("https://example.org/\n")
    await desk.session.click("Log in …")
    await desk.session.notified("Not an invite link")
    typed.write_text(await desk.cluster.create_invite("alice"))
    await desk.session.click("Log in …")
    await desk.session.shows(": Connected")


@ensureDeferred
async def test_the_daemon_is_killed(desk: Desk) -> None:
    """The icon stays and says so; when the daemon is back, whoever started it, so is the icon."""
    pid = (await desk.status()).pid
    os.kill(pid, signal.SIGKILL)
    look = await desk.session.shows("Not running", 5)
    assert labels(look) == ["Not running", "Start", "Quit"]
    other = desk.cluster.start_process(
        "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", f"--config={desk.config}"
    )
    await desk.session.shows(": Connected")
    await other.stop()
    await desk.session.shows("Not running")
    await desk.session.click("Start")
    await desk.session.shows(": Connected")
    assert not is_running(pid)


@ensureDeferred
async def test_the_tray_is_killed(desk: Desk) -> None:
    """An answer that streams goes on, and a new tray leaves nothing of the old one behind."""
    await desk.script("/api/generate", lines=30, line_interval=0.1)
    answer = await desk.streaming()
    before = (await desk.session.look())["file"]
    await desk.program.stop(signal.SIGKILL)
    lines = [json.loads(line) for line in (await answer).splitlines()]
    assert len(lines) == 31 and lines[-1]["done"] is True
    assert Path(before).exists(), "nothing cleans up after a kill but the next start"
    await wait_until(lambda: desk.program.exited.called, "the end to be heard of")
    await desk.start()
    assert not Path(before).exists()


@ensureDeferred
async def test_a_second_tray(desk: Desk) -> None:
    """One icon is enough."""
    second = desk.cluster.start_process(
        "tray", "ctllm-tray", f"--config={desk.config}", env=desk.session.env
    )
    await wait_until(lambda: second.exited.called, "the second to end")
    assert second.exit_code == 0 and "already running" in second.output
    assert (await desk.session.look())["there"]


@ensureDeferred
async def test_quit(desk: Desk) -> None:
    """Daemon and tray end, once the answer under way is whole; nothing is left of them."""
    await desk.script("/api/generate", lines=20, line_interval=0.1)
    answer = await desk.streaming()
    pid = (await desk.status()).pid
    await desk.session.click("Quit")
    await wait_until(lambda: desk.program.exited.called, "the tray to end")
    assert desk.program.exit_code == 0, desk.program.output
    assert json.loads((await answer).splitlines()[-1])["done"] is True
    assert not is_running(pid)
    assert not (await desk.session.look())["there"]
    assert not (desk.state / "tray").exists()
    left = {path.name for path in (desk.state / "desktop").iterdir()}
    assert left - {"preference.json"} == {
        "credentials.json", "credentials.lock", "lock", "desktop.log",
    }  # fmt: skip


@ensureDeferred
async def test_a_command_that_quits(desk: Desk) -> None:
    """It ends the daemon that the tray started, which is then quite gone; the tray stays."""
    pid = (await desk.status()).pid
    said = await desk.cluster.run_ctllm_in(desk.state, "quit")
    assert said.endswith("The desktop stopped.")
    assert not Path(f"/proc/{pid}").exists(), "nobody has buried it"
    await desk.session.shows("Not running")


@ensureDeferred
async def test_told_to_end(desk: Desk) -> None:
    """By SIGTERM, as at the end of a session: the tray goes, the daemon stays."""
    pid = (await desk.status()).pid
    await desk.program.stop()
    assert is_running(pid) and not (desk.state / "tray").exists()


# -- where there is no place for it


@ensureDeferred
async def test_no_panel(cluster: Cluster) -> None:
    """A clear word, with what helps; and how things can be seen without a tray."""
    session = DesktopSession(cluster)
    await session.start(panel=False)
    tray = session.tray(cluster.directory / "state", "--no-start", "--wait=0.5")
    await wait_until(lambda: tray.exited.called, "the tray to give up")
    assert tray.exit_code == 1
    assert re.search("shows no tray icons.*GNOME.*ctllm status", tray.output, re.DOTALL)


@ensureDeferred
async def test_no_session(cluster: Cluster) -> None:
    tray = cluster.start_process(
        "tray", "ctllm-tray", f"--state-dir={cluster.directory}", "--no-start"
    )
    await wait_until(lambda: tray.exited.called, "the tray to give up")
    assert tray.exit_code == 1 and "DISPLAY" in tray.output and "Traceback" not in tray.output


@ensureDeferred
async def test_a_panel_that_comes_late(cluster: Cluster) -> None:
    """As at the start of a session; and no daemon is started where none is wanted."""
    session = DesktopSession(cluster)
    await session.start(panel=False)
    tray = session.tray(cluster.directory / "state", "--no-start", "--wait=20", "--panel=light")
    await session.start_panel()
    look = await session.shows("Not running")
    assert tray.exit_code is None and labels(look)[0] == "Not running"
    assert not (cluster.directory / "state" / "desktop").exists()
    await tray.stop()
    await session.close()


# -- with the session


@ensureDeferred
async def test_autostart(cluster: Cluster) -> None:
    """The entry, started as by a session, brings up tray and desktop; `off` leaves nothing."""
    session = DesktopSession(cluster)
    await session.start()
    state = cluster.directory / "some state"
    config = cluster.directory / "config"
    env = {**session.env, "XDG_CONFIG_HOME": str(config), "PATH": str(BIN)}

    async def autostart(word: str) -> None:
        argv = [str(BIN / "ctllm"), f"--state-dir={state}", "autostart", word]
        done = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr

    await autostart("on")
    (path,) = [path for path in config.rglob("*") if path.is_file()]
    launch = (
        "import sys; from gi.repository import Gio;"
        "Gio.DesktopAppInfo.new_from_filename(sys.argv[1]).launch([], None)"
    )
    await deferToThread(
        subprocess.run, ["/usr/bin/python3", "-c", launch, str(path)], env=session.env, check=True
    )
    look = await session.shows("Not logged in")
    assert "Log in …" in labels(look)
    await session.click("Quit")

    async def gone() -> bool:
        return not (await session.look())["there"]

    await wait_until(gone, "the tray to end")
    await autostart("off")
    assert not [path for path in config.rglob("*") if not path.is_dir()]
    await session.close()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own judgement")
@ensureDeferred
async def test_the_unit_is_sound(cluster: Cluster) -> None:
    """As systemd reads it."""
    env = {**cluster.environment(), "XDG_CONFIG_HOME": str(cluster.directory)}
    env["XDG_RUNTIME_DIR"] = str(cluster.directory)
    state = cluster.directory / "a $tate of 100%"
    argv = [str(BIN / "ctllm"), f"--state-dir={state}", "autostart", "on"]
    await deferToThread(subprocess.run, argv, capture_output=True, env=env, check=True)
    unit = cluster.directory / "systemd" / "user" / "ctllm-desktop.service"
    verify = ["systemd-analyze", "--user", "verify", str(unit)]
    done = await deferToThread(subprocess.run, verify, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")

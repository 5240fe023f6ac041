"""The real tray in a virtual desktop session: its icon, its menu and failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
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


class Desktop:
    """Alice's desktop session with Ollama and the tray, which starts the desktop daemon."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = DesktopSession(cluster)
        self.ollama_port = free_port()
        self.local_port = free_port()
        self.config = cluster.directory / "ctllm.toml"
        self.state_dir = cluster.directory / "alice"
        self._ollama: ChildProcess | None = None
        self._tray: ChildProcess | None = None

    @property
    def ollama(self) -> ChildProcess:
        assert self._ollama is not None
        return self._ollama

    @property
    def tray(self) -> ChildProcess:
        assert self._tray is not None
        return self._tray

    async def set_up(self) -> None:
        cluster = self.cluster
        browser = cluster.directory / "browser"
        browser.write_text(BROWSER.format(cluster.directory))
        browser.chmod(0o755)
        # A login dialog in which the user enters the contents of the file `typed`.
        dialog = cluster.directory / "bin" / "zenity"
        dialog.parent.mkdir()
        dialog.write_text(f'#!/bin/sh\ncat "{cluster.directory}/typed"\n')
        dialog.chmod(0o755)
        cluster.extra_environment = {
            "BROWSER": f"{browser} %s", "PATH": f"{dialog.parent}:{os.environ['PATH']}",
        }  # fmt: skip
        self.config.write_text(
            f'state_dir = "{self.state_dir}"\n[desktop]\n'
            f'ollama_host = "127.0.0.1:{self.ollama_port}"\n'
            f'listen = "127.0.0.1:{self.local_port}"\ndesktop_name = "home"\n'
            'page_window = "off"\n'
        )
        await cluster.start_cloud()
        await self.session.start()
        await cluster.run_ctllm_in(self.state_dir, "login", await cluster.create_invite("alice"))

    async def start(self) -> None:
        if self._ollama is None or self.ollama.exited.called:
            await self.start_ollama()
        if self._tray is None or self.tray.exited.called:
            self._tray = self.cluster.start_process(
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

    async def call(self, command: Any, **arguments: Any) -> Any:
        """Send a command to the daemon by IPC."""

        def send() -> Any:
            with IpcClient(self.state_dir) as client:
                return client.call(command, **arguments)

        return await deferToThread(send)

    async def status(self) -> Status:
        def read() -> Status:
            with IpcClient(self.state_dir) as client:
                return client.status()

        return await deferToThread(read)

    async def start_response(self) -> Deferred[bytes]:
        """Wait until a response is active; the Deferred fires with its body at its end."""
        body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
        response = deferToThread(read_response, self.local_port, "/api/generate", body)

        async def is_active() -> bool:
            return (await self.status()).traffic.active_requests == 1

        await wait_until(is_active, "the response to begin")
        return response

    async def tear_down(self) -> None:
        with suppress(CtllmError):  # the daemon has stopped already
            await self.call(protocol.Quit, seconds=0)
        await self.session.close()


@pytest.fixture(scope="module")
def module_desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    desktop = Desktop(Cluster(tmp_path_factory.mktemp("tray")))
    pytest_twisted.blockon(Deferred.fromCoroutine(desktop.set_up()))
    yield desktop

    async def close() -> None:
        await desktop.tear_down()
        await desktop.cluster.stop()

    pytest_twisted.blockon(Deferred.fromCoroutine(close()))


@pytest_twisted.async_yield_fixture()
async def desktop(module_desktop: Desktop) -> Any:
    """Tray, desktop and Ollama, running and connected; a test may stop any of them."""
    await module_desktop.start()
    yield module_desktop


@ensureDeferred
async def test_the_tray_starts_the_daemon_in_another_session_with_its_configuration(
    desktop: Desktop,
) -> None:
    """The menu has all entries, and automatic routing is checked."""
    status = await desktop.status()
    assert status.endpoint == f"http://127.0.0.1:{desktop.local_port}"
    assert os.getsid(status.pid) != os.getsid(desktop.tray.pid)
    panel = await desktop.session.look()
    assert panel["title"] == "CloudToLocalLLM: Connected"
    assert labels(panel) == [
        "Connected", "Show CloudToLocalLLM", "Hide CloudToLocalLLM", "Routing",
        "Models in memory", "Log out", "Settings", "About", "Quit",
    ]  # fmt: skip
    assert not entry(panel, "Connected")["enabled"]
    checked = [item["label"] for item in entry(panel, "Routing")["menu"] if item["checked"]]
    assert checked == ["Automatic"]


@ensureDeferred
async def test_icon_and_title_follow_the_state(desktop: Desktop) -> None:
    """Each state has its own icon; a short failure causes no notification, a lasting one does."""
    icons = {"connected": (await desktop.session.look())["pixels"]}
    await desktop.ollama.stop(signal.SIGKILL)
    icons["degraded"] = (await desktop.session.shows("Ollama is not responding", 6))["pixels"]
    await desktop.start_ollama()
    assert (await desktop.session.shows(": Connected", 6))["pixels"] == icons["connected"]
    assert not [
        item for item in (await desktop.session.look())["notifications"] if "Ollama" in item[0]
    ]
    await desktop.ollama.stop(signal.SIGKILL)
    assert "Ollama is not responding" in await desktop.session.notified("Ollama is not responding")
    await desktop.start_ollama()
    await desktop.session.shows(": Connected")
    await desktop.call(protocol.Logout)
    icons["disconnected"] = (await desktop.session.shows("Not logged in"))["pixels"]
    await desktop.cluster.run_ctllm_in(
        desktop.state_dir, "login", await desktop.cluster.create_invite("alice")
    )
    await desktop.session.shows(": Connected")
    cloud = desktop.cluster.processes[0]
    cloud.send_signal(signal.SIGSTOP)
    icons["connecting"] = (await desktop.session.shows("Connecting", 30))["pixels"]
    cloud.send_signal(signal.SIGCONT)
    await desktop.session.shows(": Connected", 30)
    await cloud.stop(signal.SIGKILL)
    icons["error"] = (await desktop.session.shows("", 15, "Not connected: "))["pixels"]
    await desktop.cluster.start_cloud()
    await desktop.session.shows(": Connected", 60)
    assert len(set(icons.values())) == 5, icons


@ensureDeferred
async def test_the_routing_menu_sets_and_shows_the_policy(desktop: Desktop) -> None:
    """The check mark also follows a policy that a command sets."""
    for label, name in (
        ("This machine first", "local"), ("Other desktops first", "cloud"),
        ("Never the cloud", "never"), ("Automatic", "auto"),
    ):  # fmt: skip
        await desktop.session.click("Routing", label)

        async def is_set(name: str = name, label: str = label) -> bool:
            entries = entry(await desktop.session.look(), "Routing")["menu"]
            checked = [item["label"] for item in entries if item["checked"]]
            return (await desktop.status()).policy == name and checked == [label]

        await wait_until(is_set, f"the policy {name}")
    await desktop.cluster.run_ctllm_in(desktop.state_dir, "prefer", "never")

    async def shown() -> bool:
        entries = entry(await desktop.session.look(), "Routing")["menu"]
        return [item["label"] for item in entries if item["checked"]] == ["Never the cloud"]

    await wait_until(shown, "the check mark to move")
    await desktop.cluster.run_ctllm_in(desktop.state_dir, "prefer", "auto")


@ensureDeferred
async def test_show_and_settings_open_the_browser(desktop: Desktop) -> None:
    """Hide causes a notification that there is no window."""
    page = desktop.cluster.directory / "file"
    for label, view in (("Show CloudToLocalLLM", ""), ("Settings", "view=settings")):
        page.unlink(missing_ok=True)
        await desktop.session.click(label)
        await wait_until(lambda: page.exists() and "#invite=" in page.read_text(), label)
        assert view in page.read_text()
    await desktop.session.click("Hide CloudToLocalLLM")
    assert "no window" in await desktop.session.notified("Command failed")


@ensureDeferred
async def test_about_notifies_with_the_state_directory(desktop: Desktop) -> None:
    await desktop.session.click("About")
    assert str(desktop.state_dir) in await desktop.session.notified("ctllm (CloudToLocalLLM)")


@ensureDeferred
async def test_the_menu_lists_the_models_in_memory(desktop: Desktop) -> None:
    body = {"model": "llama3.2", "prompt": ""}
    await desktop.cluster.request("POST", "/api/generate", body, port=desktop.local_port)

    async def shown() -> bool:
        menu = entry(await desktop.session.look(), "Models in memory")["menu"]
        return [item["label"] for item in menu] == ["llama3.2:latest"]

    await wait_until(shown, "the model to be listed")


@ensureDeferred
async def test_log_out_and_in_from_the_menu(desktop: Desktop) -> None:
    """A dialog asks for a cloud or an invite; what is neither causes a notification.

    Without a login, the menu opens the page of this machine.
    """
    await desktop.session.click("Log out")
    panel = await desktop.session.shows("Not logged in")
    assert entry(panel, "Show CloudToLocalLLM")["enabled"]
    page = desktop.cluster.directory / "file"
    page.unlink(missing_ok=True)
    await desktop.session.click("Show CloudToLocalLLM")
    link = f"http://127.0.0.1:{desktop.local_port}/#invite="
    await wait_until(lambda: page.exists() and link in page.read_text(), "the page")
    typed = desktop.cluster.directory / "typed"
    for entered, notified in (
        ("two words", "Not the address of a cloud"),
        (f"{desktop.cluster.url}/#x", "Not an invite link"),
        (desktop.cluster.url, "has no provider to log in with"),
    ):
        typed.write_text(f"{entered}\n")
        await desktop.session.click("Log in …")
        await desktop.session.notified(notified)
    typed.write_text(await desktop.cluster.create_invite("alice"))
    await desktop.session.click("Log in …")
    await desktop.session.shows(": Connected")


@ensureDeferred
async def test_the_icon_stays_when_the_daemon_is_killed(desktop: Desktop) -> None:
    """It shows the state of the next daemon, whether the tray or a command started it."""
    pid = (await desktop.status()).pid
    os.kill(pid, signal.SIGKILL)
    panel = await desktop.session.shows("Not running", 5)
    assert labels(panel) == ["Not running", "Start", "Quit"]
    other = desktop.cluster.start_process(
        "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", f"--config={desktop.config}"
    )
    await desktop.session.shows(": Connected")
    await other.stop()
    await desktop.session.shows("Not running")
    await desktop.session.click("Start")
    await desktop.session.shows(": Connected")
    assert not is_running(pid)


@ensureDeferred
async def test_a_response_continues_when_the_tray_is_killed(desktop: Desktop) -> None:
    await desktop.script("/api/generate", lines=30, line_interval=0.1)
    response = await desktop.start_response()
    await desktop.tray.stop(signal.SIGKILL)
    lines = [json.loads(line) for line in (await response).splitlines()]
    assert len(lines) == 31 and lines[-1]["done"] is True
    await wait_until(lambda: desktop.tray.exited.called, "the tray to exit")
    await desktop.start()


@ensureDeferred
async def test_a_second_tray_exits(desktop: Desktop) -> None:
    second = desktop.cluster.start_process(
        "tray", "ctllm-tray", f"--config={desktop.config}", env=desktop.session.env
    )
    await wait_until(lambda: second.exited.called, "the second tray to exit")
    assert second.exit_code == 0 and "already running" in second.output
    assert (await desktop.session.look())["there"]


@ensureDeferred
async def test_quit_stops_daemon_and_tray_after_active_responses(desktop: Desktop) -> None:
    """Only credentials, tokens, preference, lock files and the log remain on disk."""
    await desktop.script("/api/generate", lines=20, line_interval=0.1)
    response = await desktop.start_response()
    pid = (await desktop.status()).pid
    await desktop.session.click("Quit")
    await wait_until(lambda: desktop.tray.exited.called, "the tray to exit")
    assert desktop.tray.exit_code == 0, desktop.tray.output
    assert json.loads((await response).splitlines()[-1])["done"] is True
    assert not is_running(pid)
    assert not (await desktop.session.look())["there"]
    assert not (desktop.state_dir / "tray").exists()
    files = {path.name for path in (desktop.state_dir / "desktop").iterdir()}
    assert files - {"preference.json"} == {
        "credentials.json", "credentials.lock", "login.lock", "secrets.json", "secrets.lock",
        "lock", "desktop.log", "profiles.json",
    }  # fmt: skip


@ensureDeferred
async def test_the_tray_stays_when_a_command_stops_the_daemon(desktop: Desktop) -> None:
    """The daemon's process, which the tray started, leaves no zombie."""
    pid = (await desktop.status()).pid
    output = await desktop.cluster.run_ctllm_in(desktop.state_dir, "quit")
    assert output.endswith("The desktop stopped.")
    assert not Path(f"/proc/{pid}").exists(), "The process of the daemon is a zombie."
    await desktop.session.shows("Not running")


@ensureDeferred
async def test_the_daemon_stays_when_sigterm_stops_the_tray(desktop: Desktop) -> None:
    """A desktop session sends SIGTERM at its end."""
    pid = (await desktop.status()).pid
    await desktop.tray.stop()
    assert is_running(pid) and not (desktop.state_dir / "tray").exists()


# -- sessions without a panel


@ensureDeferred
async def test_without_a_panel_the_tray_exits_with_advice(cluster: Cluster) -> None:
    """The message says what helps on GNOME, and names `ctllm status`."""
    session = DesktopSession(cluster)
    await session.start(panel=False)
    tray = session.tray(cluster.directory / "state", "--no-start", "--wait=0.5")
    await wait_until(lambda: tray.exited.called, "the tray to exit")
    assert tray.exit_code == 1
    assert re.search("shows no tray icons.*GNOME.*ctllm status", tray.output, re.DOTALL)


@ensureDeferred
async def test_without_a_display_the_tray_exits_with_an_error(cluster: Cluster) -> None:
    tray = cluster.start_process(
        "tray", "ctllm-tray", f"--state-dir={cluster.directory}", "--no-start"
    )
    await wait_until(lambda: tray.exited.called, "the tray to exit")
    assert tray.exit_code == 1 and "DISPLAY" in tray.output and "Traceback" not in tray.output


@ensureDeferred
async def test_the_tray_waits_for_the_panel(cluster: Cluster) -> None:
    """At the start of a session the panel may come later; `--no-start` starts no daemon."""
    session = DesktopSession(cluster)
    await session.start(panel=False)
    tray = session.tray(cluster.directory / "state", "--no-start", "--wait=20", "--panel=light")
    await session.start_panel()
    panel = await session.shows("Not running")
    assert tray.exit_code is None and labels(panel)[0] == "Not running"
    assert not (cluster.directory / "state" / "desktop").exists()
    await tray.stop()
    await session.close()


@ensureDeferred
async def test_the_icon_comes_back_with_a_panel_that_restarts(cluster: Cluster) -> None:
    """GTK, which takes most of the memory of a tray, is not loaded."""
    session = DesktopSession(cluster)
    await session.start()
    tray = session.tray(cluster.directory / "state", "--no-start")
    first = await session.shows("Not running")
    await session.close()
    await session.start_panel()
    assert (await session.shows("Not running"))["pixels"] == first["pixels"]
    assert not has_gtk(tray)
    await session.click("Quit")
    await wait_until(lambda: tray.exited.called, "the tray to exit")
    assert tray.exit_code == 0, tray.output
    await session.close()


# -- pystray's own backends


def has_gtk(process: ChildProcess) -> bool:
    return "libgtk" in Path(f"/proc/{process.pid}/maps").read_text()


@ensureDeferred
async def test_pystray_serves_a_panel_without_status_notifier(cluster: Cluster) -> None:
    """It embeds a window in the older system tray."""
    session = DesktopSession(cluster)
    await session.start(panel=False)
    panel = cluster.start_process(
        "panel", sys.executable, "-m", "tests.e2e.system_tray", env=session.env
    )
    await wait_until(lambda: "ready" in panel.output, "the panel")
    tray = session.tray(cluster.directory / "state", "--no-start")
    await wait_until(lambda: "embedded" in panel.output, "the icon")
    assert has_gtk(tray)
    await tray.stop()
    assert not (cluster.directory / "state" / "tray").exists()


@ensureDeferred
async def test_a_backend_of_pystray_can_be_chosen(cluster: Cluster) -> None:
    """Its icon is a file. The next tray removes that of a killed one."""
    session = DesktopSession(cluster)
    await session.start()
    state, chosen = cluster.directory / "state", {"PYSTRAY_BACKEND": "appindicator"}
    tray = session.tray(state, "--no-start", env=chosen)
    killed = await session.shows("Not running")
    assert has_gtk(tray) and labels(killed) == ["Not running", "Start", "Quit"]
    await tray.stop(signal.SIGKILL)
    assert Path(killed["file"]).exists(), "Only the next tray removes the file of a killed one."
    tray = session.tray(state, "--no-start", env=chosen)
    await wait_until(lambda: not Path(killed["file"]).exists(), "the file to be removed")
    await session.shows("Not running")
    await session.click("Quit")
    await wait_until(lambda: tray.exited.called, "the tray to exit")
    assert tray.exit_code == 0, tray.output
    await session.close()


# -- autostart


@ensureDeferred
async def test_the_autostart_entry_starts_tray_and_desktop(cluster: Cluster) -> None:
    """The test launches it as a desktop session does; `autostart off` removes every file."""
    session = DesktopSession(cluster)
    await session.start()
    state = cluster.directory / "some state"
    config = cluster.directory / "config"
    env = {**session.env, "XDG_CONFIG_HOME": str(config), "PATH": str(BIN)}

    async def autostart(value: str) -> None:
        argv = [str(BIN / "ctllm"), f"--state-dir={state}", "autostart", value]
        process = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        assert process.returncode == 0, process.stderr

    await autostart("on")
    (path,) = [path for path in config.rglob("*") if path.is_file()]
    launch = (
        "import sys; from gi.repository import Gio;"
        "Gio.DesktopAppInfo.new_from_filename(sys.argv[1]).launch([], None)"
    )
    await deferToThread(
        subprocess.run, ["/usr/bin/python3", "-c", launch, str(path)], env=session.env, check=True
    )
    panel = await session.shows("Not logged in")
    assert "Log in …" in labels(panel)
    await session.click("Quit")

    async def is_removed() -> bool:
        return not (await session.look())["there"]

    await wait_until(is_removed, "the icon to disappear")
    await autostart("off")
    assert not [path for path in config.rglob("*") if not path.is_dir()]
    await session.close()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="Needs systemd-analyze.")
@ensureDeferred
async def test_systemd_accepts_the_autostart_unit(cluster: Cluster) -> None:
    """The path of the state directory has characters that units must escape."""
    env = {**cluster.environment(), "XDG_CONFIG_HOME": str(cluster.directory)}
    env["XDG_RUNTIME_DIR"] = str(cluster.directory)
    state = cluster.directory / "a $tate of 100%"
    argv = [str(BIN / "ctllm"), f"--state-dir={state}", "autostart", "on"]
    await deferToThread(subprocess.run, argv, capture_output=True, env=env, check=True)
    unit = cluster.directory / "systemd" / "user" / "ctllm-desktop.service"
    verify = ["systemd-analyze", "--user", "verify", str(unit)]
    process = await deferToThread(subprocess.run, verify, capture_output=True, text=True, env=env)
    assert (process.returncode, process.stderr) == (0, "")

"""The chat page in a webview window, controlled by `ctllm show`, `hide` and `settings`."""

from __future__ import annotations

import importlib.util
import subprocess
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread
from Xlib import X
from Xlib.display import Display

from ctllm.webview_main import TITLE
from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.desktop_session import DesktopSession
from tests.e2e.process_info import child_pids, command_line


class WebviewSession:
    """A desktop in a desktop session, and the windows on its display."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = DesktopSession(cluster)
        self.desktop: Any = None

    async def start(self) -> None:
        cluster = self.cluster
        await cluster.start_cloud()
        await self.session.start(panel=False)
        await cluster.run_ctllm("alice", "login", await cluster.create_invite("alice"))
        self.desktop = cluster.start_process(
            "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", "--desktop-listen=off",
            f"--state-dir={cluster.state_dir('alice')}", "--ollama-host=127.0.0.1:9",
            env={**self.session.env, "HOME": str(cluster.directory)},
        )  # fmt: skip
        await wait_until(
            lambda: "Cloud connection: connected" in self.desktop.output, "the desktop to connect"
        )

    async def run(self, *words: str) -> tuple[int, str]:
        argv = [str(BIN / "ctllm"), f"--state-dir={self.cluster.state_dir('alice')}", *words]
        env = self.cluster.environment()
        result = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        return result.returncode, result.stdout + result.stderr

    def windows(self) -> list[bool]:
        """For each window of the page, whether it is visible."""
        display = Display(self.session.env["DISPLAY"])
        try:
            visible = []
            for child in display.screen().root.query_tree().children:
                for window in (child, *child.query_tree().children):
                    if window.get_wm_name() == TITLE:
                        visible.append(window.get_attributes().map_state == X.IsViewable)
            return visible
        finally:
            display.close()


@pytest_twisted.async_yield_fixture()
async def webview(cluster: Cluster) -> Any:
    session = WebviewSession(cluster)
    await session.start()
    yield session


@pytest.mark.skipif(not importlib.util.find_spec("webview"), reason="needs the extra window")
@ensureDeferred
async def test_show_and_hide_control_one_window(webview: WebviewSession) -> None:
    """When its process ends, `settings` opens a new window, which closes with the desktop."""
    code, output = await webview.run("hide")
    assert code == 1 and "no window" in output
    code, output = await webview.run("show")
    assert (code, output) == (0, "Opened in its window.\n"), webview.desktop.output
    await wait_until(lambda: webview.windows() == [True], "the window to open")
    (child,) = [
        pid for pid in child_pids(webview.desktop.pid) if "ctllm.webview_main" in command_line(pid)
    ]
    assert "invite" not in " ".join(command_line(child))
    sessions = webview.cluster.state_dir("cloud") / "cloud" / "sessions"
    await wait_until(
        lambda: len(list(sessions.iterdir())) == 2, "the page to be signed in automatically"
    )
    assert await webview.run("hide") == (0, "Hidden.\n")
    await wait_until(lambda: True not in webview.windows(), "the window to be hidden")
    assert await webview.run("show") == (0, "Opened in its window.\n")
    await wait_until(lambda: True in webview.windows(), "the window to be visible again")
    assert [
        pid for pid in child_pids(webview.desktop.pid) if "ctllm.webview_main" in command_line(pid)
    ] == [child]
    subprocess.run(["kill", str(child)], check=True)
    await wait_until(lambda: not webview.windows(), "the window to close")

    async def is_window_unknown() -> bool:
        return (await webview.run("hide"))[0] == 1

    await wait_until(is_window_unknown, "the desktop to detect the closed window")
    assert await webview.run("settings") == (0, "Opened in its window.\n")
    await wait_until(lambda: webview.windows() == [True], "a new window")
    assert (await webview.run("quit"))[0] == 0
    await wait_until(lambda: not webview.windows(), "the window to close with the desktop")

"""The page in a window of its own: opened, hidden, brought back as it was, closed."""

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


class Room:
    """A desktop in a session, and what is on its screen."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = DesktopSession(cluster)
        self.program: Any = None

    async def start(self) -> None:
        cluster = self.cluster
        await cluster.start_cloud()
        await self.session.start(panel=False)
        await cluster.run_ctllm("alice", "login", await cluster.create_invite("alice"))
        self.program = cluster.start_process(
            "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop", "--desktop-listen=off",
            f"--state-dir={cluster.state_dir('alice')}", "--ollama-host=127.0.0.1:9",
            env={**self.session.env, "HOME": str(cluster.directory)},
        )  # fmt: skip
        await wait_until(lambda: "Cloud connection: connected" in self.program.output, "the bridge")

    async def run(self, *words: str) -> tuple[int, str]:
        argv = [str(BIN / "ctllm"), f"--state-dir={self.cluster.state_dir('alice')}", *words]
        env = self.cluster.environment()
        done = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        return done.returncode, done.stdout + done.stderr

    def windows(self) -> list[bool]:
        """The windows of the page; whether each is to be seen."""
        display = Display(self.session.env["DISPLAY"])
        try:
            found = []
            for each in display.screen().root.query_tree().children:
                for window in (each, *each.query_tree().children):
                    if window.get_wm_name() == TITLE:
                        found.append(window.get_attributes().map_state == X.IsViewable)
            return found
        finally:
            display.close()


@pytest_twisted.async_yield_fixture()
async def room(cluster: Cluster) -> Any:
    made = Room(cluster)
    await made.start()
    yield made


@pytest.mark.skipif(not importlib.util.find_spec("webview"), reason="needs the extra window")
@ensureDeferred
async def test_a_window(room: Room) -> None:
    """SHOW opens it, HIDE hides it, SHOW brings it back; what is closed is opened anew."""
    code, said = await room.run("hide")
    assert code == 1 and "no window" in said
    code, said = await room.run("show")
    assert (code, said) == (0, "Opened in its window.\n"), room.program.output
    await wait_until(lambda: room.windows() == [True], "the window")
    (child,) = [
        pid for pid in child_pids(room.program.pid) if "ctllm.webview_main" in command_line(pid)
    ]
    assert "invite" not in " ".join(command_line(child))
    kept = room.cluster.state_dir("cloud") / "cloud" / "sessions"
    await wait_until(lambda: len(list(kept.iterdir())) == 2, "the page to be signed in, unasked")
    assert await room.run("hide") == (0, "Hidden.\n")
    await wait_until(lambda: True not in room.windows(), "the window to be hidden")
    assert await room.run("show") == (0, "Opened in its window.\n")
    await wait_until(lambda: True in room.windows(), "the window to be back")
    assert [
        pid for pid in child_pids(room.program.pid) if "ctllm.webview_main" in command_line(pid)
    ] == [child]
    subprocess.run(["kill", str(child)], check=True)
    await wait_until(lambda: not room.windows(), "the window to be gone")

    async def none_to_hide() -> bool:
        return (await room.run("hide"))[0] == 1

    await wait_until(none_to_hide, "the desktop to notice")
    assert await room.run("settings") == (0, "Opened in its window.\n")
    await wait_until(lambda: room.windows() == [True], "another window")
    assert (await room.run("quit"))[0] == 0
    await wait_until(lambda: not room.windows(), "the window to go with the desktop")

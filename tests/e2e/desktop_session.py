"""A desktop session for one test: a virtual X display, a D-Bus session bus and a panel."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol

from tests.e2e.cluster import ChildProcess, Cluster, wait_until

_DISPLAY_NUMBER = re.compile(r"^\d+$", re.MULTILINE)
#: PyGObject of the distribution; virtual environments have none.
_PYGOBJECT = Path("/usr/lib/python3/dist-packages/gi")


class PanelProcess(ProcessProtocol):
    """The panel's process, which writes one line of JSON for each command."""

    def __init__(self) -> None:
        self.pending: list[Deferred[Any]] = []
        self.errors = ""
        self._partial_line = b""
        self.ended: Deferred[None] = Deferred()
        self.transport: Any = None

    def outReceived(self, data: bytes) -> None:
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            self.pending.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def processEnded(self, reason: Any) -> None:
        assert not self.pending or reason.check(ProcessDone), self.errors
        self.ended.callback(None)

    def expect_response(self) -> Deferred[Any]:
        """Return a Deferred that fires with the next line that no other call waits for."""
        self.pending.append(Deferred())
        return self.pending[-1]

    def send_command(self, *words: str) -> Deferred[Any]:
        """Send a command; the Deferred fires with its response."""
        self.transport.write(json.dumps(words).encode() + b"\n")
        return self.expect_response()


class DesktopSession:
    """Display, bus and panel; `tray` starts a tray in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.env: dict[str, str] = {}
        self.panel: PanelProcess | None = None

    async def start(self, panel: bool = True) -> None:
        cluster = self.cluster
        display = cluster.start_process(
            "Xvfb", _which("Xvfb"), "-displayfd", "1", "-screen", "0", "1000x700x24",
            "-nolisten", "tcp",
        )  # fmt: skip
        bus = cluster.start_process(
            "dbus-daemon", _which("dbus-daemon"), "--session", "--nofork", "--print-address=1"
        )
        number = await wait_until(lambda: _DISPLAY_NUMBER.search(display.output), "the X display")
        await wait_until(lambda: "unix:" in bus.output, "the session bus")
        modules = cluster.directory / "modules"
        modules.mkdir(exist_ok=True)
        if _PYGOBJECT.exists() and not (modules / "gi").exists():
            (modules / "gi").symlink_to(_PYGOBJECT)
        self.env = {
            **cluster.environment(),
            "DISPLAY": f":{number[0]}",
            "DBUS_SESSION_BUS_ADDRESS": bus.output.split()[0],
            "PYTHONPATH": str(modules),
            "NO_AT_BRIDGE": "1",
            "XDG_CURRENT_DESKTOP": "test",
        }
        if panel:
            await self.start_panel()

    async def start_panel(self) -> None:
        from twisted.internet import reactor

        self.panel = PanelProcess()
        ready = self.panel.expect_response()
        env = {**self.env, "PYTHONPATH": ""}
        argv = [sys.executable, "-m", "tests.e2e.status_notifier_host"]
        reactor.spawnProcess(self.panel, argv[0], argv, env=env)
        assert await ready == "ready"

    def tray(self, state: Path, *options: str, env: dict[str, str] | None = None) -> ChildProcess:
        return self.cluster.start_process(
            "tray", "ctllm-tray", f"--state-dir={state}", *options, env={**self.env, **(env or {})}
        )

    async def look(self) -> dict[str, Any]:
        """Return what the panel shows: icon, title, menu and notifications."""
        assert self.panel is not None
        return await self.panel.send_command("look")

    async def click(self, *labels: str) -> None:
        """Click the menu entry at the end of `labels`; wait until it exists."""
        assert self.panel is not None

        async def clicked() -> bool:
            assert self.panel is not None
            return await self.panel.send_command("click", *labels) is True

        await wait_until(clicked, f"the menu entry {labels}")

    async def shows(self, words: str, patience: float = 15.0, within: str = "") -> dict[str, Any]:
        """Wait until the icon's title ends with `words` and contains `within`.

        Return what the panel shows then. `patience` is in seconds.
        """
        last: dict[str, Any] = {}

        async def has_title() -> bool:
            nonlocal last
            last = await self.look()
            title = last.get("title", "") if last.get("there") else None
            return title is not None and title.endswith(words) and within in title

        await wait_until(has_title, f"the icon's title to end with {words!r}", patience)
        return last

    async def notified(self, words: str) -> str:
        """Wait for a notification that contains `words`, and return it."""

        async def find() -> str | None:
            texts = [" - ".join(parts) for parts in (await self.look())["notifications"]]
            return next((text for text in texts if words in text), None)

        return await wait_until(find, f"a notification with {words!r}")

    async def close(self) -> None:
        if self.panel is not None:
            self.panel.transport.closeStdin()
            await self.panel.ended


def _which(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed. tests/system lists the packages that the tests need."
    return path


def labels(look: dict[str, Any]) -> list[str]:
    """Return the labels of the menu."""
    return [entry["label"] for entry in look["menu"]]


def entry(look: dict[str, Any], label: str) -> dict[str, Any]:
    """Return the entry of the menu with this label."""
    return next(item for item in look["menu"] if item["label"] == label)

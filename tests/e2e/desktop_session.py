"""A desktop session of a test's own: a screen that nobody sees, a session bus, a panel."""

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

#: Where distributions put PyGObject, which is not made for each virtual environment.
_NUMBER = re.compile(r"^\d+$", re.MULTILINE)
_GI = Path("/usr/lib/python3/dist-packages/gi")


class PanelProcess(ProcessProtocol):
    """The panel's process, which answers line by line."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Any]] = []
        self.errors = ""
        self._part = b""
        self.ended: Deferred[None] = Deferred()
        self.transport: Any = None

    def outReceived(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self.waiting.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def processEnded(self, reason: Any) -> None:
        assert not self.waiting or reason.check(ProcessDone), self.errors
        self.ended.callback(None)

    def heard(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def ask(self, *words: str) -> Deferred[Any]:
        self.transport.write(json.dumps(words).encode() + b"\n")
        return self.heard()


class DesktopSession:
    """Screen, bus and panel; `tray` starts a tray in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.env: dict[str, str] = {}
        self.panel: PanelProcess | None = None

    async def start(self, panel: bool = True) -> None:
        cluster = self.cluster
        screen = cluster.start_process(
            "Xvfb", _found("Xvfb"), "-displayfd", "1", "-screen", "0", "1000x700x24",
            "-nolisten", "tcp",
        )  # fmt: skip
        bus = cluster.start_process(
            "dbus-daemon", _found("dbus-daemon"), "--session", "--nofork", "--print-address=1"
        )
        number = await wait_until(lambda: _NUMBER.search(screen.output), "the screen")
        await wait_until(lambda: "unix:" in bus.output, "the bus")
        modules = cluster.directory / "modules"
        modules.mkdir(exist_ok=True)
        if _GI.exists() and not (modules / "gi").exists():
            (modules / "gi").symlink_to(_GI)
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
        ready = self.panel.heard()
        env = {**self.env, "PYTHONPATH": ""}
        argv = [sys.executable, "-m", "tests.e2e.status_notifier_host"]
        reactor.spawnProcess(self.panel, argv[0], argv, env=env)
        assert await ready == "ready"

    def tray(self, state: Path, *options: str, env: dict[str, str] | None = None) -> ChildProcess:
        return self.cluster.start_process(
            "tray", "ctllm-tray", f"--state-dir={state}", *options, env={**self.env, **(env or {})}
        )

    async def look(self) -> dict[str, Any]:
        assert self.panel is not None
        return await self.panel.ask("look")

    async def click(self, *labels: str) -> None:
        assert self.panel is not None

        async def clicked() -> bool:
            assert self.panel is not None
            return await self.panel.ask("click", *labels) is True

        await wait_until(clicked, f"the entry {labels}")

    async def shows(self, words: str, patience: float = 15.0, within: str = "") -> dict[str, Any]:
        """Wait until the icon's title ends with `words` and has `within`; what is shown then."""
        last: dict[str, Any] = {}

        async def does() -> bool:
            nonlocal last
            last = await self.look()
            title = last.get("title", "") if last.get("there") else None
            return title is not None and title.endswith(words) and within in title

        await wait_until(does, f"the icon to say {words!r}, and not {last}", patience)
        return last

    async def notified(self, words: str) -> str:
        """Wait for a notification with `words`."""

        async def found() -> str | None:
            seen = [" - ".join(each) for each in (await self.look())["notifications"]]
            return next((each for each in seen if words in each), None)

        return await wait_until(found, f"a notification of {words!r}")

    async def close(self) -> None:
        if self.panel is not None:
            self.panel.transport.closeStdin()
            await self.panel.ended


def _found(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is needed: tests/system says what installs it"
    return path


def labels(look: dict[str, Any]) -> list[str]:
    """The labels of a menu."""
    return [entry["label"] for entry in look["menu"]]


def entry(look: dict[str, Any], label: str) -> dict[str, Any]:
    """One entry of a menu."""
    return next(each for each in look["menu"] if each["label"] == label)

"""Many desktops in one process, each with the services of `twistd ctllm desktop`.

`python -m benchmarks.many_desktops FOLDER OLLAMA_PORT URL` takes commands from standard input and
prints events, both as lines of JSON. The commands:

    {"do": "start", "invites": {"USER": "INVITE"}}    an empty invite: the user is logged in already
    {"do": "cut", "users": [USER]}                    reset the connections to the cloud
    {"do": "stop", "users": [USER]}

An event has the number of desktops that are `ready`, that of the process's `timers`, why the other
desktops are not ready (`reasons`, each with the number of desktops), and the users whose desktops
have `stopped` since the last event.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver

from ctllm.config import Desktop, Proxy
from ctllm.desktop.cloud_session import log_in
from ctllm.desktop.service import DesktopService

reactor = cast(Any, _reactor)

#: Seconds between the starts of two desktops. Without it, the TCP backlog would be measured.
START_INTERVAL = 0.05
#: Seconds between two events, at least and at most.
EVENT_INTERVAL, MAX_SILENCE = 0.2, 10.0


class Desktops:
    """The desktops of this process, by user."""

    _log = Logger()

    def __init__(self, folder: Path, ollama_port: str, url: str) -> None:
        self._folder, self._url = folder, url
        self._settings = Desktop(listen="off", ollama_check_interval_seconds=60)
        self._ollama_url = f"http://127.0.0.1:{ollama_port}"
        self._desktops: dict[str, DesktopService] = {}
        self._lock = DeferredLock()
        self._printed, self._print_at = -1, 0.0
        self._stopped: list[str] = []  # since the last event

    def execute(self, line: bytes) -> None:
        """Execute a command after those before it."""
        command = json.loads(line)
        action = getattr(self, f"{command.pop('do')}_command")
        done = self._lock.run(lambda: Deferred.fromCoroutine(action(**command)))
        done.addErrback(lambda reason: self._log.failure("A command failed", reason))

    async def start_command(self, invites: dict[str, str]) -> None:
        """Start the desktops of users; log them in first where there is an invite."""
        for user, invite in invites.items():
            desktop = DesktopService(
                reactor, self._settings, Proxy(), self._folder / user, {}, self._ollama_url
            )
            if invite:
                await log_in(desktop.logins, desktop.client_factory(self._url), invite)
            self._desktops[user] = desktop
            desktop.startService()
            await deferLater(reactor, START_INTERVAL)

    async def cut_command(self, users: list[str]) -> None:
        """Reset the connections of users, as a network that fails does."""
        for user in users:
            bridge = self._desktops[user].bridge
            if bridge is not None:
                bridge.reconnect_now("the benchmark cuts it")

    async def stop_command(self, users: list[str]) -> None:
        """Stop the desktops of users."""
        for user in users:
            await maybeDeferred(self._desktops.pop(user).stopService)
            self._stopped.append(user)

    def print_event(self) -> None:
        """Print an event if something has changed, or the last one was long ago."""
        ready = sum(desktop.is_ready for desktop in self._desktops.values())
        if ready != self._printed or self._stopped or reactor.seconds() > self._print_at:
            self._printed, self._print_at = ready, reactor.seconds() + MAX_SILENCE
            event = {
                "ready": ready, "timers": len(reactor.getDelayedCalls()),
                "reasons": self._reasons(), "stopped": self._stopped,
            }  # fmt: skip
            print(json.dumps(event), flush=True)
            self._stopped = []

    def _reasons(self) -> dict[str, int]:
        """Why desktops are not ready, each with the number of them."""
        return Counter(_reason(each) for each in self._desktops.values() if not each.is_ready)


def _reason(desktop: DesktopService) -> str:
    bridge = desktop.bridge
    states = [
        bridge.state.label if bridge else "not started",
        bridge.reason if bridge else "",
        "" if desktop.keys.is_current else "keys are not current",
        f"model server {desktop.ollama.status.ollama}",
    ]
    return ", ".join(filter(None, states))


class CommandReceiver(LineOnlyReceiver):
    """Receives commands from standard input."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 24

    def __init__(self, desktops: Desktops) -> None:
        self._desktops = desktops

    def lineReceived(self, line: bytes) -> None:
        """Execute a command."""
        self._desktops.execute(line)


async def main(_: Any, folder: str, ollama_port: str, url: str) -> None:
    """Run until the process is terminated."""
    desktops = Desktops(Path(folder), ollama_port, url)
    StandardIO(CommandReceiver(desktops))
    LoopingCall(desktops.print_event).start(EVENT_INTERVAL)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))

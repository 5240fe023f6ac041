"""Many desktops in one process, each with the services of `twistd ctllm desktop`.

`python -m benchmarks.many_desktops FOLDER OLLAMA_PORT URL` reads invites from standard input, one
for each desktop, logs in with them, and prints the number of connected desktops when it changes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater, react

from ctllm.config import Desktop, Proxy
from ctllm.desktop.cloud_session import log_in
from ctllm.desktop.service import DesktopService

#: Seconds between the starts of two desktops. Without it, the TCP backlog would be measured.
START_INTERVAL = 0.05


async def main(_: Any, folder: str, ollama_port: str, url: str) -> None:
    """Run until the process is terminated."""
    desktops = []
    settings = Desktop(
        ollama_host=f"127.0.0.1:{ollama_port}", listen="off", ollama_check_interval_seconds=60
    )
    for number, invite in enumerate(sys.stdin.read().split()):
        desktop = DesktopService(
            cast(Any, reactor), settings, Proxy(), Path(folder) / str(number), {}
        )
        await log_in(desktop.logins, desktop.client_factory(url), invite)
        desktops.append(desktop)
    printed = -1

    def print_connected() -> None:
        nonlocal printed
        connected = sum(desktop.is_ready for desktop in desktops)
        if connected != printed:
            printed = connected
            print(connected, flush=True)

    LoopingCall(print_connected).start(0.2)
    for desktop in desktops:
        desktop.startService()
        await deferLater(reactor, START_INTERVAL)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))

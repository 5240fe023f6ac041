"""Many desktops in one process, each as `twistd ctllm desktop` would be: bridge, sign-in, Ollama.

`python -m benchmarks.desks FOLDER OLLAMA URL` reads invitations from standard input, one for each
desktop, signs in with them, and writes how many are connected whenever that changes.
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

#: Seconds between two desktops' dials: more at once would measure TCP's backlog.
APART = 0.05


async def main(_: Any, folder: str, ollama: str, url: str) -> None:
    """Run until somebody ends the process."""
    desks = []
    settings = Desktop(
        ollama_host=f"127.0.0.1:{ollama}", listen="off", ollama_check_interval_seconds=60
    )
    for number, invite in enumerate(sys.stdin.read().split()):
        desk = DesktopService(cast(Any, reactor), settings, Proxy(), Path(folder) / str(number), {})
        await log_in(desk.file, desk.client_factory(url), invite)
        desks.append(desk)
    said = [-1]

    def say() -> None:
        ready = sum(desk.is_ready for desk in desks)
        if ready != said[0]:
            said[0] = ready
            print(ready, flush=True)

    LoopingCall(say).start(0.2)
    for desk in desks:
        desk.startService()
        await deferLater(reactor, APART)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))

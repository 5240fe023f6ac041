"""The command `ctllm top`: what the streaming proxies of a cloud do, live."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctllm.cli.output import is_stdout_closed, print_json, print_text
from ctllm.cli.parser import Parser
from ctllm.cli.proxies import find_admin_socket, format_duration
from ctllm.cli.reactor_runner import Reactor, run_in_reactor
from ctllm.cli.users import open_cloud_state
from ctllm.config import Config
from ctllm.errors import BadRequest, CtllmError, NotRunning

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ctllm.cli.top_view import CloudUse
    from ctllm.cloud.admin.status import CloudStatus

#: Seconds between two reports, and their bounds.
_INTERVAL, _MIN_INTERVAL, _MAX_INTERVAL = 2.0, 0.5, 3600.0
#: Seconds between the first two reports: before the second there are no rates.
_FIRST_INTERVAL = 1.0


def add_commands(parser: Parser) -> None:
    """Add top."""
    top = parser.add_command(
        "top",
        show_top,
        "Watch the streaming proxies of this server",
        "Show what each user's streaming proxy does: requests, desktops, chunks and bytes of "
        "responses a second, memory, processor time. A chunk is a line or an event: a token, as a "
        "rule. Users are shown as hashes. On a terminal: q quits, < and > select the column by "
        "which rows are sorted, r reverses them, j and k scroll. Else each report is printed.",
        heading="on the server",
        examples=("ctllm top", "ctllm top --sort chunks", "ctllm top --once --json"),
    )
    top.add_argument("--once", action="store_true", help="print one report and exit")
    top.add_argument("--json", action="store_true", help="print each report as a line of JSON")
    top.add_argument(
        "--interval", metavar="SECONDS", type=float, default=_INTERVAL,
        help="time between two reports, over which rates are measured (default: 2)",
    )  # fmt: skip
    top.add_argument(
        "--sort", metavar="COLUMN", default="memory",
        help="proxy, state, age, idle, reqs, desk, chunks, bytes, memory (default) or cpu",
    )  # fmt: skip


def show_top(config: Config, arguments: Namespace) -> None:
    """Show reports of the cloud until somebody quits; with --once, print one."""
    from ctllm.cli.top_view import SORT_KEYS

    if not _MIN_INTERVAL <= arguments.interval <= _MAX_INTERVAL:
        raise BadRequest("--interval must be 0.5 to 3600 seconds")
    if arguments.sort not in SORT_KEYS:
        raise BadRequest(f"--sort must be one of: {', '.join(SORT_KEYS)}")
    open_cloud_state(config)
    path, is_running = find_admin_socket(config)
    is_live = not (arguments.once or arguments.json) and _has_screen()
    if not is_running and not is_live:
        raise NotRunning("No cloud runs with this state directory.")

    async def work(reactor: Reactor) -> None:
        reports = _Reports(reactor, path)
        try:
            if is_live:
                await _Live(reactor, reports, arguments).run()
            else:
                await _print_reports(reactor, reports, arguments)
        finally:
            reports.close()

    run_in_reactor(work)


def _has_screen() -> bool:
    """Return whether standard output is a terminal, and this Python has curses to draw on it."""
    try:
        from ctllm.cli.top_screen import is_screen
    except ImportError:
        return False
    return is_screen(os.environ)


class _Reports:
    """The reports of the cloud whose admin socket is at `path`."""

    def __init__(self, reactor: Reactor, path: Path) -> None:
        from ctllm.cloud.admin.client import AdminClient

        self._client = AdminClient(reactor, str(path))
        self._latest: CloudStatus | None = None

    async def fetch(self) -> CloudUse:
        """Return what the cloud does since the last report; raises CtllmError."""
        from ctllm.cli.top_view import compare

        earlier, self._latest = self._latest, None
        self._latest = await self._client.cloud_status()
        return compare(earlier, self._latest)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


async def _print_reports(reactor: Reactor, reports: _Reports, arguments: Namespace) -> None:
    """Print a report in each interval; with --once, the first one."""
    from ctllm.cli.top_view import View, table
    from ctllm.reactor.deferred_tools import sleep

    await reports.fetch()  # rates need two
    while not is_stdout_closed():
        await sleep(reactor, arguments.interval)
        use = await reports.fetch()
        if arguments.json:
            print_json(_to_json(use))
        else:
            print_text("\n".join(table(use, View(arguments.sort))))
        if arguments.once:
            return
        if not arguments.json:
            print_text()


def _to_json(use: CloudUse) -> dict[str, Any]:
    """Return a report with its time, in seconds since 1970."""
    import msgspec

    return {"time": round(time.time(), 3), **msgspec.to_builtins(use)}


class _Live:
    """The screen, drawn anew with each report and each key."""

    def __init__(self, reactor: Reactor, reports: _Reports, arguments: Namespace) -> None:
        from ctllm.cli.top_screen import Screen
        from ctllm.cli.top_view import View

        self._reactor = reactor
        self._reports = reports
        self._interval = arguments.interval
        self._view = View(arguments.sort)
        self._screen = Screen(reactor, self._key_pressed, self._draw, os.environ)
        self._use: CloudUse | None = None
        self._problem = "Asking the cloud ..."
        self._lost_at: float | None = None
        self._has_quit = False
        self._step: Deferred[None] | None = None

    async def run(self) -> None:
        """Show reports until somebody quits."""
        from twisted.internet.defer import CancelledError, Deferred

        self._screen.open()
        try:
            self._draw()
            interval = min(self._interval, _FIRST_INTERVAL)
            while not self._has_quit:
                self._step = Deferred.fromCoroutine(self._report(interval))
                await self._step
                interval = self._interval
        except CancelledError:
            if not self._has_quit:
                raise
        finally:
            self._screen.close()

    async def _report(self, interval: float) -> None:
        """Show a report, and wait."""
        from ctllm.reactor.deferred_tools import sleep

        try:
            self._use, self._lost_at = await self._reports.fetch(), None
        except CtllmError as error:
            self._cloud_lost(error)
        self._draw()
        await sleep(self._reactor, interval)

    def _cloud_lost(self, error: CtllmError) -> None:
        now = self._reactor.seconds()
        self._lost_at = now if self._lost_at is None else self._lost_at
        self._use = None
        self._problem = (
            f"The cloud has not responded for {format_duration(now - self._lost_at)}. Waiting for "
            f"it (q quits): {error.message}"
        )

    def _key_pressed(self, key: str) -> None:
        if key == "q" and self._step is not None:
            self._has_quit = True
            self._step.cancel()
        else:
            self._view = self._view.pressed(key)
            self._draw()

    def _draw(self) -> None:
        from ctllm.cli.top_view import render

        self._screen.draw(render(self._use, self._problem, self._view, self._screen.height))

"""The command `ctllm proxies`: a table of them, and ending them with progress shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctllm.cli.options import Command
from ctllm.cli.output import print_text, write_styled
from ctllm.cli.reactor_runner import run_in_reactor
from ctllm.cli.users import open_cloud_state
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Config
from ctllm.errors import BadRequest, NotFound

if TYPE_CHECKING:  # commands that need no cloud do not import it
    from ctllm.cloud.admin.client import ProxyAdmin
    from ctllm.cloud.proxies.info import ProxyInfo

_COLUMNS = ("PROXY", "STATE", "AGE", "IDLE", "EXCHANGES", "DESKTOPS", "MEMORY", "CPU")
#: What every id begins with; the rest is the user's hash.
_ID_PREFIX = "ctllm-proxy-"
#: How many are ended at once: Docker does little else meanwhile.
_MAX_CONCURRENT_REMOVALS = 4
#: Seconds between two looks at proxies that are to be empty.
_DRAIN_POLL_INTERVAL = 0.5


def list_proxies(config: Config, _: Command) -> None:
    """Print a table."""

    async def work(admin: ProxyAdmin, _: Any) -> None:
        print_text(format_table(await admin.list_proxies()))

    _with_admin(config, work)


def remove(config: Config, command: Command) -> None:
    """End one, or all."""
    prefix = command.argument.removeprefix(_ID_PREFIX)

    async def work(admin: ProxyAdmin, _: Any) -> None:
        ids = [row.id for row in await admin.list_proxies()]
        if prefix != "all":
            ids = _select(prefix, ids)
        progress, ended = _Progress(), 0

        async def end(id: str) -> None:
            nonlocal ended
            await admin.remove_proxy(id)
            ended += 1
            progress.update(f"{ended} of {len(ids)} ended, the last was {_short_id(id)}")

        await _for_each(end, ids)
        progress.finish(f"{_pluralize(len(ids), 'streaming proxy', 'streaming proxies')} ended.")

    _with_admin(config, work)


def drain(config: Config, command: Command) -> None:
    """End all, each once nothing of it is under way."""

    async def work(admin: ProxyAdmin, reactor: Any) -> None:
        await admin.set_draining(True)
        deadline = reactor.seconds() + command["seconds"]
        ended = interrupted = 0
        progress = _Progress()
        while rows := [row for row in await admin.list_proxies() if row.state != "failed"]:
            is_overdue = reactor.seconds() >= deadline
            ready = [row for row in rows if is_overdue or not row.active_requests]
            await _for_each(lambda row: admin.remove_proxy(row.id), ready)
            ended += len(ready)
            interrupted += sum(bool(row.active_requests) for row in ready)
            busy = len(rows) - len(ready)
            progress.update(f"{ended} ended, {busy} have something under way")
            await _sleep(reactor, _DRAIN_POLL_INTERVAL)
        progress.finish(
            f"{_pluralize(ended, 'streaming proxy', 'streaming proxies')} ended, {interrupted} of them in "
            "the middle of something. A cloud that runs starts none until: ctllm proxies resume"
        )

    _with_admin(config, work)


def resume(config: Config, _: Command) -> None:
    """Have a cloud that was drained start proxies again."""

    async def work(admin: ProxyAdmin, _: Any) -> None:
        await admin.set_draining(False)
        print_text("Streaming proxies are started again, as they are needed.")

    _with_admin(config, work)


# -- what is asked


def _with_admin(config: Config, work: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with the cloud's word, or Docker's where no cloud runs, and the reactor."""
    from ctllm.cloud.admin.api import admin_socket_path, is_listening
    from ctllm.cloud.admin.client import AdminClient

    folder = open_cloud_state(config)
    path = admin_socket_path(Path(config.state_dir))
    try:
        running = is_listening(path)
    except PermissionError:
        raise BadRequest(f"{path}: only root and the cloud's user may ask the cloud") from None

    async def asking(reactor: Any) -> None:
        if running:
            remote = AdminClient(reactor, str(path))
            try:
                await work(remote, reactor)
            finally:
                remote.close()
        else:
            await work(_offline_admin(config, folder, reactor), reactor)

    run_in_reactor(asking)


def _offline_admin(config: Config, folder: Any, reactor: Any) -> Any:
    from ctllm.cloud.admin.client import OfflineAdmin
    from ctllm.cloud.audit import AuditLog
    from ctllm.cloud.identity import load_signing_keys
    from ctllm.cloud.spawners.factory import create_spawner
    from ctllm.cloud.spawners.interfaces import ProxyInstance, no_matter
    from ctllm.cloud.spawners.peer_verification import proxy_endpoint

    state = Path(config.state_dir)
    runtime = create_spawner(reactor, config.cloud, config.proxy, state, load_signing_keys(folder))

    def connect(instance: ProxyInstance) -> Any:
        return proxy_endpoint(reactor, instance, no_matter)

    return OfflineAdmin(runtime, reactor, connect, AuditLog(state))


def _select(prefix: str, ids: Sequence[str]) -> list[str]:
    found = [id for id in ids if _strip_prefix(id).startswith(prefix)]
    if not found:
        raise NotFound(f"no streaming proxy's name begins with {prefix}; ctllm proxies lists them")
    if len(found) > 1:
        names = ", ".join(map(_short_id, found))
        raise BadRequest(f"more than one begins with {prefix}: {names}; give more of the name")
    return found


async def _for_each(do: Callable[[Any], Coroutine[Any, Any, None]], each: Sequence[Any]) -> None:
    """Do it to each; fails as the first that fails."""
    from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults

    turns = DeferredSemaphore(_MAX_CONCURRENT_REMOVALS)
    doing = [turns.run(lambda one: Deferred.fromCoroutine(do(one)), one) for one in each]
    try:
        await gatherResults(doing, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()


async def _sleep(reactor: Any, seconds: float) -> None:
    from ctllm.reactor.deferred_tools import sleep

    await sleep(reactor, seconds)


# -- how it looks


def format_table(rows: Sequence[Any]) -> str:
    """The rows, the longest that runs first, in columns."""
    if not rows:
        return "No streaming proxy runs."
    ordered = sorted(rows, key=lambda row: -row.age)
    cells = [_COLUMNS, *map(_format_row, ordered)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    left = 2  # columns of words; the others are figures
    lines = [
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _format_row(row: ProxyInfo) -> tuple[str, ...]:
    return (
        _short_id(row.id),
        _format_state(row),
        _format_duration(row.age),
        _format_duration(row.idle),
        _format_count(row.active_requests),
        _format_count(row.desktops),
        "-" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
        "-" if row.cpu is None else f"{row.cpu:.1f} s",
    )


def _format_state(row: ProxyInfo) -> str:
    if row.state == "running" and row.active_requests is None:
        return "does not answer"
    return row.state


def _strip_prefix(id: str) -> str:
    return id.removeprefix(_ID_PREFIX)


def _short_id(id: str) -> str:
    return _strip_prefix(id)[:12]


def _format_count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _pluralize(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


class _Progress:
    """On a terminal one line is written over; elsewhere there is a line for each change."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last_message = ""

    def update(self, message: str) -> None:
        """How far it is."""
        if self._is_terminal:
            write_styled(f"\r\x1b[K{sanitize_line(message)}")
        elif message != self._last_message:
            print_text(message)
        self._last_message = message

    def finish(self, message: str) -> None:
        """What came of it."""
        write_styled("\r\x1b[K" if self._is_terminal else "")
        print_text(message)

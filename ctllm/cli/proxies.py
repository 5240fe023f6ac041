"""The command `ctllm proxies`: list, stop and drain the streaming proxies of a cloud."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctllm.cli.output import is_terminal, print_text, write_styled
from ctllm.cli.parser import Parser, parse_count
from ctllm.cli.reactor_runner import Reactor, run_in_reactor
from ctllm.cli.users import open_cloud_state
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Config
from ctllm.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ctllm.cloud.admin.client import OfflineAdmin, ProxyAdmin
    from ctllm.cloud.identity import PrivateDirectory
    from ctllm.cloud.proxies.info import ProxyInfo
    from ctllm.cloud.spawners.interfaces import ProxyInstance
    from ctllm.reactor.interfaces import Endpoint

_T = TypeVar("_T")

_COLUMNS = ("PROXY", "STATE", "AGE", "IDLE", "REQUESTS", "DESKTOPS", "MEMORY", "CPU")
#: How many columns, from the left, are text. The others are numbers.
_TEXT_COLUMNS = 2
#: The prefix of each id. The rest is a hash of the user.
_ID_PREFIX = "ctllm-proxy-"
#: How many proxies are stopped at once. Docker handles few requests meanwhile.
_MAX_CONCURRENT_REMOVALS = 4
#: Seconds between two checks of draining proxies.
_DRAIN_POLL_INTERVAL = 0.5


def add_commands(parser: Parser) -> None:
    """Add proxies with its commands."""
    proxies = parser.add_command(
        "proxies",
        list_proxies,
        "Manage streaming proxies (ls, rm, drain, resume)",
        "Manage the streaming proxies of this server, whether its cloud runs or not. Without a "
        "command, list them. Users are shown as hashes.",
        heading="on the server",
        examples=("ctllm proxies", "ctllm proxies rm 3f9a", "ctllm proxies drain --seconds 60"),
    )
    proxies.enable_commands()
    proxies.add_command(
        "ls", list_proxies, "List them", "List the streaming proxies: state, age, use."
    )
    remove = proxies.add_command(
        "rm",
        remove_proxies,
        "Stop one, or all",
        "Stop the streaming proxy whose name begins with PROXY, or all. Its responses break off. "
        "The user's next request starts a new proxy.",
        examples=("ctllm proxies rm 3f9a", "ctllm proxies rm all"),
    )
    remove.add_argument("proxy", metavar="PROXY", help="the beginning of a name, or all")
    drain = proxies.add_command(
        "drain",
        drain_proxies,
        "Stop all once they are idle",
        "Start no more streaming proxies and stop each that runs once it has no active requests. "
        "The cloud starts none until it restarts or until: ctllm proxies resume",
        examples=("ctllm proxies drain --seconds 60",),
    )
    drain.add_argument(
        "--seconds", type=parse_count, default=300,
        help="stop busy proxies, too, after so many seconds (default: 300)",
    )  # fmt: skip
    proxies.add_command(
        "resume", resume, "Start proxies again after drain", "Start streaming proxies again."
    )


def list_proxies(config: Config, _: Namespace) -> None:
    """Print a table of the proxies."""

    async def work(admin: ProxyAdmin, _: Reactor) -> None:
        print_text(format_table(await admin.list_proxies()))

    _run_with_admin(config, work)


def remove_proxies(config: Config, arguments: Namespace) -> None:
    """Stop one proxy, or all."""
    prefix = arguments.proxy.removeprefix(_ID_PREFIX)

    async def work(admin: ProxyAdmin, _: Reactor) -> None:
        ids = [proxy.id for proxy in await admin.list_proxies()]
        if prefix != "all":
            ids = _select(prefix, ids)
        progress, stopped = _Progress(), 0

        async def stop(proxy_id: str) -> None:
            nonlocal stopped
            await admin.remove_proxy(proxy_id)
            stopped += 1
            progress.update(f"{stopped} of {len(ids)} stopped, last {short_id(proxy_id)}")

        await _for_each(stop, ids)
        progress.finish(f"Stopped {_pluralize(len(ids), 'streaming proxy', 'streaming proxies')}.")

    _run_with_admin(config, work)


def drain_proxies(config: Config, arguments: Namespace) -> None:
    """Stop all proxies, each once it has no active requests."""

    async def work(admin: ProxyAdmin, reactor: Reactor) -> None:
        from ctllm.reactor.deferred_tools import sleep

        await admin.set_draining(True)
        deadline = reactor.seconds() + arguments.seconds
        stopped = interrupted = 0
        progress = _Progress()
        while proxies := [one for one in await admin.list_proxies() if one.state != "failed"]:
            is_overdue = reactor.seconds() >= deadline
            ready = [proxy for proxy in proxies if is_overdue or not proxy.active_requests]
            await _for_each(lambda proxy: admin.remove_proxy(proxy.id), ready)
            stopped += len(ready)
            interrupted += sum(bool(proxy.active_requests) for proxy in ready)
            progress.update(f"{stopped} stopped, {len(proxies) - len(ready)} busy")
            await sleep(reactor, _DRAIN_POLL_INTERVAL)
        count = _pluralize(stopped, "streaming proxy", "streaming proxies")
        progress.finish(
            f"Stopped {count}, {interrupted} with active requests. A running cloud starts no "
            "proxies until: ctllm proxies resume"
        )

    _run_with_admin(config, work)


def resume(config: Config, _: Namespace) -> None:
    """Let a drained cloud start proxies again."""

    async def work(admin: ProxyAdmin, _: Reactor) -> None:
        await admin.set_draining(False)
        print_text("The cloud starts streaming proxies again.")

    _run_with_admin(config, work)


def _run_with_admin(
    config: Config, work: Callable[[ProxyAdmin, Reactor], Coroutine[object, object, None]]
) -> None:
    """Run `work` with the admin API of the running cloud; if none runs, with the spawner itself."""
    from ctllm.cloud.admin.client import AdminClient

    directory = open_cloud_state(config)
    path, is_running = find_admin_socket(config)

    async def work_in_reactor(reactor: Reactor) -> None:
        if not is_running:
            await work(_offline_admin(config, directory, reactor), reactor)
            return
        client = AdminClient(reactor, str(path))
        try:
            await work(client, reactor)
        finally:
            client.close()

    run_in_reactor(work_in_reactor)


def find_admin_socket(config: Config) -> tuple[Path, bool]:
    """Return the path of the admin socket, and whether a cloud listens there; raises BadRequest."""
    from ctllm.cloud.admin.api import admin_socket_path, is_listening

    path = admin_socket_path(Path(config.state_dir))
    try:
        return path, is_listening(path)
    except PermissionError:
        raise BadRequest(f"{path}: only root and the cloud's user may use the admin API") from None


def _offline_admin(config: Config, directory: PrivateDirectory, reactor: Reactor) -> OfflineAdmin:
    from ctllm.cloud.admin.client import OfflineAdmin
    from ctllm.cloud.audit import AuditLog
    from ctllm.cloud.identity import load_signing_keys
    from ctllm.cloud.spawners.factory import create_spawner
    from ctllm.cloud.spawners.peer_verification import proxy_endpoint

    state = Path(config.state_dir)
    keys = load_signing_keys(directory)
    spawner = create_spawner(reactor, config.cloud, config.proxy, state, keys)

    def connect(instance: ProxyInstance) -> Endpoint:
        return proxy_endpoint(reactor, instance, lambda proxy_id, reason: None)

    return OfflineAdmin(spawner, reactor, connect, AuditLog(state))


def _select(prefix: str, ids: Sequence[str]) -> list[str]:
    """Return the one id with this prefix, in a list. Raises NotFound or BadRequest."""
    found = [each for each in ids if _strip_prefix(each).startswith(prefix)]
    if not found:
        raise NotFound(
            f"no streaming proxy has a name that begins with {prefix}; see: ctllm proxies"
        )
    if len(found) > 1:
        names = ", ".join(map(short_id, found))
        raise BadRequest(f"more than one name begins with {prefix}: {names}; write more of it")
    return found


async def _for_each(
    do: Callable[[_T], Coroutine[Deferred[Any], Any, None]], items: Sequence[_T]
) -> None:
    """Run `do` for each item, a few at a time. Raises the first exception."""
    from twisted.internet.defer import DeferredSemaphore, FirstError, gatherResults

    semaphore = DeferredSemaphore(_MAX_CONCURRENT_REMOVALS)
    running = [semaphore.run(do, each) for each in items]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()


def format_table(rows: Sequence[ProxyInfo]) -> str:
    """Return a table of the proxies, the oldest first."""
    if not rows:
        return "No streaming proxy runs."
    ordered = sorted(rows, key=lambda row: -row.age)
    cells = [_COLUMNS, *map(_format_row, ordered)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            text.ljust(width) if column < _TEXT_COLUMNS else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _format_row(row: ProxyInfo) -> tuple[str, ...]:
    return (
        short_id(row.id),
        _format_state(row),
        format_duration(row.age),
        format_duration(row.idle),
        format_count(row.active_requests),
        format_count(row.desktops),
        "-" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
        "-" if row.cpu is None else f"{row.cpu:.1f} s",
    )


def _format_state(row: ProxyInfo) -> str:
    return (
        "not responding"
        if row.state == "running" and row.active_requests is None
        else str(row.state)
    )


def _strip_prefix(proxy_id: str) -> str:
    return proxy_id.removeprefix(_ID_PREFIX)


def short_id(proxy_id: str) -> str:
    """Return the characters of an id that are shown."""
    return _strip_prefix(proxy_id)[:12]


def format_count(value: int | None) -> str:
    """Return a number, or a hyphen if it is not known."""
    return "-" if value is None else str(value)


def format_duration(seconds: float | None) -> str:
    """Return a duration in its largest unit, or a hyphen if it is not known."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _pluralize(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


class _Progress:
    """Shows progress: one line that is overwritten on a terminal, else a line for each change."""

    def __init__(self) -> None:
        self._is_terminal = is_terminal(sys.stdout)
        self._last_message = ""

    def update(self, message: str) -> None:
        """Show how far the command is."""
        if self._is_terminal:
            write_styled(f"\r\x1b[K{sanitize_line(message)}")
        elif message != self._last_message:
            print_text(message)
        self._last_message = message

    def finish(self, message: str) -> None:
        """Replace the progress by the result."""
        write_styled("\r\x1b[K" if self._is_terminal else "")
        print_text(message)

"""The command `ctllm proxies`: a table of them, and ending them with progress shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from ctllm.cli.options import Command
from ctllm.cli.output import say, say_styled
from ctllm.cli.reactor_runner import run
from ctllm.cli.users import cloud_state
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Config
from ctllm.errors import BadRequest, NotFound

_HEAD = ("PROXY", "STATE", "AGE", "IDLE", "EXCHANGES", "DESKTOPS", "MEMORY", "CPU")
#: What every id begins with; the rest is the user's hash.
_PREFIX = "ctllm-proxy-"
#: How many are ended at once: Docker does little else meanwhile.
_FEW = 4
#: Seconds between two looks at proxies that are to be empty.
_OFTEN = 0.5


def show(config: Config, _: Command) -> None:
    """Print a table."""

    async def work(roster: Any, _: Any) -> None:
        say(table(await roster.rows()))

    _with_roster(config, work)


def remove(config: Config, told: Command) -> None:
    """End one, or all."""
    wanted = told.argument.removeprefix(_PREFIX)

    async def work(roster: Any, _: Any) -> None:
        ids = [row.id for row in await roster.rows()]
        if wanted != "all":
            ids = _one(wanted, ids)
        progress, ended = _Progress(), 0

        async def end(id: str) -> None:
            nonlocal ended
            await roster.end(id)
            ended += 1
            progress.say(f"{ended} of {len(ids)} ended, the last was {_short(id)}")

        await _few_at_once(end, ids)
        progress.end(f"{_count(len(ids), 'streaming proxy', 'streaming proxies')} ended.")

    _with_roster(config, work)


def drain(config: Config, told: Command) -> None:
    """End all, each once nothing of it is under way."""

    async def work(roster: Any, reactor: Any) -> None:
        await roster.drain(True)
        last = reactor.seconds() + told["seconds"]
        ended = broken = 0
        progress = _Progress()
        while rows := [row for row in await roster.rows() if row.state != "failed"]:
            late = reactor.seconds() >= last
            ready = [row for row in rows if late or not row.exchanges]
            await _few_at_once(lambda row: roster.end(row.id), ready)
            ended += len(ready)
            broken += sum(bool(row.exchanges) for row in ready)
            busy = len(rows) - len(ready)
            progress.say(f"{ended} ended, {busy} have something under way")
            await _sleep(reactor, _OFTEN)
        progress.end(
            f"{_count(ended, 'streaming proxy', 'streaming proxies')} ended, {broken} of them in "
            "the middle of something. A cloud that runs starts none until: ctllm proxies resume"
        )

    _with_roster(config, work)


def resume(config: Config, _: Command) -> None:
    """Have a cloud that was drained start proxies again."""

    async def work(roster: Any, _: Any) -> None:
        await roster.drain(False)
        say("Streaming proxies are started again, as they are needed.")

    _with_roster(config, work)


# -- what is asked


def _with_roster(config: Config, work: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with the cloud's word, or Docker's where no cloud runs, and the reactor."""
    from ctllm.cloud.admin.api import admin_socket_path, is_listening
    from ctllm.cloud.admin.client import AdminClient

    folder = cloud_state(config)
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
            await work(_local(config, folder, reactor), reactor)

    run(asking)


def _local(config: Config, folder: Any, reactor: Any) -> Any:
    from ctllm.cloud.admin.client import OfflineAdmin
    from ctllm.cloud.audit import AuditLog
    from ctllm.cloud.identity import load_signing_keys
    from ctllm.cloud.spawners.factory import runtime_for
    from ctllm.cloud.spawners.interfaces import Instance, no_matter
    from ctllm.cloud.spawners.peer_verification import endpoint_to

    state = Path(config.state_dir)
    runtime = runtime_for(reactor, config.cloud, config.proxy, state, load_signing_keys(folder))

    def connect(instance: Instance) -> Any:
        return endpoint_to(reactor, instance, no_matter)

    return OfflineAdmin(runtime, reactor, connect, AuditLog(state))


def _one(wanted: str, ids: Sequence[str]) -> list[str]:
    found = [id for id in ids if _whole(id).startswith(wanted)]
    if not found:
        raise NotFound(f"no streaming proxy's name begins with {wanted}; ctllm proxies lists them")
    if len(found) > 1:
        names = ", ".join(map(_short, found))
        raise BadRequest(f"more than one begins with {wanted}: {names}; give more of the name")
    return found


async def _few_at_once(do: Callable[[Any], Coroutine[Any, Any, None]], each: Sequence[Any]) -> None:
    """Do it to each; fails as the first that fails."""
    from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults

    turns = DeferredSemaphore(_FEW)
    doing = [turns.run(lambda one: Deferred.fromCoroutine(do(one)), one) for one in each]
    try:
        await gatherResults(doing, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()


async def _sleep(reactor: Any, seconds: float) -> None:
    from ctllm.reactor.deferred_tools import sleep

    await sleep(reactor, seconds)


# -- how it looks


def table(rows: Sequence[Any]) -> str:
    """The rows, the longest that runs first, in columns."""
    if not rows:
        return "No streaming proxy runs."
    ordered = sorted(rows, key=lambda row: -row.age)
    cells = [_HEAD, *map(_cells, ordered)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    left = 2  # columns of words; the others are figures
    lines = [
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _cells(row: Any) -> tuple[str, ...]:
    return (
        _short(row.id),
        _state(row),
        _time(row.age),
        _time(row.idle),
        _number(row.exchanges),
        _number(row.desktops),
        "-" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
        "-" if row.cpu is None else f"{row.cpu:.1f} s",
    )


def _state(row: Any) -> str:
    return "does not answer" if row.state == "running" and row.exchanges is None else str(row.state)


def _whole(id: str) -> str:
    return id.removeprefix(_PREFIX)


def _short(id: str) -> str:
    return _whole(id)[:12]


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


class _Progress:
    """On a terminal one line is written over; elsewhere there is a line for each change."""

    def __init__(self) -> None:
        self._over = sys.stdout.isatty()
        self._said = ""

    def say(self, said: str) -> None:
        """How far it is."""
        if self._over:
            say_styled(f"\r\x1b[K{sanitize_line(said)}")
        elif said != self._said:
            say(said)
        self._said = said

    def end(self, said: str) -> None:
        """What came of it."""
        say_styled("\r\x1b[K" if self._over else "")
        say(said)

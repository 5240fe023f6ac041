"""The command `ctllm machines`: machines whose `ollama` command may use the models."""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctllm.cli.output import print_error, print_json, print_text
from ctllm.cli.parser import Parser
from ctllm.cli.reactor_runner import Reactor, run_in_reactor
from ctllm.config import Config

if TYPE_CHECKING:
    from ctllm.desktop.cloud_client import CloudClient
    from ctllm.desktop.machines import Machine

_COLUMNS = ("NAME", "SCOPE", "ADDED", "LAST USED", "FROM", "KEY")


def add_commands(parser: Parser) -> None:
    """Add machines with its commands."""
    machines = parser.add_command(
        "machines",
        list_machines,
        "Manage machines with Ollama's own command (ls, rename, rm)",
        "List, rename and remove the machines whose `ollama` command may use your models through "
        "the cloud. To add one, run `ollama signin` there, with OLLAMA_HOST set to the URL of the "
        "cloud and OLLAMA_AUTH=1, and allow it on the page. Without a command, list them.",
        heading="on a desktop",
        examples=("ctllm machines", "ctllm machines rename laptop work", "ctllm machines rm work"),
    )
    machines.enable_commands()
    listing = machines.add_command(
        "ls",
        list_machines,
        "List the machines",
        "List the machines: names, what each may do, when it was last used and from which network, "
        "and the fingerprint of its key. The last use may be ten minutes old.",
        examples=("ctllm machines ls", "ctllm machines ls --json"),
    )
    for each in (machines, listing):
        each.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")
    rename = machines.add_command(
        "rename",
        rename_machine,
        "Rename a machine",
        "Give a machine another name.",
        examples=("ctllm machines rename laptop work",),
    )
    rename.add_argument("name", metavar="NAME", help="the name, or the fingerprint of its key")
    rename.add_argument("new_name", metavar="NEW-NAME", help="the new name")
    remove = machines.add_command(
        "rm",
        remove_machine,
        "Remove a machine",
        "Remove a machine. Its responses in progress end at once.",
        examples=("ctllm machines rm work",),
    )
    remove.add_argument("name", metavar="NAME", help="the name, or the fingerprint of its key")


def list_machines(config: Config, arguments: Namespace) -> None:
    """Print the machines."""

    async def work(client: CloudClient, token: str) -> None:
        machines = await client.list_machines(token)
        if getattr(arguments, "json", False):
            print_json([_to_json(machine) for machine in machines])
        else:
            print_text(format_machines(machines))

    _run_with_token(config, work)


def rename_machine(config: Config, arguments: Namespace) -> None:
    """Rename a machine."""
    from ctllm.desktop.machines import find_machine

    async def work(client: CloudClient, token: str) -> None:
        machine = find_machine(await client.list_machines(token), arguments.name)
        await client.rename_machine(token, machine.id, arguments.new_name)

    _run_with_token(config, work)


def remove_machine(config: Config, arguments: Namespace) -> None:
    """Remove a machine."""
    from ctllm.desktop.machines import find_machine

    async def work(client: CloudClient, token: str) -> None:
        machine = find_machine(await client.list_machines(token), arguments.name)
        await client.remove_machine(token, machine.id)

    _run_with_token(config, work)


def _run_with_token(
    config: Config, work: Callable[[CloudClient, str], Coroutine[object, object, None]]
) -> None:
    """Run `work` in the reactor, with a client of the desktop's cloud and an access token."""
    from ctllm.desktop.cloud_client import CloudClient
    from ctllm.desktop.cloud_session import CloudSession
    from ctllm.desktop.login_store import open_login_store

    async def run(reactor: Reactor) -> None:
        logins = open_login_store(Path(config.state_dir), reactor, print_error)
        session = CloudSession(
            logins, lambda url: CloudClient(url, reactor), reactor, config.desktop.cloud_url
        )
        token = await session.access_token()
        await work(session.client(), token)

    run_in_reactor(run)


def format_machines(machines: Sequence[Machine]) -> str:
    """Return a table of `machines`."""
    if not machines:
        return "There are no machines. To add one, run there: OLLAMA_AUTH=1 ollama signin"
    rows = [_COLUMNS, *(_format_row(machine) for machine in machines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _format_row(machine: Machine) -> tuple[str, ...]:
    return (
        machine.name,
        "manage" if "manage" in machine.scopes else "use",
        _format_time(machine.created),
        _format_time(machine.last_used) if machine.last_used else "never",
        machine.last_address or "-",
        machine.fingerprint,
    )


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _to_json(machine: Machine) -> dict[str, Any]:
    return {
        "name": machine.name,
        "fingerprint": machine.fingerprint,
        "scopes": list(machine.scopes),
        "created": _iso(machine.created),
        "last_used": _iso(machine.last_used),
        "last_address": machine.last_address or None,
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()

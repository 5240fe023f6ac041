"""Commands that control the desktop daemon of this machine through its IPC."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from ctllm.cli.output import (
    is_stdout_closed,
    is_terminal,
    print_error,
    print_json,
    print_text,
    write_styled,
)
from ctllm.cli.parser import Parser, parse_count, parse_seconds
from ctllm.cli.status_view import Style, format_status
from ctllm.common.json_decoder import decode_json
from ctllm.config import Config
from ctllm.errors import BadGateway, BadRequest
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import PolicyName, Status

#: The exit status of `ctllm status`, by state.
_EXIT_STATUSES = {"connected": 0, "degraded": 2, "signed_out": 4, "connecting": 5, "error": 5}
#: Seconds that the daemon has to exit after it closed the connection.
EXIT_TIMEOUT = 10.0
_POLICIES = get_args(PolicyName)
_HEADING = "on a desktop"


def add_commands(parser: Parser) -> None:
    """Add status, show, hide, settings, prefer, quit and logs."""
    status_parser = parser.add_command(
        "status",
        status,
        "Show whether your models can be reached",
        "Show the status of the desktop that runs here. The exit status is 0 when it is connected, "
        "2 when it is but Ollama is down, 3 when no desktop runs, 4 when it is logged out, 5 when "
        "it is not connected, 1 after any other error.",
        heading=_HEADING,
        examples=("ctllm status", "ctllm status --watch", "ctllm status --json"),
    )
    _add_json(status_parser)
    status_parser.add_argument("--watch", action="store_true", help="show each change until Ctrl-C")
    show_parser = parser.add_command(
        "show",
        show,
        "Open the chat page",
        "Open the chat page in its window or your browser, logged in: the cloud's, or that of this "
        "machine where it is not logged in to a cloud or the cloud cannot be reached. Without a "
        "browser, print its address.",
        heading=_HEADING,
        examples=("ctllm show", "ctllm show --local"),
    )
    show_parser.add_argument(
        "--local", action="store_true", help="open the page of this machine, without the cloud"
    )
    _add_json(show_parser)
    for name, handler, summary, description in (
        ("hide", hide, "Hide the window of the chat page", "Hide the window of the chat page, if "
         "it has one."),
        ("settings", settings, "Open the settings", "Open the settings in your browser. Without a "
         "browser, print their address."),
    ):  # fmt: skip
        _add_json(parser.add_command(name, handler, summary, description, heading=_HEADING))
    prefer_parser = parser.add_command(
        "prefer",
        prefer,
        "Set where requests of apps go (auto, local, cloud, never)",
        "Set where requests of this machine's apps go, from now on. auto: to Ollama here; to your "
        "other desktops for models that only they have or while it is down. local: to them only "
        "while it is down. cloud: to them first. never: never to them.",
        heading=_HEADING,
        examples=("ctllm prefer local",),
    )
    prefer_parser.add_argument("where", metavar="WHERE", help="auto, local, cloud or never")
    _add_json(prefer_parser)
    quit_parser = parser.add_command(
        "quit",
        quit,
        "Stop the desktop",
        "Stop the desktop that runs here. It finishes active responses first.",
        heading=_HEADING,
    )
    quit_parser.add_argument(
        "--seconds", type=parse_seconds, default=10.0,
        help="wait at most so many seconds for active responses (default: 10)",
    )  # fmt: skip
    _add_json(quit_parser)
    logs_parser = parser.add_command(
        "logs",
        logs,
        "Show the log",
        "Show the last lines of the log of the desktop that runs here.",
        heading=_HEADING,
        examples=("ctllm logs --follow", "ctllm logs -n 20"),
    )
    logs_parser.add_argument(
        "-f", "--follow", action="store_true", help="show new lines, too, until Ctrl-C"
    )
    logs_parser.add_argument(
        "-n", "--lines", type=parse_count, default=100, help="number of lines (default: 100)"
    )
    _add_json(logs_parser)


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _connect(config: Config) -> IpcClient:
    return IpcClient(Path(config.state_dir))


def _call(
    config: Config,
    arguments: Namespace,
    command: Callable[[IpcClient], Mapping[str, Any]],
    describe: Callable[[Mapping[str, Any]], str],
) -> None:
    """Run one IPC command and print its result."""
    with _connect(config) as daemon:
        result = command(daemon)
    if arguments.json:
        print_json(result)
    else:
        print_text(describe(result))


def status(config: Config, arguments: Namespace) -> None:
    """Print the status; with --watch, each change until Ctrl-C."""
    with _connect(config) as daemon:
        current = daemon.status(subscribe=arguments.watch)
        _print_status(current, arguments)
        if arguments.watch and not is_stdout_closed():
            with suppress(KeyboardInterrupt):
                _watch(daemon, arguments)
            return
    raise SystemExit(_EXIT_STATUSES[current.state])


def _print_status(current: Status, arguments: Namespace) -> None:
    if arguments.json:
        print_json(current)
    else:
        write_styled(format_status(current, Style(sys.stdout)) + "\n")


def _watch(daemon: IpcClient, arguments: Namespace) -> None:
    for event in daemon.events():
        if event.event == "status":
            if not arguments.json:
                write_styled("\x1b[2J\x1b[H\n" if is_terminal(sys.stdout) else "\n")
            _print_status(decode_json(event.data, Status), arguments)
        elif event.event == "quitting":
            print_error("the desktop stopped")
            return
        if is_stdout_closed():
            return


def show(config: Config, arguments: Namespace) -> None:
    """Open the chat page."""
    _call(
        config,
        arguments,
        lambda daemon: daemon.call(protocol.Show, is_local=arguments.local),
        _describe_opened,
    )


def settings(config: Config, arguments: Namespace) -> None:
    """Open the settings."""
    _call(config, arguments, lambda daemon: daemon.call(protocol.Settings), _describe_opened)


def _describe_opened(result: Mapping[str, Any]) -> str:
    if result["opened"]:
        opened = "Opened in its window." if result["window"] else "Opened in your browser."
        return f"{opened} It is the page of this machine." if result.get("local") else opened
    reason = "There is no browser to open. This address works once, for two minutes:"
    if result.get("local"):
        reason = f"{reason[:-1]}, on this machine:"
    return f"{reason}\n{result['address']}"


def hide(config: Config, arguments: Namespace) -> None:
    """Hide the window of the chat page."""
    _call(config, arguments, lambda daemon: daemon.call(protocol.Hide), lambda _: "Hidden.")


def prefer(config: Config, arguments: Namespace) -> None:
    """Set the routing policy."""
    if arguments.where not in _POLICIES:
        raise BadRequest(f"{arguments.where}: must be one of {', '.join(_POLICIES)}")
    _call(
        config,
        arguments,
        lambda daemon: daemon.call(protocol.Prefer, policy=arguments.where),
        lambda result: f"Requests of this machine's apps go: {result['preference']}.",
    )


def quit(config: Config, arguments: Namespace) -> None:
    """Stop the desktop and wait until its process has ended."""
    with _connect(config) as daemon:
        pid = daemon.status().pid
        result = daemon.call(protocol.Quit, seconds=arguments.seconds)
        active = result["under_way"]
        if active and not arguments.json:
            print_text(f"Waiting for {active} active responses ...")
        with suppress(BadGateway):
            for _ in daemon.events():
                pass
    _wait_for_exit(pid)
    if arguments.json:
        print_json(result)
    else:
        print_text("The desktop stopped.")


def _wait_for_exit(pid: int) -> None:
    """Wait for the process, so that a daemon started next does not find it running."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    while sys.platform != "win32" and time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except OSError:
            return
        time.sleep(0.02)


def logs(config: Config, arguments: Namespace) -> None:
    """Print the log; with --follow, new lines until Ctrl-C."""
    with _connect(config) as daemon, suppress(KeyboardInterrupt):
        result = daemon.call(protocol.Logs, lines=arguments.lines, follow=arguments.follow)
        print_line = print_json if arguments.json else print_text
        for line in result["lines"]:
            print_line(line)
        if not arguments.follow:
            return
        for event in daemon.events():
            if event.event == "log":
                print_line(decode_json(event.data, str))
            if is_stdout_closed():
                return

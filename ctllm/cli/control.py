"""Commands that ask the desktop that runs here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from ctllm.cli.options import Command
from ctllm.cli.output import is_stdout_closed, print_error, print_json, print_text, write_styled
from ctllm.cli.status_view import Style, format_status
from ctllm.common.json_decoder import decode_json
from ctllm.config import Config
from ctllm.errors import BadGateway, BadRequest
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import PolicyName, Status

#: By state: the status that `ctllm status` ends with.
_CODES = {"connected": 0, "degraded": 2, "signed_out": 4, "connecting": 5, "error": 5}
#: Seconds that a process may take for its end after it has hung up.
END = 10.0
_PREFERENCES = get_args(PolicyName)


def _daemon(config: Config) -> IpcClient:
    return IpcClient(Path(config.state_dir))


def _do(
    config: Config, told: Command, kind: type[Any], words: Callable[[Any], str], **more: Any
) -> None:
    with _daemon(config) as daemon:
        answer = daemon.call(kind, **more)
    if told["json"]:
        print_json(answer)
    else:
        print_text(words(answer))


def status(config: Config, told: Command) -> None:
    """Say how it is; with --watch, until it ends or Ctrl-C."""
    with _daemon(config) as daemon:
        now = daemon.status(subscribe=bool(told["watch"]))
        _tell(now, told)
        if told["watch"] and not is_stdout_closed():
            with suppress(KeyboardInterrupt):
                _watch(daemon, told)
            return
    raise SystemExit(_CODES[now.state])


def _tell(now: Status, told: Command) -> None:
    if told["json"]:
        print_json(now)
    else:
        write_styled(format_status(now, Style(sys.stdout)) + "\n")


def _watch(daemon: IpcClient, told: Command) -> None:
    for event in daemon.events():
        if event.event == "status":
            if not told["json"]:
                write_styled("\x1b[2J\x1b[H\n" if sys.stdout.isatty() else "\n")
            _tell(decode_json(event.data, Status), told)
        elif event.event == "quitting":
            print_error("the desktop ended")
            return
        if is_stdout_closed():
            return


def show(config: Config, told: Command) -> None:
    """Open the chat page."""
    _do(config, told, protocol.Show, _opened)


def settings(config: Config, told: Command) -> None:
    """Open the settings."""
    _do(config, told, protocol.Settings, _opened)


def _opened(answer: Any) -> str:
    if answer["opened"]:
        return "Opened in its window." if answer["window"] else "Opened in your browser."
    once = "There is no browser to open; this address works once, for two minutes:"
    return f"{once}\n{answer['address']}"


def hide(config: Config, told: Command) -> None:
    """Hide the window."""
    _do(config, told, protocol.Hide, lambda _: "Hidden.")


def prefer(config: Config, told: Command) -> None:
    """Say where requests go."""
    if told.argument not in _PREFERENCES:
        raise BadRequest(f"{told.argument}: must be one of {', '.join(_PREFERENCES)}")
    went = "Requests of this machine's apps go: {preference}."
    _do(
        config,
        told,
        protocol.Prefer,
        lambda answer: went.format(**answer),
        policy=told.argument,
    )


def quit(config: Config, told: Command) -> None:
    """End it, and wait until it has ended."""
    with _daemon(config) as daemon:
        pid = daemon.status().pid
        answer = daemon.call(protocol.Quit, seconds=told["seconds"])
        waits = answer["under_way"]
        if waits and not told["json"]:
            print_text(f"Waiting for {waits} answers under way ...")
        with suppress(BadGateway):
            for _ in daemon.events():
                pass
    _wait_for_end(pid)
    if told["json"]:
        print_json(answer)
    else:
        print_text("The desktop ended.")


def _wait_for_end(pid: int) -> None:
    """What is started after this command must not find the one that ends."""
    until = time.monotonic() + END
    while sys.platform != "win32" and time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except OSError:
            return
        time.sleep(0.02)


def logs(config: Config, told: Command) -> None:
    """Print the log."""
    with _daemon(config) as daemon, suppress(KeyboardInterrupt):
        answer = daemon.call(protocol.Logs, lines=told["lines"], follow=bool(told["follow"]))
        show_line = print_json if told["json"] else print_text
        for line in answer["lines"]:
            show_line(line)
        if not told["follow"]:
            return
        for event in daemon.events():
            if event.event == "log":
                show_line(decode_json(event.data, str))
            if is_stdout_closed():
                return

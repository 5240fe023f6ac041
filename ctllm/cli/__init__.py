"""The command `ctllm`: what a sysadmin does on the server, and sign-in and keys on the desktop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.python import usage

from ctllm.cli import account, autostart, control, firewall, proxies, users
from ctllm.cli.options import Options
from ctllm.cli.output import print_error, tolerate_closed_stdout
from ctllm.common.sanitize import sanitize_text
from ctllm.config import Config, load
from ctllm.errors import CtllmError, NotRunning

#: The status of a command that found no daemon, as for services (LSB, init scripts).
NOT_RUNNING = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; ends with status 1 and a sentence where it cannot."""
    options = Options()  # type: ignore[no-untyped-call]
    with tolerate_closed_stdout():
        try:
            options.parseOptions(sys.argv[1:] if arguments is None else arguments)  # type: ignore[no-untyped-call]
            _run(options)
        except usage.UsageError as error:
            raise _failed(str(error)) from None
        except NotRunning as error:
            print_error(error.message)
            raise SystemExit(NOT_RUNNING) from None
        except CtllmError as error:
            raise _failed(error.message) from None


def _failed(why: str) -> SystemExit:
    """The end with status 1, at which Python prints why."""
    return SystemExit(f"ctllm: {sanitize_text(why)}")


def _run(options: Options) -> None:
    told = options.subOptions
    name = options.subCommand
    if told.subCommand is not None:
        name, told = f"{name} {told.subCommand}", told.subOptions
    overrides = {"state-dir": options["state-dir"]} if options["state-dir"] else {}
    file = Path(options["config"]) if options["config"] else None
    _COMMANDS[str(name)](load(file, overrides, os.environ), told)


_COMMANDS: dict[str, Callable[[Config, Any], None]] = {
    "invite": users.invite,
    "revoke": users.revoke,
    "firewall": firewall.run,
    "proxies ls": proxies.list_proxies,
    "proxies rm": proxies.remove,
    "proxies drain": proxies.drain,
    "proxies resume": proxies.resume,
    "status": control.status,
    "show": control.show,
    "hide": control.hide,
    "settings": control.settings,
    "prefer": control.prefer,
    "quit": control.quit,
    "logs": control.logs,
    "autostart": autostart.run,
    "login": account.login,
    "logout": account.logout,
    "connect": account.connect,
    "keys add": account.add,
    "keys rm": account.remove,
    "keys ls": account.names,
}

"""The command `ctllm`: users and proxies of a cloud, and the desktop of this machine."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ctllm import __version__
from ctllm.cli import (
    account,
    audit,
    autostart,
    control,
    firewall,
    keys,
    machines,
    proxies,
    server,
    top,
    users,
)
from ctllm.cli.output import print_error, tolerate_closed_stdout
from ctllm.cli.parser import Parser, UsageError, format_examples
from ctllm.cli.reactor_runner import INTERRUPTED
from ctllm.common.sanitize import sanitize_text
from ctllm.config import load
from ctllm.errors import CtllmError, NotRunning

#: The exit status when no daemon runs, as for init scripts (LSB).
NOT_RUNNING = 3

_EXAMPLES = (
    "ctllm login                      log in with the link from your sysadmin",
    "ctllm status                     show whether your models can be reached",
    "ctllm connect codex              show how to set up a client",
    "ctllm keys add laptop            create an API key",
    "ctllm COMMAND --help             show the options of a command",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit with status 1 and a message if it fails."""
    with tolerate_closed_stdout():
        try:
            _run(build_parser().parse_args(arguments))
        except UsageError as error:
            raise _failure(str(error)) from None
        except NotRunning as error:
            print_error(error.message)
            raise SystemExit(NOT_RUNNING) from None
        except CtllmError as error:
            raise _failure(error.message) from None
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


def build_parser() -> Parser:
    """Return the parser of `ctllm` with all its commands."""
    parser = Parser(
        prog="ctllm",
        usage="ctllm [--config FILE] [--state-dir DIR] COMMAND ...",
        description="Use the models on your own machine from anywhere. "
        "To start a desktop or a cloud: twistd ctllm --help",
        epilog=format_examples(_EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"ctllm {__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default: ~/.config/ctllm/ctllm.toml, else in /etc)",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="directory for keys and sessions (default: as configured)",
    )
    parser.set_defaults(handler=lambda *_: parser.error("no command given"))
    parser.enable_commands()
    for module in (
        account, keys, machines, control, autostart, users, audit, proxies, top, firewall, server,
    ):  # fmt: skip
        module.add_commands(parser)
    return parser


def _run(arguments: Namespace) -> None:
    overrides = {"state-dir": arguments.state_dir} if arguments.state_dir else {}
    file = Path(arguments.config) if arguments.config else None
    arguments.handler(load(file, overrides, os.environ), arguments)


def _failure(message: str) -> SystemExit:
    """Return the exception that ends the process with status 1 and prints `message`."""
    return SystemExit(f"ctllm: {sanitize_text(message)}")

"""The argument parser of `ctllm`: conventions that its commands share."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ctllm.config import Config
from ctllm.config.fields import suggest
from ctllm.config.renamed import renamed_option

Handler = Callable[[Config, Namespace], None]

_INVALID_CHOICE = re.compile(r"argument COMMAND: invalid choice: '?(.*?)'? \(choose from .*\)")
_MAX_COLUMNS = 100


def parse_count(text: str) -> int:
    """Return the whole number in an argument, which is 0 or more."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 999999999")
    return int(text)


def parse_seconds(text: str) -> float:
    """Return the number of seconds in an argument, which is 0 or more."""
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 999999999")
    return float(text)


class UsageError(Exception):
    """A command line that is wrong. Its text is a sentence for the user."""


class Parser(argparse.ArgumentParser):
    """The parser of `ctllm` or of one of its commands.

    It raises `UsageError` where argparse exits, wraps descriptions, leaves examples as they are
    and lists commands under headings. The common options may stand anywhere.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )
        self.commands: dict[str, Parser] = {}
        #: A name and a line for each command, by heading.
        self.summaries: dict[str, list[tuple[str, str]]] = {}
        #: What the command does, without the lists that its help adds.
        self.purpose = self.description or ""
        self.add_argument("--state", action=_RenamedOption, help=SUPPRESS)

    def enable_commands(self) -> None:
        """Let the parser take commands. Call this before `add_command`."""
        self.usage = self.usage or f"{self.prog} [COMMAND] ..."
        self._subparsers_action = self.add_subparsers(
            parser_class=Parser, metavar="COMMAND", help=SUPPRESS, prog=self.prog
        )

    def add_command(
        self,
        name: str,
        handler: Handler,
        summary: str,
        description: str,
        *,
        heading: str = "commands",
        examples: Sequence[str] = (),
    ) -> Parser:
        """Add a command and return its parser. Its summary is listed under `heading`."""
        parser = self._subparsers_action.add_parser(
            name, description=description, epilog=format_examples(examples)
        )
        parser.set_defaults(handler=handler)
        parser.add_argument("--config", default=SUPPRESS, help=SUPPRESS)
        parser.add_argument("--state-dir", default=SUPPRESS, help=SUPPRESS)
        self.commands[name] = parser
        self.summaries.setdefault(heading, []).append((name, summary))
        return parser

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message and where to find help."""
        if invalid := _INVALID_CHOICE.fullmatch(message):
            message = f"no such command: {invalid[1]}" + suggest(invalid[1], self.commands, "{}")
        raise UsageError(f"{message} (see: {self.prog} --help)")

    def format_help(self) -> str:
        """Return the help: usage, description, commands, options, examples."""
        columns = max(40, min(_MAX_COLUMNS, shutil.get_terminal_size().columns)) - 2
        parts = [textwrap.fill(self.purpose, columns)]
        for heading, entries in self.summaries.items():
            lines = [f"  {name:<12}{summary}" for name, summary in entries]
            parts.append("\n".join([f"{heading}:", *lines]))
        self.description = "\n\n".join(parts)
        return super().format_help()


class _RenamedOption(argparse.Action):
    """Refuses an old option with a message that names the new one."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(renamed_option(self.dest.replace("_", "-")))


def format_examples(examples: Sequence[str]) -> str:
    """Return the section of a help text that has the examples; "" if there are none."""
    return "\n".join(["examples:", *(f"  {each}" for each in examples)]) if examples else ""

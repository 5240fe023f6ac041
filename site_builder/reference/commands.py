"""The reference of the command line, from the parsers of `ctllm` and of `twistd ctllm`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from ctllm.cli import build_parser
from ctllm.cli.parser import Parser
from ctllm.config import OPTIONS
from ctllm.tap_options import Options
from site_builder.reference.configuration import anchor
from site_builder.reference.markdown import block, code, escape, join, table

#: Options of every command, which the first section of the page explains.
_COMMON = frozenset({"--config", "--state-dir", "--help"})


def render_commands() -> str:
    """Return a section for `ctllm` and for each of its commands."""
    return join(*(_render_command(parser) for parser in _walk(build_parser())))


def render_roles() -> str:
    """Return a section for each role of `twistd ctllm`."""
    roles = ((name, level) for name, _, level, _ in Options.subCommands)
    return join(*(_render_role(name, level) for name, level in roles))


def _walk(parser: Parser) -> Iterator[Parser]:
    yield parser
    for command in parser.commands.values():
        yield from _walk(command)


def _render_command(parser: Parser) -> str:
    actions = [each for each in parser._actions if each.help != argparse.SUPPRESS]
    is_top_level = " " not in parser.prog
    options = [
        each
        for each in actions
        if each.option_strings and (is_top_level or not _COMMON & set(each.option_strings))
    ]
    arguments = [each for each in actions if not each.option_strings]
    return join(
        f"## {code(parser.prog)}",
        escape(parser.purpose),
        block(" ".join(parser.format_usage().removeprefix("usage: ").split())),
        _render_subcommands(parser),
        _render_actions("Argument", arguments, parser),
        _render_actions("Option", options, parser),
        block(_dedent(parser.epilog), "sh") if parser.epilog else "",
    )


def _render_subcommands(parser: Parser) -> str:
    parts = []
    for heading, entries in parser.summaries.items():
        rows = [
            (
                f"[{code(parser.commands[name].prog)}](#{_slug(parser.commands[name].prog)})",
                escape(line),
            )
            for name, line in entries
        ]
        parts.append(f"{heading.capitalize()}:\n\n" + table(("Command", "What it does"), rows))
    return join(*parts)


def _render_actions(title: str, actions: Iterable[argparse.Action], parser: Parser) -> str:
    rows = [
        (code(_name(each)), escape((each.help or "") % {**vars(each), "prog": parser.prog}))
        for each in actions
    ]
    return table((title, "What it means"), rows) if rows else ""


def _name(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if action.choices and not action.metavar:
        value = ",".join(map(str, action.choices))
    if not action.option_strings:
        return str(value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _slug(prog: str) -> str:
    return prog.replace(" ", "-")


def _dedent(epilog: str) -> str:
    return "\n".join(line.strip() for line in epilog.splitlines()[1:])


def _render_role(name: str, level: type[Any]) -> str:
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in level.rows():
        option, title, text = str(row[0]), str(getattr(row, "title", "")), str(row[3])
        key = OPTIONS.get(option)
        text = escape(text)
        if key is not None:
            text = f"[{code(key.full_name)}](configuration.md#{anchor(key.full_name)}): {text}"
        groups.setdefault(title, []).append((code(f"--{option}"), text))
    return join(
        f"## {code(f'twistd ctllm {name}')}",
        escape(level.longdesc),
        block("\n".join(level.examples), "sh"),
        *(
            f"{title}:\n\n" + table(("Option", "What it means"), rows)
            for title, rows in groups.items()
        ),
    )

"""Manual pages, from the parsers of the commands and the schema of the configuration.

They are written in the macros of man(7).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ctllm.cli import build_parser
from ctllm.cli.parser import Parser
from ctllm.config import KEYS
from ctllm.tap_options import Options
from ctllm_tray.main import build_parser as build_tray_parser

#: Where the pages lead.
_SEE_ALSO = "ctllm(1), ctllm\\-desktop(1), ctllm\\-tray(1), ctllm\\-cloud(8), ctllm.toml(5)"
_FILES = (
    ("~/.config/ctllm/ctllm.toml, /etc/ctllm/ctllm.toml", "The configuration; see ctllm.toml(5)."),
)


def render_man_pages(version: str, epoch: int) -> Mapping[str, str]:
    """Return the text of each page by its file name. `epoch` is the time of the release."""
    day = datetime.fromtimestamp(epoch, UTC).date().isoformat()
    roles = {name: level for name, _, level, _ in Options.subCommands}
    pages = {
        "ctllm.1": _render_ctllm(build_parser()),
        "ctllm-tray.1": _render_tray(build_tray_parser()),
        "ctllm-desktop.1": _render_role("desktop", roles["desktop"]),
        "ctllm-cloud.8": _render_role("cloud", roles["cloud"]),
        "ctllm.toml.5": _render_configuration(),
    }
    return {
        file: _finish(file, lines, f"{day}", f"ctllm {version}") for file, lines in pages.items()
    }


def _finish(file: str, lines: Iterable[str], day: str, source: str) -> str:
    name, _, section = file.rpartition(".")
    title = f'.TH {escape(name).upper()} {section} "{day}" "{source}"'
    return "\n".join([title, *lines, ".SH SEE ALSO", _SEE_ALSO, ""])


def escape(text: str) -> str:
    """Return text so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _render_ctllm(parser: Parser) -> Iterator[str]:
    yield from _name("ctllm", "control a ctllm desktop or cloud")
    yield from _synopsis(parser)
    yield from (".SH DESCRIPTION", escape(parser.purpose))
    yield from (".SH OPTIONS", *_options(parser))
    for heading, entries in parser.summaries.items():
        yield f".SH COMMANDS: {escape(heading).upper()}"
        for name, _ in entries:
            yield from _render_command(parser.commands[name])
    yield from (".SH EXIT STATUS", "0 if the command has done what it should, 1 if not, and 3 if")
    yield "the desktop or the cloud that it asks is not running. status has others: see its help."
    yield from (".SH FILES", *_entries(_FILES))
    yield from _examples(parser.epilog)


def _render_command(parser: Parser) -> Iterator[str]:
    yield f'.SS "{escape(_usage(parser))}"'
    yield escape(parser.purpose)
    yield from _options(parser)
    for command in parser.commands.values():
        yield from _render_command(command)


def _render_tray(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from _name("ctllm-tray", "show the ctllm desktop in the panel")
    yield from _synopsis(parser)
    yield from (".SH DESCRIPTION", escape(parser.description or ""))
    yield from (".SH OPTIONS", *_options(parser))


def _render_role(name: str, level: type[Any]) -> Iterator[str]:
    yield from _name(f"ctllm-{name}", level.longdesc.partition(":")[2].strip().rstrip("."))
    yield from (".SH SYNOPSIS", f"twistd \\-n ctllm {name} [options]")
    yield from (".SH DESCRIPTION", escape(level.longdesc))
    yield f"The unit of systemd is ctllm\\-{name}.service. The program twistd of this package is in"
    yield f"/usr/lib/ctllm\\-{'server' if name == 'cloud' else 'desktop'}/bin."
    yield from (".SH OPTIONS", *_entries((f"--{row[0]} VALUE", row[3]) for row in level.rows()))
    yield from (".SH EXAMPLES", ".nf", *map(escape, level.examples), ".fi")


def _render_configuration() -> Iterator[str]:
    yield from _name("ctllm.toml", "the configuration of ctllm")
    yield from (".SH DESCRIPTION", "A TOML file. Each key is an option of the command line, too.")
    yield "/etc/ctllm/ctllm.toml, or the example in /usr/share/doc, explains each of them."
    sections = dict.fromkeys(key.section for key in KEYS.values())
    for section in sections:
        yield f".SH {escape(f'[{section}]') if section else 'TOP LEVEL'}"
        yield from _entries(
            (key.name, f"{key.description} Default: {_value(key.default)}.")
            for key in KEYS.values()
            if key.section == section
        )


def _name(name: str, purpose: str) -> Iterator[str]:
    yield from (".SH NAME", f"{escape(name)} \\- {escape(purpose)}")


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (".SH SYNOPSIS", escape(_usage(parser)))


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [each for each in parser._actions if each.help != argparse.SUPPRESS]
    yield from _entries(
        (_option(each), (each.help or "") % {**vars(each), "prog": parser.prog})
        for each in actions
        if each.dest != "help"
    )


def _option(action: argparse.Action) -> str:
    choices = ",".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper())
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}".strip()


def _entries(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in entries:
        yield from (".TP", f"\\fB{escape(name)}\\fR", escape(" ".join(text.split())))


def _examples(epilog: str | None) -> Iterator[str]:
    lines = (epilog or "").splitlines()[1:]
    yield from (".SH EXAMPLES", ".nf", *(escape(line.strip()) for line in lines), ".fi")


def _value(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[" + ", ".join(map(_value, default)) + "]"
    return f'"{default}"' if isinstance(default, str) else str(default)

"""The configuration from a file and the command line; each error says where and what is right.

Precedence: command line, then file, then defaults. A value in the file is judged even where the
command line overrides it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ctllm.config.fields import KEYS, SECTIONS, Key
from ctllm.config.schema import Config
from ctllm.errors import BadConfiguration

_SYSTEM_FILE = "/etc/ctllm/ctllm.toml"


def load(path: Path | None, overrides: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """Read the configuration.

    `path` is the file that somebody named; without one it is `$CTLLM_CONFIG`, else the first
    that exists of `$XDG_CONFIG_HOME/ctllm/ctllm.toml` and `/etc/ctllm/ctllm.toml`, else none.
    `overrides` are options by name (`token_seconds` or `token-seconds`) with their values as
    text. Raises `BadConfiguration`.
    """
    found = path or _find(environ)
    values = dict(_from_file(found)) if found else {}
    values |= _from_options(overrides)
    tree: dict[str, Any] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        section = KEYS[name].section
        (tree[section] if section else tree)[name] = value
    tree["state"] = _state_folder(tree.get("state", ""), environ)
    return msgspec.convert(tree, Config)


def _find(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("CTLLM_CONFIG"):
        return Path(named)
    own = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    candidates = [os.path.join(own, "ctllm", "ctllm.toml"), _SYSTEM_FILE]
    return next((Path(each) for each in candidates if os.path.isfile(each)), None)


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _state_folder(given: str, environ: Mapping[str, str]) -> str:
    """Make the folder absolute: a daemon changes its working folder."""
    if given == "~" or given.startswith("~/"):
        given = _home(environ) + given[1:]
    # systemd may name several folders; the first is ours.
    folder = given or environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not folder:
        own = environ.get("XDG_STATE_HOME") or os.path.join(_home(environ), ".local", "state")
        folder = os.path.join(own, "ctllm")
    return os.path.abspath(folder)


def _from_options(overrides: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, text in overrides.items():
        option = name.replace("_", "-")
        key = KEYS.get(name.replace("-", "_"))
        if key is None:
            close = closest(option, (each.option for each in KEYS.values()), "--{}")
            raise BadConfiguration(f"--{option}: no such option{close}")
        try:
            values[key.name] = key.value_of_text(text)
        except BadConfiguration as error:
            # Whoever wrote a password into a URL shall not find it in a log.
            shown = "…" if "@" in text else text
            raise BadConfiguration(f"--{option}={shown}: {error.message}") from error
    return values


def _from_file(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    for section, name, given in _settings(_parsed(path, text)):
        try:
            yield name, _key(section, name).value(given)
        except BadConfiguration as error:
            where = _line(text, section, name)
            label = f"[{section}] {name}".removeprefix("[] ").rstrip()
            raise BadConfiguration(f"{path}{where}: {label}: {error.message}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise BadConfiguration(f"{path}: there is no such file") from None
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path}: must be text in UTF-8") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        line = re.match(r"line ([0-9]+)", where)
        number = line[1] if line else text.count("\n") + 1
        raise BadConfiguration(f"{path}, line {number}: is not TOML: {what}") from error


def _settings(table: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Flatten a file into (section, name, value); a section that is no section has no name."""
    for name, value in table.items():
        if name in SECTIONS or isinstance(value, dict):
            inside = value if name in SECTIONS and isinstance(value, dict) else {"": value}
            yield from ((name, each, given) for each, given in inside.items())
        else:
            yield "", name, value


def _key(section: str, name: str) -> Key:
    key = KEYS.get(name)
    if key and key.section == section:
        return key
    if not name and section in SECTIONS:
        raise BadConfiguration("must be a section with keys of its own")
    if not name:
        raise BadConfiguration("no such section" + closest(section, SECTIONS, "[{}]"))
    if key:
        raise BadConfiguration(f"belongs {_place(key)}")
    names = [each.name for each in KEYS.values() if each.section == section]
    raise BadConfiguration("no such key" + closest(name, names or KEYS, '"{}"'))


def _place(key: Key) -> str:
    return f"under [{key.section}]" if key.section else "at the top, before the first section"


def closest(name: str, known: Iterable[str], quoted: str) -> str:
    """Give `; did you mean …?` with the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {quoted.format(near[0])}?" if near else ""


def _line(text: str, section: str, name: str) -> str:
    """Give `, line N` where the key stands, or its section's header; else nothing."""
    here = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*\"?([\w-]+)\"?\s*\]", line):
            here = header[1]
            if not name and here == section:
                return f", line {number}"
        elif setting := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            written = re.sub(r"[\"']", "", setting[1])
            full = f"{here}.{written}".lstrip(".")
            if full == f"{section}.{name}".strip("."):
                return f", line {number}"
    return ""

"""Loads the configuration from a file and the command line.

The command line takes precedence over the file, and the file over the defaults. A value in the
file is validated even if an option overrides it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ctllm.config.fields import KEYS, OPTIONS, SECTIONS, TABLES, Key, suggest
from ctllm.config.renamed import renamed_key, renamed_option
from ctllm.config.schema import Config
from ctllm.config.tables import BadTable, read_tables
from ctllm.errors import BadConfiguration

_SYSTEM_FILE = "/etc/ctllm/ctllm.toml"


def load(path: Path | None, overrides: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """Load the configuration.

    Without a `path` the file is `$CTLLM_CONFIG`, else the first that exists of
    `$XDG_CONFIG_HOME/ctllm/ctllm.toml` and `/etc/ctllm/ctllm.toml`, else there is none.
    `overrides` are the values of options as text, by the option's name without its leading
    dashes. Raises BadConfiguration.
    """
    file = path or find_file(environ)
    values = dict(_read_file(file)) if file else {}
    values |= _read_options(overrides)
    tree: dict[str, Any] = {section: {} for section in SECTIONS}
    for full_name, value in values.items():
        section, _, name = full_name.rpartition(".")
        (tree[section] if section else tree)[name] = value
    tree["state_dir"] = _absolute_state_dir(tree.get("state_dir", ""), environ)
    return msgspec.convert(tree, Config)


def find_file(environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file that is read unless one is named; None if there is none."""
    if named := environ.get("CTLLM_CONFIG"):
        return Path(named)
    config_home = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    candidates = [os.path.join(config_home, "ctllm", "ctllm.toml"), _SYSTEM_FILE]
    return next((Path(each) for each in candidates if os.path.isfile(each)), None)


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _absolute_state_dir(given: str, environ: Mapping[str, str]) -> str:
    """Return the state directory as an absolute path: twistd changes the working directory."""
    if given == "~" or given.startswith("~/"):
        given = _home(environ) + given[1:]
    # systemd separates several directories by colons. The first is that of StateDirectory=ctllm.
    directory = given or environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not directory:
        state_home = environ.get("XDG_STATE_HOME")
        state_home = state_home or os.path.join(_home(environ), ".local", "state")
        directory = os.path.join(state_home, "ctllm")
    return os.path.abspath(directory)


def _read_options(overrides: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for option, text in overrides.items():
        if renamed := renamed_option(option):
            raise BadConfiguration(renamed)
        key = OPTIONS.get(option)
        if key is None:
            raise BadConfiguration(f"--{option}: no such option{suggest(option, OPTIONS, '--{}')}")
        try:
            values[key.full_name] = key.convert_text(text)
        except BadConfiguration as error:
            # The value may be a URL with a password, and the message goes to a log.
            shown = "…" if "@" in text else text
            raise BadConfiguration(f"--{option}={shown}: {error.message}") from error
    return values


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
    for section, name, given in _flatten(_parse(path, text)):
        if renamed := renamed_key(name):
            raise BadConfiguration(f"{path}{_line_of(text, section, name)}: {renamed}")
        try:
            if f"{section}.{name}" in TABLES:
                yield f"{section}.{name}", read_tables(f"{section}.{name}", given)
            else:
                key = _key(section, name)
                yield key.full_name, key.convert(given)
        except BadTable as error:
            raise _located(path, text, error.section, error.key, error.message) from error
        except BadConfiguration as error:
            raise _located(path, text, section, name, error.message) from error


def _located(path: Path, text: str, section: str, name: str, message: str) -> BadConfiguration:
    """Return an error that says where; an empty name is the section itself."""
    label = ".".join(filter(None, (section, name))) if name else f"[{section}]"
    return BadConfiguration(f"{path}{_line_of(text, section, name)}: {label}: {message}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise BadConfiguration(f"{path}: no such file") from None
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path}: must be UTF-8 text") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    if not text:
        return {}  # such as /dev/null, which each proxy reads: it does without the parser
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        line = re.match(r"line ([0-9]+)", where)
        number = line[1] if line else text.count("\n") + 1
        raise BadConfiguration(f"{path}, line {number}: invalid TOML: {what}") from error


def _flatten(table: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (section, name, value) of each key; the name is empty for what is no section."""
    for name, value in table.items():
        if name in SECTIONS or isinstance(value, dict):
            inside = value if name in SECTIONS and isinstance(value, dict) else {"": value}
            yield from ((name, each, given) for each, given in inside.items())
        else:
            yield "", name, value


def _key(section: str, name: str) -> Key:
    if key := KEYS.get(f"{section}.{name}".lstrip(".")):
        return key
    if not name and section in SECTIONS:
        raise BadConfiguration("must be a section with keys of its own")
    if not name:
        raise BadConfiguration("no such section" + suggest(section, SECTIONS, "[{}]"))
    homes = [_home_of(key) for key in KEYS.values() if key.name == name]
    if homes:
        raise BadConfiguration(f"belongs {' or '.join(homes)}")
    names = [each.name for each in KEYS.values() if each.section == section]
    names = names or [each.name for each in KEYS.values()]
    raise BadConfiguration("no such key" + suggest(name, names, '"{}"'))


def _home_of(key: Key) -> str:
    return f"under [{key.section}]" if key.section else "at the top, before the first section"


def _line_of(text: str, section: str, name: str) -> str:
    """Return `, line N` for the line of a key or of its section's header; "" if not found."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\"' -]+?)\s*\]", line):
            current = re.sub(r"[\"' ]", "", header[1])
            if not name and current == section:
                return f", line {number}"
        elif setting := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            written = re.sub(r"[\"']", "", setting[1])
            full_name = f"{current}.{written}".lstrip(".")
            if full_name == f"{section}.{name}".strip("."):
                return f", line {number}"
    return ""

"""The command line of `twistd ctllm`: every key of the configuration is an option of its place."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.python import reflect, usage

from ctllm import __version__
from ctllm.config import KEYS, Config, load, ollama_url, public_url
from ctllm.config.loader import closest
from ctllm.errors import BadConfiguration
from ctllm.proxy_args import (
    ProxyPlace,
    read_cloud_key,
    read_host,
    read_id,
    read_port,
    read_socket,
    read_uid,
)

_TITLES = {
    "": "Options",
    "place": "This proxy",
    "cloud": "The cloud",
    "desktop": "The desktop",
    "proxy": "Tunnels and streaming proxies",
}
_NOT_IN_A_TUNNEL = ("memory_bytes", "max_open_files")
_COLUMN = 28  # where the help's texts begin: after the longest option

_Check = Callable[[Config, Mapping[str, str]], object]


class _Row(list[Any]):
    """One parameter as `usage.Options` wants it, with the `title` it is listed under."""

    def __init__(self, title: str, name: str, description: str, coerce: Any = str) -> None:
        super().__init__([name, None, None, description, coerce])
        self.title = title


def _rows(*sections: str, without: Sequence[str] = ()) -> list[_Row]:
    return [
        _Row(_TITLES[key.section], key.option, key.help)
        for section in sections
        for key in KEYS.values()
        if key.section == section and key.name not in without
    ]


class _Level(usage.Options):
    """What the top and each place share: the common options, the help's form, clear errors."""

    synopsis = "[options]"
    longdesc: str
    examples: ClassVar[Sequence[str]]
    checks: ClassVar[Sequence[_Check]] = ()  # what must hold before the place starts
    _failed = False
    optParameters = [
        _Row(
            _TITLES[""],
            "config",
            "The configuration file. Without it: $CTLLM_CONFIG, else ctllm/ctllm.toml in "
            "$XDG_CONFIG_HOME (~/.config), else in /etc.",
            Path,
        ),
        *_rows(""),
    ]

    @classmethod
    def rows(cls) -> list[_Row]:
        """Give the parameters of this level, those of its bases first."""
        found: list[_Row] = []
        reflect.accumulateClassList(cls, "optParameters", found)  # type: ignore[no-untyped-call]
        return found

    def opt_version(self) -> None:
        """Show the version and end."""
        print(f"ctllm {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse; an option or a place that does not exist ends as a sentence with the nearest."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            self._failed = True
            raise usage.UsageError(self._explained(str(error))) from error

    def _explained(self, error: str) -> str:
        if unknown := re.fullmatch(r"option --(\S+) not recognized", error):
            return f"--{unknown[1]}: {self._unknown(unknown[1])}"
        if place := re.fullmatch(r"Unknown command: (.*)", error):
            names = [name for name, *_ in Options.subCommands]
            return f"{place[1]}: no such place" + closest(place[1], names, "{}")
        return error

    def _unknown(self, option: str) -> str:
        levels = [(name, level.rows()) for name, _, level, _ in Options.subCommands]
        places = [name for name, rows in levels if option in (row[0] for row in rows)]
        if places:
            return f"is an option of {', '.join(places)}; write it after the place's name"
        known = [row[0] for row in self.rows()] + [key.option for key in KEYS.values()]
        return "no such option" + closest(option, known, "--{}")

    def given(self) -> dict[str, str]:
        """Give the configuration's keys that stand on this level's command line, as text."""
        keys = (key for key in KEYS.values() if self.get(key.option) is not None)
        return {key.name: self[key.option] for key in keys}

    def getUsage(self, width: int | None = None) -> str:
        """Give the help below the first line: what it is, the options by section, examples."""
        if self._failed:  # twistd shows this above the error: it must not bury it
            words = ("twistd ctllm", self.subCommand, "--help")
            return f"For every option and examples: {' '.join(filter(None, words))}\n"
        columns = width or int(os.environ.get("COLUMNS", "80"))
        groups: dict[str, list[str]] = {}
        for row in self.rows():
            groups.setdefault(row.title, []).append(_entry(f"--{row[0]}=", row[3], columns))
        for name, _, level, _ in getattr(self, "subCommands", ()):
            groups.setdefault("Places", []).append(_entry(name, level.longdesc, columns))
        groups["Examples"] = [f"  {line}" for line in self.examples]
        parts = [f"{title}:\n" + "\n".join(entries) for title, entries in groups.items()]
        return "\n" + "\n\n".join([textwrap.fill(self.longdesc, columns), *parts]) + "\n"


def _entry(name: str, description: str, columns: int) -> str:
    return textwrap.fill(
        description,
        columns,
        initial_indent=f"  {name}".ljust(_COLUMN),
        subsequent_indent=" " * _COLUMN,
        break_on_hyphens=False,
    )


def _has_ollama(config: Config, environ: Mapping[str, str]) -> object:
    return ollama_url(config.desktop.ollama, environ)


def _has_public_url(config: Config, environ: Mapping[str, str]) -> object:
    return public_url(config.cloud.url, config.cloud.listen)


class _Desktop(_Level):
    longdesc = "Beside Ollama: serves the apps on this machine and keeps a tunnel to the cloud."
    optParameters = [*_rows("desktop"), *_rows("proxy", without=_NOT_IN_A_TUNNEL)]
    checks = (_has_ollama,)
    examples = (
        "ctllm login                      asks for the link that ctllm invite printed",
        "twistd -n ctllm desktop",
        "twistd -n ctllm desktop --ollama 192.168.1.20 --desktop-name attic",
    )


class _Cloud(_Level):
    longdesc = "On the server: signs people in and starts a streaming proxy for each of them."
    optParameters = _rows("cloud", "proxy")
    checks = (_has_public_url,)
    examples = (
        "twistd -n ctllm cloud --url https://ctllm.example.org",
        "twistd -n ctllm cloud --listen 0.0.0.0:8434 --metrics off",
        "twistd -n ctllm cloud --config /etc/ctllm/ctllm.toml --max-proxies 500",
    )


class _All(_Level):
    longdesc = "Desktop and cloud in one program: to try it, or for a machine of one's own."
    optParameters = _rows("cloud", "desktop", "proxy")
    checks = (_has_ollama, _has_public_url)
    examples = (
        "twistd -n ctllm",
        "twistd -n ctllm all --listen 127.0.0.1:9000 --demo on",
        "twistd -n ctllm all --ollama :11500 --log-format json",
    )


class _Proxy(_Level):
    longdesc = (
        "Where one user's desktops and clients meet. The cloud starts it; by hand only to look "
        "into something."
    )
    optParameters = [
        _Row(_TITLES["place"], "socket", "The UNIX socket to listen on.", read_socket),
        _Row(_TITLES["place"], "port", "Or the port to listen on.", read_port),
        _Row(
            _TITLES["place"],
            "host",
            "The address that goes with the port (default 127.0.0.1); 0.0.0.0 only in a container.",
            read_host,
        ),
        _Row(_TITLES["place"], "id", "The id that session assertions must name.", read_id),
        _Row(
            _TITLES["place"],
            "cloud-key",
            "The cloud's public key (Ed25519, base64url). Not a secret.",
            read_cloud_key,
        ),
        _Row(
            _TITLES["place"],
            "uid",
            "The user, and group, to become once it listens, as a number; only root can.",
            read_uid,
        ),
        *_rows("proxy"),
    ]
    examples = (
        "twistd -n ctllm proxy --socket /run/ctllm/p.sock --id p --cloud-key KEY",
        "twistd -n ctllm proxy --port 9000 --id p --cloud-key KEY --grace-seconds 60",
    )

    def postOptions(self) -> None:
        if (self["socket"] is None) == (self["port"] is None):
            raise usage.UsageError("a proxy listens on --socket or on --port: give one of them")
        if self["host"] is not None and self["port"] is None:
            raise usage.UsageError("--host goes with --port")
        for name in ("id", "cloud-key"):
            if self[name] is None:
                raise usage.UsageError(f"--{name}: is missing")


class Options(_Level):
    """What `twistd ctllm` was told. After parsing, `place` and `configuration` are known."""

    longdesc = "Your models stay on your machine and you use them from anywhere."
    examples = (
        "twistd -n ctllm                  everything on this machine, to try it",
        "twistd -n ctllm cloud --url https://ctllm.example.org",
        "twistd -n ctllm desktop --help   every option of a place",
    )
    subCommands = [
        ("all", None, _All, _All.longdesc),
        ("desktop", None, _Desktop, _Desktop.longdesc),
        ("cloud", None, _Cloud, _Cloud.longdesc),
        ("proxy", None, _Proxy, _Proxy.longdesc),
    ]
    defaultSubCommand = "all"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._environ = environ
        self._configuration: Config | None = None

    @property
    def place(self) -> str:
        """Which place runs: all, desktop, cloud or proxy."""
        return str(self.subCommand)

    def configuration(self) -> Config:
        """Give the configuration that the file and the command line make; only after parsing."""
        assert self._configuration is not None, "parseOptions comes first"
        return self._configuration

    def proxy_place(self) -> ProxyPlace:
        """Give what the proxy was told; only for the place "proxy"."""
        told = self.subOptions
        return ProxyPlace(
            socket=told["socket"],
            port=told["port"],
            host=told["host"] or "127.0.0.1",
            id=told["id"],
            cloud_key=told["cloud-key"],
            uid=told["uid"],
        )

    def postOptions(self) -> None:
        """Read the configuration, now that all options are known."""
        told = self.subOptions
        self["config"] = told["config"] or self["config"]
        try:
            config = load(self["config"], self.given() | told.given(), self._environ)
            for check in told.checks:
                check(config, self._environ)
        except BadConfiguration as error:
            raise usage.UsageError(error.message) from error
        self._configuration = config

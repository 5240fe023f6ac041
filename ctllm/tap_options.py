"""The command line of `twistd ctllm`: every key of the configuration is an option of its role."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from twisted.python import reflect, usage

from ctllm import __version__
from ctllm.config import KEYS, OPTIONS, Config, load, resolve_ollama_url, resolve_public_url
from ctllm.config.fields import suggest
from ctllm.config.renamed import RENAMED_OPTIONS, renamed_option
from ctllm.errors import BadConfiguration
from ctllm.proxy_args import (
    ProxyArguments,
    read_cloud_key,
    read_host,
    read_id,
    read_port,
    read_socket,
    read_uid,
)

_COMMON = "Options"
_THIS_PROXY = "This proxy"
_TITLES = {
    "": _COMMON,
    "cloud": "The cloud",
    "desktop": "The desktop",
    "proxy": "Tunnels and streaming proxies",
}
_PROCESS_LIMITS = ("max_memory_bytes", "max_open_files")
_HELP_COLUMN = 28

_Check = Callable[[Config, Mapping[str, str]], object]


class _Row(list[Any]):
    """A parameter of `usage.Options`. It is listed under `title` in the help."""

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


def _refuse_renamed(option: str, value: str) -> NoReturn:
    raise usage.UsageError(renamed_option(option))


class _Level(usage.Options):
    """What the top level and each role share: common options, the help's layout, error messages."""

    synopsis = "[options]"
    longdesc: str
    examples: ClassVar[Sequence[str]]
    checks: ClassVar[Sequence[_Check]] = ()  # run on the configuration before the role starts
    _failed = False
    optParameters = [
        _Row(
            _COMMON,
            "config",
            "The configuration file. Default: $CTLLM_CONFIG, else ctllm/ctllm.toml in "
            "$XDG_CONFIG_HOME (~/.config) or /etc.",
            Path,
        ),
        *_rows(""),
        # Without rows of their own, getopt takes `--state` for an abbreviation of `--state-dir`.
        *(_Row("", old, "", partial(_refuse_renamed, old)) for old in RENAMED_OPTIONS),
    ]

    @classmethod
    def rows(cls) -> list[_Row]:
        """Return the parameters of this level that have help, those of its bases first."""
        found: list[_Row] = []
        reflect.accumulateClassList(cls, "optParameters", found)  # type: ignore[no-untyped-call]
        return [row for row in found if row.title]

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"ctllm {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line.

        Raises UsageError, with the most similar name for an unknown option or role.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            self._failed = True
            raise usage.UsageError(self._explain(str(error))) from error

    def _explain(self, error: str) -> str:
        if unknown := re.fullmatch(r"option --(\S+) not recognized", error):
            return f"--{unknown[1]}: {self._explain_unknown(unknown[1])}"
        if role := re.fullmatch(r"Unknown command: (.*)", error):
            names = [name for name, *_ in Options.subCommands]
            return f"{role[1]}: no such role" + suggest(role[1], names, "{}")
        return error

    def _explain_unknown(self, option: str) -> str:
        levels = [(name, level.rows()) for name, _, level, _ in Options.subCommands]
        roles = [name for name, rows in levels if option in (row[0] for row in rows)]
        if roles:
            return f"is an option of {', '.join(roles)}; write it after the role"
        return "no such option" + suggest(
            option, [*(row[0] for row in self.rows()), *OPTIONS], "--{}"
        )

    def given(self) -> dict[str, str]:
        """Return the values of the configuration's options on this level, as text."""
        return {option: self[option] for option in OPTIONS if self.get(option) is not None}

    def getUsage(self, width: int | None = None) -> str:
        """Return the help below its first line: purpose, options by section, examples."""
        if self._failed:  # twistd prints this above the error, which must stay in sight
            words = ("twistd ctllm", self.subCommand, "--help")
            return f"For all options and examples: {' '.join(filter(None, words))}\n"
        columns = width or int(os.environ.get("COLUMNS", "80"))
        groups: dict[str, list[str]] = {}
        for row in self.rows():
            groups.setdefault(row.title, []).append(_entry(f"--{row[0]}=", row[3], columns))
        for name, _, level, _ in getattr(self, "subCommands", ()):
            groups.setdefault("Roles", []).append(_entry(name, level.longdesc, columns))
        groups["Examples"] = [f"  {line}" for line in self.examples]
        parts = [f"{title}:\n" + "\n".join(entries) for title, entries in groups.items()]
        return "\n" + "\n\n".join([textwrap.fill(self.longdesc, columns), *parts]) + "\n"


def _entry(name: str, description: str, columns: int) -> str:
    first = f"  {name}"
    indent = " " * _HELP_COLUMN
    fits = len(first) < _HELP_COLUMN
    text = textwrap.fill(
        description,
        columns,
        initial_indent=first.ljust(_HELP_COLUMN) if fits else indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return text if fits else f"{first}\n{text}"


def _has_ollama(config: Config, environ: Mapping[str, str]) -> object:
    return resolve_ollama_url(config.desktop.ollama_host, environ, config.own_addresses)


def _has_public_url(config: Config, environ: Mapping[str, str]) -> object:
    return resolve_public_url(config.cloud.public_url, config.cloud.listen)


class _Desktop(_Level):
    longdesc = "Beside Ollama: serves apps on this machine and keeps a tunnel to the cloud."
    optParameters = [*_rows("desktop"), *_rows("proxy", without=_PROCESS_LIMITS)]
    checks = (_has_ollama,)
    examples = (
        "ctllm login                      asks for the link that ctllm invite printed",
        "twistd -n ctllm desktop",
        "twistd -n ctllm desktop --ollama-host 192.168.1.20 --desktop-name attic",
    )


class _Cloud(_Level):
    longdesc = "On a server: logs users in and runs a streaming proxy for each of them."
    optParameters = _rows("cloud", "proxy")
    checks = (_has_public_url,)
    examples = (
        "twistd -n ctllm cloud --public-url https://ctllm.example.org",
        "twistd -n ctllm cloud --listen 0.0.0.0:8434 --metrics-listen off",
        "twistd -n ctllm cloud --config /etc/ctllm/ctllm.toml --max-proxies 500",
    )


class _All(_Level):
    longdesc = "Desktop and cloud in one process: to try ctllm, or for a single machine."
    optParameters = _rows("cloud", "desktop", "proxy")
    checks = (_has_ollama, _has_public_url)
    examples = (
        "twistd -n ctllm",
        "twistd -n ctllm all --listen 127.0.0.1:9000 --demo on",
        "twistd -n ctllm all --ollama-host :11500 --log-format json",
    )


class _Proxy(_Level):
    longdesc = (
        "Connects one user's desktops and clients. The cloud starts it; start it by hand only for "
        "debugging."
    )
    optParameters = [
        _Row(_THIS_PROXY, "socket", "The UNIX socket to listen on.", read_socket),
        _Row(_THIS_PROXY, "port", "The port to listen on.", read_port),
        _Row(
            _THIS_PROXY,
            "host",
            "The IPv4 address for --port [default: 127.0.0.1].",
            read_host,
        ),
        _Row(
            _THIS_PROXY,
            "id",
            "The id of this proxy: the audience of its session assertions.",
            read_id,
        ),
        _Row(
            _THIS_PROXY,
            "cloud-key",
            "The cloud's public key (Ed25519, base64url).",
            read_cloud_key,
        ),
        _Row(
            _THIS_PROXY,
            "uid",
            "The user and group id to change to once it listens. Needs root.",
            read_uid,
        ),
        *_rows("proxy"),
    ]
    optFlags = (("waiting", None, "Wait for the cloud to assign this proxy to a user, once."),)
    examples = (
        "twistd -n ctllm proxy --socket /run/ctllm/p.sock --id p --cloud-key KEY",
        "twistd -n ctllm proxy --port 9000 --id p --cloud-key KEY --max-streams 64",
    )

    def postOptions(self) -> None:
        """Check that the options of this proxy are complete. Raises UsageError."""
        if (self["socket"] is None) == (self["port"] is None):
            raise usage.UsageError("give either --socket or --port")
        if self["host"] is not None and self["port"] is None:
            raise usage.UsageError("--host needs --port")
        for name in ("id", "cloud-key"):
            if self[name] is None:
                raise usage.UsageError(f"--{name} is missing")


class Options(_Level):
    """The options of `twistd ctllm`. `role` and `configuration` are known after parsing."""

    longdesc = "Your models stay on your machine and you use them from anywhere."
    examples = (
        "twistd -n ctllm                  desktop and cloud on this machine, to try it",
        "twistd -n ctllm cloud --public-url https://ctllm.example.org",
        "twistd -n ctllm desktop --help   all options of a role",
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
    def role(self) -> str:
        """The role to run: all, desktop, cloud or proxy."""
        return str(self.subCommand)

    def configuration(self) -> Config:
        """Return the configuration. Call this only after parsing."""
        assert self._configuration is not None, "parseOptions comes first"
        return self._configuration

    def proxy_arguments(self) -> ProxyArguments:
        """Return the options of one proxy. Only for the role "proxy"."""
        options = self.subOptions
        return ProxyArguments(
            socket=options["socket"],
            port=options["port"],
            host=options["host"] or "127.0.0.1",
            id=options["id"],
            cloud_key=options["cloud-key"],
            uid=options["uid"],
            is_waiting=bool(options["waiting"]),
        )

    def postOptions(self) -> None:
        """Load the configuration and check it for the role. Raises UsageError."""
        role_options = self.subOptions
        self["config"] = role_options["config"] or self["config"]
        try:
            overrides = self.given() | role_options.given()
            config = load(self["config"], overrides, self._environ)
            for check in role_options.checks:
                check(config, self._environ)
        except BadConfiguration as error:
            raise usage.UsageError(error.message) from error
        self._configuration = config

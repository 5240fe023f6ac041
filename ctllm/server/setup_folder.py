"""Writes the folder of a server, and upgrades it: `ctllm server init`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ctllm.errors import BadRequest
from ctllm.server.deployment import FILE_NAMES, Deployment
from ctllm.server.env_file import default_values, parse_env
from ctllm.server.folder import ServerFolder, open_folder
from ctllm.server.manifest import (
    ENV,
    MANIFEST,
    NEW_SUFFIX,
    FileChange,
    Manifest,
    Plan,
    decode_env,
    decode_manifest,
    plan_changes,
)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(.+)")


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """What a person says of a server. `domain` and `email` are None where they are not said.

    `adopt` allows a folder that has no manifest: each file that differs is kept. `values` are
    those of a new `.env` that were found on this machine.
    """

    domain: str | None = None
    email: str | None = None
    adopt: bool = False
    is_dry_run: bool = False
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetupReport:
    """What was done: the changes, the values of `.env` afterwards, and the version before."""

    changes: tuple[FileChange, ...]
    env: Mapping[str, str]
    earlier_version: str


def parse_domain(text: str) -> str:
    """Return a domain name in lower case; raises BadRequest."""
    domain = text.strip().rstrip(".").lower()
    if not domain.isascii():
        raise BadRequest(f"{text!r} is not ASCII. Write the domain as DNS has it: xn--….")
    if len(domain) > 249 or not _DOMAIN.fullmatch(domain):  # app. makes it longer by four
        raise BadRequest(f"{text!r} is not a domain name like example.org.")
    return domain


def parse_email(text: str) -> str:
    """Return an address of e-mail; raises BadRequest."""
    match = _EMAIL.fullmatch(text.strip())
    if not match:
        raise BadRequest(f"{text!r} is not an address like me@example.org.")
    parse_domain(match[1])
    return match[0]


def set_up_folder(path: Path, deployment: Deployment, options: SetupOptions) -> SetupReport:
    """Write or upgrade the folder at `path`; raises BadRequest and ServiceUnavailable."""
    if not options.domain and not os.path.lexists(path):
        raise _domain_missing()
    with open_folder(path, options.is_dry_run) as folder:
        manifest = _read_manifest(folder, options) if folder else None
        current = _read_files(folder) if folder else {}
        env = parse_env(decode_env(current.get(ENV, b"")))
        plan = plan_changes(deployment, manifest, current, _values(env, options, ENV in current))
        if folder and not options.is_dry_run:
            _write(folder, plan)
    written = {each.name: each.content for each in plan.changes if each.content is not None}
    final = parse_env(decode_env(written.get(ENV) or current[ENV]))
    return SetupReport(plan.changes, final, manifest.ctllm if manifest else "")


def _read_manifest(folder: ServerFolder, options: SetupOptions) -> Manifest | None:
    data = folder.read(MANIFEST)
    if data is not None:
        return decode_manifest(data)
    if (names := folder.names()) and not (options.adopt and "compose.yaml" in names):
        hint = " If it is the folder of a server, use --adopt." if "compose.yaml" in names else ""
        raise BadRequest(
            f"{folder.path} is not empty (it has {min(names)}), and `ctllm server init` did not "
            f"make it. Name a new folder with --folder.{hint}"
        )
    return None


def _read_files(folder: ServerFolder) -> dict[str, bytes]:
    names = (*FILE_NAMES, *(name + NEW_SUFFIX for name in FILE_NAMES), ENV)
    found = {name: folder.read(name) for name in names}
    return {name: content for name, content in found.items() if content is not None}


def _values(env: Mapping[str, str], options: SetupOptions, is_upgrade: bool) -> dict[str, str]:
    """Return the values of a new `.env`; raises BadRequest if they contradict the present one."""
    said = {"DOMAIN": options.domain, "EMAIL": options.email}
    for key, value in said.items():
        if is_upgrade and value is not None and env.get(key) and env[key] != value:
            raise BadRequest(
                f"{ENV} has {key}={env[key]}, not {value}. Change it there: this command "
                "keeps values."
            )
    if not options.domain and not env.get("DOMAIN"):
        raise _domain_missing()
    return {**options.values, **{key: value for key, value in said.items() if value is not None}}


def _domain_missing() -> BadRequest:
    return BadRequest("A new folder needs the domain of the server: --domain example.org")


def _write(folder: ServerFolder, plan: Plan) -> None:
    """Write what changes. The manifest is last: a run that was interrupted can be repeated."""
    contents = {each.target: each.content for each in plan.changes if each.content is not None}
    manifest = msgspec.json.format(msgspec.json.encode(plan.manifest)) + b"\n"
    if folder.read(MANIFEST) != manifest:
        contents[MANIFEST] = manifest
    folder.write(contents)


@dataclass(frozen=True, slots=True)
class FolderState:
    """What the folder of a server has: the values of `.env`, and the files that wait beside others.

    `version` is that of the ctllm that wrote it last, empty if none did.
    """

    env: Mapping[str, str]
    waiting: tuple[str, ...]
    version: str


def read_folder(path: Path) -> FolderState:
    """Read the folder of a server; raises BadRequest if it is none."""
    with open_folder(path, is_dry_run=True) as folder:
        current = _read_files(folder) if folder else {}
        if folder is None or ENV not in current or "compose.yaml" not in current:
            raise BadRequest(
                f"{path} is not the folder of a server. Name that with --folder, or check another "
                "machine: ctllm server check https://app.example.org"
            )
        data = folder.read(MANIFEST)
        waiting = tuple(name for name in sorted(current) if name.endswith(NEW_SUFFIX))
        version = decode_manifest(data).ctllm if data is not None else ""
        return FolderState(parse_env(decode_env(current[ENV])), waiting, version)


def setting(env: Mapping[str, str], template: str, key: str) -> str:
    """Return the value of a key of `.env`, or the default that the template shows."""
    return env.get(key) or default_values(template).get(key, "")

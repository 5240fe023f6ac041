"""The upgrade of a server's folder: what `ctllm server init` does with each file, and why.

A manifest in the folder has the SHA-256 of each file as it was delivered. A file that still has it
is replaced; one that a person has changed is kept, and the new one is written beside it with the
suffix `.new`. So it is with dpkg's configuration files. Nothing here opens a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest
from ctllm.server.deployment import Deployment
from ctllm.server.env_file import (
    fill_template,
    known_keys,
    merge_template,
    parse_env,
    set_value,
)

MANIFEST = ".ctllm-server.json"
ENV = ".env"
#: The suffix of a delivered file beside one that a person has changed.
NEW_SUFFIX = ".new"
FORMAT, VERSION = "ctllm-server-folder", 1
#: The largest file that is compared, in bytes.
MAX_SIZE = 1024 * 1024
_VERSION_KEY = "CTLLM_VERSION"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was delivered: by which version of ctllm, each file's SHA-256, and the keys of .env."""

    format: str = FORMAT
    version: int = VERSION
    ctllm: str
    files: dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]
    env_keys: list[str]


class Action(StrEnum):
    """What happens to a file."""

    WRITTEN = "written"
    REPLACED = "replaced"
    MERGED = "merged"
    KEPT = "kept"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FileChange:
    """What happens to the file `name`, and the content to write, if any.

    Of a file that is kept the content is written to `name` with `NEW_SUFFIX`.
    """

    name: str
    action: Action
    content: bytes | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The name of the file that is written."""
        return self.name + NEW_SUFFIX if self.action is Action.KEPT else self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes of the files, and the manifest afterwards."""

    changes: tuple[FileChange, ...]
    manifest: Manifest


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest; raises BadRequest if it is none of this version of ctllm or before."""
    try:
        manifest = decode_json(data, Manifest, MAX_SIZE)
        if manifest.format != FORMAT:
            raise InvalidJson(f"its format is {manifest.format!r}")
    except InvalidJson as error:
        raise BadRequest(
            f"{MANIFEST} is damaged: {error}. Remove it and run the command with --adopt: then "
            "each file that differs is kept."
        ) from error
    if manifest.version > VERSION:
        raise BadRequest(
            f"{MANIFEST} is of ctllm {manifest.ctllm}, which is newer than this one. Update ctllm."
        )
    return manifest


def plan_changes(
    deployment: Deployment,
    manifest: Manifest | None,
    current: Mapping[str, bytes],
    values: Mapping[str, str],
) -> Plan:
    """Return what happens to each file. `current` has those that exist, by name.

    `values` are those of a new `.env`. Raises BadRequest if a file with the suffix `.new` has
    content that nobody delivered.
    """
    known = manifest.files if manifest else {}
    changes = [_plan_file(name, new, known, current) for name, new in deployment.files.items()]
    changes.append(_plan_env(deployment, manifest, current.get(ENV), values))
    digests = {name: digest(content) for name, content in deployment.files.items()}
    digests |= {
        each.target: digest(each.content)
        for each in changes
        if each.content is not None and each.action is Action.KEPT
    }
    beside = {name: value for name, value in known.items() if name.endswith(NEW_SUFFIX)}
    updated = Manifest(
        ctllm=deployment.version,
        files=dict(sorted({**beside, **digests}.items())),
        env_keys=sorted(known_keys(deployment.env_template)),
    )
    return Plan(tuple(changes), updated)


def _plan_file(
    name: str, new: bytes, known: Mapping[str, str], current: Mapping[str, bytes]
) -> FileChange:
    content, beside = current.get(name), name + NEW_SUFFIX
    if content is None:
        return FileChange(name, Action.WRITTEN, new)
    if content == new:
        return FileChange(name, Action.UNCHANGED)
    if digest(content) == known.get(name):
        return FileChange(name, Action.REPLACED, new)
    if known.get(name) == digest(new):
        waiting = f"; {beside} is still there" if beside in current else ""
        return FileChange(name, Action.KEPT, None, f"you changed it{waiting}")
    _require_delivered(beside, new, known, current)
    note = f"you changed it; the new one is {beside}: compare them and remove it"
    return FileChange(name, Action.KEPT, new, note)


def _require_delivered(
    name: str, new: bytes, known: Mapping[str, str], current: Mapping[str, bytes]
) -> None:
    content = current.get(name)
    if content is not None and content != new and digest(content) != known.get(name):
        raise BadRequest(
            f"{name} is not as it was delivered, and would be replaced. Move it away or remove it."
        )


def _plan_env(
    deployment: Deployment,
    manifest: Manifest | None,
    current: bytes | None,
    values: Mapping[str, str],
) -> FileChange:
    if current is None:
        return FileChange(
            ENV, Action.WRITTEN, fill_template(deployment.env_template, values).encode()
        )
    text = decode_env(current)
    merged = merge_template(text, deployment.env_template, manifest.env_keys if manifest else ())
    notes = [f"new, with their defaults: {', '.join(merged.added)}"] if merged.added else []
    notes += [f"of no use any more: {', '.join(merged.gone)}"] if merged.gone else []
    result = _fill_empty(merged.text, values, notes)
    result = _update_version(result, deployment.version, manifest, notes)
    if result == text:
        return FileChange(ENV, Action.UNCHANGED, note="; ".join(notes))
    return FileChange(ENV, Action.MERGED, result.encode(), "; ".join(notes))


def _fill_empty(text: str, values: Mapping[str, str], notes: list[str]) -> str:
    """Return the text with a value for each key that is set to nothing."""
    for key, value in parse_env(text).items():
        if not value and values.get(key):
            text = set_value(text, key, values[key])
            notes.append(f"{key} is now {values[key]}")
    return text


def _update_version(text: str, version: str, manifest: Manifest | None, notes: list[str]) -> str:
    """Return the text with the new CTLLM_VERSION, unless a person has changed that."""
    found = parse_env(text).get(_VERSION_KEY, "")
    if found == version:
        return text
    if manifest is not None and found == manifest.ctllm:
        notes.append(f"{_VERSION_KEY} {found} is now {version}")
        return set_value(text, _VERSION_KEY, version)
    notes.append(f"{_VERSION_KEY} stays {found or 'without a value'}, this ctllm is {version}")
    return text


def decode_env(content: bytes) -> str:
    """Return the text of `.env`; raises BadRequest."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{ENV} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error

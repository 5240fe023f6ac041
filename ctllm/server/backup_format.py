"""The format of a backup: one tar archive that its first and its last member describe.

    ctllm-backup.json       what this is: the format's name and version
    state/...               the state directory
    config/ctllm.toml       the configuration file, if there is one
    folder/...              the folder of the compose file, if it was named
    ctllm-checksums.json    the SHA-256 of each file, by its name in the archive

Nothing here opens a file.
"""

from __future__ import annotations

import stat
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm.errors import BadRequest

FORMAT = "ctllm-backup"
VERSION = 1
HEADER = "ctllm-backup.json"
CHECKSUMS = "ctllm-checksums.json"
#: The largest of the two, in bytes.
MAX_DESCRIPTION = 64 * 1024 * 1024

STATE, CONFIG, FOLDER = "state", "config", "folder"
CONFIG_MEMBER = f"{CONFIG}/ctllm.toml"

#: What a backup leaves out of the state directory: what each start makes anew, what is short-lived,
#: and what belongs to a process.
EXCLUDED = (
    "run", "sockets", "tray", "tray.lock",
    "cloud/url", "cloud/invites", "cloud/operator.sock",
    "desktop/lock", "desktop/*.lock", "desktop/*.damaged-*", "desktop/ipc.json",
    "desktop/ipc.sock", "desktop/desktop.log*", "desktop/open.html", "desktop/key-usage.json",
    "desktop/preference.json",
)  # fmt: skip

#: What ends access. It is read last: a session that the backup has is revoked in it as well.
READ_LAST = ("cloud/revocations", "cloud/disabled-users", "cloud/key-revocations")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first member. `created` is in seconds since the epoch, `ctllm` the version."""

    format: str
    version: int
    created: float
    ctllm: str


class Checksums(msgspec.Struct, frozen=True, kw_only=True):
    """The last member: the SHA-256 (hexadecimal) of each file."""

    files: dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]


def is_included(path: PurePosixPath) -> bool:
    """Whether a backup has the file or directory at `path` in the state directory."""
    prefixes = [str(each) for each in (path, *path.parents)]
    is_temporary = any(part.startswith(".") for part in path.parts)
    return not is_temporary and not any(
        fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in EXCLUDED
    )


def is_read_last(path: PurePosixPath) -> bool:
    """Whether the file or directory at `path` ends the access of users."""
    return any(path.is_relative_to(each) for each in READ_LAST)


def parse_member_name(name: str) -> tuple[str, PurePosixPath]:
    """Return the part of the backup that a member belongs to, and its path there.

    Raises BadRequest for a name that a backup never has.
    """
    part, _, rest = name.partition("/")
    path = PurePosixPath(rest)
    is_plain = rest == str(path) and not path.is_absolute() and rest.isprintable()
    if part not in (STATE, CONFIG, FOLDER) or not is_plain or {".", ".."} & {*path.parts, rest}:
        raise BadRequest(f"it has a file with the name {name!r}, which no backup has")
    if part == STATE and not is_included(path):
        raise BadRequest(f"it has the file {name!r}, which no backup has")
    if part == CONFIG and name != CONFIG_MEMBER:
        raise BadRequest(f"it has the file {name!r}, which no backup has")
    return part, path


def restored_mode(part: str, mode: int) -> int:
    """Return the mode of a restored file. Nobody but its owner reads the state."""
    allowed = stat.S_IRWXU if part == STATE else 0o755
    return mode & allowed | stat.S_IRUSR

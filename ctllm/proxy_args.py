"""What a streaming proxy is told at its start, and how that is read from the command line.

Each reader raises twisted.python.usage.UsageError, which names the option and what would be right.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from pathlib import Path

from msgspec import Struct
from twisted.python import usage

_SOCKET_PATH_MAX = 107  # bytes: what the kernel takes for a UNIX socket

_NO_USER = 2**32 - 1  # what the kernel takes for "leave it as it is"


class ProxyArguments(Struct, frozen=True, kw_only=True):
    """What one streaming proxy is told at its start: exactly one of `socket` and `port` is set.

    `host` is the address that goes with the port. `cloud_key` is the raw Ed25519 public key
    (32 bytes) that session assertions are signed with. `uid` is the user to become.
    """

    socket: Path | None
    port: int | None
    host: str
    id: str
    cloud_key: bytes
    uid: int | None = None


def read_port(text: str) -> int:
    """A port."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise usage.UsageError(f"--port={text}: must be a whole number from 0 to 65535")
    return int(text)


def read_host(text: str) -> str:
    """An IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise usage.UsageError(f"--host={text}: must be an IPv4 address") from None


def read_socket(text: str) -> Path:
    """The path of a UNIX socket."""
    path = Path(text).absolute()
    if not text or len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise usage.UsageError(f"--socket={text}: must be a path of at most 107 bytes")
    return path


def read_id(text: str) -> str:
    """A proxy's id."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
        raise usage.UsageError(f"--id={text}: must be 1 to 128 letters, digits, dots or dashes")
    return text


def read_uid(text: str) -> int:
    """The number of a user who is not root."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 0 < int(text) < _NO_USER:
        raise usage.UsageError(f"--uid={text}: must be the number of a user other than root")
    return int(text)


def read_cloud_key(text: str) -> bytes:
    """An Ed25519 public key in base64url, as bytes."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", text):
        raise usage.UsageError(
            f"--cloud-key={text}: must be an Ed25519 public key in base64url (43 characters)"
        )
    return base64.urlsafe_b64decode(text.rstrip("=") + "=")

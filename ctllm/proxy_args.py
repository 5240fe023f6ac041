"""The arguments of one streaming proxy, and their conversion from the command line.

Each function raises twisted.python.usage.UsageError with the option and what it must be.
"""

from __future__ import annotations

import base64
import os
import re
import socket
from pathlib import Path

from msgspec import Struct
from twisted.python import usage

#: Maximum length of a UNIX socket's path, in bytes (unix(7)).
_MAX_SOCKET_PATH = 107
#: The user id that setresuid(2) takes for "no change".
_NO_UID = 2**32 - 1


class ProxyArguments(Struct, frozen=True, kw_only=True):
    """The arguments of one streaming proxy. Exactly one of `socket` and `port` is set.

    `host` belongs to the port. `cloud_key` is the Ed25519 public key (32 bytes) that verifies
    session assertions. `uid` is the user to change to once the proxy listens. With `is_waiting`,
    the cloud assigns the proxy to a user later.
    """

    socket: Path | None
    port: int | None
    host: str
    id: str
    cloud_key: bytes
    uid: int | None = None
    is_waiting: bool = False


def read_port(text: str) -> int:
    """Convert --port."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise usage.UsageError(f"--port={text}: must be a whole number from 0 to 65535")
    return int(text)


def read_host(text: str) -> str:
    """Convert --host."""
    try:
        socket.inet_pton(socket.AF_INET, text)  # ipaddress would take 0.2 MB in each proxy
    except (OSError, ValueError):
        raise usage.UsageError(f"--host={text}: must be an IPv4 address") from None
    return text


def read_socket(text: str) -> Path:
    """Convert --socket: an absolute path of a UNIX socket."""
    path = Path(text).absolute()
    if not text or len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise usage.UsageError(f"--socket={text}: must be a path of at most 107 bytes")
    return path


def read_id(text: str) -> str:
    """Convert --id."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
        raise usage.UsageError(f"--id={text}: must be 1 to 128 letters, digits, dots or dashes")
    return text


def read_uid(text: str) -> int:
    """Convert --uid: a user id other than root's."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 0 < int(text) < _NO_UID:
        raise usage.UsageError(f"--uid={text}: must be a user id other than root's")
    return int(text)


def read_cloud_key(text: str) -> bytes:
    """Convert --cloud-key: an Ed25519 public key in base64url."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", text):
        raise usage.UsageError(
            f"--cloud-key={text}: must be an Ed25519 public key in base64url (43 characters)"
        )
    return base64.urlsafe_b64decode(text.rstrip("=") + "=")

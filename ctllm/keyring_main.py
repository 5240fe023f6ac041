"""The process that asks the system's keyring. The desktop and its commands start it.

A keyring may show a dialog and block until somebody answers it, so a process asks it that can be
killed. It reads one request from standard input, a line of JSON, writes one response to standard
output, and exits; also when its input ends, because then nobody waits for it. Secrets are neither
among its arguments nor in its environment.

Only the keyrings below are used, whatever keyring's own configuration says: others may be
unencrypted files, or store nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Literal

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json

#: The keyring of each system (`sys.platform`), as a module and a class.
BACKENDS = {
    "linux": ("keyring.backends.SecretService", "Keyring"),
    "darwin": ("keyring.backends.macOS", "Keyring"),
    "win32": ("keyring.backends.Windows", "WinVaultKeyring"),
}
#: The service to which the secrets belong in the keyring; the name is the user's.
SERVICE = "ctllm"
#: The most bytes of a request.
MAX_REQUEST = 256 * 1024
#: What the Windows Credential Locker stores in one entry, in characters (2560 bytes of UTF-16).
_PART_LENGTH = 1200
_MAX_PARTS = 64


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. Without `may_prompt`, nothing that shows a dialog is done."""

    operation: Literal["check", "get", "set", "delete"]
    name: str = ""
    secret: str = ""
    may_prompt: bool = False

    def __repr__(self) -> str:
        """Tell no secret."""
        return f"Request({self.operation})"


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result: the secret, if there is one, or an error.

    Errors: `locked`, `absent` (there is no keyring), `failed`. `detail` is the kind of the failure;
    never the text of a library, which might have the secret in it.
    """

    secret: str | None = None
    error: Literal["", "locked", "absent", "failed"] = ""
    detail: str = ""

    def __repr__(self) -> str:
        """Tell no secret."""
        return f"Response({self.error or 'ok'})"


class Locked(Exception):
    """The keyring is locked, and nobody unlocked it."""


class Absent(Exception):
    """There is no keyring that may be used."""


def main() -> None:
    """Respond to one request."""
    _forbid_core_dumps()
    line = _read_line()
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        request = decode_json(line, Request)
    except InvalidJson:
        raise SystemExit("The input must be one request as a line of JSON.") from None
    response = respond(request, lambda: open_keyring(sys.platform, request.may_prompt))
    sys.stdout.buffer.write(msgspec.json.encode(response) + b"\n")
    sys.stdout.buffer.flush()
    os._exit(0)  # a thread waits for the end of the input, and the keyring's may wait for more


def _read_line() -> bytes:
    """Return the first line of standard input. Unbuffered, because a thread reads the rest."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_REQUEST:
        more = os.read(0, MAX_REQUEST)
        if not more:
            break
        line += more
    return line


def respond(request: Request, open_keyring: Callable[[], Any]) -> Response:
    """Do what is asked with the keyring that `open_keyring` returns; never raises."""
    try:
        return Response(_perform(request, open_keyring()))
    except Locked:
        return Response(error="locked")
    except Absent as error:
        return Response(error="absent", detail=str(error))
    except Exception as error:
        is_locked = type(error).__name__ in ("KeyringLocked", "PromptDismissedException")
        return Response(error="locked" if is_locked else "failed", detail=type(error).__name__)


def open_keyring(platform: str, may_prompt: bool) -> Any:
    """Return the keyring of this system, unlocked; raises Absent, Locked."""
    module, name = BACKENDS.get(platform, ("", ""))
    if not module:
        raise Absent(f"no keyring is known for {platform}")
    try:
        kind = getattr(importlib.import_module(module), name)
        viable = kind.viable
    except (ImportError, AttributeError, NameError) as error:
        raise Absent(type(error).__name__) from None
    if not viable:
        raise Absent("it is not running")
    keyring = kind()
    if platform == "linux" and not may_prompt:
        _require_unlocked_secret_service(getattr(keyring, "preferred_collection", None))
    return keyring


def _require_unlocked_secret_service(collection: str | None) -> None:
    """Raise Locked where the keyring would show a dialog: to unlock itself, or to be created.

    `collection` is the D-Bus path of the one to use; None: the default one.
    """
    import secretstorage
    from secretstorage.collection import DEFAULT_COLLECTION

    with closing(secretstorage.dbus_init()) as connection:
        try:
            if secretstorage.Collection(connection, collection or DEFAULT_COLLECTION).is_locked():
                raise Locked
        except secretstorage.ItemNotFoundException:
            raise Locked from None


def _perform(request: Request, keyring: Any) -> str | None:
    if request.operation == "get":
        return _get(keyring, request.name)
    if request.operation == "set":
        _set(keyring, request.name, request.secret)
        if _get(keyring, request.name) != request.secret:
            raise Locked  # it said that it was stored, and did not store it
    if request.operation == "delete":
        _delete(keyring, request.name)
    if request.operation == "check" and request.may_prompt:
        _get(keyring, "unlock")  # shows the dialog if it is locked
    return None


def _part_names(name: str) -> list[str]:
    return [name, *(f"{name}-{number}" for number in range(1, _MAX_PARTS))]


def _get(keyring: Any, name: str) -> str | None:
    """Return a secret from its parts; a part of full length has another one after it."""
    found = ""
    for part_name in _part_names(name):
        part: str | None = keyring.get_password(SERVICE, part_name)
        if part is None:
            return None
        found += part
        if len(part) < _PART_LENGTH:
            return found
    return None


def _set(keyring: Any, name: str, secret: str) -> None:
    parts = [
        secret[start : start + _PART_LENGTH] for start in range(0, len(secret) + 1, _PART_LENGTH)
    ]
    if len(parts) > _MAX_PARTS:
        raise OverflowError
    for part_name, part in zip(_part_names(name), parts, strict=False):
        keyring.set_password(SERVICE, part_name, part)


def _delete(keyring: Any, name: str) -> None:
    for part_name in _part_names(name):
        if keyring.get_password(SERVICE, part_name) is None:
            return
        keyring.delete_password(SERVICE, part_name)


def _forbid_core_dumps() -> None:
    """Keep secrets out of core dumps; systemd-coredump obeys this limit, too."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exit_at_end_of_input() -> None:
    """End with whoever asked, even while a dialog blocks the main thread."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

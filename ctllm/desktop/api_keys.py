"""Creation and revocation of API keys. A key is returned once; a record of it is stored."""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec.structs import replace

from ctllm.auth.api_keys import MAX_KEYS, KeyScope, generate_key, record_key
from ctllm.desktop.credential_file import CredentialFile, Credentials, name_key
from ctllm.errors import BadRequest

#: The most characters of a key's name.
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What a new key may do: see `KeyRecord`."""

    scope: KeyScope = "use"
    expires: int | None = None
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0


ANY_USE = KeyOptions()


def create_api_key(
    file: CredentialFile, name: str, now: float, options: KeyOptions = ANY_USE
) -> str:
    """Create an API key and return it; store its record. `now` is in epoch seconds.

    Raises BadRequest for a used or unusable name, for too many keys, and without a login.
    """
    _check_name(name)
    created = ""

    def change(known: Credentials) -> Credentials:
        nonlocal created
        if known.login is None:
            raise BadRequest("This desktop is not logged in. Run `ctllm login`.")
        if known.find_key(name) is not None:
            raise BadRequest(f"There is already an API key called {name!r}.")
        if sum(not key.is_expired(now) for key in known.api_keys) >= MAX_KEYS:
            raise BadRequest(f"A desktop has at most {MAX_KEYS} API keys. Remove one first.")
        created = generate_key(known.login.user_id)
        record = record_key(
            created, options.scope, options.expires, options.models, options.requests_per_minute
        )
        key = name_key(name, record, int(now))
        return replace(known, api_keys=(*known.api_keys, key))

    file.update(change)
    return created


def create_numbered_key(file: CredentialFile, name: str, now: float) -> tuple[str, str]:
    """Create a key called `name`, or `name-2`, `name-3` … if there is one; return name and key.

    Raises BadRequest as `create_api_key` does.
    """
    used = {key.name for key in file.load().api_keys}
    number, free = 1, name
    while free in used:
        number += 1
        free = f"{name}-{number}"
    return free, create_api_key(file, free, now)


def revoke_api_key(file: CredentialFile, name: str) -> None:
    """Delete the API key called `name`; raises BadRequest if there is none."""

    def change(known: Credentials) -> Credentials:
        if known.find_key(name) is None:
            raise BadRequest(f"There is no API key called {name!r}. To list them: ctllm keys ls")
        kept = tuple(key for key in known.api_keys if key.name != name)
        return replace(known, api_keys=kept)

    file.update(change)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\S(?:.*\S)?", name) or not name.isprintable() or len(name) > MAX_NAME:
        raise BadRequest(
            f"The name of an API key has 1 to {MAX_NAME} printable characters, and neither begins "
            "nor ends with a space."
        )

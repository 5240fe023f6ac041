"""The key of the conversations: 32 random bytes in the desktop's store of secrets.

A file beside the conversations names the secret, and recognises the key without disclosing it. No
new key is made while there are files of an old one: they are of use again when their key is.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from twisted.logger import Logger

from ctllm.auth.jws import decode_base64url, encode_base64url
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.conversations.sealed_file import KEY_SIZE, generate_key, key_fingerprint
from ctllm.desktop.secret_store import SecretReference, SecretStores
from ctllm.errors import BadConfiguration, SecretStoreUnavailable
from ctllm.system.atomic_write import write_atomically

#: The most bytes of the file that names the key.
_MAX_SIZE = 4096


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the key is. It has nothing secret."""

    secret: SecretReference
    fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class ConversationKey:
    """The key of the conversations in `directory`, kept in the best of `stores` that is usable."""

    _log = Logger()

    def __init__(self, directory: Path, stores: SecretStores) -> None:
        self._directory = directory
        self._path = directory / "key.json"
        self._stores = stores

    async def load_or_create(self) -> bytes:
        """Return the key.

        Raises SecretStoreUnavailable while its store is locked or absent, or where the key is lost,
        and BadConfiguration if the folder cannot be used. Nothing is changed then.
        """
        known = self._read()
        if known is None:
            return await self._create()
        key = await self._read_key(known)
        if key is None:
            return await self._replace_unused(known)
        if key_fingerprint(key) != known.fingerprint:
            raise SecretStoreUnavailable(
                f"The key of the conversations in {self._directory} is another one "
                f"{self._stores.by_name(known.secret.store).description}. Restore the key, or move "
                "that folder away."
            )
        await self._move_to_better_store(known, key)
        return key

    def _read(self) -> _KeyFile | None:
        try:
            with self._path.open("rb") as file:
                return decode_json(file.read(_MAX_SIZE), _KeyFile)
        except FileNotFoundError:
            if self._has_files():
                raise self._lost(f"{self._path} is missing") from None
            return None
        except InvalidJson:
            raise self._lost(f"{self._path} is damaged") from None
        except OSError as error:
            raise BadConfiguration(f"Cannot read {self._path}: {error.strerror}.") from error

    def _has_files(self) -> bool:
        """Whether anything was encrypted with a key."""
        return self._directory.exists() and any(self._directory.iterdir())

    async def _read_key(self, known: _KeyFile) -> bytes | None:
        """Return the key, or None if the store does not have it (any more)."""
        encoded = await self._stores.by_name(known.secret.store).get(known.secret.name)
        if encoded is None:
            return None
        try:
            key = decode_base64url(encoded)
        except ValueError:
            key = b""
        if len(key) != KEY_SIZE:
            where = self._stores.by_name(known.secret.store).description
            raise SecretStoreUnavailable(
                f"The secret {known.secret.name} {where} is no key of conversations. Restore it."
            )
        return key

    async def _replace_unused(self, known: _KeyFile) -> bytes:
        """Make another key where a crash came between the file and the key; else it is lost."""
        others = [path for path in self._directory.iterdir() if path != self._path]
        if others:
            where = self._stores.by_name(known.secret.store).description
            raise self._lost(f"it is missing {where}")
        return await self._create()

    async def _create(self) -> bytes:
        key = generate_key()
        store = await self._stores.choose()
        await self._store(key, store.name)
        return key

    async def _store(self, key: bytes, store: str) -> None:
        """Name the key before it is stored, so that no crash leaves a secret without a name."""
        secret = SecretReference(store, secrets.token_hex(16))
        self._save(_KeyFile(secret, key_fingerprint(key)))
        await self._stores.by_name(store).set(secret.name, encode_base64url(key))

    def _save(self, content: _KeyFile) -> None:
        write_atomically(self._path, msgspec.json.encode(content))

    async def _move_to_better_store(self, known: _KeyFile, key: bytes) -> None:
        """Move the key, as the tokens move when a keyring is there, or the setting changed."""
        try:
            best = await self._stores.choose()
            if not self._stores.prefers(best.name, known.secret.store):
                return
            moved = SecretReference(best.name, secrets.token_hex(16))
            await best.set(moved.name, encode_base64url(key))
            self._save(_KeyFile(moved, known.fingerprint))
            await self._stores.by_name(known.secret.store).delete(known.secret.name)
        except (SecretStoreUnavailable, BadConfiguration) as error:
            self._log.info("Cannot move the key of the conversations: {why}", why=error.message)
        else:
            self._log.info("The key of the conversations is now {where}", where=best.description)

    def _lost(self, what: str) -> SecretStoreUnavailable:
        return SecretStoreUnavailable(
            f"The conversations in {self._directory} cannot be read: their key is lost, as {what}. "
            "Restore it from a backup. To begin without them, move that folder away."
        )

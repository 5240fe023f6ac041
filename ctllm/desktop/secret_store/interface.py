"""What every store of secrets does."""

from __future__ import annotations

from typing import Protocol

import msgspec


class SecretReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is: the name of a store, and the secret's name there. It is no secret."""

    store: str
    name: str


class SecretStore(Protocol):
    """Named secrets. Every method raises SecretStoreUnavailable, and tells no secret in it.

    A store is asked while nobody waits for a person, unless `may_prompt` is set: only then may it
    show a dialog of the system, such as that which unlocks a keyring.
    """

    @property
    def name(self) -> str:
        """The name of the store in the configuration and in references."""

    @property
    def description(self) -> str:
        """Where the secrets are and what protects them, for people: ends a sentence."""

    async def check(self, *, may_prompt: bool = False) -> None:
        """Raise SecretStoreUnavailable if a secret could not be stored now."""

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        """Return the secret called `name`, or None if the store has none."""

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        """Store a secret; it can be read again once this returns."""

    async def delete(self, name: str) -> None:
        """Delete the secret called `name`, if there is one."""

"""The stores of a desktop, and the one where new secrets go."""

from __future__ import annotations

from collections.abc import Sequence

from ctllm.desktop.secret_store.interface import SecretStore
from ctllm.errors import SecretStoreUnavailable


class SecretStores:
    """Stores by their names. `preferred` are those for new secrets, the best one first."""

    def __init__(self, stores: Sequence[SecretStore], preferred: Sequence[str]) -> None:
        self._stores = {store.name: store for store in stores}
        self._preferred = tuple(preferred)

    def by_name(self, name: str) -> SecretStore:
        """Return the store called `name`; raises SecretStoreUnavailable if there is none."""
        if name not in self._stores:
            raise SecretStoreUnavailable(
                f"The tokens of this desktop are in the store {name!r}, which this ctllm does not "
                "know. Run `ctllm login`, or use the version that stored them."
            )
        return self._stores[name]

    async def choose(self) -> SecretStore:
        """Return the store for a new secret: the first that needs no person to store it now.

        Raises the SecretStoreUnavailable of the last one if there is none.
        """
        failure: SecretStoreUnavailable | None = None
        for name in self._preferred:
            store = self.by_name(name)
            try:
                await store.check()
            except SecretStoreUnavailable as error:
                failure = error
            else:
                return store
        raise failure or SecretStoreUnavailable("No store of secrets is configured.")

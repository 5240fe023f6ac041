"""The stores of a desktop, and the one where new secrets go."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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

    @property
    def first_choice(self) -> str:
        """The name of the store that is used where it can be."""
        return self._preferred[0]

    def prefers(self, one: str, another: str) -> bool:
        """Whether secrets in the store `another` should move to the store `one`."""
        return self._rank(one) < self._rank(another)

    def _rank(self, name: str) -> int:
        return self._preferred.index(name) if name in self._preferred else len(self._preferred)

    async def choose(
        self,
        hint: str = "",
        *,
        may_prompt: bool = False,
        at_least: str = "",
        without: Collection[str] = (),
    ) -> SecretStore:
        """Return the store for a new secret: the first that can store it now.

        `hint` is the one that the daemon chose: it may reach fewer stores than a command does.
        `at_least` excludes those that are worse than this one. Those in `without` have failed.
        Where there is a choice, a store that needs a person is not chosen. Raises the
        SecretStoreUnavailable of the last one if there is none.
        """
        may_prompt = may_prompt and len(self._preferred) == 1
        failure: SecretStoreUnavailable | None = None
        worst = self._rank(at_least)
        names = [name for name in self._preferred[: worst + 1] if name not in without]
        for name in sorted(names, key=lambda name: name != hint):
            store = self.by_name(name)
            try:
                await store.check(may_prompt=may_prompt)
            except SecretStoreUnavailable as error:
                failure = error
            else:
                return store
        raise failure or SecretStoreUnavailable("No store of secrets is configured.")

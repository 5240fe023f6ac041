"""The desktop's login with its tokens: the credentials file, and the secrets that it names.

Each change of the tokens is stored under a new name, and takes effect when the credentials file,
replaced atomically, names it. So a crash leaves the old tokens or the new ones, never a mixture;
other processes notice the change by the file's version, without asking a keyring; and moving the
tokens to another store is a change like any other. Names that are not in use are in the file from
before they are stored until they are deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.secret_store import PlainFileStore, SecretReference, SecretStores
from ctllm.desktop.secret_store.exclusive import LOCK_TIMEOUT, exclusive
from ctllm.desktop.secret_store.plain_file import PLAIN_FILE
from ctllm.errors import SecretStoreUnavailable, Unauthorized
from ctllm.reactor.interfaces import Clock

#: The most names of secrets that wait for their deletion: a store may be locked for long.
MAX_UNUSED = 32
#: Seconds for which a store that could not be read is not asked again, unless by a person.
RETRY_INTERVAL = 10.0
#: How often the tokens are read again where another process changes them meanwhile.
_READ_ATTEMPTS = 5


def open_login_store(
    state_dir: Path,
    clock: Clock,
    on_damage: Callable[[str], None] | None = None,
    stores: SecretStores | None = None,
) -> LoginStore:
    """Return the login in the folder `state_dir`; `on_damage` is told of damaged files.

    Without `stores`, the tokens are in the plain file.
    """
    stores = stores or SecretStores([PlainFileStore(state_dir, on_damage)], [PLAIN_FILE])
    return LoginStore(CredentialFile(state_dir, on_damage), stores, clock)


class LoginStore:
    """The login in `file`, whose tokens are in one of `stores`."""

    _log = Logger()

    def __init__(
        self,
        file: CredentialFile,
        stores: SecretStores,
        clock: Clock,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        retry_interval: float = RETRY_INTERVAL,
    ) -> None:
        self.file = file
        self._stores = stores
        self._clock = clock
        self._lock_timeout = lock_timeout
        self._retry_interval = retry_interval
        self._known: tuple[SecretReference, LoginSecrets] | None = None
        self._failure: tuple[SecretReference, SecretStoreUnavailable, float] | None = None
        self._reading = DeferredLock()

    async def load(self, *, may_prompt: bool = False) -> tuple[Login, LoginSecrets]:
        """Return the login with its tokens; they are read once, until somebody changes them.

        Raises Unauthorized without a login or tokens, SecretStoreUnavailable while the store
        cannot be read, BadConfiguration.
        """
        for _ in range(_READ_ATTEMPTS):
            credentials = self.file.load()
            login, reference = credentials.login, credentials.secret
            if login is None:
                raise Unauthorized("This desktop is not logged in. Run `ctllm login`.")
            found = None if reference is None else await self._read_one(reference, may_prompt)
            if found is not None:
                return login, found
            if self.file.load().secret == reference:
                break
        raise Unauthorized(self._missing(reference))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[LoginChange]:
        """Lock the login against other processes, to change it; waits without blocking.

        Whoever renews a token that can be used once calls `load` within the block, not before it:
        another process may have renewed it. Raises SecretStoreUnavailable.
        """
        path = self.file.path.with_name("login.lock")
        async with exclusive(path, self._clock, self._lock_timeout):
            change = LoginChange(self.file, self._stores, self._remember)
            try:
                yield change
            finally:
                change.abandon()

    def _remember(self, reference: SecretReference, tokens: LoginSecrets) -> None:
        self._known = reference, tokens

    async def settle(self) -> None:
        """Keep the tokens in the best store that this process, the daemon, can use.

        That moves them after the setting changed, or after a command could not use that store. They
        are in the old one until they are in the new one. Raises SecretStoreUnavailable and
        BadConfiguration.
        """
        best = await self._stores.choose()
        known = self.file.load()
        if known.daemon_store != best.name:
            self.file.update(lambda known: replace(known, daemon_store=best.name))
        is_elsewhere = known.secret is not None and self._stores.prefers(
            best.name, known.secret.store
        )
        if is_elsewhere or known.unused_secrets:
            await self._move(best.name)

    async def _move(self, best: str) -> None:
        async with self.exclusive() as change:
            known = self.file.load()
            if known.secret is not None and self._stores.prefers(best, known.secret.store):
                login, tokens = await self.load()
                await change.save(login, tokens)
                self._log.info("The tokens are now {where}", where=self.description())
            await change.delete_unused()

    def description(self, known: Credentials | None = None) -> str:
        """Where the tokens are, for people; an empty string without a login.

        `known` are the credentials, if they have been read.
        """
        reference = (known or self.file.load()).secret
        if reference is None:
            return ""
        try:
            return self._stores.by_name(reference.store).description
        except SecretStoreUnavailable:
            return f"in the store {reference.store!r}"

    async def _read_one(self, reference: SecretReference, may_prompt: bool) -> LoginSecrets | None:
        """Read the tokens, or return what another coroutine has read while this one waited."""
        await self._reading.acquire()
        try:
            if self._known is not None and self._known[0] == reference:
                return self._known[1]
            if not may_prompt:
                self._raise_recent_failure(reference)
            return await self._read(reference, may_prompt)
        finally:
            self._reading.release()

    def _raise_recent_failure(self, reference: SecretReference) -> None:
        if self._failure is None:
            return
        failed, error, until = self._failure
        if failed == reference and self._clock.seconds() < until:
            raise SecretStoreUnavailable(error.message)

    async def _read(self, reference: SecretReference, may_prompt: bool) -> LoginSecrets | None:
        store = self._stores.by_name(reference.store)
        try:
            encoded = await store.get(reference.name, may_prompt=may_prompt)
        except SecretStoreUnavailable as error:
            self._failure = reference, error, self._clock.seconds() + self._retry_interval
            raise
        if encoded is None:
            return None
        try:
            found = decode_json(encoded, LoginSecrets)
        except InvalidJson:
            return None  # the reason could quote the secret
        self._remember(reference, found)
        return found

    def _missing(self, reference: SecretReference | None) -> str:
        where = "" if reference is None else self._stores.by_name(reference.store).description
        return f"The tokens of this desktop's login are missing {where}. Run `ctllm login`."


class LoginChange:
    """A change of the login, made while `LoginStore.exclusive` holds the lock."""

    _log = Logger()

    def __init__(
        self,
        file: CredentialFile,
        stores: SecretStores,
        on_saved: Callable[[SecretReference, LoginSecrets], None],
    ) -> None:
        self._file = file
        self._stores = stores
        self._on_saved = on_saved
        self._prepared: SecretReference | None = None
        self._is_attended = False

    async def prepare(self, *, is_attended: bool = False) -> None:
        """Find out whether tokens can be stored, before something that can be used once is.

        `is_attended` says that a person waits, who can answer a dialog, and is told where the
        tokens are. Without one, they are not moved to a worse store because theirs is locked.
        Raises SecretStoreUnavailable or BadConfiguration.
        """
        self._is_attended = is_attended
        self._prepared = await self._choose()

    async def _choose(self, without: Collection[str] = ()) -> SecretReference:
        """Return a new name in a store. The file has it before the store does."""
        known = self._file.load()
        present = "" if known.secret is None or self._is_attended else known.secret.store
        store = await self._stores.choose(
            known.daemon_store,
            may_prompt=self._is_attended and not without,
            at_least=present,
            without=without,
        )
        reference = SecretReference(store.name, secrets.token_hex(16))
        self._file.update(lambda known: _with_unused(known, reference))
        return reference

    async def save(
        self,
        login: Login,
        tokens: LoginSecrets,
        change: Callable[[Credentials], Credentials] = lambda known: known,
    ) -> None:
        """Store `login` with its tokens in place of the present one; `change` changes the rest.

        Raises SecretStoreUnavailable or BadConfiguration; then the present login is unchanged.
        """
        reference = await self._store(msgspec.json.encode(tokens).decode())
        self._file.update(lambda known: replace(_in_use(change(known), reference), login=login))
        self._on_saved(reference, tokens)
        await self.delete_unused()

    async def _store(self, encoded: str) -> SecretReference:
        """Store tokens under a new name; if one store fails, in the next that is configured."""
        reference, self._prepared = self._prepared or await self._choose(), None
        failed: list[str] = []
        while True:
            try:
                await self._stores.by_name(reference.store).set(reference.name, encoded)
            except SecretStoreUnavailable as error:
                failed.append(reference.store)
                reference = await self._choose_another(failed, error)
            else:
                return reference

    async def _choose_another(
        self, failed: list[str], error: SecretStoreUnavailable
    ) -> SecretReference:
        try:
            return await self._choose(failed)
        except SecretStoreUnavailable:
            raise error from None

    def _forget_unused(self, reference: SecretReference) -> None:
        self._file.update(lambda known: _without_unused(known, reference))

    def abandon(self) -> None:
        """Take back what was prepared, if nothing was stored."""
        reference, self._prepared = self._prepared, None
        if reference is not None:
            self._forget_unused(reference)

    async def forget(self, login: Login) -> None:
        """Forget `login`, its tokens and its API keys, unless another one replaced it."""

        def change(known: Credentials) -> Credentials:
            if known.login != login:
                return known
            unused = known.unused_secrets + ((known.secret,) if known.secret is not None else ())
            return Credentials(
                known.desktop_id, unused_secrets=unused, daemon_store=known.daemon_store
            )

        self._file.update(change)
        await self.delete_unused()

    async def delete_unused(self) -> None:
        """Delete the tokens that are not in use, as far as their stores are available."""
        for reference in self._file.load().unused_secrets:
            try:
                await self._stores.by_name(reference.store).delete(reference.name)
            except SecretStoreUnavailable as error:
                self._log.info("Cannot delete old tokens yet: {error}", error=error.message)
            else:
                self._forget_unused(reference)


def _with_unused(known: Credentials, reference: SecretReference) -> Credentials:
    return replace(known, unused_secrets=(*known.unused_secrets, reference)[-MAX_UNUSED:])


def _without_unused(known: Credentials, reference: SecretReference) -> Credentials:
    unused = tuple(each for each in known.unused_secrets if each != reference)
    return replace(known, unused_secrets=unused)


def _in_use(known: Credentials, reference: SecretReference) -> Credentials:
    """Make `reference` the secret in use, and the present one unused."""
    without = _without_unused(known, reference)
    if known.secret is not None:
        without = _with_unused(without, known.secret)
    return replace(without, secret=reference)

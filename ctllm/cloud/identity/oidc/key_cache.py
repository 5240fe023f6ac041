"""The keys of one provider, fetched when tokens need them: once for all tokens that wait."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.identity.oidc.key_set import PublicKey, select_keys
from ctllm.cloud.identity.oidc.provider_client import FetchedKeys
from ctllm.cloud.identity.oidc.refresh_schedule import RefreshSchedule, RefreshTimes
from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.errors import CtllmError, ServiceUnavailable
from ctllm.reactor.deferred_tools import Waiters
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: Seconds that tokens wait for a slow provider to confirm its keys, before the old ones are used.
CONFIRM_TIMEOUT = 2.0
#: Tokens that wait for keys at once. Each is a connection of somebody who is not signed in.
MAX_WAITING = 256

_Fetch = Callable[[FetchedKeys | None], Awaitable[FetchedKeys]]


class KeyCache:
    """The keys of the provider `name`, which `fetch` returns (it gets the keys that are known).

    `on_failure` is called for each fetch that fails. See `refresh_schedule` for when keys are
    fetched.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        fetch: _Fetch,
        clock: Clock,
        on_failure: Callable[[], None] = lambda: None,
        times: RefreshTimes | None = None,
        confirm_timeout: float = CONFIRM_TIMEOUT,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._clock = clock
        self._on_failure = on_failure
        self._confirm_timeout = confirm_timeout
        self._max_waiting = max_waiting
        self._schedule = RefreshSchedule(times or RefreshTimes())
        self._known: FetchedKeys | None = None
        self._fetching: Deferred[FetchedKeys] | None = None
        self._waiters: Waiters[None] = Waiters()
        self._waiting = 0
        self._next_fetch = Timeout(clock, self._begin_fetch)
        self._last_failure = ""
        self._is_stopped = False

    async def find(self, key_id: str | None, algorithm: str) -> Sequence[PublicKey]:
        """Return the keys that may have signed a token; none if the provider has none.

        Raises ServiceUnavailable if the provider does not respond and its keys are not known.
        """
        arrived = self._clock.seconds()
        await self._confirm()
        while True:
            found = select_keys(self._keys, key_id, algorithm)
            confirmed = self._schedule.confirmed
            if found or (confirmed is not None and confirmed >= arrived):
                return found
            await self._wait_for_next_fetch()

    def stop(self) -> None:
        """Cancel the fetch in progress, and refuse the tokens that wait."""
        self._is_stopped = True
        self._next_fetch.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
        self._waiters.fail(self._unavailable())

    @property
    def _keys(self) -> tuple[PublicKey, ...]:
        return self._known.keys if self._known else ()

    async def _confirm(self) -> None:
        """Return once the keys that are known may be used."""
        now = self._clock.seconds()
        if not self._schedule.has_keys(now):
            self._known = None
            if self._fetching is None and self._schedule.seconds_until_retry(now):
                raise self._unavailable()
            await self._wait(self._begin_fetch)
        elif self._schedule.must_confirm(now):
            await self._wait_for_confirmation(now)
        elif not self._schedule.seconds_until_due(now):
            self._begin_fetch()

    async def _wait_for_confirmation(self, now: float) -> None:
        """Wait a short time for a fetch. Without a result, the keys that are known are used."""
        if self._fetching is None and self._schedule.seconds_until_retry(now):
            return
        began = self._schedule.began if self._fetching is not None else now
        left = self._confirm_timeout - (now - (began or 0.0))
        if left <= 0:
            return
        try:
            await self._wait(self._begin_fetch, left)
        except (TimeoutError, CtllmError):
            return  # the failure of the fetch is logged once, where it happens

    async def _wait_for_next_fetch(self) -> None:
        """Wait for the fetch in progress, for one that is forced, or for the next that is due."""
        now = self._clock.seconds()
        if self._schedule.may_force(now):
            await self._wait(lambda: self._begin_fetch(forced=True))
        elif self._fetching is None and self._schedule.seconds_until_retry(now):
            raise self._unavailable()
        else:
            await self._wait(self._schedule_fetch)

    async def _wait(self, begin: Callable[[], None], timeout: float | None = None) -> None:
        """Call `begin` and wait for the end of a fetch; raises its error, or TimeoutError."""
        if self._is_stopped or self._waiting >= self._max_waiting:
            raise self._unavailable()
        waiter = self._waiters.wait()
        if timeout is not None:
            waiter.addTimeout(timeout, cast(IReactorTime, self._clock))
        self._waiting += 1
        try:
            begin()
            await waiter
        finally:
            self._waiting -= 1

    # -- fetching

    def _schedule_fetch(self) -> None:
        """Begin a fetch when it is due, unless one is in progress."""
        if self._fetching is None:
            self._next_fetch.start(self._schedule.seconds_until_due(self._clock.seconds()))

    def _begin_fetch(self, forced: bool = False) -> None:
        """Begin a fetch, unless one is in progress."""
        if self._is_stopped or self._fetching is not None:
            return
        self._next_fetch.cancel()
        self._schedule = self._schedule.fetch_began(self._clock.seconds(), forced)

        async def fetch() -> FetchedKeys:
            return await self._fetch(self._known)

        self._fetching = Deferred.fromCoroutine(fetch())
        self._fetching.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, fetched: FetchedKeys) -> None:
        self._fetching = None
        self._known = fetched
        self._schedule = self._schedule.fetch_succeeded()
        self._last_failure = ""
        self._waiters.succeed(None)

    def _failed(self, reason: Failure) -> None:
        self._fetching = None
        self._schedule = self._schedule.fetch_failed(self._clock.seconds())
        if not (self._is_stopped and isinstance(reason.value, CancelledError)):
            self._on_failure()
            self._log_failure(reason)
        self._waiters.fail(self._unavailable())

    def _log_failure(self, reason: Failure) -> None:
        """Log a failure, unless it is that of the last fetch again."""
        message = f"{reason.type} {reason.getErrorMessage()}"
        if message == self._last_failure:
            return
        self._last_failure = message
        if isinstance(reason.value, CtllmError):
            self._log.warn(
                "The keys of the provider {name} cannot be fetched: {why}",
                name=self._name,
                why=sanitize_line(reason.value.message, MAX_LOGGED_CHARS),
            )
        else:
            self._log.failure("Fetching the keys of the provider {name}", reason, name=self._name)

    def _unavailable(self) -> ServiceUnavailable:
        seconds = self._schedule.seconds_until_due(self._clock.seconds())
        return ServiceUnavailable(
            f"The provider {self._name} does not respond, so its tokens cannot be verified now.",
            retry_after=max(1, math.ceil(seconds)),
        )

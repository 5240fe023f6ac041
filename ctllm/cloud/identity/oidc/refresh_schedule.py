"""When a provider's keys are fetched: decisions by times alone, in seconds of a monotonic clock.

- A fetch is due REFRESH seconds after the last one began, once a token needs the keys. Nothing is
  fetched while nobody signs in or uses a token.
- Keys older than CONFIRM seconds are not used before they are fetched again, so a key that the
  provider has retired works for at most CONFIRM seconds, even after a quiet night. If the provider
  does not respond, they are used all the same, for at most STALE seconds.
- A token with an unknown key forces a fetch at once, but not within FORCE seconds of the last one
  that was forced. Until then it waits for the fetch that is due, at most REFRESH seconds. So
  strangers who make up a hundred keys cost the provider one request in FORCE seconds and one in
  REFRESH, and a real new key is found as soon as the next is due.
- After a failure there is no fetch for RETRY seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RefreshTimes:
    """The intervals, in seconds; see the module."""

    refresh: float = 10.0
    confirm: float = 20.0
    force: float = 30.0
    retry: float = 5.0
    stale: float = 86400.0


@dataclass(frozen=True, slots=True)
class RefreshSchedule:
    """What happened so far; each event returns the next schedule.

    `began` is when the last fetch began, `confirmed` when the last successful one did, `forced`
    when the last forced one did, and `retry_at` when the next may begin after a failure. Each is
    None if there was none.
    """

    times: RefreshTimes = RefreshTimes()
    began: float | None = None
    confirmed: float | None = None
    forced: float | None = None
    retry_at: float | None = None

    def fetch_began(self, now: float, forced: bool = False) -> RefreshSchedule:
        """Return the schedule once a fetch begins."""
        return replace(self, began=now, forced=now if forced else self.forced, retry_at=None)

    def fetch_succeeded(self) -> RefreshSchedule:
        """Return the schedule once the fetch that began last has succeeded."""
        return replace(self, confirmed=self.began)

    def fetch_failed(self, now: float) -> RefreshSchedule:
        """Return the schedule once the fetch that began last has failed."""
        return replace(self, retry_at=now + self.times.retry)

    def has_keys(self, now: float) -> bool:
        """Return whether there are keys that may be used at all."""
        return self.confirmed is not None and now - self.confirmed < self.times.stale

    def seconds_until_due(self, now: float) -> float:
        """Return after how many seconds the next fetch is due; 0 is now."""
        if self.retry_at is not None:
            return self.seconds_until_retry(now)
        return max(0.0, self.began + self.times.refresh - now) if self.began is not None else 0.0

    def seconds_until_retry(self, now: float) -> float:
        """Return for how many seconds no fetch may begin, because the last one failed."""
        return max(0.0, self.retry_at - now) if self.retry_at is not None else 0.0

    def must_confirm(self, now: float) -> bool:
        """Return whether the keys have to be fetched before they are used."""
        return self.confirmed is None or now - self.confirmed >= self.times.confirm

    def may_force(self, now: float) -> bool:
        """Return whether a token with an unknown key may make a fetch begin before it is due."""
        if self.seconds_until_retry(now):
            return False
        return self.forced is None or now - self.forced >= self.times.force

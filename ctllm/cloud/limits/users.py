"""The limits of each user: of their tier, else of the cloud; and those of their API keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ctllm.cloud.identity import AccessGrant
from ctllm.cloud.limits.concurrency import UserLimiter, tunnel_limiter
from ctllm.cloud.limits.rate_limiter import RateLimiter
from ctllm.config import Cloud, Tier
from ctllm.errors import CtllmError, RateLimited

#: Requests for the cloud's own API, by one user in a minute. They are no use of models: a tier with
#: few of those must not keep the page and the desktop from working.
OWN_REQUESTS_PER_MINUTE = 6000
#: Sessions, API keys and pairing codes that one user may create in a minute. Each has a line in the
#: audit log, and a session has a file.
CREDENTIALS_PER_MINUTE = 60

Release = Callable[[], None]


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What applies to a user. 0 is no limit, or none besides that of the cloud."""

    requests_per_minute: int
    max_requests: int = 0
    max_desktops: int = 0
    spawner: str = ""


class Tiers:
    """The tiers of a cloud. Who has none, or one that is not configured, has the cloud's limits.

    `requests_per_minute` and `spawner` are those of the cloud.
    """

    def __init__(
        self, tiers: Mapping[str, Tier], requests_per_minute: int, spawner: str = ""
    ) -> None:
        self._default = TierLimits(requests_per_minute, spawner=spawner)
        self._tiers = {
            name: TierLimits(
                tier.requests_per_minute or requests_per_minute,
                tier.max_requests,
                tier.max_desktops,
                tier.spawner or spawner,
            )
            for name, tier in tiers.items()
        }

    @classmethod
    def of_settings(cls, settings: Cloud) -> Tiers:
        """Return the tiers that are configured."""
        return cls(settings.tiers, settings.requests_per_minute, settings.spawner)

    def limits_of(self, grant: AccessGrant) -> TierLimits:
        """Return the limits of the user of `grant`."""
        return self._tiers.get(grant.tier, self._default)


class UserLimits:
    """Admits the requests of users, each of whom is named by a hash.

    `request_limiter` counts requests in progress. `seconds` returns a time that does not jump.
    """

    def __init__(
        self, tiers: Tiers, request_limiter: UserLimiter, seconds: Callable[[], float]
    ) -> None:
        self.tiers = tiers
        self._request_limiter = request_limiter
        self._tunnel_limiter = tunnel_limiter()
        self._rates = RateLimiter(seconds)

    def admit_request(self, user: str, grant: AccessGrant) -> Release:
        """Count a request for models; raises TooManyRequests. The result ends its progress."""
        limits = self.tiers.limits_of(grant)
        release = self._request_limiter.reserve(user, limits.max_requests)
        try:
            self._count(user, grant, f"{user}/models", limits.requests_per_minute)
        except CtllmError:
            release()
            raise
        return release

    def max_requests(self, grant: AccessGrant) -> int:
        """Return how many requests of the user of `grant` may be in progress."""
        return self._request_limiter.limit_of(self.tiers.limits_of(grant).max_requests)

    def admit_own_request(self, user: str, grant: AccessGrant) -> Release:
        """Count a request for the cloud's own API, as `admit_request` does for models."""
        release = self._request_limiter.reserve(user)
        try:
            self._count(user, grant, f"{user}/own", OWN_REQUESTS_PER_MINUTE)
        except CtllmError:
            release()
            raise
        return release

    def admit_tunnel(self, user: str, grant: AccessGrant) -> Release:
        """Count a tunnel, also as a request; raises TooManyRequests. The result ends both."""
        release_tunnel = self._tunnel_limiter.reserve(user)
        try:
            release_request = self.admit_own_request(user, grant)
        except CtllmError:
            release_tunnel()
            raise

        def release() -> None:
            release_request()
            release_tunnel()

        return release

    def admit_credential(self, user: str) -> None:
        """Count a new session, API key or pairing code; raises RateLimited."""
        wait = self._rates.count(f"{user}/credentials", CREDENTIALS_PER_MINUTE)
        if wait:
            raise RateLimited(
                "You have logged in, or created API keys, too often: the limit is "
                f"{CREDENTIALS_PER_MINUTE} times in a minute. Try again in {wait} s.",
                retry_after=wait,
            )

    def admit_renewal(self, user: str) -> None:
        """Count the renewal of a session; raises RateLimited."""
        wait = self._rates.count(f"{user}/own", OWN_REQUESTS_PER_MINUTE)
        if wait:
            raise _error("You have made", OWN_REQUESTS_PER_MINUTE, wait)

    def _count(self, user: str, grant: AccessGrant, bucket: str, per_minute: int) -> None:
        """Count a request in the bucket of its user, and in that of its key or machine."""
        key_bucket = f"{user}/key/{grant.credential_id}"
        key_limit = grant.requests_per_minute if grant.credential_id else 0
        wait = self._rates.wait(key_bucket, key_limit)
        if wait:
            raise _error("This API key has made", key_limit, wait)
        wait = self._rates.count(bucket, per_minute)
        if wait:
            raise _error("You have made", per_minute, wait)
        self._rates.count(key_bucket, key_limit)


def _error(who_has: str, per_minute: int, wait: int) -> RateLimited:
    return RateLimited(
        f"{who_has} too many requests: the limit is {per_minute} in a minute. Try again in "
        f"{wait} s.",
        retry_after=wait,
    )

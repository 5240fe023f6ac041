"""`ctllm.cloud.limits.concurrency`: one user cannot use all of the capacity."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.limits.concurrency import UserLimiter, max_requests_per_user
from ctllm.cloud.service import FILES_PER_REQUEST
from ctllm.config import Cloud
from ctllm.errors import ServiceUnavailable, TooManyRequests
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.connection_limits import RESERVED_FILES, ConnectionLimiter, max_connections
from tests.unit.cloud.gateway_case import (
    ALL_SCOPES,
    BOB,
    MAX_REQUESTS,
    GatewayCase,
)


class UserLimiterTests(SynchronousTestCase):
    """Limits for each user."""

    def test_limits_each_user_separately_and_forgets_idle_users(self) -> None:
        shares = UserLimiter(2)
        gives = [shares.reserve("ann"), shares.reserve("ann"), shares.reserve("bob")]
        self.assertRaises(TooManyRequests, shares.reserve, "ann")
        gives.append(shares.reserve("bob"))
        gives.pop(0)()
        gives.append(shares.reserve("ann"))
        for give in gives:
            give()
        self.assertEqual(len(shares), 0)

    def test_three_users_cannot_fill_the_capacity(self) -> None:
        import resource

        for files in (512, 1024, 4096, 65536):
            self.patch(resource, "getrlimit", lambda which, files=files: (files, files))
            cloud = Cloud()
            room = ConnectionLimiter(
                max_connections(cloud.max_connections, FILES_PER_REQUEST, RESERVED_FILES + 300)
            ).max_authenticated
            share = max_requests_per_user(cloud.max_requests_per_user, room)
            self.assertLess(3 * share, room)
            self.assertLess(FILES_PER_REQUEST * room, files)
            self.assertGreater(share, 16)
        self.assertEqual(max_requests_per_user(10, 1000), 10)


class RequestLimitTests(GatewayCase):
    """The limit of one user's requests at the gateway."""

    def use_up_the_limit(self) -> None:
        for _ in range(MAX_REQUESTS):
            self.assertEqual(self.send("GET /api/tags", **self.bearer()), 0)

    def is_refused(self) -> bool:
        return self.send("GET /api/tags", **self.bearer()) == 429

    def test_refuses_a_user_over_the_limit_and_serves_the_others(self) -> None:
        self.use_up_the_limit()
        self.assertTrue(self.is_refused())
        self.assertIn("of your requests are in progress", self.json["error"])
        self.assertIsNotNone(self.header("retry-after"))
        bob = self.issuer.issue(BOB, ALL_SCOPES)
        self.assertEqual(self.send("GET /api/tags", Authorization=f"Bearer {bob}"), 0)
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        caller.finish()
        self.assertFalse(self.is_refused())
        self.assertTrue(self.is_refused())

    def test_releases_a_request_that_fails_or_is_cancelled(self) -> None:
        for _ in range(MAX_REQUESTS + 1):
            self.proxies.error = ServiceUnavailable("too many", retry_after=60)
            self.assertEqual(self.send("GET /v1/models", **self.bearer()), 503)
            self.assertEqual(self.header("retry-after"), "60")
            self.proxies.error, self.proxies.start_delay = None, Deferred()
            self.assertEqual(self.send("GET /v1/models", **self.bearer()), 0)
            self.transport.disconnect()
            self.proxies.start_delay = None
        self.use_up_the_limit()
        self.assertTrue(self.is_refused())

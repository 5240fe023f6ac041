"""One user's requests leave room for the others'."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.service import FILES_PER_REQUEST
from ctllm.cloud.user_limits import UserLimiter, max_requests_per_user
from ctllm.config import Cloud
from ctllm.errors import ServiceUnavailable, TooManyRequests
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.connection_limits import RESERVED_FILES, ConnectionLimiter, max_connections
from tests.unit.test_front import ALL, ANN, SHARE, Case, User


class SharesTests(SynchronousTestCase):
    """Two for each."""

    def test_each_has_its_own(self) -> None:
        """Who has all of its own gets no more, until one is over; nothing is kept of who left."""
        shares = UserLimiter(2)
        gives = [shares.reserve("ann"), shares.reserve("ann"), shares.reserve("bob")]
        self.assertRaises(TooManyRequests, shares.reserve, "ann")
        gives.append(shares.reserve("bob"))
        gives.pop(0)()
        gives.append(shares.reserve("ann"))
        for give in gives:
            give()
        self.assertEqual(len(shares), 0)

    def test_three_users_do_not_fill_the_room(self) -> None:
        """Whatever is configured, and with however few files."""
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


class FrontTests(Case):
    """At the front door."""

    def fill(self) -> None:
        for _ in range(SHARE):
            self.assertEqual(self.ask("GET /api/tags", **self.bearer()), 0)

    def full(self) -> bool:
        return self.ask("GET /api/tags", **self.bearer()) == 429

    def test_who_has_too_many_is_told_and_others_are_served(self) -> None:
        """429 with Retry-After; what is under way goes on, and each end makes room for one."""
        self.fill()
        self.assertTrue(self.full())
        self.assertIn("of your requests are in progress", self.told["error"])
        self.assertIsNotNone(self.header("retry-after"))
        bob = self.issuer.issue(User(ANN.issuer, "bob", "bob"), ALL)
        self.assertEqual(self.ask("GET /api/tags", Authorization=f"Bearer {bob}"), 0)
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        caller.finish()
        self.assertFalse(self.full())
        self.assertTrue(self.full())

    def test_however_it_ends_it_is_given_back(self) -> None:
        """Refused, or left while the proxy starts."""
        for _ in range(SHARE + 1):
            self.proxies.refusal = ServiceUnavailable("too many", retry_after=60)
            self.assertEqual(self.ask("GET /v1/models", **self.bearer()), 503)
            self.assertEqual(self.header("retry-after"), "60")
            self.proxies.refusal, self.proxies.waiting = None, Deferred()
            self.assertEqual(self.ask("GET /v1/models", **self.bearer()), 0)
            self.wire.disconnect()
            self.proxies.waiting = None
        self.fill()
        self.assertTrue(self.full())

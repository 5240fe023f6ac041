"""`ctllm.cloud.direct_requests`: requests in progress that only streaming proxies know."""

from __future__ import annotations

import json
from typing import Any

from ctllm.cloud.direct_requests import MAX_FAILURES, MIN_AGE, REVOKE_TIMEOUT, SYNC_INTERVAL
from ctllm.cloud.identity import AccessGrant, proxy_id, user_hash
from ctllm.errors import CtllmError, ProxyUnavailable, Unauthorized
from ctllm.http.message.head import ResponseHead, get_header
from tests.unit.cloud.gateway_case import ALL_SCOPES, ANN, INSTANCE_SECRET, FakeProxy, GatewayCase

HERE = proxy_id(INSTANCE_SECRET, ANN.id)


class DirectRequestsTests(GatewayCase):
    """A streaming proxy is asked for its grants, and told which have ended."""

    def setUp(self) -> None:
        super().setUp()
        self.proxy = FakeProxy()
        self.proxies.direct = {HERE: self.proxy}
        self.answered = 0

    def grant(self, *session_ids: str) -> AccessGrant:
        now = self.clock.seconds()
        return AccessGrant(ANN, ALL_SCOPES, now + 600, now, session_ids)

    def seal(self, grant: AccessGrant, is_tunnel: bool = False) -> str:
        return self.grant_sealer.seal(HERE, grant, is_tunnel)

    def answer(self, value: Any, status: int = 200) -> tuple[bytes, bytes, bytes]:
        """Respond to the next request to the proxy; return its method, path and body."""
        number, self.answered = self.answered, self.answered + 1
        head, sink = self.proxy.heads[number], self.proxy.sinks[number]
        self.assertIsNotNone(get_header(head.headers, b"ctllm-assertion"))
        sink.write_head(ResponseHead(status))
        sink.write(json.dumps(value).encode())
        sink.finish()
        return head.method, head.path, self.proxy.requests[number].data

    def sync(self, *grants: str) -> None:
        """Poll, and respond to the question for the grants in use."""
        self.direct_requests.poll()
        asked = self.answer({"grants": grants})
        self.assertEqual(asked[:2], (b"GET", b"/ctllm/control/requests"))

    def aborted(self) -> list[str]:
        """Respond to the request to abort; return the grants in it."""
        method, path, body = self.answer({"aborted": 1})
        self.assertEqual((method, path), (b"POST", b"/ctllm/control/aborts"))
        ended = json.loads(body)["ended"]
        self.assertTrue(all(each["message"] and each["code"] for each in ended))
        return sorted(each["grant"] for each in ended)

    def end(self, *ended: AccessGrant) -> None:
        """End grants, as the enforcer does."""

        def check(grant: AccessGrant) -> None:
            if grant in ended:
                raise Unauthorized("It has ended.")

        self.active_requests.abort_of_proxy(HERE, check)
        self.clock.advance(0)

    def test_ends_a_grant_at_the_proxy(self) -> None:
        one, other = self.grant(), self.grant("x")
        sealed = self.direct_requests.authorize(HERE, one)
        self.assertEqual(self.direct_requests.authorize(HERE, one), sealed)
        self.direct_requests.authorize(HERE, other)
        self.assertEqual(len(self.active_requests), 2)
        self.sync()
        self.end(one)
        self.assertEqual(self.aborted(), [sealed.decode()])
        self.assertEqual(len(self.active_requests), 1)

    def test_finds_what_began_before_a_restart(self) -> None:
        known, ended = self.grant(), self.grant("a-session-that-does-not-exist")
        self.sync(self.seal(known), self.seal(ended), "sealed-by-another")
        self.assertEqual(self.aborted(), sorted([self.seal(ended), "sealed-by-another"]))
        self.assertEqual(len(self.active_requests), 1)
        self.end(known)
        self.assertEqual(self.aborted(), [self.seal(known)])

    def test_a_grant_of_another_proxy_is_aborted(self) -> None:
        elsewhere = self.grant_sealer.seal("ctllm-proxy-else", self.grant(), False)
        self.sync(elsewhere)
        self.assertEqual(self.aborted(), [elsewhere])

    def test_keeps_the_requests_of_a_key_until_its_desktop_leases_again(self) -> None:
        now = self.clock.seconds()
        key = AccessGrant(ANN, ALL_SCOPES, now + 60, now, credential_id="key:abc")
        self.sync(self.seal(key))
        self.assertEqual(len(self.active_requests), 1)
        self.enforcer.poll()
        self.assertEqual(len(self.active_requests), 1)
        self.api_key_leases.lease(self.grant(), "a" * 32, [], 60)
        self.enforcer.poll()
        self.clock.advance(0)
        self.assertEqual(self.aborted(), [self.seal(key)])

    def test_forgets_what_the_proxy_does_not_have_after_a_while(self) -> None:
        grant = self.grant()
        self.direct_requests.authorize(HERE, grant)
        self.sync()
        self.assertEqual(len(self.active_requests), 1)
        self.clock.advance(MIN_AGE)
        self.sync(self.seal(grant))
        self.assertEqual(len(self.active_requests), 1)
        self.clock.advance(SYNC_INTERVAL)
        self.sync()
        self.assertEqual(len(self.active_requests), 0)
        self.clock.advance(SYNC_INTERVAL)
        self.direct_requests.poll()
        self.assertEqual(len(self.proxy.heads), self.answered, "asked without a reason")

    def test_sealed_grants_are_not_kept_after_they_have_expired(self) -> None:
        for number in range(100):
            now = self.clock.seconds()
            grant = AccessGrant(ANN, ALL_SCOPES, now + 10, now, (f"session-{number}",))
            self.assertEqual(self.seal(grant), self.seal(grant))
            self.assertLessEqual(len(self.grant_sealer), 10)
            self.clock.advance(1)

    def test_records_what_a_proxy_has_refused_as_the_gateway_does(self) -> None:
        """Once for each grant, with the key of its client, and their number."""
        now = self.clock.seconds()
        key = AccessGrant(ANN, ALL_SCOPES, now + 60, now, credential_id="key:abc")
        self.direct_requests.poll()
        self.answer({"grants": [], "refused": 12})
        asked = self.answer(
            {"refusals": {self.seal(key): 9, "of-another": 3, self.seal(key, True): 0}}
        )
        self.assertEqual(asked[:2], (b"POST", b"/ctllm/control/refusals"))
        _, metrics = self.metrics.render_text()
        self.assertIn(b'\nctllm_request_refusals_total{code="too_many_requests"} 12.0\n', metrics)
        self.audit.close()
        text = (self.audit_dir / "cloud/audit.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        self.assertEqual({each["event"] for each in lines}, {"request.refused"})
        self.assertEqual({each["reason"] for each in lines}, {"too_many_requests"})
        self.assertEqual({each["user"] for each in lines}, {user_hash(INSTANCE_SECRET, ANN.id)})
        found = [(each.get("credential"), each.get("count")) for each in lines]
        self.assertEqual(found, [("key:abc", None), (None, None), ("key:abc", 8), (None, 2)])

    def test_a_proxy_without_refusals_is_not_asked_for_them(self) -> None:
        self.sync()
        self.assertEqual(len(self.proxy.heads), 1)

    def test_a_proxy_that_lies_about_its_refusals_is_asked_again(self) -> None:
        for refusals in ({"x": -1}, {"x": 2**60}, {str(n): 1 for n in range(2000)}):
            self.setUp()
            self.direct_requests.poll()
            self.answer({"grants": [], "refused": 1})
            self.answer({"refusals": refusals})
            _, metrics = self.metrics.render_text()
            self.assertIn(b'{code="too_many_requests"} 0.0\n', metrics)

    def test_forgets_a_proxy_that_has_ended(self) -> None:
        self.direct_requests.authorize(HERE, self.grant())
        self.proxies.direct = {}
        self.direct_requests.poll()
        self.assertEqual(len(self.active_requests), 1)
        self.clock.advance(MIN_AGE)
        self.direct_requests.poll()
        self.assertEqual(len(self.active_requests), 0)

    def test_asks_a_proxy_again_that_was_replaced(self) -> None:
        self.sync()
        self.proxy = FakeProxy()
        self.proxies.direct, self.answered = {HERE: self.proxy}, 0
        self.sync()

    def test_tries_again_and_then_stops_a_proxy_that_does_not_obey(self) -> None:
        grant = self.grant()
        self.direct_requests.authorize(HERE, grant)
        self.sync()
        self.end(grant)
        for number in range(MAX_FAILURES):
            self.assertEqual(self.proxies.revoked, [])
            if number:
                self.direct_requests.poll()
            self.fail_next(ProxyUnavailable("It is away.") if number % 2 else None)
        self.assertEqual(self.proxies.revoked, [HERE])

    def test_a_revoked_users_proxy_stops_after_it_has_told_why(self) -> None:
        for grant in (self.grant(), self.grant("x")):
            self.direct_requests.authorize(HERE, grant)
        self.sync()
        self.enforcer.end_access(ANN)
        self.clock.advance(0)
        self.direct_requests.authorize(HERE, self.grant("y"))  # before the proxy has heard of it
        self.end(self.grant("y"))
        for number in (2, 1):  # what ends together is aborted together
            self.assertEqual(self.proxies.revoked, [])
            self.assertEqual(len(self.aborted()), number)
        self.assertEqual(self.proxies.revoked, [HERE])

    def test_a_user_who_is_revoked_at_once_is_told_why(self) -> None:
        """Also before the first question which grants are in use."""
        sealed = self.direct_requests.authorize(HERE, self.grant())
        self.enforcer.end_access(ANN)
        self.clock.advance(0)
        self.assertEqual(self.proxies.revoked, [])
        self.answer({"grants": [sealed.decode()]})
        self.assertEqual(self.aborted(), [sealed.decode()])
        self.assertEqual(self.proxies.revoked, [HERE])

    def test_a_revoked_users_proxy_stops_soon_in_any_case(self) -> None:
        self.direct_requests.authorize(HERE, self.grant())
        self.sync()
        self.enforcer.end_access(ANN)
        self.clock.advance(REVOKE_TIMEOUT)
        self.assertEqual(self.proxies.revoked, [HERE])

    def fail_next(self, error: CtllmError | None) -> None:
        if error is None:
            self.answer({}, status=500)
            return
        sink = self.proxy.sinks[self.answered]
        self.answered += 1
        sink.fail(error)

    def test_a_tunnel_ends_apart_from_the_requests_of_its_session(self) -> None:
        grant = self.grant()
        self.direct_requests.authorize(HERE, grant)
        tunnel = self.direct_requests.authorize(HERE, grant, is_tunnel=True)
        self.sync()

        def check(grant: AccessGrant) -> None:
            raise Unauthorized("It was not renewed.")

        self.active_requests.abort_tunnels(check)
        self.clock.advance(0)
        self.assertEqual(self.aborted(), [tunnel.decode()])
        self.assertEqual(len(self.active_requests), 1)

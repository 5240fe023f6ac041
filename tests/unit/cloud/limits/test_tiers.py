"""Tiers at the gateway: limits, the spawner, and the claim that a proxy enforces."""

from __future__ import annotations

from dataclasses import replace

from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import AssertionVerifier, Claims
from ctllm.cloud.identity import AccessGrant, proxy_id
from ctllm.cloud.limits.users import Tiers
from ctllm.config import Cloud, Tier
from ctllm.http.header_policy import ASSERTION
from ctllm.http.message.head import get_header
from tests.unit.cloud.gateway_case import (
    ALL_SCOPES,
    ANN,
    INSTANCE_SECRET,
    WEBSOCKET_HANDSHAKE,
    GatewayCase,
)


class TierTests(GatewayCase):
    """Ann has the tier "small"."""

    def setUp(self) -> None:
        super().setUp()
        small = Tier(requests_per_minute=3, max_requests=2, max_desktops=1, spawner="docker")
        self.tiers = Tiers({"small": small}, requests_per_minute=1000, spawner="process")
        self.compose()

    def in_tier(self, tier: str = "small") -> dict[str, str]:
        token = self.issuer.issue(ANN, ALL_SCOPES, tier=tier)
        return {"Authorization": f"Bearer {token}"}

    def claims_of_tunnel(self, tier: str) -> Claims:
        """Open a tunnel and return the claims that the proxy gets."""
        self.send("GET /ws/tunnel", **self.in_tier(tier), **WEBSOCKET_HANDSHAKE)
        head = self.proxies.proxy.endpoint.accept().take_written()
        return self.verify(head.partition(b"Ctllm-Assertion: ")[2].partition(b"\r\n")[0])

    def verify(self, assertion: bytes | None) -> Claims:
        id, key = proxy_id(INSTANCE_SECRET, ANN.id), encode_public_key(self.key)
        return AssertionVerifier(key, id, self.clock.seconds).verify(assertion or b"")

    def test_a_user_has_the_limits_of_the_tier(self) -> None:
        statuses = [self.send("GET /api/tags", **self.in_tier()) for _ in range(3)]
        self.assertEqual(statuses, [0, 0, 429])
        self.assertEqual(self.json["error"].partition(" ")[0], "2")
        self.transport.disconnect()
        self.assertEqual([self.send("GET /api/tags", **self.in_tier("gone"))], [0])

    def test_the_tier_selects_the_spawner_and_without_one_it_is_the_clouds(self) -> None:
        self.send("GET /api/tags", **self.in_tier())
        self.send("GET /api/tags", **self.in_tier(""))
        self.send("PUT /ctllm/proxy", **self.in_tier())
        self.assertEqual(self.proxies.spawners, ["docker", "process", "docker"])

    def test_the_proxy_learns_how_many_desktops_may_connect(self) -> None:
        self.assertEqual(self.claims_of_tunnel("small").max_desktops, 1)
        self.assertEqual(self.claims_of_tunnel("").max_desktops, 0)
        self.send("GET /api/tags", **self.in_tier(""))
        assertion = get_header(self.relayed_heads[-1].headers, ASSERTION.lower())
        self.assertEqual(self.verify(assertion).max_desktops, 0)

    def test_the_configuration_gives_what_a_tier_leaves_out(self) -> None:
        tiers = Tiers.of_settings(Cloud(requests_per_minute=7, tiers={"a": Tier(max_requests=1)}))
        grant = AccessGrant(ANN, ALL_SCOPES, 0.0, 0.0)
        limits = tiers.limits_of(replace(grant, tier="a"))
        self.assertEqual((limits.requests_per_minute, limits.max_requests, limits.spawner),
                         (7, 1, "process"))  # fmt: skip
        self.assertEqual(tiers.limits_of(grant).max_requests, 0)

"""Requests with API keys at the gateway: what they may do, and what their owner learns of them."""

from __future__ import annotations

import base64
from typing import Any

from ctllm.auth.api_keys import generate_key, record_key
from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import AssertionVerifier
from ctllm.cloud.identity import proxy_id
from ctllm.errors import Unauthorized
from ctllm.http.message.head import ResponseHead
from tests.unit.cloud.gateway_case import ANN, INSTANCE_SECRET, GatewayCase


class ApiKeyRequestTests(GatewayCase):
    def usage(self, *keys: str) -> Any:
        """What the next lease of these keys tells the desktop."""
        self.assertEqual(self.lease_records([record_key(key) for key in keys]), 200)
        return self.json["usage"]

    def test_the_owner_learns_when_and_from_where_a_key_was_used(self) -> None:
        key = self.lease_key(scope="manage")
        self.client_address = "192.0.2.77"
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 0)
        self.clock.advance(5)
        self.client_address = "2001:db8:1:2::3"
        self.assertEqual(self.send("GET /ctllm/proxy", X_Api_Key=key), 200)
        (use,) = self.usage(key)
        self.assertEqual(use["id"], record_key(key).id)
        self.assertEqual(use["last_used"], int(self.clock.seconds()))
        self.assertEqual((use["address"], use["requests"]), ("2001:db8:1::/48", 2))
        self.assertEqual(self.usage(key), [])

    def test_use_of_sessions_and_refused_keys_is_told_to_nobody(self) -> None:
        key = self.lease_key()
        self.send("GET /api/tags", **self.bearer())
        self.send("GET /api/tags", X_Api_Key=key[:-1] + "!")
        self.assertEqual(self.usage(key), [])

    def test_a_key_is_accepted_in_each_header_and_beside_a_placeholder(self) -> None:
        key = self.lease_key()
        basic = base64.b64encode(f"x:{key}".encode()).decode()
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bEARER {key}"},
            {"X_Api_Key": key},
            {"Api_Key": key},
            {"Authorization": f"Basic {basic}"},
            {"Authorization": "Bearer ollama", "X_Api_Key": key},
            {"Authorization": "Bearer ollama", "X_Api_Key": "none", "Api_Key": key},
        ):
            self.assertEqual(self.send("GET /api/tags", **headers), 0, headers)

    def test_a_placeholder_beside_a_good_key_is_no_failed_attempt(self) -> None:
        key = self.lease_key()
        for _ in range(200):
            self.send("GET /api/tags", Authorization="Bearer ollama", X_Api_Key=key)
            for sink in self.proxies.proxy.sinks:
                sink.write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
                sink.finish()
            self.proxies.proxy.sinks.clear()
            self.clock.advance(0.2)
        self.assertIn(b"ctllm_authentication_failures_total 0.0", self.metrics.render_text()[1])

    def test_the_restriction_to_models_is_in_the_assertion(self) -> None:
        verifier = AssertionVerifier(
            encode_public_key(self.key), proxy_id(INSTANCE_SECRET, ANN.id), self.clock.seconds
        )
        for models in ((), ("llama*", "qwen3")):
            key = self.lease_key(models=models)
            self.send("POST /api/chat", b"{}", X_Api_Key=key, Ctllm_Allowed_Models="*")
            headers = dict(self.relayed_heads[-1].headers)
            self.assertEqual(verifier.verify(headers[b"Ctllm-Assertion"]).models, models)

    def test_a_revoked_key_ends_what_it_began_and_nothing_else(self) -> None:
        revoked, kept = generate_key(ANN.id), generate_key(ANN.id)
        self.lease_records([record_key(revoked), record_key(kept)])
        transports = []
        for key in (revoked, kept):
            self.send("POST /api/chat", b"{}", X_Api_Key=key)
            transports.append(self.transport)
        self.lease_records([record_key(kept)])
        first, second = self.proxies.proxy.requests
        self.assertIsInstance(first.calls[-1], Unauthorized)
        self.assertNotIsInstance(second.calls[-1], Unauthorized)
        self.assertIn(b"This API key was revoked", transports[0].take_written())
        self.assertEqual(transports[1].take_written(), b"")

    def test_a_desktop_that_stops_stops_its_keys_and_cuts_nothing(self) -> None:
        key = self.lease_key()
        self.send("POST /api/chat", b"{}", X_Api_Key=key)
        path = f"DELETE /ctllm/desktops/{'a' * 32}/keys"
        self.assertEqual(self.send(path, **self.bearer()), 200)
        self.assertEqual(len(self.json["usage"]), 1)
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 401)
        self.assertIn("not connected", self.json["error"])
        self.assertNotIsInstance(self.proxies.proxy.requests[0].calls[-1], Unauthorized)

    def test_refuses_records_with_what_this_version_does_not_know(self) -> None:
        """It may be a restriction. An earlier version's lease is refused, too."""
        good = {"id": "0" * 16, "salt": "0" * 32, "digest": "0" * 64}
        for body in (
            {"keys": [{**good, "addresses": ["192.0.2.0/24"]}], "seconds": 60},
            {"keys": [], "seconds": 60, "more": 1},
            {"hashes": ["0" * 64], "seconds": 60},
        ):
            path = f"PUT /ctllm/desktops/{'a' * 32}/keys"
            self.assertEqual(self.send(path, body, **self.bearer()), 400)
        self.assertEqual(len(self.api_key_leases), 0)

    def test_accepts_the_largest_lease(self) -> None:
        pattern = "m" * 128
        records = [record_key(str(n), models=(pattern,) * 16) for n in range(100)]
        self.assertEqual(self.lease_records(records), 200)

"""`ctllm.cloud.api`: the management API's health, proxy and desktops."""

from __future__ import annotations

from tests.unit.cloud.gateway_case import (
    GatewayCase,
)


class ManagementApiTests(GatewayCase):
    """The management API."""

    def test_health_the_api_description_and_the_providers_need_no_token(self) -> None:
        self.assertEqual(self.send("GET /health"), 200)
        self.assertEqual((self.json["status"], self.json["error"]), ("ok", None))
        self.proxies.draining = True
        self.send("GET /health")
        self.assertEqual((self.json["status"], self.json["error"]), ("draining", None))
        self.proxies.problem = "no engine"
        self.send("GET /health")
        self.assertEqual((self.json["status"], self.json["error"]), ("degraded", "no engine"))
        self.assertEqual(self.send("GET /ctllm/openapi.json"), 200)
        self.assertEqual(self.send("GET /ctllm/providers"), 200)
        self.assertEqual(self.json, {"providers": []})
        for line in ("GET /ctllm/session", "GET /ctllm/proxy", "GET /ctllm/desktops"):
            self.assertEqual(self.send(line), 401, line)
            self.assertEqual(self.header("www-authenticate"), 'Bearer realm="ctllm"')
        self.assertEqual(self.send("GET /ctllm/nothing"), 404)
        self.assertEqual(self.send("PATCH /ctllm/session"), 405)
        self.assertIn("POST", self.header("allow") or "")
        self.assertEqual(self.proxies.ensured, [])

    def test_says_that_a_cloud_serves_the_page(self) -> None:
        self.assertEqual(self.send("GET /ctllm/page"), 200)
        self.assertEqual((self.json["role"], sorted(self.json)), ("cloud", ["role", "version"]))

    def test_reports_memory_spawner_and_start_of_a_running_proxy_only(self) -> None:
        self.send("GET /ctllm/proxy", **self.bearer())
        self.assertEqual((self.json["memory_bytes"], self.json["started_at"]), (None, None))
        self.proxies.state = "running"
        self.send("GET /ctllm/proxy", **self.bearer())
        self.assertEqual(self.json["memory_bytes"], 1 << 20)
        self.assertEqual((self.json["started_at"], self.json["spawner"]), (5.0, "process"))

    def test_shows_starts_and_stops_the_users_proxy(self) -> None:
        """Listing desktops does not start a proxy."""
        self.assertEqual(self.send("GET /ctllm/proxy", **self.bearer()), 200)
        self.assertEqual((self.json["state"], self.json["since"]), ("absent", None))
        self.assertEqual(self.send("GET /ctllm/desktops", **self.bearer()), 200)
        self.assertEqual((self.json, self.proxies.ensured), ({"desktops": []}, []))
        for method in ("PUT", "POST"):
            self.assertEqual(self.send(f"{method} /ctllm/proxy", **self.bearer()), 200)
            self.proxies.ensured[1:] = []
        self.assertEqual(self.send("DELETE /ctllm/proxy", **self.bearer()), 204)
        self.assertEqual(self.proxies.ensured, self.proxies.removed)

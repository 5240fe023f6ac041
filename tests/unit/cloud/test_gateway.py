"""`ctllm.cloud.gateway`: which requests the gateway handles, relays and refuses."""

from __future__ import annotations

import math
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import AssertionVerifier
from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.identity import (
    MANAGE,
    USE,
    AccessGrant,
    AccessTokenIssuer,
    proxy_id,
)
from ctllm.errors import (
    CtllmError,
    GroupNotAllowed,
    ProxyUnavailable,
    ServiceUnavailable,
)
from ctllm.http.message.head import ResponseHead, get_header
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.cloud.gateway_case import (
    ALL_SCOPES,
    ANN,
    FRIEND_ORIGIN,
    INSTANCE_SECRET,
    PAGE,
    GatewayCase,
)


class RoutingTests(GatewayCase):
    """Requests for the page, the management API and Ollama."""

    def test_serves_the_page_to_clients_that_accept_html(self) -> None:
        for headers in ({}, self.bearer()):
            self.assertEqual(self.send("GET /", Accept="text/html,*/*;q=0.8", **headers), 200)
            self.assertEqual(self.body, PAGE)
        self.assertEqual(self.send("GET /?x=1", Accept="text/html"), 200)
        self.assertEqual(self.send("HEAD /", Accept="text/html"), 200)
        self.assertEqual((self.body, self.header("content-length")), (b"", str(len(PAGE))))
        self.assertEqual(self.relayed_heads, [])

    def test_refuses_the_old_name_of_a_renamed_header(self) -> None:
        for line in ("GET /api/tags", "GET /ctllm/desktops", "GET /ws/tunnel"):
            self.assertEqual(self.send(line, Ctllm_Elsewhere="d", **self.bearer()), 400)
            self.assertIn(b"is now called Ctllm-Exclude-Desktop", self.body)
        self.assertEqual(self.relayed_heads, [])

    def test_relays_the_root_path_for_clients_that_do_not_accept_html(self) -> None:
        self.assertEqual(self.send("GET /", Accept="*/*"), 401)
        self.send("GET /", Accept="*/*", **self.bearer())
        self.send("HEAD /", **self.bearer())
        self.send("POST /", b"{}", Accept="text/html", **self.bearer())
        methods = [head.method for head in self.relayed_heads]
        self.assertEqual(methods, [b"GET", b"HEAD", b"POST"])

    def test_relays_any_method_and_path_that_is_not_its_own(self) -> None:
        for line in (
            "GET /api/tags",
            "DELETE /api/delete",
            "HEAD /api/blobs/sha256:x",
            "PROPFIND /new?a=%20b",
            "GET /healthy",
            "GET /ctllm",
            "GET /wss/x",
            "OPTIONS /api/tags",
            "GET /ctllm/exchanges/" + "a" * 32,
        ):
            self.send(line, **self.bearer())
            head = self.relayed_heads[-1]
            self.assertEqual(f"{head.method.decode()} {head.target.decode()}", line)
        wanted = proxy_id(INSTANCE_SECRET, ANN.id)
        self.assertEqual(set(self.proxies.ensured), {wanted})
        began = self.proxies.new_request_flags
        self.assertEqual(began, [True] * (len(began) - 1) + [False], "who resumes begins nothing")
        waits = [math.inf] * (len(began) - 1) + [HANDSHAKE_TIMEOUT]
        self.assertEqual(self.proxies.timeouts, waits)

    def test_a_query_is_not_mistaken_for_one_of_its_paths(self) -> None:
        self.assertEqual(self.send("GET http://h?/ctllm/session", **self.bearer()), 0)
        self.assertEqual(self.relayed_heads[-1].target, b"/?/ctllm/session")

    def test_replaces_credentials_with_an_assertion_of_the_scope_use(self) -> None:
        token = self.token()
        self.send(
            "GET /api/tags", Authorization=f"Bearer {token}", Cookie="ctllm-session=x",
            Ctllm_Assertion="forged", X_Api_Key="k",
        )  # fmt: skip
        headers = self.relayed_heads[-1].headers
        proxy = self.proxies.ensured[0]
        verifier = AssertionVerifier(encode_public_key(self.key), proxy, self.clock.seconds)
        claims = verifier.verify(get_header(headers, b"ctllm-assertion") or b"")
        self.assertEqual((claims.scopes, ANN.subject in claims.subject), (frozenset({USE}), False))
        names = [name.lower() for name, _ in headers]
        self.assertEqual(names, [b"host", b"ctllm-assertion", b"ctllm-request-id"])

    def test_deducts_the_start_of_a_proxy_from_the_request_timeout(self) -> None:
        self.proxies.start_delay = Deferred()
        self.send("GET /api/tags", Ctllm_Timeout="2000", **self.bearer())
        self.clock.advance(0.5)
        self.proxies.start_delay.callback(None)
        self.assertEqual(get_header(self.relayed_heads[-1].headers, b"ctllm-timeout"), b"1500")

    def relayed_scopes(self) -> list[frozenset[str]]:
        """What the proxy was told of whoever asked, request by request."""
        verifier = AssertionVerifier(
            encode_public_key(self.key), proxy_id(INSTANCE_SECRET, ANN.id), self.clock.seconds
        )
        assertions = [
            get_header(head.headers, b"ctllm-assertion") or b"" for head in self.relayed_heads
        ]
        return [verifier.verify(assertion).scopes for assertion in assertions]

    def test_a_key_without_manage_uses_only_endpoints_of_the_scope_use(self) -> None:
        use = self.bearer(frozenset({USE}))
        for line in (
            "POST /api/chat", "GET /api/tags", "HEAD /", "POST //v1/messages/", "GET /v1/models/m",
        ):  # fmt: skip
            self.send(line, b"{}", **use)
        targets = [head.target.decode() for head in self.relayed_heads]
        expected = ["/api/chat", "/api/tags", "/", "/v1/messages", "/v1/models/m"]
        self.assertEqual(targets, expected, "what was judged is what is passed on")
        self.assertEqual(set(self.relayed_scopes()), {frozenset({USE})})
        begun = len(self.proxies.ensured)
        for line in (
            "DELETE /api/delete", "DELETE //api/%64elete/", "POST /api/pull", "POST /api/push",
            "POST /api/create", "POST /api/copy", "POST /api/blobs/sha256:00", "POST /api/me",
            "POST /api/signout", "DELETE /api/user/keys/x", "GET /debug/pprof/", "POST /api/new",
            "POST /x/../api/me", "PROPFIND /", "GET /api/chat", "POST /api%2fpull",
        ):  # fmt: skip
            status = self.send(line, b"{}", **use)
            self.assertIn(status, (403, 405), line)
        self.assertEqual(len(self.relayed_heads), 5, "none of them reached a proxy")
        self.assertEqual(len(self.proxies.ensured), begun, "nor started one")
        self.send("DELETE /api/delete", b"{}", **use)
        self.assertIn("ctllm keys add NAME --scope manage", self.json["error"])
        self.send("POST /v1/rerank", b"{}", **use)
        self.assertIn("desktop.allowed_requests", self.json["error"]["message"])
        self.assertEqual(self.json["error"]["type"], "permission_error")
        self.assertEqual((self.send("GET /api/chat", **use), self.header("allow")), (405, "POST"))

    def test_sends_the_scope_manage_only_with_requests_that_need_it(self) -> None:
        both = self.bearer(frozenset({USE, MANAGE}))
        for line in ("DELETE /api/delete", "POST /api/me", "GET /debug/pprof/", "POST /api/chat"):
            self.send(line, b"{}", **both)
        manage, use = frozenset({USE, MANAGE}), frozenset({USE})
        self.assertEqual(self.relayed_scopes(), [manage, manage, manage, use])

    def test_relays_the_response_and_counts_the_request(self) -> None:
        self.send("GET /api/tags", **self.bearer())
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(418, b"Tea", ((b"Content-Length", b"2"), (b"X", b"y"))))
        caller.write(b"hi")
        caller.finish()
        self.assertEqual((self.read_status(), self.body, self.header("x")), (418, b"hi", "y"))
        rendered = self.metrics.render_text()[1]
        self.assertIn(b'ctllm_requests_total{outcome="completed"} 1.0', rendered)

    def test_a_disconnected_client_cancels_its_request(self) -> None:
        """Both while the proxy starts and while it responds."""
        self.proxies.start_delay = Deferred()
        self.send("GET /api/tags", **self.bearer())
        self.transport.disconnect()
        self.assertTrue(self.proxies.start_delay.called)
        self.assertEqual(self.relayed_heads, [])
        self.proxies.start_delay = None
        self.send("GET /api/tags", **self.bearer())
        self.transport.disconnect()
        self.assertIsInstance(self.proxies.proxy.requests[0].calls[-1], CtllmError)
        self.assertIn(
            b'ctllm_requests_total{outcome="client_disconnected"} 1.0',
            self.metrics.render_text()[1],
        )

    def test_errors_have_the_dialect_of_the_path_and_a_retry_after(self) -> None:
        self.proxies.error = ServiceUnavailable("too many", retry_after=60)
        self.assertEqual(self.send("GET /v1/models", **self.bearer()), 503)
        self.assertEqual(
            (self.header("retry-after"), self.json["error"]["code"]), ("60", "overloaded")
        )


class ActiveRequestsTests(GatewayCase):
    """The requests in progress that a revocation would abort."""

    def test_unregistering_twice_is_harmless(self) -> None:
        in_flight = ActiveRequests()
        grant = AccessGrant(ANN, ALL_SCOPES, 0.0, 0.0)
        over = [in_flight.add("p", grant, lambda error: None) for _ in range(2)]
        over[0]()
        over[0]()
        self.assertEqual(len(in_flight), 1)
        over[1]()
        self.assertEqual(len(in_flight), 0)

    def test_requests_are_unregistered_however_they_end(self) -> None:
        self.send("GET /api/tags", **self.bearer())
        self.assertEqual(len(self.active_requests), 1)
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        caller.finish()
        self.send("GET /api/tags", **self.bearer())
        self.proxies.proxy.sinks[1].fail(ProxyUnavailable("gone"))
        self.send("GET /api/tags", **self.bearer())
        self.transport.disconnect()
        self.assertEqual(len(self.active_requests), 0)


class AuthenticationTests(GatewayCase):
    """Tokens and where a request may carry them."""

    def status(self, **headers: str) -> int:
        """0: asked on, and not answered yet."""
        return self.send("GET /api/tags", **headers)

    def test_accepts_a_token_in_each_header_and_relays_none(self) -> None:
        """Of several tokens the first that is valid counts."""
        token = self.token()
        self.assertEqual(self.status(Authorization=f"Bearer {token}"), 0)
        self.assertEqual(self.status(authorization=f"bEARER   {token} "), 0)
        self.assertEqual(self.status(X_API_KEY=f" {token} "), 0)
        self.assertEqual(self.status(Authorization=f"Bearer {token}", X_Api_Key="x"), 0)
        self.assertEqual(self.status(Authorization="Bearer ollama", X_Api_Key=token), 0)
        self.assertEqual(self.status(Authorization="Bearer ollama", Api_Key=token), 0)
        self.assertEqual(self.status(Authorization="Digest x", Api_Key=token), 0)
        self.assertEqual(self.status(Api_Key=token), 0)
        for user in ("", "anybody"):
            basic = b64encode(f"{user}:{token}".encode()).decode()
            self.assertEqual(self.status(Authorization=f"Basic {basic}"), 0)
        self.assertEqual(len(self.relayed_heads), 10)
        sent = b"".join(sum((pair for head in self.relayed_heads for pair in head.headers), ()))
        for secret in (token, b64encode(f"anybody:{token}".encode()).decode()):
            self.assertNotIn(secret.encode(), sent, "no credential goes on")

    def test_a_good_key_counts_whatever_is_wrong_with_another_credential(self) -> None:
        """The error that says most is that of a request without a good one."""
        for error in (
            GroupNotAllowed("None of your groups may sign in here."),
            ServiceUnavailable("The provider does not respond."),
        ):
            self.provider.answers["provider-x"] = error
            given = {"Authorization": "Bearer provider-x"}
            self.assertEqual(self.status(**given, X_Api_Key=self.token()), 0)
            for more in ({}, {"X_Api_Key": "ollama"}):
                self.assertEqual(self.status(**given, **more), error.status)
                self.assertIsNone(self.header("www-authenticate"))

    def test_the_challenge_says_whether_a_token_was_not_valid(self) -> None:
        """RFC 6750, section 3.1."""
        self.assertEqual(self.status(Authorization="Bearer x"), 401)
        challenge = 'Bearer realm="ctllm", error="invalid_token"'
        self.assertEqual(self.header("www-authenticate"), challenge)
        self.assertEqual(self.status(), 401)
        self.assertEqual(self.header("www-authenticate"), 'Bearer realm="ctllm"')

    def test_ignores_basic_credentials_of_cross_site_requests(self) -> None:
        """Browsers add these without the user."""
        basic = b64encode(f":{self.token()}".encode()).decode()
        for site, status in (("cross-site", 401), ("same-site", 401), ("same-origin", 0)):
            given = {"Authorization": f"Basic {basic}", "Sec_Fetch_Site": site}
            self.assertEqual(self.status(**given), status, site)

    def test_refuses_a_header_that_is_repeated(self) -> None:
        """Another server might read the other one."""
        token = self.token()
        for both in (
            {"Authorization": f"Bearer {token}", "authorization": "Bearer ollama"},
            {"X_Api_Key": token, "x_api_key": "other"},
            {"Api_Key": "other", "api_key": token},
        ):
            self.assertEqual(self.status(**both), 400)
        self.assertEqual(self.relayed_heads, [])

    def test_a_request_without_a_token_gets_instructions(self) -> None:
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer ", "Api_Key": ""},
        ):
            for line in ("GET /", "GET /api/version", "POST /v1/chat/completions"):
                self.assertEqual(self.send(line, **headers), 401)
                for part in (b"Authorization: Bearer", b"x-api-key", b"ctllm keys add"):
                    self.assertIn(part, self.body)
        self.assertIn(b"ctllm_authentication_failures_total 0.0", self.metrics.render_text()[1])

    def test_the_ollama_command_gets_a_message_that_it_prints(self) -> None:
        command = {"User_Agent": "ollama/0.12.6 (amd64 linux) Go/go1.24.1"}
        for headers in ({}, command):
            self.assertEqual((self.send("HEAD /", **headers), self.body), (200, b""))
        for bearer in ({}, {"Authorization": "Bearer "}):
            self.assertEqual(self.send("GET /api/tags", **command, **bearer), 403)
            self.assertIn("OLLAMA_HOST=127.0.0.1:11435", self.json["error"])
        self.assertEqual(self.send("GET /api/tags", User_Agent="ollama-python/0.6.0"), 401)
        self.assertEqual(self.send("GET /api/tags", **command, X_Api_Key=self.token()), 0)
        self.assertEqual(self.send("HEAD /", X_Api_Key="wrong"), 401)
        self.assertEqual(len(self.proxies.ensured), 1)

    def test_refuses_a_websocket_with_426_and_reuses_the_connection(self) -> None:
        """Codex then continues over HTTP."""
        wanted = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": b64encode(bytes(16)).decode(),
        }  # fmt: skip
        for headers in ({}, {"Authorization": "Bearer wrong"}, self.bearer()):
            self.assertEqual(self.send("GET /v1/responses", **wanted, **headers), 426)
            self.assertEqual(self.header("upgrade"), "HTTP/1.1")
            self.assertEqual(self.json["error"]["code"], "upgrade_required")
        self.assertEqual(self.proxies.ensured, [])
        self.transport.protocol.dataReceived(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(self.read_status(), 200, "the connection may go on")

    def test_refuses_a_token_in_any_other_form_or_place(self) -> None:
        token = self.token()
        for given in (f"Basic {token}", token, "Bearer", "Bearer ", f"Bearer,{token}", "é"):
            self.assertEqual(self.status(Authorization=given), 401, given)
        for elsewhere in ({"Cookie": f"token={token}"}, {}):
            self.assertEqual(self.status(**elsewhere), 401)
        self.assertEqual(self.send(f"GET /api/tags?access_token={token}"), 401)

    def test_refuses_and_counts_invalid_tokens(self) -> None:
        forged = AccessTokenIssuer(Ed25519PrivateKey.generate(), self.clock.seconds).issue(
            ANN, ALL_SCOPES
        )
        old = self.token()
        self.clock.advance(700)
        for token in (forged, old, self.token() + "A", "rubbish", "ctllm-k-x", "ü"):
            self.assertEqual(self.status(X_Api_Key=token), 401, token)
        self.assertIn(b"ctllm_authentication_failures_total 6.0", self.metrics.render_text()[1])
        self.assertEqual(self.proxies.ensured, [])

    def test_each_endpoint_requires_its_scope(self) -> None:
        use, manage = frozenset({USE}), frozenset({MANAGE})
        self.assertEqual(self.send("GET /ctllm/proxy", **self.bearer(use)), 403)
        self.assertEqual(self.send("GET /api/tags", **self.bearer(manage)), 403)
        lease = {"keys": [], "seconds": 60}
        path = "/ctllm/desktops/" + "a" * 32 + "/keys"
        self.assertEqual(self.send(f"PUT {path}", lease, **self.bearer(use | manage)), 403)
        self.assertEqual(self.send(f"PUT {path}", lease, **self.bearer()), 200)
        self.assertEqual(self.send(f"DELETE {path}", **self.bearer(use | manage)), 403)
        self.assertEqual(self.send(f"DELETE {path}", **self.bearer()), 200)

    def test_a_leased_api_key_uses_models_until_the_lease_ends(self) -> None:
        key = self.lease_key()
        self.assertEqual(self.status(X_Api_Key=key), 0)
        self.assertEqual(self.send("GET /ctllm/session", X_Api_Key=key), 403)
        self.assertEqual(self.send("GET /ws/tunnel", X_Api_Key=key, Upgrade="websocket"), 403)
        self.clock.advance(61)
        self.assertEqual(self.status(X_Api_Key=key), 401)


class CorsTests(GatewayCase):
    """Requests of web pages of other origins."""

    def preflight(self, origin: str, wanted: str = "authorization") -> int:
        return self.send(
            "OPTIONS /v1/models",
            Origin=origin,
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers=wanted,
        )

    def test_configured_origins_read_responses_and_errors(self) -> None:
        self.assertEqual(self.preflight(FRIEND_ORIGIN), 204)
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND_ORIGIN)
        self.assertEqual(self.header("access-control-allow-credentials"), "true")
        self.assertIn("PATCH", self.header("access-control-allow-methods") or "")
        self.assertEqual(self.send("GET /v1/models", Origin=FRIEND_ORIGIN), 401)
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND_ORIGIN)
        self.assertEqual(self.header("access-control-allow-credentials"), "true")
        self.assertIn("Retry-After", self.header("access-control-expose-headers") or "")
        self.assertEqual(self.header("vary"), "Origin")

    def test_a_preflight_allows_any_valid_list_of_headers(self) -> None:
        wanted = "authorization,content-type,x-stainless-os, anthropic-version"
        for asked, told in ((wanted, wanted), ("a: b", None), ("", None), ("a" * 9000, None)):
            self.assertEqual(self.preflight(FRIEND_ORIGIN, asked), 204)
            usual = "Authorization, Content-Type, X-Api-Key, Api-Key"
            self.assertEqual(self.header("access-control-allow-headers"), told or usual)

    def test_origin_patterns_match_ports_and_schemes_only(self) -> None:
        for origin in ("http://dev.example:1", "http://dev.example:65535", "obsidian://any"):
            self.assertEqual(self.preflight(origin), 204, origin)
            self.assertEqual(self.header("access-control-allow-credentials"), "true")
        for origin in (
            "http://dev.example", "http://dev.example:", "http://dev.example:80.evil.example",
            "http://dev.example:x", "https://dev.example:1", "obsidian:/any", "xobsidian://any",
        ):  # fmt: skip
            self.assertEqual(self.preflight(origin), 403, origin)

    def test_local_origins_use_models_with_a_key_and_without_a_cookie(self) -> None:
        """They cannot use the management API."""
        for origin in (
            "http://localhost:3000", "https://127.0.0.1", "http://0.0.0.0:8080",
            "app://obsidian.md", "vscode-webview://1a2b", "tauri://localhost",
        ):  # fmt: skip
            for wanted in ("authorization", "content-type, X-Api-Key", "api-key"):
                self.assertEqual(self.preflight(origin, wanted), 204, origin)
                self.assertEqual(self.header("access-control-allow-origin"), origin)
                self.assertIsNone(self.header("access-control-allow-credentials"))
            self.assertEqual(self.send("GET /api/tags", Origin=origin, X_Api_Key="wrong"), 401)
            self.assertEqual(self.header("access-control-allow-origin"), origin)
            readable = self.header("access-control-expose-headers") or ""
            self.assertIn("X-Should-Retry", readable.split(", "))
        origin = "http://localhost:3000"
        self.assertEqual(self.preflight(origin, "content-type"), 403)
        for headers in ({}, {"X_Api_Key": "wrong", "Cookie": "a=b"}):
            self.send("GET /api/tags", Origin=origin, **headers)
            self.assertIsNone(self.header("access-control-allow-origin"), headers)
        self.send("GET /ctllm/session", Origin=origin, **self.bearer())
        self.assertIsNone(self.header("access-control-allow-origin"))
        for foreign in ("http://localhost:3000.evil.example", "http://localhost.evil.example"):
            self.assertEqual(self.preflight(foreign), 403)

    def test_options_that_is_no_preflight_is_an_ordinary_request(self) -> None:
        self.assertEqual(self.send("OPTIONS /v1/models", Access_Control_Request_Method="GET"), 401)
        self.assertEqual(self.send("OPTIONS /v1/models", Origin=FRIEND_ORIGIN), 401)

    def test_other_origins_are_refused_and_read_nothing(self) -> None:
        for origin in (
            "https://evil.example",
            "null",
            FRIEND_ORIGIN + ".evil.example",
            FRIEND_ORIGIN.upper(),
        ):
            self.assertEqual(self.preflight(origin), 403, origin)
            self.send("GET /health", Origin=origin)
            self.assertIsNone(self.header("access-control-allow-origin"))
        self.assertEqual(self.relayed_heads, [])

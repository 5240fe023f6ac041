"""The cloud's front door, as its socket shows it, and signing in through it."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import generate_key, hash_key
from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import ISSUER, AssertionVerifier
from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.gateway import Gateway
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessGrant,
    AccessTokenIssuer,
    ApiKeyLeases,
    AssertionSigner,
    CompositeTokenVerifier,
    Invites,
    LoginCodes,
    PrivateDirectory,
    Revocations,
    Sessions,
    User,
    proxy_id,
)
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyStatus
from ctllm.cloud.revocation_enforcer import RevocationEnforcer
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.user_limits import MAX_TUNNELS_PER_USER, UserLimiter
from ctllm.cloud.web_ui import PAGE
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.fakes import FakeEndpoint, FakeUpstream, MemoryTransport

ANN = User(ISSUER, "ann", "ann")
FRIEND = "https://friend.example"
ALL = frozenset({USE, MANAGE, SERVE})
ORIGINS = (FRIEND, "http://dev.example:*", "obsidian://*")
INSTANCE = bytes(32)
SHARE = 30  # requests of one user


class Proxy(FakeUpstream):
    """A user's proxy: an Origin to the front."""

    unreachable = ProxyUnavailable

    def __init__(self) -> None:
        super().__init__()
        self.place = FakeEndpoint()

        self.clock = Clock()
        self.origin = ConnectionPool(
            self.place, self.clock, "your streaming proxy", ProxyUnavailable
        )

    def upgrade(self, head: RequestHead, caller: Any, switched: Any) -> Any:
        return self.origin.upgrade(head, caller, switched)


class Proxies:
    """All of them; each has the one `Proxy`."""

    active_count = 1
    draining = False
    problem = ""

    def __init__(self) -> None:
        self.proxy = Proxy()
        self.began: list[bool] = []
        self.ensured: list[str] = []
        self.removed: list[str] = []
        self.revoked: list[str] = []
        self.state: Any = "absent"
        self.refusal: CtllmError | None = None
        self.waiting: Deferred[None] | None = None

    async def ensure_running(self, id: str, is_new_request: bool = True) -> Any:
        self.ensured.append(id)
        self.began.append(is_new_request)
        if self.waiting is not None:
            await self.waiting
        if self.refusal is not None:
            raise self.refusal
        return self.proxy

    async def remove(self, id: str, reason: str) -> None:
        self.removed.append(id)

    def revoke(self, id: str) -> None:
        self.revoked.append(id)

    def status(self, id: str) -> ProxyStatus:
        return ProxyStatus(self.state)

    async def health(self, id: str) -> None:
        return None


class Case(SynchronousTestCase):
    """A cloud without its sockets. `ask` is one request on one connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        now = self.clock.seconds
        folder = PrivateDirectory(Path(self.mktemp()))
        self.key = Ed25519PrivateKey.generate()
        self.invites = Invites(folder.subdirectory("invites"), now)
        self.sessions_dir = folder.subdirectory("sessions")
        self.sessions = Sessions(self.sessions_dir, now)
        self.issuer = AccessTokenIssuer(self.key, now)
        self.revocations_dir = folder.subdirectory("revocations")
        self.revocations = Revocations(self.revocations_dir, INSTANCE, now)
        self.keys = ApiKeyLeases(now)
        self.proxies = Proxies()
        self.metrics = Metrics()
        self.passes = LoginCodes(now)
        self.in_flight = ActiveRequests()
        self.compose()

    def compose(self, is_https: bool = False, max_requests: int = SHARE) -> None:
        """Make the gateway, with a limit of one user's requests."""
        now = self.clock.seconds
        assertions = AssertionSigner(self.key, now)
        proxies: Any = self.proxies
        self.revoker = RevocationEnforcer(
            self.revocations, self.check, self.in_flight, self.passes, self.keys, proxies
        )
        self.sign_in = SessionApi(
            self.issuer, self.invites, self.passes, self.sessions, self.revocations,
            self.revoker.apply_new, now, 30, is_https,
        )  # fmt: skip

        def proxy_of(grant: Any) -> str:
            return proxy_id(INSTANCE, grant.user.id)

        api = ManagementApi(self.sign_in, self.keys, assertions, proxy_of, proxies, self.clock)
        front = self.front = Gateway(
            CompositeTokenVerifier([self.keys, self.issuer], self.check), assertions, proxy_of, proxies, api,
            self.metrics, ORIGINS, self.clock, UserLimiter(max_requests), self.in_flight,
        )  # fmt: skip
        self.crowd = ConnectionLimiter(400)
        self.factory = HttpServerFactory(
            front,
            self.clock,
            connection_limiter=self.crowd,
            response_headers=front.response_headers,
        )
        self.wire = self.connect()

    def check(self, grant: AccessGrant) -> None:
        self.revocations.check(grant.user, grant.auth_time)
        self.sessions.check_active(grant.session_ids)

    def connect(self) -> MemoryTransport:
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire

    def token(self, scopes: frozenset[str] = ALL) -> str:
        return self.issuer.issue(ANN, scopes)

    def ask(self, line: str, body: Any = None, **headers: str) -> int:
        """Ask on a connection of its own; status, and `head` and `body` of the answer."""
        self.wire = self.connect()
        named = {"Host": "cloud.example", **headers}
        raw = b""
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            named = {"Content_Type": "application/json", **named, "Content_Length": str(len(raw))}
        lines = [f"{line} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        self.wire.protocol.dataReceived("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
        return self.answered()

    def answered(self) -> int:
        self.head, _, self.body = self.wire.take_written().partition(b"\r\n\r\n")
        return int(self.head.split(b" ")[1]) if self.head else 0

    def header(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.told["error"]["code"])

    @property
    def asked(self) -> list[Any]:
        return self.proxies.proxy.heads

    def bearer(self, scopes: frozenset[str] = ALL) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(scopes)}"}


class Routing(Case):
    """What is the cloud's own, and what is Ollama's."""

    def test_the_page_for_people(self) -> None:
        """Who asks for HTML at / gets it, signed in or not."""
        for headers in ({}, self.bearer()):
            self.assertEqual(self.ask("GET /", Accept="text/html,*/*;q=0.8", **headers), 200)
            self.assertEqual(self.body, PAGE)
        self.assertEqual(self.ask("GET /?x=1", Accept="text/html"), 200)
        self.assertEqual(self.ask("HEAD /", Accept="text/html"), 200)
        self.assertEqual((self.body, self.header("content-length")), (b"", str(len(PAGE))))
        self.assertEqual(self.asked, [])

    def test_refuses_the_old_name_of_a_renamed_header(self) -> None:
        for line in ("GET /api/tags", "GET /ctllm/desktops", "GET /ws/tunnel"):
            self.assertEqual(self.ask(line, Ctllm_Elsewhere="d", **self.bearer()), 400)
            self.assertIn(b"is now called Ctllm-Exclude-Desktop", self.body)
        self.assertEqual(self.asked, [])

    def test_ollama_for_programs(self) -> None:
        """Others get Ollama's answer at /, once they are known."""
        self.assertEqual(self.ask("GET /", Accept="*/*"), 401)
        self.ask("GET /", Accept="*/*", **self.bearer())
        self.ask("HEAD /", **self.bearer())
        self.ask("POST /", b"{}", Accept="text/html", **self.bearer())
        methods = [head.method for head in self.asked]
        self.assertEqual(methods, [b"GET", b"HEAD", b"POST"])

    def test_relayed(self) -> None:
        """Everything that is not the cloud's, by any method, as it was sent."""
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
            self.ask(line, **self.bearer())
            head = self.asked[-1]
            self.assertEqual(f"{head.method.decode()} {head.target.decode()}", line)
        wanted = proxy_id(INSTANCE, ANN.id)
        self.assertEqual(set(self.proxies.ensured), {wanted})
        began = self.proxies.began
        self.assertEqual(began, [True] * (len(began) - 1) + [False], "who resumes begins nothing")

    def test_a_target_without_a_path(self) -> None:
        """What stands in its query is no path of the cloud's own."""
        self.assertEqual(self.ask("GET http://h?/ctllm/session", **self.bearer()), 0)
        self.assertEqual(self.asked[-1].target, b"/?/ctllm/session")

    def test_what_the_proxy_is_sent(self) -> None:
        """An assertion that it believes, of use alone, and no credentials."""
        token = self.token()
        self.ask(
            "GET /api/tags", Authorization=f"Bearer {token}", Cookie="ctllm-session=x",
            Ctllm_Assertion="forged", X_Api_Key="k",
        )  # fmt: skip
        headers = self.asked[-1].headers
        proxy = self.proxies.ensured[0]
        verifier = AssertionVerifier(encode_public_key(self.key), proxy, self.clock.seconds)
        claims = verifier.verify(get_header(headers, b"ctllm-assertion") or b"")
        self.assertEqual((claims.scopes, ANN.subject in claims.subject), (frozenset({USE}), False))
        names = [name.lower() for name, _ in headers]
        self.assertEqual(names, [b"host", b"ctllm-assertion"])

    def test_time_that_went_by(self) -> None:
        """What a proxy's start took is not left for the answer."""
        self.proxies.waiting = Deferred()
        self.ask("GET /api/tags", Ctllm_Timeout="2000", **self.bearer())
        self.clock.advance(0.5)
        self.proxies.waiting.callback(None)
        self.assertEqual(get_header(self.asked[-1].headers, b"ctllm-timeout"), b"1500")

    def scopes_told(self) -> list[frozenset[str]]:
        """What the proxy was told of whoever asked, request by request."""
        verifier = AssertionVerifier(
            encode_public_key(self.key), proxy_id(INSTANCE, ANN.id), self.clock.seconds
        )
        assertions = [get_header(head.headers, b"ctllm-assertion") or b"" for head in self.asked]
        return [verifier.verify(assertion).scopes for assertion in assertions]

    def test_what_a_key_may_ask(self) -> None:
        """Inference and lists; nothing that changes anything, and nothing that nobody knows."""
        use = self.bearer(frozenset({USE}))
        for line in (
            "POST /api/chat", "GET /api/tags", "HEAD /", "POST //v1/messages/", "GET /v1/models/m",
        ):  # fmt: skip
            self.ask(line, b"{}", **use)
        targets = [head.target.decode() for head in self.asked]
        expected = ["/api/chat", "/api/tags", "/", "/v1/messages", "/v1/models/m"]
        self.assertEqual(targets, expected, "what was judged is what is passed on")
        self.assertEqual(set(self.scopes_told()), {frozenset({USE})})
        begun = len(self.proxies.ensured)
        for line in (
            "DELETE /api/delete", "DELETE //api/%64elete/", "POST /api/pull", "POST /api/push",
            "POST /api/create", "POST /api/copy", "POST /api/blobs/sha256:00", "POST /api/me",
            "POST /api/signout", "DELETE /api/user/keys/x", "GET /debug/pprof/", "POST /api/new",
            "POST /x/../api/me", "PROPFIND /", "GET /api/chat", "POST /api%2fpull",
        ):  # fmt: skip
            status = self.ask(line, b"{}", **use)
            self.assertIn(status, (403, 405), line)
        self.assertEqual(len(self.asked), 5, "none of them reached a proxy")
        self.assertEqual(len(self.proxies.ensured), begun, "nor started one")
        self.ask("DELETE /api/delete", b"{}", **use)
        self.assertIn("ctllm keys add NAME --manage", self.told["error"])
        self.ask("POST /v1/rerank", b"{}", **use)
        self.assertIn("desktop.allowed_requests", self.told["error"]["message"])
        self.assertEqual(self.told["error"]["type"], "permission_error")
        self.assertEqual((self.ask("GET /api/chat", **use), self.header("allow")), (405, "POST"))

    def test_who_may_manage(self) -> None:
        """Its scope goes with what needs it; the desktop has the last word."""
        both = self.bearer(frozenset({USE, MANAGE}))
        for line in ("DELETE /api/delete", "POST /api/me", "GET /debug/pprof/", "POST /api/chat"):
            self.ask(line, b"{}", **both)
        manage, use = frozenset({USE, MANAGE}), frozenset({USE})
        self.assertEqual(self.scopes_told(), [manage, manage, manage, use])

    def test_the_answer(self) -> None:
        """It comes back as it is, and is counted."""
        self.ask("GET /api/tags", **self.bearer())
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(418, b"Tea", ((b"Content-Length", b"2"), (b"X", b"y"))))
        caller.write(b"hi")
        caller.finish()
        self.assertEqual((self.answered(), self.body, self.header("x")), (418, b"hi", "y"))
        rendered = self.metrics.render_text()[1]
        self.assertIn(b'ctllm_requests_total{outcome="completed"} 1.0', rendered)

    def test_a_client_that_leaves(self) -> None:
        """While its proxy starts, nothing is asked of it; while it answers, it hears so."""
        self.proxies.waiting = Deferred()
        self.ask("GET /api/tags", **self.bearer())
        self.wire.disconnect()
        self.assertTrue(self.proxies.waiting.called)
        self.assertEqual(self.asked, [])
        self.proxies.waiting = None
        self.ask("GET /api/tags", **self.bearer())
        self.wire.disconnect()
        self.assertIsInstance(self.proxies.proxy.requests[0].calls[-1], CtllmError)
        self.assertIn(
            b'ctllm_requests_total{outcome="client_disconnected"} 1.0',
            self.metrics.render_text()[1],
        )

    def test_full(self) -> None:
        """Said in the words of the path, with a time to come back."""
        self.proxies.refusal = ServiceUnavailable("too many", retry_after=60)
        self.assertEqual(self.ask("GET /v1/models", **self.bearer()), 503)
        self.assertEqual(
            (self.header("retry-after"), self.told["error"]["code"]), ("60", "overloaded")
        )

    def test_without_a_token(self) -> None:
        """Health and the description of the API; nothing else."""
        self.assertEqual(self.ask("GET /health"), 200)
        self.assertEqual((self.told["status"], self.told["error"]), ("ok", None))
        self.proxies.draining = True
        self.ask("GET /health")
        self.assertEqual((self.told["status"], self.told["error"]), ("draining", None))
        self.proxies.problem = "no engine"
        self.ask("GET /health")
        self.assertEqual((self.told["status"], self.told["error"]), ("degraded", "no engine"))
        self.assertEqual(self.ask("GET /ctllm/openapi.json"), 200)
        for line in ("GET /ctllm/session", "GET /ctllm/proxy", "GET /ctllm/desktops"):
            self.assertEqual(self.ask(line), 401, line)
            self.assertEqual(self.header("www-authenticate"), 'Bearer realm="ctllm"')
        self.assertEqual(self.ask("GET /ctllm/nothing"), 404)
        self.assertEqual(self.ask("PATCH /ctllm/session"), 405)
        self.assertIn("POST", self.header("allow") or "")
        self.assertEqual(self.proxies.ensured, [])

    def test_managing(self) -> None:
        """A proxy is shown, started and stopped; desktops are not looked for where none runs."""
        self.assertEqual(self.ask("GET /ctllm/proxy", **self.bearer()), 200)
        self.assertEqual((self.told["state"], self.told["since"]), ("absent", None))
        self.assertEqual(self.ask("GET /ctllm/desktops", **self.bearer()), 200)
        self.assertEqual((self.told, self.proxies.ensured), ({"desktops": []}, []))
        self.assertEqual(self.ask("PUT /ctllm/proxy", **self.bearer()), 200)
        self.assertEqual(self.ask("DELETE /ctllm/proxy", **self.bearer()), 204)
        self.assertEqual(self.proxies.ensured, self.proxies.removed)


class Tokens(Case):
    """Who is asking."""

    def status(self, **headers: str) -> int:
        """0: asked on, and not answered yet."""
        return self.ask("GET /api/tags", **headers)

    def test_each_form(self) -> None:
        """Bearer in any case, Basic's password, x-api-key and api-key; what is good counts."""
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
        self.assertEqual(len(self.asked), 10)
        sent = b"".join(sum((pair for head in self.asked for pair in head.headers), ()))
        for secret in (token, b64encode(f"anybody:{token}".encode()).decode()):
            self.assertNotIn(secret.encode(), sent, "no credential goes on")

    def test_basic_from_pages(self) -> None:
        """A browser may add these by itself: to a page of elsewhere they count for nothing."""
        basic = b64encode(f":{self.token()}".encode()).decode()
        for site, status in (("cross-site", 401), ("same-site", 401), ("same-origin", 0)):
            given = {"Authorization": f"Basic {basic}", "Sec_Fetch_Site": site}
            self.assertEqual(self.status(**given), status, site)

    def test_two_of_them(self) -> None:
        """Two of one header are refused, though one is good: others might believe the other."""
        token = self.token()
        for both in (
            {"Authorization": f"Bearer {token}", "authorization": "Bearer ollama"},
            {"X_Api_Key": token, "x_api_key": "other"},
            {"Api_Key": "other", "api_key": token},
        ):
            self.assertEqual(self.status(**both), 400)
        self.assertEqual(self.asked, [])

    def test_without_any(self) -> None:
        """The sentence says which headers there are, and where a key comes from."""
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer ", "Api_Key": ""},
        ):
            for line in ("GET /", "GET /api/version", "POST /v1/chat/completions"):
                self.assertEqual(self.ask(line, **headers), 401)
                for part in (b"Authorization: Bearer", b"x-api-key", b"ctllm keys add"):
                    self.assertIn(part, self.body)
        self.assertIn(b"ctllm_authentication_failures_total 0.0", self.metrics.render_text()[1])

    def test_the_ollama_command(self) -> None:
        """It sees that a server is there, and then a sentence that it shows."""
        command = {"User_Agent": "ollama/0.12.6 (amd64 linux) Go/go1.24.1"}
        for headers in ({}, command):
            self.assertEqual((self.ask("HEAD /", **headers), self.body), (200, b""))
        for bearer in ({}, {"Authorization": "Bearer "}):
            self.assertEqual(self.ask("GET /api/tags", **command, **bearer), 403)
            self.assertIn("OLLAMA_HOST=127.0.0.1:11435", self.told["error"])
        self.assertEqual(self.ask("GET /api/tags", User_Agent="ollama-python/0.6.0"), 401)
        self.assertEqual(self.ask("GET /api/tags", **command, X_Api_Key=self.token()), 0)
        self.assertEqual(self.ask("HEAD /", X_Api_Key="wrong"), 401)
        self.assertEqual(len(self.proxies.ensured), 1)

    def test_codex(self) -> None:
        """A WebSocket is refused with what makes it go on by HTTP, and starts no proxy."""
        wanted = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": b64encode(bytes(16)).decode(),
        }  # fmt: skip
        for headers in ({}, {"Authorization": "Bearer wrong"}, self.bearer()):
            self.assertEqual(self.ask("GET /v1/responses", **wanted, **headers), 426)
            self.assertEqual(self.header("upgrade"), "HTTP/1.1")
            self.assertEqual(self.told["error"]["code"], "upgrade_required")
        self.assertEqual(self.proxies.ensured, [])
        self.wire.protocol.dataReceived(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(self.answered(), 200, "the connection may go on")

    def test_other_forms(self) -> None:
        """They are refused, whatever they hold: nobody's token is looked for elsewhere."""
        token = self.token()
        for given in (f"Basic {token}", token, "Bearer", "Bearer ", f"Bearer,{token}", "é"):
            self.assertEqual(self.status(Authorization=given), 401, given)
        for elsewhere in ({"Cookie": f"token={token}"}, {}):
            self.assertEqual(self.status(**elsewhere), 401)
        self.assertEqual(self.ask(f"GET /api/tags?access_token={token}"), 401)

    def test_not_ours(self) -> None:
        """Forged, changed, old, and of no known kind; each is counted."""
        forged = AccessTokenIssuer(Ed25519PrivateKey.generate(), self.clock.seconds).issue(ANN, ALL)
        old = self.token()
        self.clock.advance(700)
        for token in (forged, old, self.token() + "A", "rubbish", "ctllm-k-x", "ü"):
            self.assertEqual(self.status(X_Api_Key=token), 401, token)
        self.assertIn(b"ctllm_authentication_failures_total 6.0", self.metrics.render_text()[1])
        self.assertEqual(self.proxies.ensured, [])

    def test_scopes(self) -> None:
        """Each place wants its own."""
        use, manage = frozenset({USE}), frozenset({MANAGE})
        self.assertEqual(self.ask("GET /ctllm/proxy", **self.bearer(use)), 403)
        self.assertEqual(self.ask("GET /api/tags", **self.bearer(manage)), 403)
        lease = {"hashes": [], "seconds": 60}
        path = "PUT /ctllm/desktops/" + "a" * 32 + "/keys"
        self.assertEqual(self.ask(path, lease, **self.bearer(use | manage)), 403)
        self.assertEqual(self.ask(path, lease, **self.bearer()), 204)

    def test_api_keys(self) -> None:
        """They use models and manage nothing, for as long as their desktop says so."""
        key = generate_key(ANN.id)
        path = "PUT /ctllm/desktops/" + "a" * 32 + "/keys"
        self.ask(path, {"hashes": [hash_key(key)], "seconds": 60}, **self.bearer())
        self.assertEqual(self.status(X_Api_Key=key), 0)
        self.assertEqual(self.ask("GET /ctllm/session", X_Api_Key=key), 403)
        self.assertEqual(self.ask("GET /ws/tunnel", X_Api_Key=key, Upgrade="websocket"), 403)
        self.clock.advance(61)
        self.assertEqual(self.status(X_Api_Key=key), 401)


class OtherSites(Case):
    """Pages that are not the cloud's own."""

    def preflight(self, origin: str, wanted: str = "authorization") -> int:
        return self.ask(
            "OPTIONS /v1/models",
            Origin=origin,
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers=wanted,
        )

    def test_allowed_ones(self) -> None:
        """Those of the configuration may ask, and read answers and refusals."""
        self.assertEqual(self.preflight(FRIEND), 204)
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND)
        self.assertEqual(self.header("access-control-allow-credentials"), "true")
        self.assertIn("PATCH", self.header("access-control-allow-methods") or "")
        self.assertEqual(self.ask("GET /v1/models", Origin=FRIEND), 401)
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND)
        self.assertEqual(self.header("access-control-allow-credentials"), "true")
        self.assertIn("Retry-After", self.header("access-control-expose-headers") or "")
        self.assertEqual(self.header("vary"), "Origin")

    def test_any_header_may_be_sent(self) -> None:
        """The SDKs send a dozen of their own; what is no list of names gets a list of the usual."""
        wanted = "authorization,content-type,x-stainless-os, anthropic-version"
        for asked, told in ((wanted, wanted), ("a: b", None), ("", None), ("a" * 9000, None)):
            self.assertEqual(self.preflight(FRIEND, asked), 204)
            usual = "Authorization, Content-Type, X-Api-Key, Api-Key"
            self.assertEqual(self.header("access-control-allow-headers"), told or usual)

    def test_patterns(self) -> None:
        """Any port of a host, any app of a scheme; nothing that merely begins so."""
        for origin in ("http://dev.example:1", "http://dev.example:65535", "obsidian://any"):
            self.assertEqual(self.preflight(origin), 204, origin)
            self.assertEqual(self.header("access-control-allow-credentials"), "true")
        for origin in (
            "http://dev.example", "http://dev.example:", "http://dev.example:80.evil.example",
            "http://dev.example:x", "https://dev.example:1", "obsidian:/any", "xobsidian://any",
        ):  # fmt: skip
            self.assertEqual(self.preflight(origin), 403, origin)

    def test_pages_of_the_clients_machine(self) -> None:
        """With a key and no cookie they use models, as with Ollama itself; they manage nothing."""
        for origin in (
            "http://localhost:3000", "https://127.0.0.1", "http://0.0.0.0:8080", "app://obsidian.md",
            "vscode-webview://1a2b", "tauri://localhost",
        ):  # fmt: skip
            for wanted in ("authorization", "content-type, X-Api-Key", "api-key"):
                self.assertEqual(self.preflight(origin, wanted), 204, origin)
                self.assertEqual(self.header("access-control-allow-origin"), origin)
                self.assertIsNone(self.header("access-control-allow-credentials"))
            self.assertEqual(self.ask("GET /api/tags", Origin=origin, X_Api_Key="wrong"), 401)
            self.assertEqual(self.header("access-control-allow-origin"), origin)
            readable = self.header("access-control-expose-headers") or ""
            self.assertIn("X-Should-Retry", readable.split(", "))
        origin = "http://localhost:3000"
        self.assertEqual(self.preflight(origin, "content-type"), 403)
        for headers in ({}, {"X_Api_Key": "wrong", "Cookie": "a=b"}):
            self.ask("GET /api/tags", Origin=origin, **headers)
            self.assertIsNone(self.header("access-control-allow-origin"), headers)
        self.ask("GET /ctllm/session", Origin=origin, **self.bearer())
        self.assertIsNone(self.header("access-control-allow-origin"))
        for foreign in ("http://localhost:3000.evil.example", "http://localhost.evil.example"):
            self.assertEqual(self.preflight(foreign), 403)

    def test_options_that_no_browser_sent(self) -> None:
        """Without an Origin, or without a method, it is a request like any other."""
        self.assertEqual(self.ask("OPTIONS /v1/models", Access_Control_Request_Method="GET"), 401)
        self.assertEqual(self.ask("OPTIONS /v1/models", Origin=FRIEND), 401)

    def test_others(self) -> None:
        """They are told that they may not, and read nothing."""
        for origin in ("https://evil.example", "null", FRIEND + ".evil.example", FRIEND.upper()):
            self.assertEqual(self.preflight(origin), 403, origin)
            self.ask("GET /health", Origin=origin)
            self.assertIsNone(self.header("access-control-allow-origin"))
        self.assertEqual(self.asked, [])


class Tunnels(Case):
    """A bridge's WebSocket passes through."""

    UPGRADE = {
        "Upgrade": "WebSocket",
        "Connection": "keep-alive, Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    AGREED = (
        b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: x\r\nSet-Cookie: a=b\r\n\r\n"
    )

    def upgrade(self) -> MemoryTransport:
        """The proxy's end of it, once it is asked for."""
        self.ask("GET /ws/tunnel", Cookie="x", Ctllm_Assertion="y", **self.UPGRADE, **self.bearer())
        return self.proxies.proxy.place.accept()

    def test_joined(self) -> None:
        """Its head goes on with an assertion for its token; after 101, bytes both ways."""
        inner = self.upgrade()
        self.assertEqual(self.proxies.began, [False])
        head = inner.take_written()
        self.assertTrue(
            head.startswith(b"GET /ws/tunnel HTTP/1.1\r\n") and head.endswith(b"\r\n\r\n")
        )
        for gone in (b"bearer", b"cookie", b": y\r\n"):
            self.assertNotIn(gone, head.lower())
        token = head.partition(b"Ctllm-Assertion: ")[2].partition(b"\r\n")[0]
        verifier = AssertionVerifier(
            encode_public_key(self.key), self.proxies.ensured[0], self.clock.seconds
        )
        self.assertEqual(verifier.verify(token).scopes, frozenset({USE, SERVE}))
        inner.protocol.dataReceived(self.AGREED + b"first")
        said = self.wire.take_written()
        self.assertTrue(said.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), said)
        self.assertTrue(said.endswith(b"Sec-WebSocket-Accept: x\r\n\r\nfirst"), said)
        self.assertNotIn(b"Set-Cookie", said)
        self.wire.protocol.dataReceived(b"up")
        inner.protocol.dataReceived(b"down")
        self.assertEqual((inner.take_written(), self.wire.take_written()), (b"up", b"down"))

    def test_nothing_is_joined_before_the_proxy_agrees(self) -> None:
        """What the bridge sends meanwhile waits, and goes to the WebSocket."""
        inner = self.upgrade()
        inner.take_written()
        self.wire.protocol.dataReceived(b"early")
        self.assertEqual(inner.take_written(), b"")
        inner.protocol.dataReceived(self.AGREED)
        self.assertEqual(inner.take_written(), b"early")

    def test_a_proxy_that_does_not_say_whether_it_agrees(self) -> None:
        """The bridge hears of it in time, and the proxy's connection is closed."""
        inner, clock = self.upgrade(), self.proxies.proxy.clock
        clock.advance(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual(self.wire.take_written(), b"")
        clock.advance(1)
        self.assertEqual((self.answered(), inner.closed), (502, "abort"))

    def test_they_count(self) -> None:
        """As connections, as their user's requests and as tunnels, until they are closed."""
        before = len(self.crowd)
        inner = self.upgrade()
        inner.protocol.dataReceived(self.AGREED)
        outer = self.wire
        self.assertEqual(len(self.crowd), before + 1)
        for _ in range(SHARE - 1):
            self.assertEqual(self.ask("GET /api/tags", **self.bearer()), 0)
        self.assertEqual(self.ask("GET /api/tags", **self.bearer()), 429)
        outer.disconnect()
        self.assertEqual(self.ask("GET /api/tags", **self.bearer()), 0)

    def test_so_many_of_one_user(self) -> None:
        """One more gets 429; refused ones do not count, nor do those that have closed."""
        self.compose(max_requests=1000)
        upgrade = {**self.UPGRADE, **self.bearer()}
        pairs = []
        for _ in range(MAX_TUNNELS_PER_USER):
            inner = self.upgrade()
            inner.protocol.dataReceived(self.AGREED)
            pairs.append((self.wire, inner))
        self.assertEqual(self.ask("GET /ws/tunnel", **upgrade), 429)
        self.assertEqual(self.header("retry-after"), "10")
        self.assertIn("64 of your tunnels", self.told["error"]["message"])
        pairs[0][1].disconnect()
        inner = self.upgrade()
        inner.protocol.dataReceived(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.answered(), 503)
        inner = self.upgrade()
        inner.protocol.dataReceived(self.AGREED)
        self.assertEqual(self.answered(), 101)
        self.assertEqual(self.ask("GET /ws/tunnel", **upgrade), 429)

    def test_a_refusal_is_an_answer_and_the_end_of_the_connection(self) -> None:
        """Nothing that follows on it reaches this user's proxy: it may be another user's."""
        for refusal in (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull",
            b"HTTP/1.1 400 Bad Request\r\n\r\nfull",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n",
        ):
            inner = self.upgrade()
            inner.take_written()
            inner.protocol.dataReceived(refusal)
            if b"Content-Length" not in refusal and b"chunked" not in refusal:
                inner.disconnect()
            answer = self.wire.take_written()
            self.assertEqual(answer.split(b" ")[1], refusal.split(b" ")[1])
            self.assertIn(b"Connection: close\r\n", answer)
            self.assertIn(b"full", answer)
            self.assertEqual(self.wire.closed, "close")
            self.wire.protocol.dataReceived(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual((inner.take_written(), self.wire.take_written()), (b"", b""))

    def test_a_change_of_protocol_that_nobody_asked_for(self) -> None:
        """On an ordinary request 101 is no answer."""
        inner = self.upgrade()
        inner.protocol.dataReceived(b"HTTP/1.1 101 Yes\r\n")
        inner.disconnect()
        self.assertEqual(self.answered(), 502)

    def test_what_is_no_handshake_opens_no_connection(self) -> None:
        """400, before the proxy hears of it."""
        for name, value in (
            ("Connection", "close"),
            ("Sec_WebSocket_Version", "8"),
            ("Sec_WebSocket_Key", "short"),
            ("Content_Length", "5"),
        ):
            headers = {**self.UPGRADE, **self.bearer(), name: value}
            self.assertEqual(self.ask("GET /ws/tunnel", **headers), 400, name)
        self.assertEqual(self.ask("POST /ws/tunnel", **self.UPGRADE, **self.bearer()), 400)
        self.assertEqual(self.proxies.proxy.place.pending, [])

    def test_not_a_websocket(self) -> None:
        """There is nothing to see there."""
        self.assertEqual(self.ask("GET /ws/tunnel", **self.bearer()), 404)
        self.assertEqual(self.ask("GET /ws/tunnel", **self.UPGRADE), 401)

    def test_not_for_browsers(self) -> None:
        """A sign-in that may not serve is told so."""
        scopes = frozenset({USE, MANAGE})
        self.assertEqual(self.ask("GET /ws/tunnel", **self.UPGRADE, **self.bearer(scopes)), 403)

    def test_a_proxy_that_is_not_there(self) -> None:
        """The bridge hears that it may come back."""
        self.ask("GET /ws/tunnel", **self.UPGRADE, **self.bearer())
        self.proxies.proxy.place.refuse(ConnectionRefusedError())
        self.assertEqual((self.answered(), self.header("retry-after")), (503, "5"))

    def test_a_bridge_that_leaves_meanwhile(self) -> None:
        """The dialling is given up."""
        self.ask("GET /ws/tunnel", **self.UPGRADE, **self.bearer())
        self.wire.disconnect()
        self.assertEqual(self.proxies.proxy.place.cancelled, 1)


class SigningIn(Case):
    """Invitations, sessions, cookies."""

    def redeem(self, client: str = "browser", **headers: str) -> int:
        body = {"invite": self.invites.create("ann"), "client": client}
        return self.ask("POST /ctllm/session", body, **headers)

    def cookie(self) -> str:
        return (self.header("set-cookie") or "").partition(";")[0]

    def test_a_browser(self) -> None:
        """It gets a short token, and a cookie that no script and no other site can use."""
        self.compose(is_https=True)
        self.assertEqual(self.redeem(Origin="https://cloud.example"), 201)
        self.assertEqual(sorted(self.told), ["expires_in", "token", "user"])
        self.assertEqual(self.told["user"], {"name": "ann", "id": "ctllm|ann"})
        attributes = (self.header("set-cookie") or "").split("; ")[1:]
        wanted = ["Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=2592000"]
        self.assertEqual(attributes, wanted)
        self.assertEqual(self.header("cache-control"), "no-store")

    def test_a_desktop(self) -> None:
        """It gets what renews, to keep; and it may serve, which a browser may not."""
        self.assertEqual(self.redeem("desktop"), 201)
        self.assertIsNone(self.header("set-cookie"))
        refresh, token = self.told["refresh"], self.told["token"]
        self.ask("GET /ctllm/session", Authorization=f"Bearer {token}")
        self.assertEqual(self.told["scopes"], ["manage", "serve", "use"])
        self.assertEqual(self.told["expires_in"], 600)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": refresh}), 200)
        self.assertEqual(self.ask("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": refresh}), 401)

    def test_a_narrower_token(self) -> None:
        """What a desktop asks for its apps may use models and nothing else."""
        self.redeem("desktop")
        renewal = {"refresh": self.told["refresh"], "scope": "use"}
        self.assertEqual(self.ask("POST /ctllm/session/token", renewal), 200)
        narrow = {"Authorization": f"Bearer {self.told['token']}"}
        self.assertEqual(self.ask("GET /api/tags", **narrow), 0)
        for line in ("GET /ctllm/session", "GET /ctllm/desktops", "DELETE /api/delete"):
            self.assertEqual(self.ask(line, **narrow), 403, line)
        self.assertEqual(self.ask("POST /ctllm/session/invite", **narrow), 403)
        wrong = {**renewal, "scope": "serve"}
        self.assertEqual(self.ask("POST /ctllm/session/token", wrong), 400)

    def test_a_desktop_lets_its_users_browser_in(self) -> None:
        """By a secret that works once; a page or an API key cannot make one."""
        self.assertEqual(self.ask("POST /ctllm/session/invite", **self.bearer()), 201)
        self.assertEqual(self.told["expires_in"], 120)
        body = {"invite": self.told["invite"], "client": "browser"}
        self.assertEqual(self.ask("POST /ctllm/session", body), 201)
        self.assertEqual(self.told["user"]["name"], "ann")
        self.assertEqual(self.ask("POST /ctllm/session", body), 401)
        for scopes in ({MANAGE, USE}, {SERVE, USE}, {USE}):
            told = self.bearer(frozenset(scopes))
            self.assertEqual(self.ask("POST /ctllm/session/invite", **told), 403)
        self.assertEqual(self.ask("POST /ctllm/session/invite"), 401)

    def test_an_invitation_works_once(self) -> None:
        """And not when it is too old, or was none."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.assertEqual(self.ask("POST /ctllm/session", body), 201)
        self.assertEqual(self.ask("POST /ctllm/session", body), 401)
        self.assertEqual(self.ask("POST /ctllm/session", {**body, "invite": "x" * 43}), 401)
        body["invite"] = self.invites.create("ann")
        self.clock.advance(15 * 60)
        self.assertEqual(self.ask("POST /ctllm/session", body), 401)

    def test_staying_signed_in(self) -> None:
        """The cookie alone gives another token, until the sign-out, which clears it."""
        self.redeem()
        cookie = self.cookie()
        for _ in range(2):
            self.assertEqual(
                self.ask("POST /ctllm/session/token", {}, Cookie=f"a=b; {cookie}"), 200
            )
            self.assertEqual(self.cookie(), cookie)
            self.assertEqual(sorted(self.told), ["expires_in", "token", "user"])
        self.assertEqual(self.ask("DELETE /ctllm/session", Cookie=cookie), 204)
        self.assertIn("ctllm-session=; ", self.header("set-cookie") or "")
        self.assertIn("Max-Age=0", self.header("set-cookie") or "")
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=cookie), 401)
        self.assertEqual(self.ask("POST /ctllm/session/token", {}), 401)
        self.assertEqual(self.ask("DELETE /ctllm/session"), 204)

    def test_each_kind_of_client_renews_in_its_own_way(self) -> None:
        """A desktop's secret is no cookie, and a browser's cookie is no desktop's secret."""
        self.redeem("desktop")
        refresh = self.told["refresh"]
        self.assertEqual(
            self.ask("POST /ctllm/session/token", {}, Cookie=f"ctllm-session={refresh}"), 401
        )
        self.assertIsNone(self.header("set-cookie"))
        self.redeem()
        kept = self.cookie().partition("=")[2]
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": kept}), 401)

    def test_a_request_that_a_browser_marks_as_foreign(self) -> None:
        """It signs nobody in, whatever else it says."""
        for site in ("cross-site", "same-site"):
            self.assertEqual(self.redeem(Sec_Fetch_Site=site), 403)
        self.assertEqual(self.redeem(Sec_Fetch_Site="same-origin"), 201)

    def test_two_cookies_of_one_name(self) -> None:
        """One of them was set by another site of the domain: neither signs anybody in."""
        self.redeem()
        cookie = self.cookie()
        for both in (f"{cookie}; {cookie}x", f"{cookie}x; {cookie}"):
            self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=both), 401)
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=cookie), 200)

    def test_a_cookie_is_no_token(self) -> None:
        """It opens nothing else."""
        self.redeem()
        for line in ("GET /ctllm/session", "GET /ctllm/proxy", "GET /api/tags"):
            self.assertEqual(self.ask(line, Cookie=self.cookie() or "x"), 401)
            self.redeem()

    def test_foreign_pages(self) -> None:
        """They can neither sign somebody in nor use the cookie, even those that may use models."""
        self.redeem()
        cookie = self.cookie()
        for origin in (FRIEND, "null", "https://cloud.example.evil", "http://cloud.example:81"):
            self.assertEqual(self.redeem(Origin=origin), 403, origin)
            headers = {"Cookie": cookie, "Origin": origin}
            self.assertEqual(self.ask("POST /ctllm/session/token", {}, **headers), 403)
            self.assertEqual(self.ask("DELETE /ctllm/session", **headers), 403)
        headers["Origin"] = "http://cloud.example"
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, **headers), 200)

    def test_a_refused_page_spends_no_invitation(self) -> None:
        """It can be used afterwards."""
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.assertEqual(self.ask("POST /ctllm/session", body, Origin=FRIEND), 403)
        self.assertEqual(self.ask("POST /ctllm/session", body), 201)

    def test_bodies(self) -> None:
        """Only JSON, only so much of it, only what is asked for; nothing of it is repeated."""
        path = "POST /ctllm/session"
        good = {"invite": "x" * 43, "client": "browser"}
        self.assertEqual(self.ask(path, good, Content_Type="text/plain"), 415)
        self.assertEqual(self.ask(path, b"x" * 20_000), 413)
        for bad in (
            b"", b"{", b"[]", b"\xff", b'{"invite": "\xff"}',
            {**good, "client": "toaster"}, {**good, "more": 1}, {**good, "invite": "hunter2"},
            {"client": "browser"},
        ):  # fmt: skip
            self.assertEqual(self.ask(path, bad), 400, bad)
            self.assertNotIn(b"hunter2", self.body)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": "hunter2"}), 400)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": None}), 400)

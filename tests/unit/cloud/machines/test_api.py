"""The `ollama` command at the gateway: its signatures, and the approval of its machine."""

from __future__ import annotations

from json import dumps
from typing import Any

from ctllm.auth.session_assertions import MANAGE, USE
from ctllm.cloud.audit import AUDIT_FILE, AuditEntry
from ctllm.cloud.identity import AccessGrant, Machine, User
from ctllm.common.json_decoder import decode_json
from tests.ollama_key import OllamaKey
from tests.unit.cloud.gateway_case import ANN, BOB, CLOUD_URL, GatewayCase

USER_AGENT = "ollama/0.17.4 (amd64 linux) Go/go1.24.1"
LINK = f"{CLOUD_URL}/#machine="


class MachineCase(GatewayCase):
    """A gateway, and the key of an `ollama` command."""

    def setUp(self) -> None:
        super().setUp()
        self.ollama_key = OllamaKey()

    @property
    def now(self) -> int:
        return int(self.clock.seconds())

    def run_ollama(
        self, method: str, path: str, key: OllamaKey | None = None, **headers: str
    ) -> int:
        """Send a signed request as `ollama` does and return the status."""
        credentials = (key or self.ollama_key).sign(method, path, self.now)
        named = {"Authorization": credentials, "User_Agent": USER_AGENT, **headers}
        return self.send(f"{method} {path}?ts={self.now}", **named)

    def ask(self) -> str:
        """Send a request of an unknown machine and return the code in its link."""
        self.assertEqual(self.run_ollama("GET", "/api/tags"), 401)
        link = str(self.json["signin_url"])
        self.assertTrue(link.startswith(LINK), link)
        return link.removeprefix(LINK)

    def bearer_of(self, user: User) -> dict[str, str]:
        token = self.issuer.issue(user, frozenset({USE, MANAGE}))
        return {"Authorization": f"Bearer {token}"}

    def approve(self, code: str, *scopes: str, user: User = ANN, name: str = "laptop") -> int:
        body = {"code": code, "name": name, "scopes": scopes}
        return self.send("POST /ctllm/machines", body, **self.bearer_of(user))

    def register(self, *scopes: str, user: User = ANN) -> str:
        """Register the machine and return its id."""
        self.assertEqual(self.approve(self.ask(), *scopes, user=user), 201)
        return str(self.json["id"])

    def machine(self) -> Machine:
        found = self.machines.find(self.ollama_key.id)
        assert found is not None
        return found


class UnknownMachineTests(MachineCase):
    """Requests of machines that are not registered."""

    def test_get_a_link_where_a_person_approves_them(self) -> None:
        code = self.ask()
        self.assertIn(f"{LINK}{code}", self.json["error"])
        self.assertEqual(self.ask(), code)
        self.assertEqual(self.relayed_heads, [])

    def test_only_a_valid_signature_gets_a_link(self) -> None:
        good = self.ollama_key.sign("GET", "/api/tags", self.now)
        other = OllamaKey().sign("GET", "/api/tags", self.now)
        forged = f"{good.partition(':')[0]}:{other.partition(':')[2]}"
        target = f"/api/tags?ts={self.now}"
        for line, credentials in (
            (f"GET {target}", forged),
            (f"GET {target}", self.ollama_key.sign("GET", "/api/ps", self.now)),
            (f"GET {target}", self.ollama_key.sign("POST", "/api/tags", self.now)),
            (f"GET {target}&x=1", good),
            (f"GET {target}&ts={self.now}", good),
            ("GET /api/tags", good),
        ):
            self.assertEqual(self.send(line, Authorization=credentials), 401)
            self.assertNotIn("signin_url", self.json)
        self.assertEqual(len(self.machine_requests), 0)

    def test_a_replay_after_a_minute_is_refused_with_a_message(self) -> None:
        self.register()
        credentials = self.ollama_key.sign("GET", "/api/tags", self.now)
        line = f"GET /api/tags?ts={self.now}"
        self.clock.advance(61)
        self.assertEqual(self.send(line, Authorization=credentials), 403)
        self.assertIn("Check the clock", self.json["error"])

    def test_head_of_the_root_detects_the_server(self) -> None:
        self.assertEqual(self.run_ollama("HEAD", "/"), 200)
        self.assertEqual(len(self.machine_requests), 0)

    def test_without_a_signature_the_message_names_the_setting(self) -> None:
        self.assertEqual(self.send("GET /api/tags", User_Agent=USER_AGENT), 403)
        self.assertIn("OLLAMA_AUTH=1", self.json["error"])

    def test_pages_cannot_use_a_signature(self) -> None:
        self.register()
        headers: tuple[dict[str, Any], ...] = (
            {"Origin": "http://localhost"},
            {"Sec_Fetch_Site": "same-origin"},
        )
        for header in headers:
            self.assertEqual(self.run_ollama("GET", "/api/tags", **header), 403)
        self.assertIsNone(self.header("access-control-allow-origin"))
        self.assertEqual(self.relayed_heads, [])

    def test_a_signature_is_no_bearer_token(self) -> None:
        self.register()
        signed = self.ollama_key.sign("GET", "/api/tags", self.now)
        line = f"GET /api/tags?ts={self.now}"
        for headers in (
            {"Authorization": f"Bearer {signed}"}, {"x-api-key": signed}, {"api-key": signed},
            {"Authorization": f"Signature {signed}"}, {"Proxy-Authorization": signed},
        ):  # fmt: skip
            self.assertEqual(self.send(line, **headers), 401)

    def test_two_authorization_headers_are_refused(self) -> None:
        self.register()
        signed = self.ollama_key.sign("GET", "/api/tags", self.now)
        line = f"GET /api/tags?ts={self.now}"
        headers = {"Authorization": signed, "authorization": f"Bearer {self.token()}"}
        self.assertEqual(self.send(line, **headers), 400)

    def test_too_many_of_one_address_have_to_wait(self) -> None:
        for _ in range(16):
            self.assertEqual(self.run_ollama("GET", "/api/tags", OllamaKey()), 401)
        self.assertEqual(self.run_ollama("GET", "/api/tags", OllamaKey()), 429)
        self.client_address = "198.51.100.7"
        self.assertEqual(self.run_ollama("GET", "/api/tags", OllamaKey()), 401)

    def test_a_refused_token_beside_the_signature_does_not_hide_the_link(self) -> None:
        self.assertEqual(self.run_ollama("GET", "/api/tags", x_api_key="ollama"), 401)
        self.assertIn("signin_url", self.json)


class RegisteredMachineTests(MachineCase):
    """Requests of registered machines."""

    def test_are_relayed_without_the_signature(self) -> None:
        self.register()
        self.run_ollama("POST", "/api/chat")
        (head,) = self.relayed_heads
        self.assertEqual((head.method, head.target), (b"POST", b"/api/chat"))
        self.assertNotIn(b"authorization", {name.lower() for name, _ in head.headers})

    def test_use_only_what_their_scopes_allow(self) -> None:
        self.register()
        self.assertEqual(self.run_ollama("DELETE", "/api/delete"), 403)
        self.assertEqual(self.run_ollama("HEAD", "/api/blobs/sha256:0"), 403)
        for path in ("/ctllm/session", "/ctllm/machines", "/ctllm/proxy", "/ctllm/desktops"):
            self.assertEqual(self.run_ollama("GET", path), 403)
        self.assertEqual(self.relayed_heads, [])

    def test_manage_models_if_that_was_approved(self) -> None:
        self.register("manage")
        self.run_ollama("DELETE", "/api/delete")
        self.run_ollama("HEAD", "/api/blobs/sha256:0")
        targets = [head.target for head in self.relayed_heads]
        self.assertEqual(targets, [b"/api/delete", b"/api/blobs/sha256:0"])

    def test_register_and_change_no_machines(self) -> None:
        machine_id = self.register("manage")
        code = self.ask_of(OllamaKey())
        for method, path, body in (
            ("POST", "/ctllm/machines", {"code": code, "name": "x", "scopes": []}),
            ("POST", "/ctllm/machines/introspect", {"code": code}),
            ("POST", "/ctllm/machines/decline", {"code": code}),
            ("PATCH", f"/ctllm/machines/{machine_id}", {"name": "x"}),
            ("DELETE", f"/ctllm/machines/{machine_id}", None),
        ):
            signed = self.ollama_key.sign(method, path, self.now)
            line = f"{method} {path}?ts={self.now}"
            self.assertEqual(self.send(line, body, Authorization=signed), 403)
        self.assertEqual(len(self.machines.of_user(ANN)), 1)

    def ask_of(self, key: OllamaKey) -> str:
        self.run_ollama("GET", "/api/tags", key)
        return str(self.json["signin_url"]).removeprefix(LINK)

    def test_open_no_tunnel(self) -> None:
        self.register("manage")
        self.assertIn(self.run_ollama("GET", "/ws/tunnel"), (403, 404))
        upgrade: dict[str, Any] = {"Upgrade": "websocket", "Connection": "Upgrade"}
        self.assertEqual(self.run_ollama("GET", "/ws/tunnel", **upgrade), 403)

    def test_are_told_whose_they_are(self) -> None:
        """`ollama signin` asks for that."""
        self.register()
        self.assertEqual(self.run_ollama("POST", "/api/me"), 200)
        self.assertEqual(self.json, {"name": "ann"})
        self.assertEqual(self.relayed_heads, [])

    def test_another_spelling_of_the_signed_path_is_no_other_path(self) -> None:
        self.register("manage")
        signed = self.ollama_key.sign("GET", "/api/tags", self.now)
        self.send(f"GET //api/%74ags?ts={self.now}", Authorization=signed)
        self.assertEqual([head.target for head in self.relayed_heads], [b"/api/tags"])
        for path in ("/api/tags/../delete", "/api/tags%2f..%2fps", "/api/tagsx", "/api/ps"):
            line = f"GET {path}?ts={self.now}"
            self.assertEqual(self.send(line, Authorization=signed), 401, path)

    def test_a_signature_counts_beside_an_invalid_key(self) -> None:
        self.register()
        self.run_ollama("GET", "/api/tags", x_api_key="ollama")
        self.assertEqual(len(self.relayed_heads), 1)

    def test_a_revocation_of_the_user_ends_them(self) -> None:
        self.register()
        self.clock.advance(1)
        self.revocations.revoke(ANN)
        self.revocations.read_changes()
        self.ask()
        self.assertEqual(self.relayed_heads, [])

    def test_an_approval_with_a_sign_in_from_before_a_revocation_is_void(self) -> None:
        """The revocation is between the approval's authentication and its end."""
        code = self.ask()
        grant = AccessGrant(ANN, frozenset({USE}), self.now + 600, self.now)
        self.clock.advance(1)
        self.revocations.revoke(ANN)
        self.clock.advance(1)
        waiting = self.machine_requests.find(code)
        assert waiting is not None
        self.machines.register(waiting.key, grant, "late", frozenset({USE}))
        self.revocations.read_changes()
        self.ask()

    def test_after_a_revocation_the_user_may_approve_again(self) -> None:
        self.register()
        self.clock.advance(1)
        self.revocations.revoke(ANN)
        self.revocations.read_changes()
        self.clock.advance(1)
        self.register()
        self.run_ollama("GET", "/api/tags")
        self.assertEqual(len(self.relayed_heads), 1)

    def test_a_use_is_stored_with_a_truncated_address(self) -> None:
        self.register()
        self.clock.advance(5)
        self.run_ollama("GET", "/api/tags")
        self.assertEqual(self.machine().last_address, "192.0.2.0/24")
        self.assertEqual(self.machine().last_used, self.clock.seconds())

    def test_a_removal_ends_requests_in_progress(self) -> None:
        machine_id = self.register()
        self.run_ollama("POST", "/api/chat")
        streaming = self.transport
        path = f"DELETE /ctllm/machines/{machine_id}"
        self.assertEqual(self.send(path, **self.bearer_of(BOB)), 404)
        self.assertEqual(streaming.take_written(), b"")
        self.assertEqual(self.send(path, **self.bearer_of(ANN)), 204)
        self.assertIn(b"This machine was removed", streaming.take_written())
        self.ask()


class ApprovalTests(MachineCase):
    """What a person sees and decides."""

    def post(self, path: str, body: Any, user: User = ANN) -> int:
        return self.send(f"POST /ctllm/machines{path}", body, **self.bearer_of(user))

    def test_the_request_is_described(self) -> None:
        code = self.ask()
        self.clock.advance(90)
        self.assertEqual(self.post("/introspect", {"code": code}), 200)
        expected = {
            "fingerprint": self.ollama_key.fingerprint,
            "address": "192.0.2.0/24",
            "is_same_network": None,
            "program": "ollama 0.17.4 on linux (amd64)",
            "seconds_ago": 90,
            "expires_in": 810,
        }
        self.assertEqual(self.json, expected)

    def test_the_network_is_compared_where_addresses_tell_something(self) -> None:
        """Two in one private network may be those of a reverse proxy."""
        for machine, person, is_same in (
            ("8.8.8.8", "8.8.8.4", True),
            ("8.8.8.8", "8.8.4.4", False),
            ("2600:1::1", "2600:1::2:1", True),
            ("8.8.8.8", "10.0.0.1", False),
            ("10.0.0.1", "10.0.0.1", None),
            ("127.0.0.1", "127.0.0.1", None),
            ("", "8.8.8.8", None),
            ("8.8.8.8", "", None),
        ):
            self.ollama_key = OllamaKey()
            self.client_address = machine
            code = self.ask()
            self.client_address = person
            self.post("/introspect", {"code": code})
            self.assertIs(self.json["is_same_network"], is_same, (machine, person))

    def test_an_approval_counts_once(self) -> None:
        code = self.ask()
        self.assertEqual(self.approve(code), 201)
        self.assertEqual((self.json["name"], self.json["scopes"]), ("laptop", ["use"]))
        for user in (ANN, BOB):
            self.assertEqual(self.approve(code, user=user), 404)
        self.assertEqual(self.machine().user, ANN)

    def test_a_session_that_ends_while_the_body_arrives_approves_nothing(self) -> None:
        body = dumps({"code": self.ask(), "name": "laptop", "scopes": []}).encode()
        headers = {**self.bearer_of(ANN), "Content_Length": str(len(body))}
        json = {"Content_Type": "application/json"}
        self.assertEqual(self.send("POST /ctllm/machines", **headers, **json), 0)
        self.clock.advance(1)
        self.revocations.revoke(ANN)
        self.revocations.read_changes()
        self.transport.protocol.dataReceived(body)
        self.assertEqual(self.read_status(), 401)
        self.assertEqual(self.machines.of_user(ANN), {})

    def test_an_approval_after_the_time_is_refused(self) -> None:
        code = self.ask()
        self.clock.advance(900)
        self.assertEqual(self.approve(code), 404)
        self.assertEqual(self.post("/introspect", {"code": code}), 404)

    def test_a_key_that_another_user_registered_meanwhile_is_refused(self) -> None:
        code = self.ask()
        grant = AccessGrant(BOB, frozenset({USE}), self.now + 600, self.now)
        waiting = self.machine_requests.find(code)
        assert waiting is not None
        self.machines.register(waiting.key, grant, "bob's", frozenset({USE}))
        self.assertEqual(self.approve(code), 403)
        self.assertNotIn("bob", self.body.decode())
        self.assertEqual(self.machine().user, BOB)

    def test_a_declined_request_is_gone(self) -> None:
        code = self.ask()
        self.assertEqual(self.post("/decline", {"code": code}), 204)
        self.assertEqual(self.approve(code), 404)
        self.assertNotEqual(self.ask(), code)

    def test_without_the_scope_manage_nothing_is_possible(self) -> None:
        code = self.ask()
        headers = self.bearer(frozenset({USE}))
        body = {"code": code, "name": "x", "scopes": []}
        self.assertEqual(self.send("POST /ctllm/machines", body, **headers), 403)
        self.assertEqual(self.send("POST /ctllm/machines", body), 401)
        self.assertEqual(len(self.machine_requests), 1)

    def test_invalid_bodies_are_refused(self) -> None:
        code = self.ask()
        good = {"code": code, "name": "laptop", "scopes": ["use"]}
        for change in (
            {"code": code * 3}, {"code": ""}, {"code": f"{code}\n"}, {"code": 1}, {"name": ""},
            {"name": "x" * 65}, {"name": "a\nb"}, {"name": "a\u202eb"}, {"name": " a"},
            {"scopes": ["serve"]}, {"scopes": ["use"] * 3}, {"scopes": "use"}, {"user": "bob"},
        ):  # fmt: skip
            self.assertEqual(self.post("", {**good, **change}), 400, change)
        self.assertEqual(self.machines.of_user(ANN), {})

    def test_requests_approvals_and_removals_are_in_the_audit_log(self) -> None:
        machine_id = self.register()
        self.send(f"DELETE /ctllm/machines/{machine_id}", **self.bearer_of(ANN))
        self.post("/decline", {"code": self.ask()})
        lines = (self.audit_dir / AUDIT_FILE).read_bytes().splitlines()
        entries = [decode_json(line, AuditEntry) for line in lines]
        self.assertEqual(
            [entry.event for entry in entries],
            ["machine.requested", "machine.approved", "machine.revoked", "machine.refused"],
        )
        for entry in entries:
            self.assertEqual(entry.address, "192.0.2.0/24")
            self.assertEqual(entry.credential, f"machine:{machine_id}")

    def test_machines_are_listed_and_renamed(self) -> None:
        machine_id = self.register("manage")
        self.clock.advance(1)
        self.run_ollama("GET", "/api/tags")
        self.assertEqual(self.send("GET /ctllm/machines", **self.bearer_of(ANN)), 200)
        (listed,) = self.json["machines"]
        self.assertEqual(listed["id"], machine_id)
        self.assertEqual(listed["fingerprint"], self.ollama_key.fingerprint)
        self.assertEqual(listed["scopes"], ["manage", "use"])
        self.assertEqual(listed["last_used"], self.clock.seconds())
        path = f"PATCH /ctllm/machines/{machine_id}"
        self.assertEqual(self.send(path, {"name": "Büro"}, **self.bearer_of(ANN)), 200)
        self.assertEqual(self.json["name"], "Büro")
        self.assertEqual(self.send(path, {"name": "x"}, **self.bearer_of(BOB)), 404)
        self.send("GET /ctllm/machines", **self.bearer_of(BOB))
        self.assertEqual(self.json, {"machines": []})

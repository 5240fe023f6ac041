"""Every request with every kind of credential, compared with the table in docs/security.md."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.auth.session_assertions import CONVERSATIONS, MANAGE, SERVE, USE
from ctllm.cloud.identity import (
    AssertionSigner,
    PrivateDirectory,
    User,
    load_signing_keys,
    proxy_id,
)
from tests.e2e.cluster import ANY_FAILURES, ChildProcess, Cluster, wait_until
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider
from tests.e2e.ollama_cli import OllamaCli
from tests.e2e.process_info import child_pids, linux_only, option
from tests.ollama_key import OllamaKey

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
DESKTOP_ID = "d" * 32
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "ctllm.tunnel.v1",
}
MODEL = {"model": "llama3.2"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "Hello."}], "stream": False}
#: The bodies of requests that need one. Every request must succeed if it is allowed.
BODIES: dict[str, Any] = {
    "POST /api/show": MODEL,
    "POST /api/generate": {**MODEL, "prompt": "Hello.", "stream": False},
    "POST /api/chat": CHAT,
    "POST /api/embed": {**MODEL, "input": "Hello."},
    "POST /v1/chat/completions": CHAT,
    "POST /v1/messages": {**CHAT, "max_tokens": 9},
    "POST /api/pull": {"model": "orca-mini", "stream": False},
    "POST /api/copy": {"source": "llama3.2", "destination": "copied"},
    "DELETE /api/delete": {"model": "copied"},
    "POST /api/me": {},
    "POST /api/signout": {},
    "POST /api/unknown": {},
    "POST /ctllm/machines/decline": {"code": "A" * 22},
    "POST /ctllm/keys": {"name": "table", "scopes": ["use"]},
    "PUT /ctllm/desktops/ID/keys": {"keys": [], "seconds": 60},
    "DELETE /ctllm/desktops/ID/keys": {},
}

#: Requests of what does not exist, or no longer. One that gets 404 was allowed.
MAY_BE_GONE = {
    "DELETE /api/delete", "POST /ctllm/machines/decline", "DELETE /ctllm/machines/ID",
    "DELETE /ctllm/keys/ID",
}  # fmt: skip


class Rule(NamedTuple):
    """What the table says of one request with one credential: "yes" or a status."""

    request: str
    credential: str
    expected: str


def read_rules(first_cell: str) -> list[Rule]:
    """Return the rules of a table, one for each of its requests and credentials."""
    text = PAGE.read_text()
    table = text[text.index(f"| {first_cell} | none |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [
        Rule(request, credential, expected)
        for row in rows[2:]
        for request in re.findall("`([^`]+)`", row[0])
        for credential, expected in zip(rows[0][1:], row[1:], strict=True)
    ]


RULES = read_rules("Request")
REQUESTS = list(dict.fromkeys(rule.request for rule in RULES))
PROXY_RULES = read_rules("Request to a proxy")


#: Returns the path and the headers with which a request of this method and path is sent.
Credential = Callable[[str, str], tuple[str, dict[str, str]]]


def in_headers(**headers: str) -> Credential:
    """Return a credential in headers, whose names have dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda method, path: (path, named)


def bearer(token: str) -> Credential:
    return in_headers(Authorization=f"Bearer {token}")


def signed(key: OllamaKey, age: int = 0, path_suffix: str = "") -> Credential:
    """Return the signature of a machine, `age` seconds ago, for the path with a suffix."""

    def sign(method: str, path: str) -> tuple[str, dict[str, str]]:
        ts = int(time.time()) - age
        authorization = key.sign(method, path + path_suffix, ts)
        return f"{path}?ts={ts}", {"Authorization": authorization}

    return sign


class Credentials:
    """The credentials of each kind of the users alice and ada, by the column of the table.

    alice was invited, ada signs in with a provider. Each has a desktop.
    """

    cloud: ChildProcess
    provider: OidcProvider
    machine_key: OllamaKey
    request_id = ""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.of_kind: dict[str, list[Credential]] = {"none": [in_headers()]}

    async def create(self) -> None:
        cluster = self.cluster
        browser = await cluster.log_in(await cluster.create_invite("alice"))
        desktop = await cluster.log_in(await cluster.create_invite("alice"), "desktop")
        body = {"refresh": desktop["refresh"], "scope": "use"}
        _, _, narrowed = await cluster.request("POST", "/ctllm/session/token", body)
        use_key = await cluster.run_ctllm("alice", "keys", "add", "use")
        manage_key = await cluster.run_ctllm("alice", "keys", "add", "m", "--scope", "manage")
        other_tokens = await self.provider.sign_in("ada", "another")
        desktop_tokens = await self.provider.sign_in("ada")
        self.machine_key = await self.approved(browser["token"])
        self.of_kind |= {
            "browser": [bearer(browser["token"])],
            "provider token": [bearer(other_tokens["access_token"])],
            "desktop": [bearer(desktop["token"]), bearer(desktop_tokens["access_token"])],
            "narrowed": [bearer(json.loads(narrowed)["token"])],
            "key: use": [bearer(use_key), in_headers(x_api_key=use_key, Authorization="Bearer x")],
            "key: manage": [bearer(manage_key), in_headers(api_key=manage_key)],
            "machine: use": [signed(self.machine_key)],
            "machine: manage": [signed(await self.approved(browser["token"], "manage"))],
        }
        invalid = await self.invalid_tokens(browser["token"], desktop, use_key)
        self.of_kind["invalid"] = [
            *(bearer(token) for token in invalid),
            in_headers(Cookie=await self.cookie()),
            *await self.invalid_signatures(browser["token"]),
        ]

    async def cookie(self) -> str:
        """Return the cookie of a browser's session, which is valid for a new access token only."""
        invite = (await self.cluster.create_invite("alice")).partition("#invite=")[2]
        body = {"invite": invite, "client": "browser"}
        status, headers, _ = await self.cluster.request("POST", "/ctllm/session", body)
        assert status == 201
        return headers["set-cookie"].partition(";")[0]

    async def approved(self, token: str, *scopes: str) -> OllamaKey:
        """Return the key of a machine that the user of `token` approved."""
        key = OllamaKey()
        status, answer = await OllamaCli(self.cluster.cloud_port, key).send("GET", "/api/tags")
        assert status == 401, answer
        code = answer["signin_url"].partition("#machine=")[2]
        body = {"code": code, "name": "laptop", "scopes": scopes}
        status, _, response = await self.cluster.request("POST", "/ctllm/machines", body, token)
        assert status == 201, response
        return key

    async def invalid_signatures(self, token: str) -> list[Credential]:
        """Return signatures of unknown and removed machines, and of another request."""
        known, removed = await self.approved(token), await self.approved(token)
        path = f"/ctllm/machines/{removed.id}"
        assert (await self.cluster.request("DELETE", path, token=token))[0] == 204
        return [
            signed(OllamaKey()),
            signed(removed),
            signed(known, path_suffix="x"),
        ]

    async def invalid_tokens(self, token: str, desktop: dict[str, Any], key: str) -> list[str]:
        """Return tokens that are forged, expired, of another kind or of a closed session."""
        cluster = self.cluster
        closed = await cluster.log_in(await cluster.create_invite("alice"), "desktop")
        refresh = {"Ctllm-Refresh": closed["refresh"]}
        assert (await cluster.request("DELETE", "/ctllm/session", headers=refresh))[0] == 204
        claims = jwt.decode(token, options={"verify_signature": False})
        keys = load_signing_keys(PrivateDirectory(cluster.state_dir("cloud") / "cloud"))
        header = {"typ": "ctllm-access+jwt"}
        expired = {**claims, "iat": int(time.time()) - 900, "exp": int(time.time()) - 300}
        forged = jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers=header)
        unsigned = jwt.encode(claims, "", "none", headers=header)
        alice = User("ctllm", "alice", "alice").id
        assertion = AssertionSigner(keys.signing_key, time.time).sign(
            proxy_id(keys.instance_secret, alice), frozenset((USE, SERVE))
        )
        return [
            "placeholder",
            closed["token"],
            desktop["refresh"],
            forged,
            unsigned,
            jwt.encode(expired, keys.signing_key, "EdDSA", headers=header),
            f"{token[:-3]}AAA",
            f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}",
            assertion,
        ]


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cloud with the connected desktop of alice, and her credentials."""
    cluster = Cluster(tmp_path_factory.mktemp("access"))
    created = Credentials(cluster)

    async def start() -> None:
        created.provider = await start_provider(cluster, users={"ada": [], "bob": []})
        configure(cluster, created.provider.table("acme"))
        created.cloud = await cluster.start_cloud(*ANY_FAILURES)
        _, port = cluster.start_fake_ollama("llama3.2")
        await cluster.start_desktop("alice", port)
        await start_desktop_of_ada(created, port)
        await created.create()
        key = created.of_kind["key: manage"][0]

        async def is_accepted() -> bool:
            return (await send(cluster, "GET /api/version", key))[0] == 200

        await wait_until(is_accepted, "the keys to work")

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield created
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


async def start_desktop_of_ada(created: Credentials, ollama: int) -> None:
    """Log a desktop in with the provider, and connect it."""
    cluster = created.cluster
    login = cluster.start_process(
        "login", "ctllm", f"--state-dir={cluster.state_dir('ada')}", "login", cluster.url,
        "--no-browser", "--device",
    )  # fmt: skip
    link = await wait_until(lambda: re.search(r"^\s+(http://\S+)", login.output, re.M), "the link")
    await created.provider.approve_device(link[1], "ada")
    assert await login.exited == 0, login.output
    desktop = cluster.run_role(
        "desktop", "ada", f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off"
    )
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")


def to_http(request: str, credential: Credential) -> tuple[str, str, Any, dict[str, str]]:
    """Return method, path, body and headers of a request of the table."""
    method, _, path = request.partition(" ")
    for place, id in (("machines/", "e" * 64), ("ctllm/keys/", "e" * 16), ("/", DESKTOP_ID)):
        path = path.replace(f"{place}ID", f"{place}{id}")
    path, headers = credential(method.replace("WebSocket", "GET"), path)
    if method == "WebSocket":
        method, headers = "GET", {**headers, **UPGRADE}
    if path.partition("?")[0] == "/":
        headers = {**headers, "Accept": "text/html"}
    return method, path, BODIES.get(request), headers


async def send(cluster: Cluster, request: str, credential: Credential) -> tuple[int, bytes]:
    """Send a request of the table to the cloud; return the status and the body."""
    method, path, body, headers = to_http(request, credential)
    status, _, response = await cluster.request(method, path, body, headers=headers)
    return status, response


def send_to_socket(socket_path: str, request: str, credential: Credential) -> tuple[int, bytes]:
    """Send a request of the table to the socket of a proxy; return the status and the body."""
    method, path, body, headers = to_http(request, credential)
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(socket_path)
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, b"" if response.status == 101 else response.read()
    finally:
        connection.close()


def test_the_tables_have_every_request_and_credential() -> None:
    """The tests below cannot pass because they read nothing."""
    assert len(RULES) == len(REQUESTS) * len({rule.credential for rule in RULES})
    assert len(REQUESTS) > 25
    assert len(PROXY_RULES) == 9 * 7
    assert {rule.expected for rule in (*RULES, *PROXY_RULES)} == {"yes", "401", "403"}


@pytest.mark.parametrize("request_line", REQUESTS)
@ensureDeferred
async def test_each_credential_may_do_what_the_table_says(
    credentials: Credentials, request_line: str
) -> None:
    for rule in RULES:
        if rule.request != request_line:
            continue
        for number, credential in enumerate(credentials.of_kind[rule.credential]):
            status, body = await send(credentials.cluster, request_line, credential)
            is_allowed = status < 400 or (request_line in MAY_BE_GONE and status == 404)
            outcome = "yes" if is_allowed else str(status)
            assert outcome == rule.expected, (rule, number, status, body[:300])


@ensureDeferred
async def test_a_signature_of_another_minute_is_refused(credentials: Credentials) -> None:
    """The ollama command prints the message of a 403, and not that of a 401."""
    for age in (62, 3600, -62):
        credential = signed(credentials.machine_key, age)
        status, body = await send(credentials.cluster, "GET /api/tags", credential)
        assert (status, b"clock" in body) == (403, True), body


@ensureDeferred
async def test_another_users_credentials_reach_nothing_of_a_user(credentials: Credentials) -> None:
    """Machines, responses and desktops of alice do not exist for ada, who may do everything."""
    cluster, machine = credentials.cluster, credentials.machine_key.id
    owner, other = credentials.of_kind["desktop"]

    async def status(method: str, path: str, credential: Credential, **more: str) -> int:
        path, headers = credential(method, path)
        found, answer, _ = await cluster.request(method, path, headers={**headers, **more})
        credentials.request_id = answer.get("ctllm-request-id", credentials.request_id)
        return found

    assert await status("GET", "/api/version", owner, **{"Ctllm-Resume": "60"}) == 200
    exchange = f"/ctllm/exchanges/{credentials.request_id}"
    desktop = json.loads((cluster.state_dir("alice") / "desktop" / "credentials.json").read_text())[
        "desktop_id"
    ]
    assert await status("DELETE", f"/ctllm/machines/{machine}", other) == 404
    assert await status("GET", exchange, other) == 404
    assert await status("GET", "/api/tags", other, **{"Ctllm-Desktop": desktop}) == 404
    assert await status("GET", exchange, owner) == 200
    assert await status("GET", "/api/tags", owner, **{"Ctllm-Desktop": desktop}) == 200
    assert await status("GET", "/api/tags", signed(credentials.machine_key)) == 200
    _, headers = other("GET", "/ctllm/desktops")
    _, _, body = await cluster.request("GET", "/ctllm/desktops", headers=headers)
    assert desktop not in body.decode()


@linux_only
@ensureDeferred
async def test_each_assertion_may_do_at_a_proxy_what_the_table_says(
    credentials: Credentials,
) -> None:
    cluster = credentials.cluster
    keys = load_signing_keys(PrivateDirectory(cluster.state_dir("cloud") / "cloud"))
    own, others = (
        proxy_id(keys.instance_secret, User("ctllm", name, name).id) for name in ("alice", "bob")
    )
    (pid,) = (pid for pid in child_pids(credentials.cloud.pid) if option(pid, "id") == own)
    signer = AssertionSigner(keys.signing_key, time.time)
    expired = AssertionSigner(keys.signing_key, lambda: time.time() - 3600)
    forged = AssertionSigner(Ed25519PrivateKey.generate(), time.time)
    serve = frozenset((USE, SERVE))
    assertions: dict[str, list[str | None]] = {
        "none": [None],
        "invalid": ["x", expired.sign(own, serve), forged.sign(own, serve)],
        "another proxy's": [signer.sign(others, serve)],
        "use": [signer.sign(own, frozenset((USE,)))],
        "use manage": [signer.sign(own, frozenset((USE, MANAGE)))],
        "use manage conversations": [signer.sign(own, frozenset((USE, MANAGE, CONVERSATIONS)))],
        "use serve": [signer.sign(own, serve)],
    }
    for rule in PROXY_RULES:
        for assertion in assertions[rule.credential]:
            named = {} if assertion is None else {"Ctllm_Assertion": assertion}
            status, body = await deferToThread(
                send_to_socket, option(pid, "socket"), rule.request, in_headers(**named)
            )
            outcome = "yes" if status < 400 else str(status)
            assert outcome == rule.expected, (rule, status, body[:300])

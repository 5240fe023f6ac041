"""Authentication: login and logout, API keys, isolation of users, and revocation."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.auth.api_keys import record_key
from ctllm.auth.session_assertions import SERVE, USE
from ctllm.cloud.identity import AssertionSigner, PrivateDirectory, load_signing_keys, proxy_id
from tests.e2e.cluster import BIN, ChildProcess, Cluster, read_response, wait_until
from tests.e2e.process_info import child_pids, linux_only, option
from tests.fake_ollama import FakeOllama, Script

SESSION, TOKEN = "/ctllm/session", "/ctllm/session/token"
FOREIGN_ORIGIN = {"Origin": "https://evil.example"}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "ctllm.tunnel.v1",
}


@dataclass(frozen=True)
class User:
    """A user with a desktop, an access token and an API key."""

    name: str
    id: str
    token: str
    key: str
    desktop: str


@dataclass
class TwoUsers:
    """A cloud with two users, shared by the tests of this module."""

    cluster: Cluster
    cloud: ChildProcess
    alice: User
    bob: User

    async def generate(self, token: str, **headers: str) -> str:
        """Return what the Ollama generates that this token or API key reaches."""
        header_lines = {name.replace("_", "-"): value for name, value in headers.items()}
        request_body = {"model": "llama3.2", "prompt": "hello", "stream": False}
        status, _, body = await self.cluster.request(
            "POST", "/api/generate", request_body, token, header_lines
        )
        assert status == 200, body
        return str(json.loads(body)["response"])


async def start_user(cluster: Cluster, name: str) -> User:
    """Start a user's desktop; return the user with a token and an API key that works."""
    _, port = start_named_ollama(cluster, name)
    await cluster.start_desktop(name, port, f"--desktop-name=attic-of-{name}")
    key = await cluster.run_ctllm(name, "keys", "add", "app")
    response = await cluster.log_in(await cluster.create_invite(name))
    credentials = json.loads((cluster.state_dir(name) / "desktop" / "credentials.json").read_text())
    await wait_until(lambda: is_accepted(cluster, key), f"the key of {name} to work")
    return User(name, response["user"]["id"], response["token"], key, credentials["desktop_id"])


def start_named_ollama(cluster: Cluster, name: str) -> tuple[FakeOllama, int]:
    """Start an Ollama whose text names its user."""
    ollama, port = cluster.start_fake_ollama("llama3.2", f"model-of-{name}")
    ollama.script("/api/generate", Script(lines=(f"words of {name}",)))
    return ollama, port


async def is_accepted(cluster: Cluster, token: str) -> bool:
    """Return whether a token or API key is accepted."""
    status, _, _ = await cluster.request("GET", "/api/version", token=token)
    assert status in (200, 401)
    return status == 200


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The users alice and bob."""
    cluster = Cluster(tmp_path_factory.mktemp("users"))

    async def start() -> TwoUsers:
        cloud = await cluster.start_cloud("--failed-logins-per-minute=0")
        return TwoUsers(
            cluster, cloud, await start_user(cluster, "alice"), await start_user(cluster, "bob")
        )

    yield pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def error_message(body: bytes) -> str:
    """Return the message of an error."""
    return str(json.loads(body)["error"]["message"])


def only_cookie(headers: dict[str, str]) -> Morsel[str]:
    """Return the response's only cookie."""
    (found,) = SimpleCookie(headers["set-cookie"]).values()
    return found


# -- login and logout


@ensureDeferred
async def test_an_invite_works_once(users: TwoUsers) -> None:
    """Its second use gets 401 with a reason and no cookie."""
    invite = (await users.cluster.create_invite("carol")).partition("#invite=")[2]
    first = await users.cluster.request("POST", SESSION, {"invite": invite, "client": "browser"})
    assert first[0] == 201
    assert json.loads(first[2])["user"]["name"] == "carol"
    status, headers, body = await users.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "browser"}
    )
    assert status == 401
    assert "has expired or was used before" in error_message(body)
    assert headers["www-authenticate"] == 'Bearer realm="ctllm"'
    assert "set-cookie" not in headers


@ensureDeferred
async def test_an_invite_expires_after_fifteen_minutes(users: TwoUsers) -> None:
    invite = (await users.cluster.create_invite("carol")).partition("#invite=")[2]
    folder = users.cluster.state_dir("cloud") / "cloud" / "invites"
    file = folder / f"{sha256(invite.encode()).hexdigest()}.json"
    record = json.loads(file.read_text())
    assert 0 < time.time() + 15 * 60 - record["expires"] < 60
    file.write_text(json.dumps({**record, "expires": time.time() - 1}))
    status, _, body = await users.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "desktop"}
    )
    assert status == 401
    assert "has expired" in error_message(body)


@ensureDeferred
async def test_a_browsers_session_is_in_an_http_only_cookie(users: TwoUsers) -> None:
    """It renews tokens until the browser logs out, and is in no response's body."""
    invite = (await users.cluster.create_invite("carol")).partition("#invite=")[2]
    _, headers, body = await users.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "browser"}
    )
    session_cookie = only_cookie(headers)
    assert session_cookie["httponly"] and session_cookie["samesite"] == "Strict"
    assert session_cookie["path"] == SESSION
    assert not session_cookie["secure"]  # this cloud's URL is http
    assert int(session_cookie["max-age"]) == 30 * 24 * 3600
    assert session_cookie.value not in body.decode()

    cookie_header = {"Cookie": f"other=1; ctllm-session={session_cookie.value}"}
    status, _, body = await users.cluster.request("POST", TOKEN, {}, headers=cookie_header)
    assert status == 200
    assert session_cookie.value not in body.decode()
    _, _, session = await users.cluster.request("GET", SESSION, token=json.loads(body)["token"])
    assert json.loads(session)["user"]["name"] == "carol"
    assert json.loads(session)["scopes"] == ["conversations", "manage", "use"]

    status, headers, _ = await users.cluster.request("DELETE", SESSION, headers=cookie_header)
    assert status == 204
    assert (only_cookie(headers).value, only_cookie(headers)["max-age"]) == ("", "0")
    status, _, body = await users.cluster.request("POST", TOKEN, {}, headers=cookie_header)
    assert (status, error_message(body)) == (401, "You are logged out. Log in again.")


@ensureDeferred
async def test_the_cookie_is_secure_if_the_public_url_is_https(cluster: Cluster) -> None:
    """Behind a reverse proxy the cloud itself serves http."""
    await cluster.start_cloud("--public-url=https://ctllm.example.org")
    link = await cluster.create_invite("alice")
    assert link.startswith("https://ctllm.example.org/#invite=")
    body = {"invite": link.partition("#invite=")[2], "client": "browser"}
    _, headers, _ = await cluster.request("POST", SESSION, body)
    assert headers["set-cookie"].startswith("__Host-ctllm-session=")
    assert only_cookie(headers)["secure"] and only_cookie(headers)["path"] == "/"


@ensureDeferred
async def test_a_desktops_session_is_a_refresh_token_in_a_private_file(users: TwoUsers) -> None:
    """It gets no cookie, and logs out with the refresh token."""
    invite = (await users.cluster.create_invite("carol")).partition("#invite=")[2]
    _, headers, body = await users.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "desktop"}
    )
    assert "set-cookie" not in headers
    refresh = json.loads(body)["refresh"]
    status, _, body = await users.cluster.request("POST", TOKEN, {"refresh": refresh})
    assert status == 200
    _, _, session = await users.cluster.request("GET", SESSION, token=json.loads(body)["token"])
    assert json.loads(session)["scopes"] == ["manage", "serve", "use"]
    status, _, _ = await users.cluster.request(
        "DELETE", SESSION, headers={"Ctllm-Refresh": refresh}
    )
    assert status == 204
    assert (await users.cluster.request("POST", TOKEN, {"refresh": refresh}))[0] == 401
    state = users.cluster.state_dir("alice") / "desktop"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "credentials.json").stat().st_mode & 0o777 == 0o600


@ensureDeferred
async def test_pages_of_other_origins_cannot_use_a_session(users: TwoUsers) -> None:
    """Creating, renewing and ending it needs the cloud's own Origin."""
    invite = {"invite": (await users.cluster.create_invite("carol")).partition("#invite=")[2]}
    invite["client"] = "browser"
    own = {"Origin": users.cluster.url}
    assert (await users.cluster.request("POST", SESSION, invite, headers=FOREIGN_ORIGIN))[0] == 403
    status, headers, _ = await users.cluster.request("POST", SESSION, invite, headers=own)
    assert status == 201
    cookie_header = {"Cookie": f"ctllm-session={only_cookie(headers).value}"}
    assert (await users.cluster.request("POST", TOKEN, {}, headers=cookie_header | FOREIGN_ORIGIN))[
        0
    ] == 403
    assert (await users.cluster.request("DELETE", SESSION, headers=cookie_header | FOREIGN_ORIGIN))[
        0
    ] == 403
    assert (await users.cluster.request("POST", TOKEN, {}, headers=cookie_header | own))[0] == 200
    preflight = {"Access-Control-Request-Method": "POST"}
    assert (
        await users.cluster.request("OPTIONS", "/api/chat", headers=FOREIGN_ORIGIN | preflight)
    )[0] == 403


@linux_only
@ensureDeferred
async def test_login_does_not_expose_the_link(users: TwoUsers) -> None:
    """`ctllm login` does not echo it; it is in no command line or environment."""
    cluster, state = users.cluster, users.cluster.state_dir("dave")
    link = await cluster.create_invite("dave")
    argv = [str(BIN / "ctllm"), f"--state-dir={state}", "login"]
    program = ChildProcess("login", argv, cluster.environment(), use_pty=True)
    cluster.processes.append(program)
    await wait_until(lambda: "or the invite link" in program.output, "the prompt")
    process_files = b"".join(
        Path(f"/proc/{program.pid}/{each}").read_bytes() for each in ("cmdline", "environ")
    )
    program.transport.write(f"{link}\n".encode())
    await wait_until(lambda: program.exit_code is not None, "the login")
    assert (program.exit_code, link in program.output) == (0, False)
    assert f"Logged in to {cluster.url} as dave." in program.output
    assert b"invite" not in process_files


# -- isolation of users


@ensureDeferred
async def test_users_see_only_their_own_desktops_and_models(users: TwoUsers) -> None:
    """Another user's desktop, by id or name, gets 404."""
    for one, other in ((users.alice, users.bob), (users.bob, users.alice)):
        (desktop,) = await users.cluster.list_desktops(one.token)
        assert (desktop["id"], desktop["name"]) == (one.desktop, f"attic-of-{one.name}")
        _, _, tags = await users.cluster.request("GET", "/api/tags", token=one.token)
        assert f"model-of-{one.name}" in tags.decode()
        assert f"model-of-{other.name}" not in tags.decode()
        for name in (other.desktop, f"attic-of-{other.name}"):
            status, _, _ = await users.cluster.request(
                "GET", "/api/tags", token=one.token, headers={"Ctllm-Desktop": name}
            )
            assert status == 404
        assert await users.generate(one.token, Ctllm_Desktop=one.desktop) == f"words of {one.name}"


@ensureDeferred
async def test_concurrent_requests_of_two_users_are_not_mixed(users: TwoUsers) -> None:
    senders = [users.alice, users.bob] * 4
    requests = [Deferred.fromCoroutine(users.generate(one.token)) for one in senders]
    requests += [Deferred.fromCoroutine(users.generate(one.key)) for one in senders]
    texts = await gatherResults(requests, consumeErrors=True)
    assert texts == [f"words of {one.name}" for one in senders * 2]


@ensureDeferred
async def test_a_desktop_with_anothers_id_serves_only_its_own_user(users: TwoUsers) -> None:
    """Alice's desktop has the id of bob's and leases his key: none of his requests reaches it."""
    cluster = users.cluster
    stolen, port = start_named_ollama(cluster, "mallory")
    await cluster.run_ctllm("mallory", "login", await cluster.create_invite("alice"))
    file = cluster.state_dir("mallory") / "desktop" / "credentials.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "desktop_id": users.bob.desktop}))
    mallory = cluster.run_role(
        "desktop", "mallory", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
    )
    await wait_until(lambda: "Cloud connection: connected" in mallory.output, "mallory to connect")
    claim = {"keys": [msgspec.to_builtins(record_key(users.bob.key))], "seconds": 60}
    serve = await cluster.create_token("alice", "desktop")
    path = f"/ctllm/desktops/{users.bob.desktop}/keys"
    assert (await cluster.request("PUT", path, claim, serve))[0] == 200

    (desktop,) = await cluster.list_desktops(users.bob.token)
    assert desktop["name"] == "attic-of-bob"
    for token in (users.bob.token, users.bob.key):
        assert await users.generate(token) == "words of bob"
        assert await users.generate(token, Ctllm_Desktop=users.bob.desktop) == "words of bob"
    assert (
        await users.generate(users.alice.token, Ctllm_Desktop=users.bob.desktop)
        == "words of mallory"
    )
    assert len([each for each in stolen.requests if each.path == "/api/generate"]) == 1
    await mallory.stop()


# -- API keys


@ensureDeferred
async def test_an_api_key_can_only_use_models(users: TwoUsers) -> None:
    """It works in each API's header, and cannot manage sessions, proxies or desktops."""
    key, cluster = users.alice.key, users.cluster
    for path in ("/api/tags", "/v1/models"):
        for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
            status, _, body = await cluster.request("GET", path, headers=headers)
            assert status == 200
            assert b"model-of-alice" in body
    refused: tuple[tuple[str, str, object], ...] = (
        ("GET", SESSION, None),
        ("GET", "/ctllm/proxy", None),
        ("PUT", "/ctllm/proxy", None),
        ("DELETE", "/ctllm/proxy", None),
        ("GET", "/ctllm/desktops", None),
        ("PUT", f"/ctllm/desktops/{users.alice.desktop}/keys", {"keys": [], "seconds": 60}),
    )
    for method, path, request_body in refused:
        status, _, response = await cluster.request(method, path, request_body, key)
        assert (status, json.loads(response)["error"]["code"]) == (403, "forbidden"), path
    assert await is_accepted(cluster, key)


@ensureDeferred
async def test_only_a_desktops_token_opens_a_tunnel(users: TwoUsers) -> None:

    async def tunnel(token: str | None) -> int:
        status, _, _ = await users.cluster.request(
            "GET", "/ws/tunnel", token=token, headers=UPGRADE
        )
        return status

    assert await tunnel(None) == 401
    assert await tunnel(users.alice.key) == 403
    assert await tunnel(users.alice.token) == 403


@ensureDeferred
async def test_a_revoked_key_is_refused_within_five_seconds(users: TwoUsers) -> None:
    """Other keys continue to work."""
    key = await users.cluster.run_ctllm("alice", "keys", "add", "short-lived")
    await wait_until(lambda: is_accepted(users.cluster, key), "the key to work", 5)
    await users.cluster.run_ctllm("alice", "keys", "rm", "short-lived")

    async def refused() -> bool:
        return not await is_accepted(users.cluster, key)

    await wait_until(refused, "the key to be refused", 5)
    assert await is_accepted(users.cluster, users.alice.key)
    _, _, body = await users.cluster.request("GET", "/ctllm/session", token=key)
    assert "unknown or revoked" in error_message(body)


# -- requests directly to a proxy


def request_socket(path: str, headers: dict[str, str]) -> int:
    """Request /api/tags from a proxy's socket; return the status."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    try:
        connection.request("GET", "/api/tags", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@linux_only
@ensureDeferred
async def test_a_proxy_accepts_only_assertions_of_its_cloud(users: TwoUsers) -> None:
    """No assertion, a token, and a forged, expired or other user's assertion get 401."""
    sockets = {option(pid, "id"): option(pid, "socket") for pid in child_pids(users.cloud.pid)}
    keys = load_signing_keys(PrivateDirectory(users.cluster.state_dir("cloud") / "cloud"))
    alices, bobs = (proxy_id(keys.instance_secret, one.id) for one in (users.alice, users.bob))
    assert {alices, bobs} <= set(sockets)
    valid, forged, expired = (
        AssertionSigner(keys.signing_key, time.time),
        AssertionSigner(Ed25519PrivateKey.generate(), time.time),
        AssertionSigner(keys.signing_key, lambda: time.time() - 3600),
    )

    async def request(proxy: str, assertion: str | None, **more: str) -> int:
        headers = {} if assertion is None else {"Ctllm-Assertion": assertion}
        return await deferToThread(request_socket, sockets[proxy], headers | more)

    scopes = frozenset({USE, SERVE})
    assert await request(alices, valid.sign(alices, scopes)) == 200
    assert await request(alices, None) == 401
    assert await request(alices, forged.sign(alices, scopes)) == 401
    assert await request(alices, expired.sign(alices, scopes)) == 401
    assert await request(bobs, valid.sign(alices, scopes)) == 401
    assert await request(alices, users.alice.token) == 401
    assert await request(alices, None, Authorization=f"Bearer {users.alice.token}") == 401
    smuggled = valid.sign(bobs, scopes)
    assert await users.generate(users.alice.token, Ctllm_Assertion=smuggled) == "words of alice"


@ensureDeferred
async def test_modified_tokens_are_refused(users: TwoUsers) -> None:
    """Another user's payload, no signature, algorithm none, no token: 401 with a message."""
    head, body, signature = users.alice.token.split(".")
    bobs = users.bob.token.split(".")
    for token in (
        f"{head}.{bobs[1]}.{signature}",
        f"{head}.{body}.",
        f"eyJhbGciOiJub25lIiwidHlwIjoiY3RsbG0tYWNjZXNzK2p3dCJ9.{body}.",
        users.alice.key[:-1] + "-",
        "x",
    ):
        status, headers, response = await users.cluster.request("GET", SESSION, token=token)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        assert error_message(response)


# -- logs and stored files


@ensureDeferred
async def test_no_secret_is_logged_or_stored_by_the_cloud(users: TwoUsers) -> None:
    """Invites, tokens, refresh tokens and API keys, in valid and invalid requests."""
    cluster, secrets = (
        users.cluster,
        [users.alice.token, users.alice.key, users.bob.token, users.bob.key],
    )
    for client in ("browser", "desktop"):
        invite = (await cluster.create_invite("carol")).partition("#invite=")[2]
        login_body = {"invite": invite, "client": client}
        _, headers, body = await cluster.request("POST", SESSION, login_body)
        assert (await cluster.request("POST", SESSION, login_body))[0] == 401
        response = json.loads(body)
        refresh = response.get("refresh") or only_cookie(headers).value
        renewed, _, _ = await cluster.request("POST", TOKEN, {"refresh": refresh})
        # A browser's refresh token works only as a cookie.
        assert renewed == (200 if client == "desktop" else 401)
        assert (await cluster.request("POST", TOKEN, {"refresh": refresh, "x": 1}))[0] == 400
        assert (await cluster.request("GET", f"/ctllm/nothing?{refresh}", token=refresh))[0] == 404
        assert (await cluster.request("GET", "/api/tags", token=response["token"]))[0] == 503
        assert (await cluster.request("GET", "/api/tags", token=response["token"] + "x"))[0] == 401
        secrets += [invite, refresh, response["token"]]
    files = [each for each in cluster.state_dir("cloud").rglob("*") if each.is_file()]
    texts = [program.output for program in cluster.processes]
    texts += [path.read_text() + str(path) for path in files]
    assert len(texts) > 6
    for text in texts:
        for secret in secrets:
            assert secret not in text


# -- revoking


@ensureDeferred
async def test_revoking_a_user_ends_every_credential(users: TwoUsers) -> None:
    """Streams, tunnels, tokens, keys, login codes and invites end, and cannot be renewed.

    A later login as this user does not reach the earlier desktop.
    """
    cluster, name = users.cluster, "mallory2"
    stolen, port = start_named_ollama(cluster, name)
    stolen.script("/api/chat", Script(lines=100_000, line_interval=0.02))
    desktop = await cluster.start_desktop(name, port)
    key = await cluster.run_ctllm(name, "keys", "add", "app")
    await wait_until(lambda: is_accepted(cluster, key), "the key to work")
    session = await cluster.log_in(await cluster.create_invite(name), "desktop")
    token, refresh = session["token"], session["refresh"]
    _, _, response = await cluster.request("POST", f"{SESSION}/invite", token=token)
    login_code = json.loads(response)["invite"]
    invite = (await cluster.create_invite(name)).partition("#invite=")[2]
    lease: dict[str, Any] = {"keys": [], "seconds": 60}
    path = f"/ctllm/desktops/{'a' * 32}/keys"
    assert (await cluster.request("PUT", path, lease, token))[0] == 200
    chat = json.dumps(
        {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    stream = deferToThread(read_response, cluster.cloud_port, "/api/chat", chat, key)
    record = await wait_until(
        lambda: next((one for one in stolen.requests if one.lines_sent > 9), None), "the stream"
    )

    ended = await cluster.run_ctllm("cloud", "revoke", name)
    assert ended == f"Ended 2 sessions and 1 open invites of {name}."
    assert b"An administrator has logged you out" in (await stream)
    await wait_until(
        lambda: "Cloud connection: not logged in" in desktop.output, "the desktop to be signed out"
    )
    await wait_until(lambda: record.closed_by is not None, "the request to Ollama to be closed")
    assert not await is_accepted(cluster, key)
    for body in (
        {"invite": login_code, "client": "desktop"},
        {"invite": login_code, "client": "browser"},
        {"invite": invite, "client": "desktop"},
    ):
        assert (await cluster.request("POST", SESSION, body))[0] == 401
    assert (await cluster.request("POST", f"{SESSION}/introspect", {"invite": invite}))[0] == 401
    assert (await cluster.request("POST", f"{SESSION}/invite", token=token))[0] == 401
    assert (await cluster.request("PUT", path, lease, token))[0] == 401
    assert (await cluster.request("POST", TOKEN, {"refresh": refresh}))[0] == 401
    assert (await cluster.request("GET", "/ws/tunnel", token=token, headers=UPGRADE))[0] == 401

    again, port = cluster.start_fake_ollama("llama3.2")
    again.script("/api/generate", Script(lines=("words of another desktop",)))
    fresh = await cluster.create_token(name)
    assert (await cluster.request("GET", "/api/tags", token=fresh))[0] == 503
    await cluster.start_desktop(name, port, state=f"{name}-again")
    assert await users.generate(fresh) == "words of another desktop"
    assert not [each for each in stolen.requests if each.path == "/api/generate"]
    assert await users.generate(users.alice.token) == "words of alice"
    await desktop.stop()


@ensureDeferred
async def test_a_revocation_while_the_cloud_is_stopped_is_applied_at_its_start(
    cluster: Cluster,
) -> None:
    """Even if the sessions were restored from a backup."""
    cloud = await cluster.start_cloud("--failed-logins-per-minute=0")
    session = await cluster.log_in(await cluster.create_invite("alice"), "desktop")
    sessions = cluster.state_dir("cloud") / "cloud" / "sessions"
    files = {file.name: file.read_bytes() for file in sessions.iterdir()}
    await cloud.stop()
    await cluster.run_ctllm("cloud", "revoke", "alice")
    for file, data in files.items():  # as restoring a backup does
        (sessions / file).write_bytes(data)
    await cluster.start_cloud("--failed-logins-per-minute=0")
    assert (await cluster.request("GET", SESSION, token=session["token"]))[0] == 401
    assert (await cluster.request("POST", TOKEN, {"refresh": session["refresh"]}))[0] == 401
    fresh = await cluster.create_token("alice")
    assert (await cluster.request("GET", SESSION, token=fresh))[0] == 200


@ensureDeferred
async def test_a_login_code_belongs_to_the_desktop_that_created_it(users: TwoUsers) -> None:
    """It logs in no desktop, and its sessions end when that desktop logs out."""
    cluster = users.cluster
    session = await cluster.log_in(await cluster.create_invite("carol"), "desktop")
    _, _, response = await cluster.request("POST", f"{SESSION}/invite", token=session["token"])
    login_body = {"invite": json.loads(response)["invite"], "client": "desktop"}
    assert (await cluster.request("POST", SESSION, login_body))[0] == 403
    _, headers, response = await cluster.request(
        "POST", SESSION, {**login_body, "client": "browser"}
    )
    cookie_header = {"Cookie": f"ctllm-session={only_cookie(headers).value}"}
    child = json.loads(response)["token"]
    assert (await cluster.request("POST", TOKEN, {}, headers=cookie_header))[0] == 200
    logout = {"Ctllm-Refresh": session["refresh"]}
    assert (await cluster.request("DELETE", SESSION, headers=logout))[0] == 204
    assert (await cluster.request("POST", TOKEN, {}, headers=cookie_header))[0] == 401
    assert (await cluster.request("GET", SESSION, token=child))[0] == 401

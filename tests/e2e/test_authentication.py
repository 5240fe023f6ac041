"""Who is who: sign-in and sign-out, API keys, and that nobody reaches what is another's."""

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

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.auth.api_keys import hash_key
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
    """A user with a desktop, of whose Ollama nobody else must see anything."""

    name: str
    id: str
    token: str
    key: str
    desktop: str


@dataclass
class TwoUsers:
    """A cloud with two people in it, for all tests here."""

    cluster: Cluster
    cloud: ChildProcess
    alice: User
    bob: User

    async def generate(self, token: str, **headers: str) -> str:
        """What the Ollama says that this token, or API key, leads to."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = {"model": "llama3.2", "prompt": "whose are you?", "stream": False}
        status, _, body = await self.cluster.request("POST", "/api/generate", asked, token, told)
        assert status == 200, body
        return str(json.loads(body)["response"])


async def start_user(cluster: Cluster, name: str) -> User:
    """Somebody signed in, with a desktop, and an API key that works."""
    _, port = start_named_ollama(cluster, name)
    await cluster.start_desktop(name, port, f"--desktop-name=attic-of-{name}")
    key = await cluster.run_ctllm(name, "keys", "add", "app")
    answer = await cluster.log_in(await cluster.create_invite(name))
    kept = json.loads((cluster.state_dir(name) / "desktop" / "credentials.json").read_text())
    await wait_until(lambda: is_accepted(cluster, key), f"the key of {name} to work")
    return User(name, answer["user"]["id"], answer["token"], key, kept["desktop_id"])


def start_named_ollama(cluster: Cluster, name: str) -> tuple[FakeOllama, int]:
    """An Ollama that says whose it is."""
    ollama, port = cluster.start_fake_ollama("llama3.2", f"model-of-{name}")
    ollama.script("/api/generate", Script(lines=(f"words of {name}",)))
    return ollama, port


async def is_accepted(cluster: Cluster, token: str) -> bool:
    """Whether a token, or API key, is good for anything."""
    status, _, _ = await cluster.request("GET", "/api/version", token=token)
    assert status in (200, 401)
    return status == 200


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Alice and bob."""
    cluster = Cluster(tmp_path_factory.mktemp("town"))

    async def start() -> TwoUsers:
        cloud = await cluster.start_cloud()
        return TwoUsers(
            cluster, cloud, await start_user(cluster, "alice"), await start_user(cluster, "bob")
        )

    yield pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def error_message(body: bytes) -> str:
    """The sentence of an error."""
    return str(json.loads(body)["error"]["message"])


def only_cookie(headers: dict[str, str]) -> Morsel[str]:
    """The one cookie that there is."""
    (found,) = SimpleCookie(headers["set-cookie"]).values()
    return found


# -- signing in and out


@ensureDeferred
async def test_an_invitation_works_once(town: TwoUsers) -> None:
    """The second who brings it is told kindly that it was used, and nothing else."""
    invite = (await town.cluster.create_invite("carol")).partition("#invite=")[2]
    first = await town.cluster.request("POST", SESSION, {"invite": invite, "client": "browser"})
    assert first[0] == 201
    assert json.loads(first[2])["user"]["name"] == "carol"
    status, headers, body = await town.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "browser"}
    )
    assert status == 401
    assert "used before or is too old: get a new one" in error_message(body)
    assert headers["www-authenticate"] == 'Bearer realm="ctllm"'
    assert "set-cookie" not in headers


@ensureDeferred
async def test_an_invitation_ends(town: TwoUsers) -> None:
    """It is good for fifteen minutes, and a second later for nothing."""
    invite = (await town.cluster.create_invite("carol")).partition("#invite=")[2]
    folder = town.cluster.state_dir("cloud") / "cloud" / "invites"
    file = folder / f"{sha256(invite.encode()).hexdigest()}.json"
    kept = json.loads(file.read_text())
    assert 0 < time.time() + 15 * 60 - kept["expires"] < 60
    file.write_text(json.dumps({**kept, "expires": time.time() - 1}))
    status, _, body = await town.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "desktop"}
    )
    assert status == 401
    assert "too old" in error_message(body)


@ensureDeferred
async def test_a_browser_keeps_its_session_where_no_script_reads_it(town: TwoUsers) -> None:
    """The cookie renews tokens until the browser signs out, and is in no answer's body."""
    invite = (await town.cluster.create_invite("carol")).partition("#invite=")[2]
    _, headers, body = await town.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "browser"}
    )
    kept = only_cookie(headers)
    assert kept["httponly"] and kept["samesite"] == "Strict" and kept["path"] == SESSION
    assert not kept["secure"]  # this cloud is reached by http
    assert int(kept["max-age"]) == 30 * 24 * 3600
    assert kept.value not in body.decode()

    brought = {"Cookie": f"other=1; ctllm-session={kept.value}"}
    status, _, body = await town.cluster.request("POST", TOKEN, {}, headers=brought)
    assert status == 200
    assert kept.value not in body.decode()
    _, _, who = await town.cluster.request("GET", SESSION, token=json.loads(body)["token"])
    assert json.loads(who)["user"]["name"] == "carol"
    assert json.loads(who)["scopes"] == ["manage", "use"]

    status, headers, _ = await town.cluster.request("DELETE", SESSION, headers=brought)
    assert status == 204
    assert (only_cookie(headers).value, only_cookie(headers)["max-age"]) == ("", "0")
    status, _, body = await town.cluster.request("POST", TOKEN, {}, headers=brought)
    assert (status, error_message(body)) == (401, "You are signed out: sign in again.")


@ensureDeferred
async def test_the_cookie_is_secure_where_people_come_by_https(cluster: Cluster) -> None:
    """Behind nginx the cloud itself is asked by http; its url says how people reach it."""
    await cluster.start_cloud("--public-url=https://ctllm.example.org")
    link = await cluster.create_invite("alice")
    assert link.startswith("https://ctllm.example.org/#invite=")
    body = {"invite": link.partition("#invite=")[2], "client": "browser"}
    _, headers, _ = await cluster.request("POST", SESSION, body)
    assert headers["set-cookie"].startswith("__Host-ctllm-session=")
    assert only_cookie(headers)["secure"] and only_cookie(headers)["path"] == "/"


@ensureDeferred
async def test_a_desktop_keeps_its_session_in_its_file(town: TwoUsers) -> None:
    """It gets a refresh token and no cookie, and signs out with it."""
    invite = (await town.cluster.create_invite("carol")).partition("#invite=")[2]
    _, headers, body = await town.cluster.request(
        "POST", SESSION, {"invite": invite, "client": "desktop"}
    )
    assert "set-cookie" not in headers
    refresh = json.loads(body)["refresh"]
    status, _, body = await town.cluster.request("POST", TOKEN, {"refresh": refresh})
    assert status == 200
    _, _, who = await town.cluster.request("GET", SESSION, token=json.loads(body)["token"])
    assert json.loads(who)["scopes"] == ["manage", "serve", "use"]
    status, _, _ = await town.cluster.request("DELETE", SESSION, headers={"Ctllm-Refresh": refresh})
    assert status == 204
    assert (await town.cluster.request("POST", TOKEN, {"refresh": refresh}))[0] == 401
    state = town.cluster.state_dir("alice") / "desktop"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "credentials.json").stat().st_mode & 0o777 == 0o600


@ensureDeferred
async def test_pages_of_other_sites_cannot_touch_a_session(town: TwoUsers) -> None:
    """With a foreign Origin nothing is opened, renewed or ended; with the cloud's own it is."""
    invite = {"invite": (await town.cluster.create_invite("carol")).partition("#invite=")[2]}
    invite["client"] = "browser"
    own = {"Origin": town.cluster.url}
    assert (await town.cluster.request("POST", SESSION, invite, headers=FOREIGN_ORIGIN))[0] == 403
    status, headers, _ = await town.cluster.request("POST", SESSION, invite, headers=own)
    assert status == 201
    brought = {"Cookie": f"ctllm-session={only_cookie(headers).value}"}
    assert (await town.cluster.request("POST", TOKEN, {}, headers=brought | FOREIGN_ORIGIN))[
        0
    ] == 403
    assert (await town.cluster.request("DELETE", SESSION, headers=brought | FOREIGN_ORIGIN))[
        0
    ] == 403
    assert (await town.cluster.request("POST", TOKEN, {}, headers=brought | own))[0] == 200
    asks = {"Access-Control-Request-Method": "POST"}
    assert (await town.cluster.request("OPTIONS", "/api/chat", headers=FOREIGN_ORIGIN | asks))[
        0
    ] == 403


@linux_only
@ensureDeferred
async def test_a_link_is_asked_for_where_nobody_reads_it(town: TwoUsers) -> None:
    """`ctllm login` does not echo it, and it is in no argument and in no environment."""
    cluster, state = town.cluster, town.cluster.state_dir("dave")
    link = await cluster.create_invite("dave")
    argv = [str(BIN / "ctllm"), f"--state-dir={state}", "login"]
    program = ChildProcess("login", argv, cluster.environment(), use_pty=True)
    cluster.processes.append(program)
    await wait_until(lambda: "Paste the sign-in link" in program.output, "the question")
    told = b"".join(
        Path(f"/proc/{program.pid}/{each}").read_bytes() for each in ("cmdline", "environ")
    )
    program.transport.write(f"{link}\n".encode())
    await wait_until(lambda: program.exit_code is not None, "the sign-in")
    assert (program.exit_code, link in program.output) == (0, False)
    assert f"Logged in to {cluster.url} as dave." in program.output
    assert b"invite" not in told


# -- what is whose


@ensureDeferred
async def test_each_sees_only_what_is_theirs(town: TwoUsers) -> None:
    """Desktops, models, and another's desktop by id or name, as if it did not exist."""
    for one, other in ((town.alice, town.bob), (town.bob, town.alice)):
        (desktop,) = await town.cluster.list_desktops(one.token)
        assert (desktop["id"], desktop["name"]) == (one.desktop, f"attic-of-{one.name}")
        _, _, tags = await town.cluster.request("GET", "/api/tags", token=one.token)
        assert f"model-of-{one.name}" in tags.decode()
        assert f"model-of-{other.name}" not in tags.decode()
        for name in (other.desktop, f"attic-of-{other.name}"):
            status, _, _ = await town.cluster.request(
                "GET", "/api/tags", token=one.token, headers={"Ctllm-Desktop": name}
            )
            assert status == 404
        assert await town.generate(one.token, Ctllm_Desktop=one.desktop) == f"words of {one.name}"


@ensureDeferred
async def test_two_at_once_each_get_their_own_answers(town: TwoUsers) -> None:
    """Many requests of both, by token and by key, all at the same time."""
    people = [town.alice, town.bob] * 4
    asked = [Deferred.fromCoroutine(town.generate(one.token)) for one in people]
    asked += [Deferred.fromCoroutine(town.generate(one.key)) for one in people]
    said = await gatherResults(asked, consumeErrors=True)
    assert said == [f"words of {one.name}" for one in people * 2]


@ensureDeferred
async def test_a_desktop_that_calls_itself_anothers_serves_only_its_own_user(
    town: TwoUsers,
) -> None:
    """Alice's desktop with the id of bob's, and claiming his key: nothing of his goes there."""
    cluster = town.cluster
    stolen, port = start_named_ollama(cluster, "mallory")
    await cluster.run_ctllm("mallory", "login", await cluster.create_invite("alice"))
    file = cluster.state_dir("mallory") / "desktop" / "credentials.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "desktop_id": town.bob.desktop}))
    mallory = cluster.run_role(
        "desktop", "mallory", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
    )
    await wait_until(lambda: "bridge: connected" in mallory.output, "mallory to connect")
    claim = {"hashes": [hash_key(town.bob.key)], "seconds": 60}
    serve = await cluster.create_token("alice", "desktop")
    path = f"/ctllm/desktops/{town.bob.desktop}/keys"
    assert (await cluster.request("PUT", path, claim, serve))[0] == 204

    (desktop,) = await cluster.list_desktops(town.bob.token)
    assert desktop["name"] == "attic-of-bob"
    for token in (town.bob.token, town.bob.key):
        assert await town.generate(token) == "words of bob"
        assert await town.generate(token, Ctllm_Desktop=town.bob.desktop) == "words of bob"
    assert (
        await town.generate(town.alice.token, Ctllm_Desktop=town.bob.desktop) == "words of mallory"
    )
    assert len([each for each in stolen.requests if each.path == "/api/generate"]) == 1
    await mallory.stop()


# -- API keys


@ensureDeferred
async def test_an_api_key_is_for_models_only(town: TwoUsers) -> None:
    """It uses them in every dialect's way, and manages or offers nothing."""
    key, cluster = town.alice.key, town.cluster
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
        ("PUT", f"/ctllm/desktops/{town.alice.desktop}/keys", {"hashes": [], "seconds": 60}),
    )
    for method, path, sent in refused:
        status, _, answer = await cluster.request(method, path, sent, key)
        assert (status, json.loads(answer)["error"]["code"]) == (403, "forbidden"), path
    assert await is_accepted(cluster, key)


@ensureDeferred
async def test_who_may_offer_models(town: TwoUsers) -> None:
    """A desktop's sign-in opens a tunnel; nobody, a key and a browser do not."""

    async def tunnel(token: str | None) -> int:
        status, _, _ = await town.cluster.request("GET", "/ws/tunnel", token=token, headers=UPGRADE)
        return status

    assert await tunnel(None) == 401
    assert await tunnel(town.alice.key) == 403
    assert await tunnel(town.alice.token) == 403


@ensureDeferred
async def test_a_revoked_key_stops_within_seconds(town: TwoUsers) -> None:
    """The others go on."""
    key = await town.cluster.run_ctllm("alice", "keys", "add", "short-lived")
    await wait_until(lambda: is_accepted(town.cluster, key), "the key to work", 5)
    await town.cluster.run_ctllm("alice", "keys", "rm", "short-lived")

    async def refused() -> bool:
        return not await is_accepted(town.cluster, key)

    await wait_until(refused, "the key to stop", 5)
    assert await is_accepted(town.cluster, town.alice.key)
    _, _, body = await town.cluster.request("GET", "/ctllm/session", token=key)
    assert "unknown or revoked" in error_message(body)


# -- the way round the front door


def request_socket(path: str, headers: dict[str, str]) -> int:
    """Ask a proxy directly for the models; gives the status."""
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
async def test_a_proxy_believes_only_its_cloud(town: TwoUsers) -> None:
    """Who gets to the socket, with nothing, a token, or what is forged or another's, gets 401."""
    sockets = {option(pid, "id"): option(pid, "socket") for pid in child_pids(town.cloud.pid)}
    keys = load_signing_keys(PrivateDirectory(town.cluster.state_dir("cloud") / "cloud"))
    alices, bobs = (proxy_id(keys.instance_secret, one.id) for one in (town.alice, town.bob))
    assert {alices, bobs} <= set(sockets)
    true, forged, late = (
        AssertionSigner(keys.signing_key, time.time),
        AssertionSigner(Ed25519PrivateKey.generate(), time.time),
        AssertionSigner(keys.signing_key, lambda: time.time() - 3600),
    )

    async def ask(proxy: str, assertion: str | None, **more: str) -> int:
        headers = {} if assertion is None else {"Ctllm-Assertion": assertion}
        return await deferToThread(request_socket, sockets[proxy], headers | more)

    scopes = frozenset({USE, SERVE})
    assert await ask(alices, true.sign(alices, scopes)) == 200
    assert await ask(alices, None) == 401
    assert await ask(alices, forged.sign(alices, scopes)) == 401
    assert await ask(alices, late.sign(alices, scopes)) == 401
    assert await ask(bobs, true.sign(alices, scopes)) == 401
    assert await ask(alices, town.alice.token) == 401
    assert await ask(alices, None, Authorization=f"Bearer {town.alice.token}") == 401
    smuggled = true.sign(bobs, scopes)
    assert await town.generate(town.alice.token, Ctllm_Assertion=smuggled) == "words of alice"


@ensureDeferred
async def test_tokens_that_were_touched_are_none(town: TwoUsers) -> None:
    """One with another's name in it, without a signature, empty: all 401, with a sentence."""
    head, body, signature = town.alice.token.split(".")
    bobs = town.bob.token.split(".")
    for token in (
        f"{head}.{bobs[1]}.{signature}",
        f"{head}.{body}.",
        f"eyJhbGciOiJub25lIiwidHlwIjoiY3RsbG0tYWNjZXNzK2p3dCJ9.{body}.",
        town.alice.key[:-1] + "-",
        "x",
    ):
        status, headers, answer = await town.cluster.request("GET", SESSION, token=token)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        assert error_message(answer)


# -- what is written down


@ensureDeferred
async def test_no_secret_gets_into_a_log_or_is_kept_by_the_cloud(town: TwoUsers) -> None:
    """Invitations, tokens, refresh tokens and API keys, used well and badly, leave no trace."""
    cluster, secrets = (
        town.cluster,
        [town.alice.token, town.alice.key, town.bob.token, town.bob.key],
    )
    for client in ("browser", "desktop"):
        invite = (await cluster.create_invite("carol")).partition("#invite=")[2]
        asked = {"invite": invite, "client": client}
        _, headers, body = await cluster.request("POST", SESSION, asked)
        assert (await cluster.request("POST", SESSION, asked))[0] == 401
        answer = json.loads(body)
        refresh = answer.get("refresh") or only_cookie(headers).value
        renewed, _, _ = await cluster.request("POST", TOKEN, {"refresh": refresh})
        assert renewed == (200 if client == "desktop" else 401)  # a browser's works as its cookie
        assert (await cluster.request("POST", TOKEN, {"refresh": refresh, "x": 1}))[0] == 400
        assert (await cluster.request("GET", f"/ctllm/nothing?{refresh}", token=refresh))[0] == 404
        assert (await cluster.request("GET", "/api/tags", token=answer["token"]))[0] == 503
        assert (await cluster.request("GET", "/api/tags", token=answer["token"] + "x"))[0] == 401
        secrets += [invite, refresh, answer["token"]]
    kept = [each for each in cluster.state_dir("cloud").rglob("*") if each.is_file()]
    texts = [program.output for program in cluster.processes]
    texts += [path.read_text() + str(path) for path in kept]
    assert len(texts) > 6
    for text in texts:
        for secret in secrets:
            assert secret not in text


# -- revoking


@ensureDeferred
async def test_revoking_ends_all_that_a_user_has(town: TwoUsers) -> None:
    """Mallory's stream, tunnel, tokens, keys, passes, links: all end, and none of it comes back.

    Who signs in as mallory afterwards never reaches the desktop of before.
    """
    cluster, name = town.cluster, "mallory2"
    stolen, port = start_named_ollama(cluster, name)
    stolen.script("/api/chat", Script(lines=100_000, line_interval=0.02))
    desktop = await cluster.start_desktop(name, port)
    key = await cluster.run_ctllm(name, "keys", "add", "app")
    await wait_until(lambda: is_accepted(cluster, key), "the key to work")
    session = await cluster.log_in(await cluster.create_invite(name), "desktop")
    token, refresh = session["token"], session["refresh"]
    _, _, answer = await cluster.request("POST", f"{SESSION}/invite", token=token)
    made = json.loads(answer)["invite"]
    invite = (await cluster.create_invite(name)).partition("#invite=")[2]
    lease = {"hashes": ["0" * 64], "seconds": 60}
    path = f"/ctllm/desktops/{'a' * 32}/keys"
    assert (await cluster.request("PUT", path, lease, token))[0] == 204
    chat = json.dumps(
        {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    stream = deferToThread(read_response, cluster.cloud_port, "/api/chat", chat, key)
    record = await wait_until(
        lambda: next((one for one in stolen.requests if one.lines_sent > 9), None), "the stream"
    )

    ended = await cluster.run_ctllm("cloud", "revoke", name)
    assert ended == f"Ended 2 sessions and 1 open invites of {name}."
    assert b"signed out by whoever runs this cloud" in (await stream)
    await wait_until(
        lambda: "bridge: not logged in" in desktop.output, "the desktop to be signed out"
    )
    await wait_until(lambda: record.closed_by is not None, "Ollama to be told to stop")
    assert not await is_accepted(cluster, key)
    for body in (
        {"invite": made, "client": "desktop"},
        {"invite": made, "client": "browser"},
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
    assert await town.generate(fresh) == "words of another desktop"
    assert not [each for each in stolen.requests if each.path == "/api/generate"]
    assert await town.generate(town.alice.token) == "words of alice"
    await desktop.stop()


@ensureDeferred
async def test_a_revocation_while_the_cloud_is_down(cluster: Cluster) -> None:
    """It counts from the first request on."""
    cloud = await cluster.start_cloud()
    session = await cluster.log_in(await cluster.create_invite("alice"), "desktop")
    kept = cluster.state_dir("cloud") / "cloud" / "sessions"
    files = {file.name: file.read_bytes() for file in kept.iterdir()}
    await cloud.stop()
    await cluster.run_ctllm("cloud", "revoke", "alice")
    for file, data in files.items():  # as a backup would, that was made before
        (kept / file).write_bytes(data)
    await cluster.start_cloud()
    assert (await cluster.request("GET", SESSION, token=session["token"]))[0] == 401
    assert (await cluster.request("POST", TOKEN, {"refresh": session["refresh"]}))[0] == 401
    fresh = await cluster.create_token("alice")
    assert (await cluster.request("GET", SESSION, token=fresh))[0] == 200


@ensureDeferred
async def test_a_pass_belongs_to_the_desktop_that_made_it(town: TwoUsers) -> None:
    """It signs in no desktop, and what it signed in ends with that desktop's sign-in."""
    cluster = town.cluster
    session = await cluster.log_in(await cluster.create_invite("carol"), "desktop")
    _, _, answer = await cluster.request("POST", f"{SESSION}/invite", token=session["token"])
    asked = {"invite": json.loads(answer)["invite"], "client": "desktop"}
    assert (await cluster.request("POST", SESSION, asked))[0] == 403
    _, headers, answer = await cluster.request("POST", SESSION, {**asked, "client": "browser"})
    brought = {"Cookie": f"ctllm-session={only_cookie(headers).value}"}
    child = json.loads(answer)["token"]
    assert (await cluster.request("POST", TOKEN, {}, headers=brought))[0] == 200
    gone = {"Ctllm-Refresh": session["refresh"]}
    assert (await cluster.request("DELETE", SESSION, headers=gone))[0] == 204
    assert (await cluster.request("POST", TOKEN, {}, headers=brought))[0] == 401
    assert (await cluster.request("GET", SESSION, token=child))[0] == 401

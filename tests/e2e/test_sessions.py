"""Sessions of a provider's users: how they go on, and what ends with them, within two seconds.

The desktops that serve are real ones. Others are a client of this test, which does not do what a
desktop does: it does not close what it should, and does not sign out.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.auth.api_keys import generate_key, record_key
from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider
from tests.e2e.raw_client import RawClient
from tests.fake_ollama import FakeOllama, Script

SESSION, TOKEN = "/ctllm/session", "/ctllm/session/token"
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
TUNNEL = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: ctllm.tunnel.v1",
)
#: Two seconds, and what this machine may be late; a tunnel without an end would last for minutes.
DEADLINE = 20.0
JSON = "Content-Type: application/json"


@dataclass
class Connection:
    """A response or a tunnel in progress, read in a thread until its end."""

    client: RawClient
    ended: Deferred[bytes]

    @property
    def is_open(self) -> bool:
        return not self.ended.called

    async def end(self, what: str) -> bytes:
        """Wait for the end; return what was received."""
        await wait_until(lambda: self.ended.called, f"the end of {what}", DEADLINE)
        return await self.ended


@dataclass
class Session:
    """A session of a desktop that presented its provider's token."""

    user_id: str
    token: str
    refresh: str


class Acme:
    """A cloud with a provider whose group `staff` may sign in; a real desktop of ada serves."""

    def __init__(self, cluster: Cluster, provider: OidcProvider) -> None:
        self.cluster = cluster
        self.provider = provider
        self.connections: list[Connection] = []
        self.ollama: FakeOllama
        self.cloud: ChildProcess

    async def start(self, *options: str) -> Acme:
        table = self.provider.table(
            "acme", allowed_groups=["staff"], groups_claim="groups", user_claim="sub"
        )
        configure(self.cluster, table)
        self.cloud = await self.cluster.start_cloud(*options)
        return self

    async def start_desktop(self) -> ChildProcess:
        """Log in a real desktop of ada with the device grant, and start it."""
        state = self.cluster.state_dir("ada")
        login = ChildProcess(
            "login",
            [str(BIN / "ctllm"), f"--state-dir={state}", "login", self.cluster.url, "--no-browser",
             "--device"],
            self.cluster.environment(),
        )  # fmt: skip
        self.cluster.processes.append(login)
        await wait_until(lambda: "/activate?" in login.output, "the link")
        (link,) = (word for word in login.output.split() if "/activate?" in word)
        await self.provider.approve_device(link, "ada")
        assert await login.exited == 0, login.output
        self.ollama, port = self.cluster.start_fake_ollama("llama3.2")
        self.ollama.script("/api/chat", Script(lines=100_000, line_interval=0.02))
        desktop = self.cluster.run_role(
            "desktop", "ada", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
        )
        await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the desktop")
        return desktop

    async def provider_token(self, user: str = "ada") -> str:
        return str((await self.provider.sign_in(user))["access_token"])

    async def log_in(self, user: str = "ada") -> Session:
        """Begin a desktop's session with a token of the provider."""
        body = {"client": "desktop", "provider_token": await self.provider_token(user)}
        status, found = await self.ask("POST", SESSION, body)
        assert status == 201, found
        return Session(found["user"]["id"], found["token"], found["refresh"])

    async def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, received, data = await self.cluster.request(method, path, body, token, named)
        self.cookie = received.get("set-cookie", "").partition(";")[0]
        return status, json.loads(data) if data else None

    async def renew(self, session: Session, provider_token: str = "") -> tuple[int, Any]:
        more = {"provider_token": provider_token} if provider_token else {}
        return await self.ask("POST", TOKEN, {"refresh": session.refresh, **more})

    async def status_of(self, token: str) -> int:
        return (await self.ask("GET", "/api/version", token=token))[0]

    async def sign_out(self, session: Session) -> None:
        assert (await self.ask("DELETE", SESSION, Ctllm_Refresh=session.refresh))[0] == 204

    async def open_stream(self, token: str) -> Connection:
        """Start a response without an end, and wait for its first lines."""
        client = await deferToThread(self._connect, "POST", "/api/chat", token, CHAT, JSON)
        head = await deferToThread(client.read_head)
        assert head["status"] == "200", client.received
        await deferToThread(client.read_lines, 3)
        return self._read(client)

    async def open_tunnel(self, token: str) -> Connection:
        """Open a tunnel, in which nothing is sent."""
        client = await deferToThread(self._connect, "GET", "/ws/tunnel", token, None, *TUNNEL)
        received = await deferToThread(client.read_until, b"\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 101"), received
        return self._read(client)

    def _connect(self, method: str, path: str, token: str, body: Any, *headers: str) -> RawClient:
        client = RawClient(self.cluster.cloud_port)
        return client.send_request(method, path, token, body, *headers)

    def _read(self, client: RawClient) -> Connection:
        connection = Connection(client, deferToThread(client.read_to_end))
        self.connections.append(connection)
        return connection

    async def lease_key(self, session: Session) -> str:
        """Announce an API key, as a desktop does, and return it."""
        key = generate_key(session.user_id)
        record = record_key(key)
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        path = f"/ctllm/desktops/{'b' * 32}/keys"
        status, found = await self.ask(
            "PUT", path, {"keys": [fields], "seconds": 120}, session.token
        )
        assert status == 200, found
        return key

    async def log_in_browser(self, session: Session) -> tuple[str, str]:
        """Log a browser in with a login code; return its access token and its cookie."""
        status, found = await self.ask("POST", f"{SESSION}/invite", token=session.token)
        assert status == 201, found
        body = {"invite": found["invite"], "client": "browser"}
        status, found = await self.ask("POST", SESSION, body)
        assert status == 201, found
        return found["token"], self.cookie

    async def close(self) -> None:
        """Close what is open, so that the threads end."""
        for connection in self.connections:
            if connection.is_open:
                connection.client.socket.shutdown(2)
        await gatherResults([each.ended for each in self.connections if each.is_open])


@pytest_twisted.async_yield_fixture()
async def acme(cluster: Cluster) -> Any:
    provider = await start_provider(cluster, users={"ada": ["staff"], "bob": ["staff"], "eve": []})
    world = Acme(cluster, provider)
    yield world
    await world.close()


# -- sessions that go on


@ensureDeferred
async def test_a_provider_token_begins_a_desktops_session(acme: Acme) -> None:
    """It has this cloud's own tokens, and goes on with a fresh token of the same user alone."""
    await acme.start()
    session = await acme.log_in()
    status, found = await acme.ask("GET", SESSION, token=session.token)
    assert status == 200
    assert found["user"] == {"name": "ada", "id": session.user_id}
    assert found["scopes"] == ["manage", "serve", "use"]
    assert session.user_id == f"{acme.provider.base}|ada"
    assert (await acme.renew(session))[0] == 200
    assert (await acme.renew(session, await acme.provider_token()))[0] == 200
    status, found = await acme.renew(session, await acme.provider_token("bob"))
    assert (status, found["error"]["code"]) == (401, "unauthenticated")
    status, found = await acme.renew(session, await acme.provider.mint("ada", aud="other"))
    assert status == 401
    assert (await acme.renew(session))[0] == 200
    body = {"client": "desktop", "provider_token": await acme.provider_token("eve")}
    status, found = await acme.ask("POST", SESSION, body)
    assert (status, found["error"]["code"]) == (403, "group_not_allowed")
    other = await acme.provider.sign_in("ada", "another")
    body["provider_token"] = other["access_token"]
    status, found = await acme.ask("POST", SESSION, body)
    assert (status, found["error"]["code"]) == (403, "forbidden")


@ensureDeferred
async def test_an_expired_provider_token_ends_neither_session_nor_connections(acme: Acme) -> None:
    """The desktop is asked for a fresh one; a response and a tunnel outlive it."""
    await acme.start()
    await acme.start_desktop()
    await acme.provider.set_token_seconds(3)
    session = await acme.log_in()
    stream, tunnel = await acme.open_stream(session.token), await acme.open_tunnel(session.token)

    async def is_expired() -> bool:
        status, found = await acme.renew(session)
        return status == 401 and found["error"]["code"] == "provider_token_required"

    await wait_until(is_expired, "the provider's token to expire")
    assert (await acme.renew(session, await acme.provider_token()))[0] == 200
    assert stream.is_open and tunnel.is_open
    assert await acme.status_of(session.token) == 200


@ensureDeferred
async def test_a_response_outlives_the_providers_token_that_began_it(acme: Acme) -> None:
    """A client may present the provider's token as it is, without a session."""
    await acme.start()
    await acme.start_desktop()
    # The cloud accepts it for 30 s more, because clocks differ.
    now = int(time.time())
    expiring = await acme.provider.mint(iat=now - 300, exp=now - 24, groups=["staff"])
    stream = await acme.open_stream(expiring)

    async def is_refused() -> bool:
        return await acme.status_of(expiring) == 401

    await wait_until(is_refused, "the token to be refused")
    assert stream.is_open


# -- sessions that end


@ensureDeferred
async def test_signing_out_ends_all_of_that_session_and_nothing_else(acme: Acme) -> None:
    """Streams, a tunnel, API keys, a browser and a login code; another desktop goes on."""
    await acme.start()
    desktop = await acme.start_desktop()
    session, other = await acme.log_in(), await acme.log_in()
    key = await acme.lease_key(session)
    browser, cookie = await acme.log_in_browser(session)
    other_browser, other_cookie = await acme.log_in_browser(other)
    _, code = await acme.ask("POST", f"{SESSION}/invite", token=session.token)
    tunnel, other_tunnel = (
        await acme.open_tunnel(session.token), await acme.open_tunnel(other.token)
    )  # fmt: skip
    ending = [await acme.open_stream(token) for token in (session.token, browser, key)]
    going_on = [await acme.open_stream(token) for token in (other.token, other_browser)]

    await acme.sign_out(session)
    for stream in ending:
        assert b"You are logged out" in await stream.end("a stream")
    await tunnel.end("the tunnel")
    for token in (session.token, browser, key):
        assert await acme.status_of(token) == 401
    assert (await acme.renew(session, await acme.provider_token()))[0] == 401
    assert (await acme.ask("POST", TOKEN, {}, Cookie=cookie))[0] == 401
    body = {"invite": code["invite"], "client": "browser"}
    assert (await acme.ask("POST", SESSION, body))[0] == 401
    assert other_tunnel.is_open and all(stream.is_open for stream in going_on)
    assert (await acme.ask("POST", TOKEN, {}, Cookie=other_cookie))[0] == 200
    assert (await acme.renew(other))[0] == 200
    assert "not logged in" not in desktop.output


@ensureDeferred
async def test_logging_out_with_the_command_ends_what_the_desktop_gave(acme: Acme) -> None:
    await acme.start()
    desktop = await acme.start_desktop()
    key = await acme.cluster.run_ctllm("ada", "keys", "add", "app")

    async def is_accepted() -> bool:
        return await acme.status_of(key) == 200

    await wait_until(is_accepted, "the key to work")
    stream = await acme.open_stream(key)
    await acme.cluster.run_ctllm("ada", "logout")
    await stream.end("the stream")
    await wait_until(lambda: "not logged in" in desktop.output, "the desktop to see it")
    assert await acme.status_of(key) == 401


@pytest.mark.parametrize("way", ["cloud", "nginx"])
@ensureDeferred
async def test_clients_of_an_offline_desktop_need_not_wait_once_it_is_logged_out(
    acme: Acme, way: str
) -> None:
    """It cannot return, so they get their error at once. Those of a desktop that may do wait."""
    if way == "nginx" and acme.cluster.nginx is None:
        acme.cluster.use_nginx()
    await acme.start("--reconnect-grace-seconds=3600")
    desktop = await acme.start_desktop()
    other = await acme.log_in()
    stream = await acme.open_stream(other.token)
    await desktop.stop(signal.SIGKILL)

    async def is_lost() -> bool:
        status, found = await acme.ask("GET", "/ctllm/desktops", token=other.token)
        return status == 200 and found["desktops"] == []

    await wait_until(is_lost, "the cloud to see that it is offline")
    assert stream.is_open
    await acme.cluster.run_ctllm("ada", "logout")
    assert b"The cloud has disconnected the desktop" in await stream.end("the stream")


@ensureDeferred
async def test_leaving_the_group_ends_everything_at_the_next_renewal(acme: Acme) -> None:
    """Of both desktops and the browser; who returns to the group may sign in again."""
    await acme.start()
    desktop = await acme.start_desktop()
    session, other = await acme.log_in(), await acme.log_in("bob")
    tunnel, stream = await acme.open_tunnel(session.token), await acme.open_stream(session.token)
    other_tunnel = await acme.open_tunnel(other.token)
    await acme.provider.set_user("ada", groups=[])
    refused = await acme.provider_token()
    assert (await acme.renew(session))[0] == 200  # the provider was not asked yet
    status, found = await acme.renew(other, refused)
    assert status == 401  # who steals a token ends nothing with it
    assert tunnel.is_open

    status, found = await acme.renew(session, refused)
    assert (status, found["error"]["code"]) == (403, "group_not_allowed")
    await tunnel.end("the tunnel")
    await stream.end("the stream")
    assert await acme.status_of(session.token) == 401
    await wait_until(
        lambda: "Cloud connection: not logged in" in desktop.output, "the other desktop's end"
    )
    assert other_tunnel.is_open
    await acme.provider.set_user("ada", groups=["staff"])
    assert (await acme.renew(session, await acme.provider_token()))[0] == 401

    async def returns() -> bool:
        body = {"client": "desktop", "provider_token": await acme.provider_token()}
        return (await acme.ask("POST", SESSION, body))[0] == 201

    await wait_until(returns, "ada to sign in again")


@ensureDeferred
async def test_revoking_a_providers_user_says_that_a_fresh_token_signs_in(acme: Acme) -> None:
    await acme.start()
    desktop = await acme.start_desktop()
    session = await acme.log_in()
    bearer = await acme.provider_token()
    tunnel, stream = await acme.open_tunnel(session.token), await acme.open_stream(bearer)
    said = await acme.cluster.run_ctllm("cloud", "revoke", "ada")
    assert "Ended 2 sessions" in said and f"users disable '{session.user_id}'" in said
    await tunnel.end("the tunnel")
    assert b"logged you out" in await stream.end("the stream")
    await wait_until(lambda: "not logged in" in desktop.output, "the desktop to see it")
    assert (await acme.renew(session, await acme.provider_token()))[0] == 401
    assert await acme.status_of(bearer) == 401

    async def signs_in() -> bool:
        return await acme.status_of(await acme.provider_token()) != 401

    await wait_until(signs_in, "a fresh token to be accepted")


@ensureDeferred
async def test_a_disabled_user_has_no_access_until_enabled(acme: Acme) -> None:
    """Whatever the user presents, also where the cloud was restarted; the desktop does not loop."""
    await acme.start()
    desktop = await acme.start_desktop()
    session = await acme.log_in()
    key = await acme.lease_key(session)
    bearer = await acme.provider_token()
    tunnel = await acme.open_tunnel(session.token)
    streams = [await acme.open_stream(token) for token in (session.token, key, bearer)]
    await acme.cluster.run_ctllm("cloud", "users", "disable", "ada")
    await tunnel.end("the tunnel")
    for stream in streams:
        assert b"disabled your account" in await stream.end("a stream")
    await wait_until(lambda: "disabled your account" in desktop.output, "the desktop to say why")
    shown = desktop.output.count("Cloud connection: ")
    for restarts in (False, True):
        if restarts:
            await acme.cloud.stop()
            acme.cloud = await acme.cluster.start_cloud()
        for token in (session.token, bearer, await acme.provider_token()):
            assert await acme.status_of(token) == 403
        assert await acme.status_of(key) == 401
        for provider_token in ("", await acme.provider_token()):
            status, found = await acme.renew(session, provider_token)
            assert (status, found["error"]["code"]) == (403, "user_disabled")
        body = {"client": "desktop", "provider_token": await acme.provider_token()}
        status, found = await acme.ask("POST", SESSION, body)
        assert (status, found["error"]["code"]) == (403, "user_disabled")
    assert desktop.output.count("Cloud connection: ") - shown <= 2

    await acme.cluster.run_ctllm("cloud", "users", "enable", "ada")

    async def is_enabled() -> bool:
        return (await acme.renew(session))[0] == 200

    await wait_until(is_enabled, "the session to go on")


@ensureDeferred
async def test_what_ends_while_the_cloud_is_down_has_ended_when_it_starts(acme: Acme) -> None:
    """And what did not goes on."""
    await acme.start()
    kept, revoked = await acme.log_in("bob"), await acme.log_in("ada")
    await acme.cloud.stop()
    await acme.cluster.run_ctllm("cloud", "revoke", "ada")
    acme.cloud = await acme.cluster.start_cloud()
    assert await acme.status_of(revoked.token) == 401
    assert (await acme.renew(revoked, await acme.provider_token()))[0] == 401
    assert await acme.status_of(kept.token) == 503  # signed in, without a desktop
    assert (await acme.renew(kept))[0] == 200


@ensureDeferred
async def test_a_session_whose_file_is_removed_ends_too(acme: Acme) -> None:
    """As by restoring a backup, or by hand. Clients of other sessions are told of its desktop."""
    await acme.start()
    desktop = await acme.start_desktop()
    session = await acme.log_in()
    tunnel = await acme.open_tunnel(session.token)
    ended = list((acme.cluster.state_dir("cloud") / "cloud" / "sessions").iterdir())
    other = await acme.log_in()
    stream, other_tunnel = (
        await acme.open_stream(other.token), await acme.open_tunnel(other.token)
    )  # fmt: skip
    for file in ended:
        file.unlink()
    told = await stream.end("the stream through the desktop")
    assert b"The cloud has disconnected the desktop: You are logged out" in told
    await tunnel.end("the tunnel")
    await wait_until(lambda: "not logged in" in desktop.output, "the desktop to see it")
    assert await acme.status_of(session.token) == 401
    assert other_tunnel.is_open

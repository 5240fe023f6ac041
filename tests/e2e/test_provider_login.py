"""A desktop logs in with a provider, and stays logged in: with a certified OpenID provider."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from ctllm.desktop.credential_file import CredentialFile, Login
from ctllm.desktop.login_store import open_login_store
from ctllm.errors import CtllmError
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.network_relay import NetworkRelay
from tests.e2e.oidc_provider import TOKEN_ENDPOINT, OidcProvider, configure, start_provider
from tests.ports import listen, port_of
from tests.unit.cli.test_qr_code import modules

REVOCATION = "/oauth/revoke"
LINK = re.compile(r"^    (http://\S+)\r?$", re.M)


class Acme:
    """A cloud whose users log in with a provider, and the desktops of ada."""

    def __init__(self, cluster: Cluster, provider: OidcProvider) -> None:
        self.cluster = cluster
        self.provider = provider

    @classmethod
    async def start(
        cls, cluster: Cluster, *options: str, device_grant: bool = True, **keys: Any
    ) -> Acme:
        provider = await start_provider(
            cluster, users={"ada": ["staff"], "bob": []}, device_grant=device_grant
        )
        configure(cluster, provider.table("acme", **keys))
        await cluster.start_cloud(*options)
        return cls(cluster, provider)

    @property
    def state(self) -> Path:
        return self.cluster.state_dir("ada")

    @property
    def login(self) -> Login | None:
        return CredentialFile(self.state).load().login

    def run_login(self, *options: str, pty: bool = False, state: str = "ada") -> ChildProcess:
        """Start `ctllm login`, without a browser."""
        arguments = ["login", self.cluster.url, "--no-browser", *options]
        argv = [str(BIN / "ctllm"), f"--state-dir={self.cluster.state_dir(state)}", *arguments]
        env = {**self.cluster.environment(), "TERM": "xterm", "LANG": "C.UTF-8"}
        env |= {"COLUMNS": "100", "LINES": "60"} if pty else {}
        process = ChildProcess("login", argv, env, use_pty=pty)
        self.cluster.processes.append(process)
        return process

    async def link(self, process: ChildProcess) -> str:
        """Return the link that `ctllm login` shows."""
        found = await wait_until(lambda: LINK.search(process.output), "the link")
        return str(found[1])

    async def log_in(self, user: str = "ada") -> None:
        """Log the desktop in with the device grant."""
        process = self.run_login("--device")
        await self.provider.approve_device(await self.link(process), user)
        assert await process.exited == 0, process.output

    async def start_desktop(self, *options: str) -> ChildProcess:
        _, ollama = self.cluster.start_fake_ollama("llama3.2")
        process = self.cluster.run_role(
            "desktop", "ada", f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off", *options
        )
        await wait_until(
            lambda: "Cloud connection: connected" in process.output, "the bridge to connect"
        )
        return process

    async def refreshes(self) -> int:
        """Return how many requests the token endpoint had."""
        return len(await self.provider.requests(TOKEN_ENDPOINT))

    async def renew(self, processes: int, tasks: int, seconds_later: int) -> list[str]:
        """Renew the login at the same moment in several processes, `seconds_later` than now.

        Return what each prints: its tokens, or errors.
        """
        go = self.cluster.directory / f"go-{seconds_later}"
        started = [
            self.cluster.start_process(
                "renewal", "python", "-c", RENEW,
                str(self.state), str(go), str(tasks), str(seconds_later),
            )
            for _ in range(processes)
        ]  # fmt: skip
        for process in started:
            await wait_until(lambda p=process: "ready" in p.output, "a process to be ready", 120)
        go.touch()
        for process in started:
            await process.exited
        return [process.output.removeprefix("ready\n") for process in started]


#: A program that renews the login of a state folder, with a clock that is fast.
RENEW = """
import sys, time
from pathlib import Path
from twisted.internet import defer, reactor, task
from ctllm.desktop.cloud_client import CloudClient
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.login_store import open_login_store
from ctllm.reactor.deferred_tools import sleep

state, go, tasks, later = sys.argv[1:]

async def main():
    print("ready", flush=True)
    while not Path(go).exists():
        await sleep(reactor, 0.01)
    session = CloudSession(
        open_login_store(Path(state), reactor), lambda url: CloudClient(url, reactor), reactor,
        wall_clock=lambda: time.time() + int(later),
    )
    asked = [defer.Deferred.fromCoroutine(session.access_token()) for _ in range(int(tasks))]
    for done in asked:
        try:
            print("token", len(await done) > 0)
        except Exception as error:
            print(type(error).__name__, error)

task.react(lambda _: defer.Deferred.fromCoroutine(main()))
"""


@pytest_twisted.async_fixture()
async def acme(cluster: Cluster) -> Acme:
    """A cloud with a provider that has the device grant, and nobody logged in."""
    return await Acme.start(cluster)


# -- the device grant


@ensureDeferred
async def test_logs_in_with_the_device_grant_and_connects(acme: Acme) -> None:
    process = acme.run_login()
    link = await acme.link(process)
    code = re.search(r"this code:  (\S+)", process.output)
    assert code is not None and code[1] in link
    assert "\x1b" not in process.output  # no QR code, because it is no terminal
    await acme.provider.approve_device(link, "ada")
    assert await process.exited == 0, process.output
    assert f"Logged in to {acme.cluster.url} as ada." in process.output
    stored = (acme.state / "desktop" / "credentials.json").read_text()
    assert "eyJ" not in stored and acme.login is not None and acme.login.provider is not None
    await acme.start_desktop()


@ensureDeferred
async def test_a_denied_login_says_so(acme: Acme) -> None:
    process = acme.run_login()
    await acme.provider.deny_device(await acme.link(process), "ada")
    assert await process.exited == 1
    assert "The login was denied in the browser." in process.output
    assert acme.login is None


@ensureDeferred
async def test_slow_down_is_obeyed_and_an_expired_code_says_so(acme: Acme) -> None:
    await acme.provider.answer(TOKEN_ENDPOINT, status=400, body='{"error":"slow_down"}')
    process = acme.run_login()
    await acme.link(process)

    async def polled() -> bool:
        return await acme.refreshes() >= 1

    await wait_until(polled, "the first poll")
    await acme.provider.answer(TOKEN_ENDPOINT, status=400, body='{"error":"expired_token"}')
    assert await process.exited == 1
    assert "The code has expired" in process.output
    assert await acme.refreshes() == 2


@ensureDeferred
async def test_a_terminal_shows_the_qr_code_of_the_link(acme: Acme) -> None:
    import segno

    process = acme.run_login(pty=True)
    link = await acme.link(process)
    await wait_until(lambda: "Ctrl-C cancels" in process.output, "the QR code")
    lines = [
        line for line in process.output.splitlines() if line.startswith("\x1b[38;5;16;48;5;231m")
    ]
    code = segno.make_qr(link, error="l", boost_error=False)
    expected = [[int(bool(each)) for each in row] for row in code.matrix_iter(border=2)]
    assert modules("\n".join(lines), True)[: len(expected)] == expected
    process.send_signal(signal.SIGINT)
    assert await process.exited == 130
    assert "Traceback" not in process.output
    assert acme.login is None


# -- a browser of this machine


async def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Send a request as any program of this machine can."""
    import http.client

    def exchange() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return await deferToThread(exchange)


async def refused_again(port: int, path: str) -> bool:
    """Return whether a request is refused, or nobody listens any more."""
    try:
        return (await get(port, path))[0] == 410
    except OSError:
        return True


@ensureDeferred
async def test_logs_in_with_a_browser_where_the_provider_has_no_device_grant(
    cluster: Cluster,
) -> None:
    acme = await Acme.start(cluster, device_grant=False)
    process = acme.run_login()
    link = await acme.link(process)
    assert "code_challenge_method=S256" in link
    redirect = await acme.provider.authorize(link, "ada")
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/callback\?.*)", redirect)
    assert found is not None, redirect
    port, path = int(found[1]), found[2]
    # Another program of this machine has found the port.
    code = re.search(r"code=([^&]+)", path)
    assert code is not None
    for status, guess in (
        (404, "/"),
        (404, "/favicon.ico"),
        (400, "/callback"),
        (400, f"/callback?code={code[1]}&state=guess"),
        (400, "/callback?error=access_denied"),
    ):
        assert (await get(port, guess))[0] == status
    assert (await get(port, path, Host="evil.example"))[0] == 404
    status, page = await get(port, path)
    assert status == 200 and "You can close this window" in page
    assert code[1] not in page
    assert await refused_again(port, path)
    assert await process.exited == 0, process.output
    assert "as ada." in process.output
    await acme.start_desktop()


@ensureDeferred
async def test_a_login_that_is_denied_in_the_browser_says_so(acme: Acme) -> None:
    process = acme.run_login("--browser")
    link = await acme.link(process)
    fields = dict(parse_qsl(urlsplit(link).query))
    denied = {
        "error": "access_denied", "error_description": "<b>No",
        "state": fields["state"], "iss": acme.provider.issuer,
    }  # fmt: skip
    port = urlsplit(fields["redirect_uri"]).port
    assert port is not None
    status, page = await get(port, f"/callback?{urlencode(denied)}")
    assert status == 400 and "&lt;b&gt;No" in page
    assert await process.exited == 1
    assert "denied" in process.output and acme.login is None


@ensureDeferred
async def test_a_provider_with_a_client_secret_and_id_tokens(cluster: Cluster) -> None:
    """As Google: access tokens are opaque, and native apps have a secret that is none."""
    acme = await Acme.start(
        cluster, client_id="installed", desktop_client_secret="not-confidential",
        token="id_token", audience="",
    )  # fmt: skip
    await acme.log_in()
    assert acme.login is not None
    assert acme.login.user_name == "ada"
    assert "token True" in (await acme.renew(1, 1, 1000))[0]


# -- logins that replace others, and their end


@ensureDeferred
async def test_another_user_replaces_the_login_and_logout_revokes_the_token(acme: Acme) -> None:
    await acme.log_in()
    process = acme.run_login()
    assert acme.login is not None
    link = await acme.link(process)
    assert "logged in to" in process.output and "as ada" in process.output
    await acme.provider.approve_device(link, "bob")
    assert await process.exited == 0, process.output
    assert acme.login.user_name == "bob"
    assert len(await acme.provider.requests(REVOCATION)) == 1  # ada's
    said = await acme.cluster.run_ctllm("ada", "logout")
    assert "Logged out" in said
    assert len(await acme.provider.requests(REVOCATION)) == 2
    assert acme.login is None


@ensureDeferred
async def test_logout_says_what_the_provider_could_not_do(acme: Acme) -> None:
    await acme.log_in()
    await acme.provider.stop()
    process = acme.cluster.start_process("logout", "ctllm", f"--state-dir={acme.state}", "logout")
    assert await process.exited == 1
    assert "did not revoke" in process.output and acme.provider.issuer in process.output
    assert acme.login is None


@ensureDeferred
async def test_a_cloud_without_providers_has_invite_links(cluster: Cluster) -> None:
    await cluster.start_cloud()
    process = cluster.start_process("login", "ctllm", "login", cluster.url)
    assert await process.exited == 1
    assert "invite" in process.output


@ensureDeferred
async def test_several_providers_need_a_choice(cluster: Cluster) -> None:
    provider = await start_provider(cluster, users={"ada": []})
    other = await start_provider(cluster, users={"ada": []}, path="/realms/example")
    configure(cluster, provider.table("acme"), other.table("other"))
    await cluster.start_cloud()
    acme = Acme(cluster, other)
    process = acme.run_login()
    assert await process.exited == 1
    assert "acme, other" in process.output and "--provider" in process.output
    process = acme.run_login("--provider", "other")
    await other.approve_device(await acme.link(process), "ada")
    assert await process.exited == 0, process.output
    assert acme.login is not None and acme.login.provider is not None
    assert acme.login.provider.issuer == other.issuer


# -- renewal


@ensureDeferred
async def test_fifty_processes_renew_with_one_refresh_and_nobody_is_logged_out(acme: Acme) -> None:
    await acme.log_in()
    await acme.provider.forget_requests()
    assert set(await acme.renew(50, 1, 1000)) == {"token True\n"}
    assert await acme.refreshes() == 1
    # The grant goes on: the provider has not seen a refresh token twice.
    assert await acme.renew(1, 1, 3000) == ["token True\n"]
    assert await acme.refreshes() == 2


@ensureDeferred
async def test_fifty_tasks_of_one_process_renew_with_one_refresh(acme: Acme) -> None:
    await acme.log_in()
    await acme.provider.forget_requests()
    assert await acme.renew(1, 50, 1000) == ["token True\n" * 50]
    assert await acme.refreshes() == 1


@ensureDeferred
async def test_a_refresh_token_that_was_used_elsewhere_ends_the_login_once(acme: Acme) -> None:
    """What remains of a crash between the provider's answer and its storage."""
    await acme.log_in()
    _, secrets = await open_login_store(acme.state, reactor).load()
    status, _ = await acme.provider.refresh(secrets.provider_refresh_token)
    assert status == 200
    await acme.provider.forget_requests()
    [said] = await acme.renew(1, 3, 1000)
    assert said.count("Unauthorized") == 3 and "invalid_grant" in said
    assert f"ctllm login {acme.cluster.url}" in said
    assert await acme.refreshes() == 1
    [again] = await acme.renew(1, 3, 2000)
    assert again == said and await acme.refreshes() == 1
    await acme.log_in()
    assert await acme.renew(1, 1, 1000) == ["token True\n"]


@ensureDeferred
async def test_a_process_that_is_killed_during_a_renewal_blocks_no_other(acme: Acme) -> None:
    await acme.log_in()
    await acme.provider.forget_requests()
    await acme.provider.answer(TOKEN_ENDPOINT, body="{" * 10_000, drip=1000)
    renewing = Deferred.fromCoroutine(acme.renew(1, 1, 1000))

    async def asked() -> bool:
        return await acme.refreshes() == 1

    await wait_until(asked, "the renewal to begin")
    await acme.cluster.processes[-1].stop(signal.SIGKILL)
    await renewing
    await acme.provider.answer(TOKEN_ENDPOINT)
    assert await acme.renew(2, 1, 1001) == ["token True\n"] * 2
    assert await acme.refreshes() == 2


@ensureDeferred
async def test_a_revoked_grant_is_shown_as_logged_out_and_asks_nobody(cluster: Cluster) -> None:
    acme = await Acme.start(cluster, "--access-token-ttl-seconds=60")
    await acme.provider.set_token_seconds(5)
    await acme.log_in()
    relay = NetworkRelay(cluster.cloud_port)
    cluster.ports.append(relay)
    desktop = await acme.start_desktop(f"--cloud-url=http://127.0.0.1:{relay.port}")
    await acme.provider.end_grants("ada")
    await wait_until(
        lambda: "Cloud connection: not logged in" in desktop.output, "the end of the login", 90
    )
    await acme.provider.forget_requests()
    asked = relay.accepted
    for _ in range(3):
        process = acme.cluster.start_process(
            "status", "ctllm", f"--state-dir={acme.state}", "status"
        )
        assert await process.exited == 4
        assert "Not logged in: The provider refused the login (invalid_grant" in process.output
        await deferLater(reactor, 1)
    assert await acme.provider.requests() == []
    assert relay.accepted == asked
    assert desktop.output.count("Cloud connection: not logged in") == 1
    assert desktop.output.count("Cloud connection: connect") == 1


@ensureDeferred
async def test_a_user_who_is_disabled_is_logged_out_until_they_are_enabled(acme: Acme) -> None:
    await acme.log_in()
    desktop = await acme.start_desktop()
    assert acme.login is not None
    await acme.cluster.run_ctllm("cloud", "users", "disable", acme.login.user_id)
    await wait_until(lambda: "Cloud connection: not logged in" in desktop.output, "the end", 60)
    process = acme.cluster.start_process("status", "ctllm", f"--state-dir={acme.state}", "status")
    assert await process.exited == 4
    assert "Not logged in: An administrator has disabled your account" in process.output
    await acme.cluster.run_ctllm("cloud", "users", "enable", acme.login.user_id)

    async def renewed() -> bool:
        return await acme.renew(1, 1, 1) == ["token True\n"]

    await wait_until(renewed, "the cloud to read that the user is enabled", 60)


@ensureDeferred
async def test_a_provider_that_is_down_for_a_while_disconnects_nobody(cluster: Cluster) -> None:
    acme = await Acme.start(cluster, "--access-token-ttl-seconds=60")
    await acme.provider.set_token_seconds(110)  # so that each renewal asks the provider
    await acme.log_in()
    desktop = await acme.start_desktop()
    await acme.provider.answer(TOKEN_ENDPOINT, status=503, body="down")
    await acme.provider.forget_requests()

    async def asked() -> bool:
        return await acme.refreshes() >= 1

    with IpcClient(acme.state) as daemon:
        await deferToThread(daemon.status, subscribe=True)  # so that it asks the cloud often
        await wait_until(asked, "a renewal that fails", 60)
        await acme.provider.stop()
        for _ in range(5):
            status = await deferToThread(daemon.status)
            assert status.state.is_connected and status.desktops_error == ""
            await deferLater(reactor, 1)
    await acme.provider.answer(TOKEN_ENDPOINT)
    await acme.provider.resume()
    assert await acme.renew(1, 1, 1000) == ["token True\n"]
    assert desktop.output.count("Cloud connection: ") == 1


# -- the tray's commands


def next_login_event(daemon: IpcClient) -> dict[str, Any]:
    """Return the data of the next event `login`."""
    event = next(each for each in daemon.events() if each.event == "login")
    data: dict[str, Any] = json.loads(bytes(event.data))
    return data


@ensureDeferred
async def test_the_tray_logs_in_over_the_ipc(acme: Acme) -> None:
    _, ollama = acme.cluster.start_fake_ollama("llama3.2")
    desktop = acme.cluster.run_role(
        "desktop", "ada", f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off"
    )

    def connect() -> IpcClient | None:
        try:
            return IpcClient(acme.state)
        except CtllmError:
            return None

    daemon = await wait_until(connect, "the daemon")
    with daemon:
        begun = await deferToThread(daemon.call, protocol.BeginLogin, cloud_url=acme.cluster.url)
        assert begun["state"] == "code" and begun["code"] in begun["link"]
        assert not begun["opened"]  # there is no display
        await deferToThread(daemon.call, protocol.CancelLogin)
        assert "cancelled" in (await deferToThread(next_login_event, daemon))["error"]
        begun = await deferToThread(daemon.call, protocol.BeginLogin, cloud_url=acme.cluster.url)
        await acme.provider.approve_device(begun["link"], "ada")
        assert (await deferToThread(next_login_event, daemon))["user"] == "ada"
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the connection")


# -- hostile clouds and providers


class Answers(Resource):
    """A server with fixed answers."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[bytes, bytes] = {}

    def render(self, request: Any) -> bytes:
        body = self.answers.get(request.path)
        if body is None:
            request.setResponseCode(404)
            return b""
        return body


@ensureDeferred
async def test_hostile_clouds_and_discovery_documents_are_refused(cluster: Cluster) -> None:
    server = Answers()
    port = listen(reactor, Site(server))
    cluster.ports.append(port)
    url = f"http://127.0.0.1:{port_of(port)}"
    good = {"name": "acme", "issuer": url, "client_id": "desktop"}
    document = {"issuer": url, "token_endpoint": f"{url}/token"}
    device = {**document, "device_authorization_endpoint": f"{url}/device"}

    async def refused(entry: Any, discovery: Any = None, code: Any = None) -> str:
        server.answers = {
            b"/ctllm/providers": json.dumps({"providers": [entry]}).encode(),
            b"/.well-known/openid-configuration": json.dumps(discovery).encode(),
            b"/device": json.dumps(code).encode(),
        }
        process = cluster.start_process(
            "login", "ctllm", f"--state-dir={cluster.state_dir('x')}", "login", url
        )
        assert await process.exited == 1, process.output
        assert "Traceback" not in process.output and "\x1b" not in process.output
        return process.output

    assert "not valid" in await refused({**good, "title": "\x1b[2J"})
    assert "not encrypted" in await refused({**good, "issuer": "http://192.0.2.1"})
    assert "another issuer" in await refused(good, {**document, "issuer": "https://evil.example"})
    evil = {**document, "authorization_endpoint": "http://192.0.2.1/authorize"}
    assert "not encrypted" in await refused(good, evil)
    assert "no login in a browser" in await refused(good, document)
    link = {"device_code": "d", "user_code": "A", "verification_uri": "file:///etc/passwd"}
    assert "not a URL" in await refused(good, device, link)
    assert "not valid" in await refused(good, device, {**link, "user_code": "x" * 100})

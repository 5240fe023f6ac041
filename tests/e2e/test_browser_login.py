"""Signing in with a real provider, in a real Chromium and by HTTP as attackers would.

The cloud is at `localhost` and the provider at `127.0.0.1`, so to a browser they are two sites.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
import pytest_twisted
from playwright.sync_api import Page
from pytest_twisted import ensureDeferred
from twisted.internet import defer
from twisted.internet.threads import deferToThread

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider
from tests.e2e.raw_client import RawClient

TOKEN_ENDPOINT = "/oauth/token"
LOGIN = "/ctllm/login?provider=acme"
NAVIGATION = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}


@dataclass
class World:
    """A cloud with the provider `acme`, whose group `staff` may sign in."""

    cluster: Cluster
    provider: OidcProvider

    @property
    def host(self) -> str:
        return f"localhost:{self.cluster.cloud_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    async def get(self, target: str, cookie: str = "", **headers: str) -> tuple[str, str]:
        """Navigate by HTTP. Return where the response redirects to, and its first cookie."""
        named = {"Host": self.host, **NAVIGATION, **headers}
        named |= {"Cookie": cookie} if cookie else {}
        status, received, body = await self.cluster.request("GET", target, headers=named)
        assert status in (302, 303), (status, body)
        assert received["cache-control"] == "no-store", received
        assert received["referrer-policy"] == "no-referrer", received
        return received["location"], received.get("set-cookie", "").partition(";")[0]

    async def begin(self, user: str = "ada", cookie: str = "") -> tuple[str, str]:
        """Sign in at the provider. Return the target of the callback and the browser's cookie."""
        location, cookie = await self.get(LOGIN, cookie)
        parts = urlsplit(await self.provider.authorize(location, user))
        assert f"{parts.scheme}://{parts.netloc}" == self.url, parts
        return f"{parts.path}?{parts.query}", cookie

    async def sign_in(self, user: str = "ada") -> str:
        """Sign in by HTTP. Return the session's cookie."""
        location, cookie = await self.get(*await self.begin(user), **{"Sec-Fetch-Site": "none"})
        assert location == "/", location
        return cookie

    async def renew(self, cookie: str) -> tuple[int, Any]:
        """Renew the session of a cookie. Return the status and the JSON of the response."""
        headers = {"Host": self.host, "Cookie": cookie}
        status, _, body = await self.cluster.request(
            "POST", "/ctllm/session/token", {}, headers=headers
        )
        return status, json.loads(body)

    async def token_requests(self) -> int:
        """Return how many requests the provider's token endpoint got."""
        return len(await self.provider.requests(TOKEN_ENDPOINT))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start the cloud and the provider for all tests."""
    cluster = Cluster(tmp_path_factory.mktemp("browser-login"))

    async def start() -> World:
        url = f"http://localhost:{cluster.cloud_port}"
        users = {"ada": ["staff"], "bob": ["staff"], "eve": []}
        provider = await start_provider(cluster, users=users, page_origins=[url])
        secret = cluster.directory / "page-secret"
        secret.write_text("page-secret\n")
        table = provider.table(
            "acme",
            title="Acme",
            page_client_id="page",
            page_client_secret_file=str(secret),
            groups_claim="groups",
            allowed_groups=["staff"],
        )
        configure(cluster, table)
        await cluster.start_cloud(f"--public-url={url}")
        return World(cluster, provider)

    yield pytest_twisted.blockon(defer.ensureDeferred(start()))
    pytest_twisted.blockon(defer.ensureDeferred(cluster.stop()))


@ensureDeferred
async def test_a_user_of_a_provider_pairs_a_desktop_with_the_plain_address(world: World) -> None:
    """The provider authenticates the desktop, too, so the command has no secret."""
    status, session = await world.renew(await world.sign_in())
    assert status == 200
    status, _, body = await world.cluster.request(
        "POST", "/ctllm/session/pairing", None, session["token"]
    )
    pairing = json.loads(body)
    assert (status, pairing["command"]) == (201, f"ctllm login {world.url}")
    assert pairing["expires_in"] is None


@pytest.fixture(autouse=True)
def reset(world: World) -> None:
    """Let the provider behave again."""

    async def work() -> None:
        await world.provider.resume()
        await world.provider.set_delay(0)
        await world.provider.set_token_seconds(300)
        await world.provider.set_user("ada", groups=["staff"])
        await world.provider.answer(TOKEN_ENDPOINT)
        await world.provider.forget_requests()

    pytest_twisted.blockon(defer.ensureDeferred(work()))


@pytest_twisted.async_yield_fixture()
async def tab(chromium: Chromium) -> Any:
    """Open a page in a new context; closing it fails the test if the page reported errors."""
    new_tab = await chromium.tab()
    yield new_tab
    # What Chromium suggests about the provider's form.
    new_tab.complaints = [each for each in new_tab.complaints if "autocomplete" not in each]
    await new_tab.close()


def fill_in(user: str) -> Any:
    """Sign in at the provider's page."""

    def work(page: Page) -> None:
        page.locator("input[name=login]").fill(user)
        page.locator("input[name=password]").fill("any")
        page.locator("button[type=submit]").click()

    return work


async def sign_in(tab: Tab, world: World, user: str = "ada") -> None:
    """Sign in with the button, at the provider."""
    await tab.open(world.url)
    await tab.click("Sign in with Acme")
    await tab.do(fill_in(user))


# -- in a browser


@ensureDeferred
async def test_the_button_signs_in_and_a_reload_stays_signed_in(world: World, tab: Tab) -> None:
    """Neither the address nor the history has the code, and no log has any secret."""
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    assert await tab.find("location.href") == f"{world.url}/"
    await tab.click("Settings")
    await tab.sees("#settings-user", "ada, with Acme")
    await tab.open(world.url)
    await tab.sees("#user-name", "ada")
    (cookie,) = [
        each
        for each in await tab.do(lambda page: page.context.cookies(world.url + "/ctllm/session"))
        if each["name"] == "ctllm-session"
    ]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    for secret in ("code=", cookie["value"], "page-secret", "eyJ"):
        assert all(secret not in each.output for each in world.cluster.processes), secret
    audit = world.cluster.state_dir("cloud") / "cloud" / "audit.jsonl"
    assert not audit.exists() or not re.search("code=|eyJ", audit.read_text())


@ensureDeferred
async def test_the_question_of_a_machine_survives_the_redirects(world: World, tab: Tab) -> None:
    """Whoever signs in is asked about it, or told that it has expired."""
    code = "A" * 43
    await tab.open(f"{world.url}/#machine={code}")
    await tab.click("Sign in with Acme")

    def has_asked(request: Any) -> bool:
        return request.url.endswith("/ctllm/machines/introspect") and code in request.post_data

    def sign_in_until_asked(page: Page) -> None:
        with page.expect_request(has_asked):
            fill_in("ada")(page)

    await tab.do(sign_in_until_asked)
    await tab.sees("#user-name", "ada")


@ensureDeferred
async def test_signing_out_ends_the_session_here_and_at_the_provider(
    world: World, tab: Tab
) -> None:
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    await tab.click("Log out")
    await tab.sees("#logged-out", "You have logged out.")
    await tab.open(world.url)
    await tab.sees("#providers", "Sign in with Acme")

    async def is_revoked() -> bool:
        return bool(await world.provider.requests("/oauth/revoke"))

    await wait_until(is_revoked, "the refresh token to be revoked")


@ensureDeferred
async def test_two_tabs_renew_with_rotation_and_stay_signed_in(world: World, tab: Tab) -> None:
    """Each renewal uses the provider's refresh token, which works once."""
    await world.provider.set_token_seconds(30)
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    script = """() => Promise.all(Array.from({length: 25}, () => fetch('/ctllm/session/token', {
        method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}',
    }).then(({status}) => status)))"""

    def renew_in_two_tabs(page: Page) -> set[int]:
        other = page.context.new_page()
        other.goto(world.url)
        other.evaluate(f"void (window.renewals = ({script})())")
        statuses = page.evaluate(script) + other.evaluate("window.renewals")
        other.close()
        return set(statuses)

    assert await tab.do(renew_in_two_tabs) == {200}
    assert await world.token_requests() > 2
    await tab.open(world.url)
    await tab.sees("#user-name", "ada")


@ensureDeferred
async def test_the_page_says_why_nobody_was_signed_in(world: World, tab: Tab) -> None:
    """As a sentence of its own: the cloud sends a word."""
    await sign_in(tab, world, "eve")
    await tab.sees("#logged-out-reason", "Your account may not use this cloud.")
    assert await tab.find("location.hash") == ""
    await tab.open(world.url)
    await tab.click("Sign in with Acme")  # eve is still signed in at the provider
    await tab.sees("#logged-out-reason", "Your account may not use this cloud.")
    await tab.click("Sign in with Acme")  # now the provider asks for another account
    await tab.do(fill_in("ada"))
    await tab.sees("#user-name", "ada")
    await tab.click("Log out")
    for word, sentence in (
        ("denied", "cancelled the sign-in"),
        ("%3Cimg%20src=x%20onerror=alert(1)%3E", "was not valid"),
        ("__proto__", "was not valid"),
    ):
        await tab.open("about:blank")
        await tab.open(f"{world.url}/#login-error={word}")
        await tab.sees("#logged-out-reason", sentence)
        await tab.misses("#logged-out img")


@ensureDeferred
async def test_a_user_who_loses_the_group_is_told_at_the_next_renewal(
    world: World, tab: Tab
) -> None:
    await world.provider.set_token_seconds(30)
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    await world.provider.set_user("ada", groups=[])
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out-reason", "ada is in no group that may use this cloud.")


@ensureDeferred
async def test_the_page_notices_within_seconds_that_the_session_has_ended(
    world: World, tab: Tab
) -> None:
    await tab.hurry()
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    await world.cluster.run_ctllm("cloud", "revoke", "--all") if False else None
    await tab.do(lambda page: page.evaluate("fetch('/ctllm/session', {method: 'DELETE'})"))
    await tab.sees("#logged-out-reason", "Your session has ended.")


@ensureDeferred
async def test_a_disabled_user_is_told_so_within_seconds(world: World, tab: Tab) -> None:
    """On the open page, and when signing in again."""
    await sign_in(tab, world, "bob")
    await tab.sees("#user-name", "bob")
    await world.cluster.run_ctllm("cloud", "users", "disable", "bob")
    try:
        await tab.sees("#logged-out-reason", "disabled")
        await tab.open(world.url)
        await tab.click("Sign in with Acme")
        await tab.sees("#logged-out-reason", "An administrator has disabled your account")
    finally:
        await world.cluster.run_ctllm("cloud", "users", "enable", "bob")


@ensureDeferred
async def test_other_sites_cannot_use_the_session_or_open_a_websocket(
    world: World, tab: Tab
) -> None:
    """The page of the provider is of another site than the cloud."""
    await sign_in(tab, world)
    await tab.sees("#user-name", "ada")
    await tab.open(f"{world.provider.base}/.well-known/openid-configuration")
    port = world.cluster.cloud_port
    opened = f"""() => new Promise(done => {{
        const socket = new WebSocket('ws://localhost:{port}/ws/tunnel', ['ctllm.tunnel.v1']);
        socket.onopen = () => done('open');
        socket.onerror = () => done('refused');
    }})"""
    assert await tab.find(opened) == "refused"
    for path, method, mode in (
        ("/ctllm/session/token", "POST", "no-cors"),
        ("/ctllm/session", "DELETE", "cors"),
        ("/api/chat", "POST", "no-cors"),
    ):
        sent = f"""() => fetch('{world.url}{path}', {{
            method: '{method}', mode: '{mode}', credentials: 'include', body: '{{}}',
        }}).then(({{type}}) => type, () => 'refused')"""
        assert await tab.find(sent) in ("opaque", "refused")
    # A link to the sign-in leads to the page, and begins nothing.
    await tab.do(lambda page: page.evaluate(f"void (location.href = '{world.url}{LOGIN}')"))
    await tab.sees("#user-name", "ada")
    assert await tab.find("location.href") == f"{world.url}/"
    tab.complaints = [each for each in tab.complaints if "localhost" not in each]


# -- by HTTP


@ensureDeferred
async def test_over_https_both_cookies_are_of_this_host_alone(cluster: Cluster) -> None:
    """As behind a reverse proxy with TLS. The plain names are not accepted."""
    url = f"https://localhost:{cluster.cloud_port}"
    provider = await start_provider(cluster, users={"ada": []}, page_origins=[url])
    configure(cluster, provider.table("acme", page_client_id="public-page"))
    await cluster.start_cloud(f"--public-url={url}")
    world = World(cluster, provider)
    location, cookie = await world.get(LOGIN)
    assert cookie.startswith("__Host-ctllm-login="), cookie
    parts = urlsplit(await provider.authorize(location, "ada"))
    target = f"{parts.path}?{parts.query}"
    plain = cookie.removeprefix("__Host-")
    assert await world.get(target, plain) == ("/#login-error=expired", "")
    location, session = await world.get(target, cookie)
    assert location == "/" and session.startswith("__Host-ctllm-session="), (location, session)
    assert (await world.renew(session.removeprefix("__Host-")))[0] == 401
    assert (await world.renew(session))[0] == 200
    for header in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for method, path in (("POST", "/ctllm/session/token"), ("DELETE", "/ctllm/session")):
            headers = {"Host": world.host, "Cookie": session, **header}
            status, _, _ = await cluster.request(method, path, {}, headers=headers)
            assert status == 403, (method, path, header)
    assert (await world.renew(session))[0] == 200


@ensureDeferred
async def test_a_stolen_or_replayed_callback_signs_nobody_in(world: World) -> None:
    target, cookie = await world.begin()
    _, stranger = await world.get(LOGIN)
    for other in ("", stranger, f"{cookie}; {cookie}", f"{cookie}x"):
        location, set_cookie = await world.get(target, other)
        assert (location, set_cookie) == ("/#login-error=expired", "")
    assert await world.token_requests() == 0
    assert (await world.get(target, cookie))[0] == "/"
    assert (await world.get(target, cookie)) == ("/#login-error=expired", "")
    assert await world.token_requests() == 1


@ensureDeferred
async def test_a_code_works_only_with_its_own_state(world: World) -> None:
    """Login CSRF: the attacker's code, in a browser that has begun a sign-in of its own."""
    attackers, _ = await world.begin("bob")
    victims, cookie = await world.begin("ada")
    code = parse_qs(urlsplit(attackers).query)["code"][0]
    query = parse_qs(urlsplit(victims).query)
    for state in ("", "x", "a" * 10_000, parse_qs(urlsplit(attackers).query)["state"][0]):
        target = f"/ctllm/callback?{urlencode({'code': code, 'state': state})}"
        location, set_cookie = await world.get(target, cookie)
        assert location in ("/#login-error=expired", "/#login-error=failed"), location
        assert set_cookie == ""
    # With the right state the code was still issued for another verifier and nonce.
    target = f"/ctllm/callback?{urlencode({'code': code, 'state': query['state'][0]})}"
    assert await world.get(target, cookie) == ("/#login-error=failed", "")


@ensureDeferred
async def test_a_callback_of_another_issuer_is_refused(world: World) -> None:
    """RFC 9207: so a code of one provider is not sent to another."""
    target, cookie = await world.begin()
    issuer = quote(world.provider.issuer, safe="")
    assert f"iss={issuer}" in target
    for changed in (
        target.replace(f"iss={issuer}", "iss=https%3A%2F%2Fevil.example"),
        re.sub("[?&]iss=[^&]*", "", target),
    ):
        target, cookie = await world.begin() if changed is None else (changed, cookie)
        location, _ = await world.get(target, cookie)
        assert location in ("/#login-error=failed", "/#login-error=expired")
    assert await world.token_requests() == 0


@ensureDeferred
async def test_no_parameter_redirects_to_another_place(world: World) -> None:
    for query in (
        "provider=https://evil.example",
        "provider=%2F%2Fevil.example",
        "provider=evil",
        "provider=",
        "provider=acme&provider=open",
        "provider=" + "a" * 30_000,
        "",
    ):
        location, cookie = await world.get(f"/ctllm/login?{query}")
        assert re.fullmatch("/#login-error=(unknown|failed)", location), location
        assert cookie == ""
    for name in ("next", "return", "redirect_uri", "state", "client_id", "scope", "nonce"):
        location, _ = await world.get(f"{LOGIN}&{name}=https%3A%2F%2Fevil.example")
        assert location.startswith(f"{world.provider.base}/authorize?"), location
        assert "evil" not in location
    location, _ = await world.get(LOGIN, Host="evil.example")
    assert location == f"{world.url}/"
    for word in ("access_denied", "<script>alert(1)</script>", "x\r\nSet-Cookie: a=b"):
        location, cookie = await world.get(LOGIN)
        state = parse_qs(urlsplit(location).query)["state"][0]
        issuer = world.provider.issuer
        query = urlencode({"error": word, "state": state, "iss": issuer})
        location, _ = await world.get(f"/ctllm/callback?{query}", cookie)
        assert location in ("/#login-error=denied", "/#login-error=failed"), location


@ensureDeferred
async def test_ten_thousand_begun_sign_ins_displace_no_other(world: World) -> None:
    """Nor do they take memory."""
    target, cookie = await world.begin()

    def flood() -> None:
        client = RawClient(world.cluster.cloud_port)
        request = f"GET {LOGIN} HTTP/1.1\r\nHost: {world.host}\r\n\r\n".encode()
        for _ in range(100):
            client.received = b""
            client.socket.sendall(request * 100)
            while client.received.count(b"HTTP/1.1 302 ") < 100 or not client.received.endswith(
                b"\r\n\r\n"
            ):
                client.received += client.socket.recv(1 << 20)
        client.close()

    await deferToThread(flood)
    assert (await world.get(target, cookie))[0] == "/"


@ensureDeferred
async def test_fifty_renewals_at_once_are_one_request_to_the_provider(world: World) -> None:
    """The next one works, too: the rotated refresh token was kept."""
    await world.provider.set_token_seconds(30)
    cookie = await world.sign_in()
    await world.provider.forget_requests()
    await world.provider.set_delay(1000)

    def renew_at_once() -> set[str]:
        clients = [RawClient(world.cluster.cloud_port) for _ in range(50)]
        for client in clients:
            client.socket.sendall(
                f"POST /ctllm/session/token HTTP/1.1\r\nHost: {world.host}\r\nCookie: {cookie}\r\n"
                "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".encode()
            )
        statuses = {client.read_head()["status"] for client in clients}
        for client in clients:
            client.close()
        return statuses

    assert await deferToThread(renew_at_once) == {"200"}
    await world.provider.set_delay(0)
    assert await world.token_requests() == 1
    assert (await world.renew(cookie))[0] == 200


@ensureDeferred
async def test_a_grant_that_the_provider_ends_ends_the_session(world: World) -> None:
    await world.provider.set_token_seconds(30)
    cookie = await world.sign_in("bob")
    await world.provider.end_grants("bob")
    status, body = await world.renew(cookie)
    assert (status, body["error"]["code"]) == (401, "unauthenticated")
    await world.provider.forget_requests()
    assert (await world.renew(cookie))[0] == 401
    assert await world.token_requests() == 0


@ensureDeferred
async def test_sessions_go_on_while_the_provider_is_down(world: World) -> None:
    """Until what it said last has expired; then they wait for it, and are not ended."""
    await world.provider.set_token_seconds(55)
    cookie = await world.sign_in()
    await world.provider.stop()
    assert (await world.renew(cookie))[0] == 200
    location, _ = await world.get(LOGIN)
    assert location.startswith(world.provider.base)  # the metadata is known
    await world.provider.resume()
    for answer in (
        {"status": 500, "body": "{}"},
        {"status": 200, "body": "<html>"},
        {"status": 401, "body": '{"error":"invalid_client"}'},
        {"status": 200, "body": "a" * 10_000, "repeat": 100},
    ):
        await world.provider.answer(TOKEN_ENDPOINT, **answer)
        assert (await world.renew(cookie))[0] == 200, answer
        target, browser = await world.begin()
        assert await world.get(target, browser) == ("/#login-error=unavailable", ""), answer
    await world.provider.answer(TOKEN_ENDPOINT)
    assert (await world.renew(cookie))[0] == 200


@ensureDeferred
async def test_the_refresh_token_is_sealed_in_the_file_of_the_session(world: World) -> None:
    await world.sign_in()
    folder = world.cluster.state_dir("cloud") / "cloud" / "sessions"
    files = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    sealed = [each["proof"]["sealed_refresh"] for each in files if each.get("proof")]
    assert sealed and all(len(each) > 80 for each in sealed)

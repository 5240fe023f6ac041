"""The chat page on a desktop's loopback endpoint: one-time links, its session, the first run."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
from typing import Any

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.e2e.chromium import Tab
from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.oidc_provider import configure, start_provider
from tests.e2e.test_access_control import read_rules
from tests.fake_ollama import FakeOllama
from tests.ports import free_port, listen, port_of

LINK = re.compile(r"^(http://\S+)/#invite=([A-Za-z0-9_-]{43})$", re.M)
HTML = {"Accept": "text/html,application/xhtml+xml"}


class LocalDesktop:
    """A desktop with a loopback endpoint, in the state folder `home`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.port = free_port()
        self.process: ChildProcess
        self.ollama: FakeOllama
        self.ollama_port = 0

    async def start(self, *options: str, listen: str = "127.0.0.1") -> None:
        if not self.ollama_port:
            self.ollama, self.ollama_port = self.cluster.start_fake_ollama("llama3.2")
        self.process = self.cluster.run_role(
            "desktop", "home", f"--ollama-host=127.0.0.1:{self.ollama_port}",
            f"--desktop-listen={listen}:{self.port}", *options,
        )  # fmt: skip
        await wait_until(self.is_ready, f"the desktop:\n{self.process.output}")

    async def is_ready(self) -> bool:
        assert self.process.exit_code is None, self.process.output
        try:
            status, _, _ = await self.request("GET", "/health")
        except OSError:
            return False
        return status == 200 and (self.cluster.state_dir("home") / "desktop" / "ipc.json").exists()

    async def request(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.cluster.request(method, path, body, token, named, self.port)

    async def status(self, method: str, path: str, body: Any = None, **more: str) -> int:
        return (await self.request(method, path, body, **more))[0]

    async def show(self, *options: str) -> tuple[str, str]:
        """Return the URL and the code of the link that `ctllm show` prints."""
        output = await self.cluster.run_ctllm("home", "show", *options)
        found = LINK.search(output)
        assert found, output
        return found[1], found[2]

    async def redeem(self, code: str, **headers: str) -> tuple[int, Any]:
        body = {"client": "browser", "invite": code}
        status, answer, response = await self.request("POST", "/ctllm/session", body, **headers)
        assert "set-cookie" not in answer
        return status, json.loads(response)

    async def log_in(self) -> str:
        status, session = await self.redeem((await self.show("--local"))[1])
        assert status == 201, session
        return str(session["token"])

    async def get(self, path: str, token: str) -> Any:
        status, _, body = await self.request("GET", path, token=token)
        assert status == 200, body
        return json.loads(body)


@pytest_twisted.async_yield_fixture()
async def desktop(cluster: Cluster) -> Any:
    desktop = LocalDesktop(cluster)
    yield desktop


# -- the page and its session


@ensureDeferred
async def test_without_a_cloud_a_link_opens_the_page_of_this_machine(
    desktop: LocalDesktop,
) -> None:
    await desktop.start()
    url, code = await desktop.show()
    assert url == f"http://127.0.0.1:{desktop.port}"
    status, headers, body = await desktop.request("GET", "/", **HTML)
    assert (status, b"<script" in body) == (200, True)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "require-trusted-types-for" in policy
    (script,) = re.findall(rb'src="(/assets/[^"]+\.js)"', body)
    status, headers, content = await desktop.request("GET", script.decode())
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert "immutable" in headers["cache-control"] and content
    status, _, body = await desktop.request("GET", "/")  # as curl and Ollama's clients ask
    assert (status, body) == (200, b"Ollama is running")
    status, session = await desktop.redeem(code, Origin=url)
    assert (status, session["user"]["id"]) == (201, "local")
    (listed,) = (await desktop.get("/ctllm/desktops", session["token"]))["desktops"]
    assert listed["ollama"] == "up" and listed["resources"] is True
    assert any(model.startswith("llama3.2") for model in listed["models"])
    assert code not in desktop.process.output


@ensureDeferred
async def test_codes_are_used_once_and_tokens_end_with_the_daemon(desktop: LocalDesktop) -> None:
    await desktop.start()
    _, code = await desktop.show()
    for guess in (code[:-1] + ("A" if code[-1] != "A" else "B"), code[::-1], "x" * 43):
        assert (await desktop.redeem(guess))[0] == 401
    status, session = await desktop.redeem(code)
    assert status == 201
    assert (await desktop.redeem(code))[0] == 401
    token = session["token"]
    assert await desktop.status("GET", "/ctllm/session", token=token) == 200
    other = await desktop.log_in()
    assert await desktop.status("DELETE", "/ctllm/session", token=token) == 204
    assert await desktop.status("GET", "/ctllm/session", token=token) == 401
    assert await desktop.status("GET", "/ctllm/session", token=other) == 200
    state = desktop.cluster.state_dir("home")
    for file in state.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            assert other.encode() not in content and code.encode() not in content, file
    await desktop.process.stop(signal.SIGKILL)
    await desktop.start()
    assert await desktop.status("GET", "/ctllm/session", token=other) == 401


@ensureDeferred
async def test_guesses_are_limited_and_lock_nobody_out(desktop: LocalDesktop) -> None:
    await desktop.start()
    answers = [await desktop.redeem("x" * 42 + digit) for digit in "0123456789abc"]
    assert [status for status, _ in answers] == [401] * 10 + [429] * 3
    status, headers, _ = await desktop.request(
        "POST", "/ctllm/session", {"client": "browser", "invite": "y" * 43}
    )
    assert status == 429 and 0 < int(headers["retry-after"]) <= 60
    await desktop.log_in()


@ensureDeferred
async def test_nobody_without_the_session_gets_anything(desktop: LocalDesktop) -> None:
    """Another user of this machine reaches the port, and Ollama's API as without ctllm."""
    await desktop.start()
    await desktop.log_in()
    for method, path in (
        ("GET", "/ctllm/session"), ("GET", "/ctllm/desktops"), ("GET", "/ctllm/keys"),
        ("GET", "/ctllm/desktop/setup"), ("POST", "/ctllm/desktop/setup/login"),
        ("POST", "/ctllm/desktop/setup/autostart"), ("GET", "/ctllm/desktop/preference"),
        ("PUT", "/ctllm/desktop/preference"), ("GET", "/ctllm/desktop/generations"),
        ("GET", "/ctllm/desktop/conversations"), ("GET", "//ctllm//desktops"),
        ("GET", "/ctllm/%64esktops"), ("GET", "/api/../ctllm/desktops"),
    ):  # fmt: skip
        for headers in ({}, {"token": "x" * 43}, {"Cookie": "ctllm-session=x"}):
            status, answer, body = await desktop.request(method, path, **headers)
            assert status == 401, (method, path, headers, body)
            assert not [name for name in answer if name.startswith("access-control")]
    assert await desktop.status("GET", "/api/tags") == 200
    assert (desktop.cluster.state_dir("home") / "desktop").stat().st_mode & 0o077 == 0


@ensureDeferred
async def test_each_client_may_do_what_the_table_in_the_documentation_says(
    desktop: LocalDesktop,
) -> None:
    rules = read_rules("Request to the desktop's endpoint")
    assert len(rules) == 11 * 6
    await desktop.start(listen="0.0.0.0")
    session = {"Authorization": f"Bearer {await desktop.log_in()}"}
    here, there = "127.0.0.1", await deferToThread(own_address)
    clients: dict[str, tuple[str, list[dict[str, str]]]] = {
        "none": (here, [{}, {"Cookie": "ctllm-session=x"}]),
        "invalid": (here, [{"Authorization": "Bearer x"}, {"x-api-key": "y" * 43}]),
        "session": (here, [session, {**session, "Origin": f"http://{here}:{desktop.port}"}]),
        "other origin": (here, [
            {**session, "Origin": "https://evil.example"},
            {**session, "Sec-Fetch-Site": "cross-site"},
        ]),
        "other machine": (there, [session, {}, {**session, "Host": here}]),
    }  # fmt: skip
    bodies = {"autostart": {"enabled": False}, "preference": {"routing_policy": "auto"}}
    for rule in rules:
        if rule.credential == "other name":
            continue  # not where the endpoint listens for other machines, which have names
        host, variants = clients[rule.credential]
        method, _, path = rule.request.partition(" ")
        body = None if method == "GET" else bodies[path.rpartition("/")[2]]
        for headers in variants:
            status, answer = await deferToThread(
                request_at, host, desktop.port, path, headers, "", method, body
            )
            outcome = "yes" if status < 400 else str(status)
            assert outcome == rule.expected, (rule, headers, answer)


@ensureDeferred
async def test_other_names_get_what_the_table_in_the_documentation_says(
    desktop: LocalDesktop,
) -> None:
    await desktop.start()
    token = await desktop.log_in()
    for rule in read_rules("Request to the desktop's endpoint"):
        if rule.credential == "other name":
            method, _, path = rule.request.partition(" ")
            body: Any = None if method == "GET" else {}
            status = await desktop.status(method, path, body, token=token, Host="evil.example")
            assert str(status) == rule.expected, rule


@ensureDeferred
async def test_pages_of_other_origins_get_nothing_with_the_token_neither(
    desktop: LocalDesktop,
) -> None:
    """DNS rebinding, cross-site requests, and a page of another port of this machine."""
    await desktop.start()
    token = await desktop.log_in()
    here = f"127.0.0.1:{desktop.port}"
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{desktop.port}", "Origin": f"http://evil.example:{desktop.port}"},
        {"Host": f"127.0.0.1.nip.io:{desktop.port}"},
        {"Host": "192.168.1.5"},
        {"Host": f"localhost.:{desktop.port}"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": f"http://localhost:{desktop.port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        _, code = await desktop.show("--local")
        for method, path, body in (
            ("GET", "/ctllm/page", None),
            ("GET", "/ctllm/desktops", None),
            ("GET", "/ctllm/desktop/setup", None),
            ("POST", "/ctllm/session", {"client": "browser", "invite": code}),
        ):
            status, answer, _ = await desktop.cluster.request(
                method, path, body, token, headers, desktop.port
            )
            assert status == 403, (method, path, headers)
            assert not [name for name in answer if name.startswith("access-control")]
        assert (await desktop.redeem(code, Origin=f"http://{here}"))[0] == 201  # it was not used
    preflight = {"Origin": "http://127.0.0.1:3000", "Access_Control_Request_Method": "GET"}
    assert await desktop.status("OPTIONS", "/ctllm/desktops", **preflight) == 403
    framed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", **HTML}
    assert await desktop.status("GET", "/", Sec_Fetch_Dest="iframe", **framed) == 403
    assert await desktop.status("GET", "/", Sec_Fetch_Dest="document", **framed) == 200


#: What a page of another port tries, with the token of the session, had it been stolen.
ATTACKS = """async ([target, token, code, script]) => {
    const json = {'Content-Type': 'application/json'}, bearer = {Authorization: `Bearer ${token}`};
    const body = JSON.stringify({client: 'browser', invite: code});
    const outcome = (path, options) => fetch(target + path, options).then(
        response => `${response.type} ${response.status}`, () => 'blocked');
    const load = (name, properties) => new Promise(done => {
        const element = Object.assign(document.createElement(name), properties);
        element.onload = () => done('loaded');
        element.onerror = () => done('blocked');
        document.body.append(element);
    });
    return {
        page: await outcome('/ctllm/page'),
        read: await outcome('/ctllm/desktops', {headers: bearer}),
        login: await outcome('/ctllm/session', {method: 'POST', headers: json, body}),
        blind: await outcome('/ctllm/session', {method: 'POST', mode: 'no-cors', body}),
        script: await load('script', {src: target + script, type: 'module'}),
        plain: await load('script', {src: target + script}),
        models: await outcome('/api/tags'),
    };
}"""


class Mischief(Resource):
    """A page of another program of this machine."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        request.setHeader("Content-Type", "text/html")
        return b"<body>mischief"


@ensureDeferred
async def test_a_page_of_another_port_of_this_machine_gets_nothing_in_a_browser(
    desktop: LocalDesktop, tab: Tab
) -> None:
    """Browsers count it to the same site. It may use models, as with Ollama itself."""
    await desktop.start()
    port = listen(reactor, Site(Mischief(), timeout=None))
    desktop.cluster.ports.append(port)
    url, code = await desktop.show("--local")
    token = await desktop.log_in()
    _, _, body = await desktop.request("GET", "/", **HTML)
    (script,) = re.findall(rb'src="(/assets/[^"]+\.js)"', body)
    await tab.open(f"http://127.0.0.1:{port_of(port)}/")
    arguments = [url, token, code, script.decode()]
    outcomes = await tab.do(lambda page: page.evaluate(ATTACKS, arguments))
    assert outcomes == {
        "page": "blocked", "read": "blocked", "login": "blocked", "blind": "opaque 0",
        "script": "blocked", "plain": "blocked", "models": "cors 200",
    }  # fmt: skip
    await tab.do(lambda page: page.set_content(f'<iframe src="{url}/"></iframe>'))
    await tab.do(lambda page: page.wait_for_load_state("networkidle"))
    (framed,) = await tab.do(lambda page: [frame.content() for frame in page.frames[1:]])
    assert "Ollama is running" in framed and "<script" not in framed
    tab.complaints.clear()  # the browser's own, about what it blocked
    assert (await desktop.redeem(code))[0] == 201  # nobody has used it


@ensureDeferred
async def test_a_link_logs_in_its_tab_alone(desktop: LocalDesktop, tab: Tab) -> None:
    """The address bar does not keep the code, and the tab keeps its token over a reload."""
    await desktop.start()
    url, code = await desktop.show("--local")
    await tab.open(f"{url}/#invite={code}")

    async def is_logged_in() -> bool:
        return "ctllm-desktop-token" in await tab.find("Object.keys(sessionStorage).join()")

    await wait_until(is_logged_in, "the page to log in")
    assert code not in await tab.find("location.href")
    await tab.do(lambda page: page.reload())
    (token,) = {value for value in tab.tokens if value} or {""}
    assert token and await desktop.status("GET", "/ctllm/session", token=token) == 200
    assert code not in token and await tab.blocked() == []
    assert (await desktop.redeem(code))[0] == 401


@ensureDeferred
async def test_where_the_endpoint_listens_for_all_the_page_is_for_this_machine(
    desktop: LocalDesktop,
) -> None:
    await desktop.start(listen="0.0.0.0")
    url, code = await desktop.show()
    assert url == f"http://127.0.0.1:{desktop.port}"
    token = (await desktop.redeem(code))[1]["token"]
    address = await deferToThread(own_address)
    for name in (f"{address}:{desktop.port}", f"127.0.0.1:{desktop.port}"):
        status, body = await deferToThread(
            request_at, address, desktop.port, "/ctllm/desktops", {"Host": name}, token
        )
        assert status == 403, body
        status, body = await deferToThread(
            request_at, address, desktop.port, "/", {"Host": name, **HTML}, token
        )
        assert (status, body) == (200, b"Ollama is running")


def own_address() -> str:
    """Return an address of this machine that is not of the loopback interface."""
    output = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout
    return output.split()[0]


def request_at(
    host: str,
    port: int,
    path: str,
    headers: dict[str, str],
    token: str = "",
    method: str = "GET",
    body: Any = None,
) -> tuple[int, bytes]:
    import http.client

    if token:
        headers = {**headers, "Authorization": f"Bearer {token}"}
    content = None if body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# -- with a cloud


@ensureDeferred
async def test_show_opens_the_clouds_page_while_the_cloud_can_be_reached(
    cluster: Cluster, desktop: LocalDesktop
) -> None:
    cloud = await cluster.start_cloud()
    await cluster.run_ctllm("home", "login", "-", stdin=await cluster.create_invite("alice"))
    await desktop.start()
    await wait_until(
        lambda: "Cloud connection: connected" in desktop.process.output, "the bridge to connect"
    )
    local = f"http://127.0.0.1:{desktop.port}"
    assert (await desktop.show())[0] == cluster.url
    assert (await desktop.show("--local"))[0] == local
    shown = json.loads(await cluster.run_ctllm("home", "show", "--json"))
    assert (shown["opened"], shown["local"]) == (False, False)
    await cloud.stop()
    assert (await desktop.show())[0] == local
    opened = desktop.cluster.directory / "opened"
    browser = desktop.cluster.directory / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    cluster.extra_environment["BROWSER"] = str(browser)
    await desktop.process.stop()
    await desktop.start()
    output = await cluster.run_ctllm("home", "show", "--local")
    assert output == "Opened in your browser. It is the page of this machine."
    await wait_until(opened.exists, "the browser")
    file = cluster.state_dir("home") / "desktop" / "open.html"
    assert opened.read_text().strip() == file.absolute().as_uri()  # and not the link
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"{local}/#invite=" in file.read_text()


@ensureDeferred
async def test_without_an_endpoint_show_says_what_is_missing(cluster: Cluster) -> None:
    _, port = cluster.start_fake_ollama()
    process = cluster.run_role(
        "desktop", "home", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
    )
    file = cluster.state_dir("home") / "desktop" / "ipc.json"
    await wait_until(file.exists, f"the desktop:\n{process.output}")
    for words, expected in (((), "not logged in"), (("--local",), "desktop.listen is off")):
        argv = [str(BIN / "ctllm"), f"--state-dir={cluster.state_dir('home')}", "show", *words]
        result = await deferToThread(
            subprocess.run, argv, capture_output=True, text=True, env=cluster.environment()
        )
        assert result.returncode == 1 and expected in result.stderr, result


@ensureDeferred
async def test_a_request_of_the_page_stays_at_this_desktop(
    cluster: Cluster, desktop: LocalDesktop
) -> None:
    """Also with the policy `cloud`, where another desktop of the user would get it."""
    await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("mistral")
    await cluster.start_desktop("alice", port, "--desktop-name=attic")
    await cluster.run_ctllm("home", "login", "-", stdin=await cluster.create_invite("alice"))
    await desktop.start("--routing-policy=cloud")
    token = await desktop.log_in()
    (own,) = (await desktop.get("/ctllm/desktops", token))["desktops"]

    async def names(**headers: str) -> list[str]:
        _, _, body = await desktop.request("GET", "/api/tags", **headers)
        return [model["name"].partition(":")[0] for model in json.loads(body)["models"]]

    async def is_routed() -> bool:
        return await names() == ["mistral"]

    await wait_until(is_routed, "requests to go to the other desktop")
    assert await names(Ctllm_Desktop=own["id"]) == ["llama3.2"]
    chat = {"model": "mistral", "messages": []}
    status, _, _ = await desktop.request("POST", "/api/chat", chat, Ctllm_Desktop=own["id"])
    assert status == 404


# -- the first run


async def wait_for_setup(desktop: LocalDesktop, token: str, state: str) -> Any:
    async def reached() -> Any:
        setup = await desktop.get("/ctllm/desktop/setup", token)
        return setup if setup["cloud"]["state"] == state else None

    return await wait_until(reached, f"the state {state}")


@ensureDeferred
async def test_the_first_run_logs_in_with_an_invite(
    cluster: Cluster, desktop: LocalDesktop
) -> None:
    await cluster.start_cloud()
    await desktop.start()
    token = await desktop.log_in()
    setup = await wait_for_setup(desktop, token, "signed_out")
    assert setup["ollama"]["state"] == "up" and setup["login"] is None
    assert setup["cloud"]["url"] == "" and setup["tray"]["installed"] is True
    login = "/ctllm/desktop/setup/login"
    invite = await cluster.create_invite("alice")
    status, _, body = await desktop.request("POST", login, {"cloud": invite}, token)
    assert (status, json.loads(body)["state"]) == (202, "complete")
    setup = await wait_for_setup(desktop, token, "connected")
    assert (setup["cloud"]["user"], setup["cloud"]["url"]) == ("alice", cluster.url)
    status, _, body = await desktop.request("POST", login, {"cloud": invite}, token)
    assert status == 401 and (await desktop.get(login[:-6], token))["login"]["state"] == "failed"
    assert invite.partition("=")[2] not in desktop.process.output
    for cloud in ("http://cloud.example", "file:///etc/passwd", "x y", "https://u@cloud.example"):
        status, _, body = await desktop.request("POST", login, {"cloud": cloud}, token)
        assert status == 400, body


@ensureDeferred
async def test_the_first_run_logs_in_with_a_provider(
    cluster: Cluster, desktop: LocalDesktop
) -> None:
    provider = await start_provider(cluster, users={"ada": []})
    configure(cluster, provider.table("acme"))
    await cluster.start_cloud()
    await desktop.start()
    token = await desktop.log_in()
    login = "/ctllm/desktop/setup/login"
    for _ in range(2):  # the second one takes the place of the first
        status, _, body = await desktop.request("POST", login, {"cloud": cluster.url}, token)
        begun = json.loads(body)
        assert (status, begun["state"], bool(begun["user_code"])) == (202, "code", True), body
    assert (await desktop.get("/ctllm/desktop/setup", token))["login"] == begun
    await provider.approve_device(begun["url"], "ada")
    setup = await wait_for_setup(desktop, token, "connected")
    assert setup["cloud"]["user"].startswith("ada") and setup["login"]["state"] == "complete"
    status, _, body = await desktop.request("POST", login, {"cloud": cluster.url}, token)
    await provider.deny_device(json.loads(body)["url"], "ada")

    async def has_failed() -> bool:
        progress = (await desktop.get("/ctllm/desktop/setup", token))["login"]
        return progress["state"] == "failed" and bool(progress["message"])

    await wait_until(has_failed, "the refusal")
    setup = await wait_for_setup(desktop, token, "connected")  # as before
    assert await desktop.status("DELETE", login, token=token) == 204
    assert (await desktop.get("/ctllm/desktop/setup", token))["login"] is None


@ensureDeferred
async def test_the_page_sets_the_autostart_and_the_preference(
    cluster: Cluster, desktop: LocalDesktop
) -> None:
    config = cluster.directory / "config"
    cluster.extra_environment["XDG_CONFIG_HOME"] = str(config)
    await desktop.start()
    token = await desktop.log_in()
    path = "/ctllm/desktop/setup/autostart"
    status, _, body = await desktop.request("POST", path, {"enabled": True}, token)
    assert (status, json.loads(body)["autostart"]) == (200, True)
    entry = config / "autostart" / "ctllm-tray.desktop"
    assert f"--state-dir={cluster.state_dir('home')}" in entry.read_text()
    status, _, body = await desktop.request("POST", path, {"enabled": False}, token)
    assert (status, json.loads(body)["autostart"]) == (200, False)
    assert not [each for each in config.rglob("*") if not each.is_dir()]
    assert await desktop.status("GET", "/health") == 200  # the daemon runs on
    preference = "/ctllm/desktop/preference"
    assert await desktop.get(preference, token) == {"routing_policy": "auto"}
    wanted = {"routing_policy": "cloud"}
    assert (await desktop.request("PUT", preference, wanted, token))[0] == 200
    stored = cluster.state_dir("home") / "desktop" / "preference.json"
    assert json.loads(stored.read_text())["preference"] == "cloud"

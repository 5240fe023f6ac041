"""What the page shows while something is missing, and the first run on a machine."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from typing import Any

import pytest
from playwright.sync_api import Route, expect
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.ports import free_port

DESKTOP = {
    "id": "attic-id", "name": "attic", "ollama": "up", "version": "0.9.0", "models": ["llama3.2"],
    "resources": True, "latency_ms": 1,
}  # fmt: skip


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def answer(tab: Tab, path: str, body: Any, status: int = 200) -> None:
    """Respond to the page's requests to `path` in place of the cloud."""

    def respond(route: Route) -> None:
        route.fulfill(status=status, json=body)

    await tab.do(lambda page: page.route(f"**{path}", respond))


@ensureDeferred
async def test_without_a_desktop_the_page_pairs_one_and_goes_on_by_itself(
    cluster: Cluster, tab: Tab
) -> None:
    """The commands are for the system of the browser, which can be changed."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await tab.hurry()
    await log_in(tab, cluster)
    await tab.sees("#no-desktop", "Connect the machine with your models")
    await tab.sees("#no-desktop", "python3 -m venv")
    await tab.do(lambda page: page.get_by_role("tab", name="Windows").click())
    await tab.sees("#no-desktop", "py -m venv")
    await tab.use("#create-pairing", lambda button: button.click())
    await tab.sees("#pairing", f"ctllm login {cluster.url}")
    command = await tab.do(lambda page: page.locator("#pairing code").inner_text())
    link = command.split()[-1].strip("'\"")
    await cluster.run_ctllm("alice", "login", link)
    cluster.run_role("desktop", "alice", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off")
    await tab.misses("#no-desktop")
    await tab.expect("#message", lambda it: it.to_be_visible())


@ensureDeferred
async def test_an_ollama_that_is_down_is_named_with_its_machine(cluster: Cluster, tab: Tab) -> None:
    """A conversation, and what is being written, stay on the screen; then only a line says it."""
    port = free_port()
    await cluster.start_cloud()

    def start_ollama() -> Any:
        return cluster.start_process(
            "ollama", "python", "-m", "tests.fake_ollama", f"--port={port}", "--model=llama3.2"
        )

    ollama = start_ollama()
    options = ("--ollama-check-interval-seconds=1", "--desktop-name=attic")
    await cluster.start_desktop("alice", port, *options)
    await tab.hurry()
    await log_in(tab, cluster)
    await tab.use("#message", lambda box: box.fill("half a thought"))
    await ollama.stop(signal.SIGKILL)
    await tab.sees(".banner", "Ollama is not running on attic. Start it there.")
    await tab.expect("#message", lambda it: it.to_have_value("half a thought"))
    await tab.use("#message", lambda box: box.fill(""))
    await tab.do(lambda page: page.reload())
    await tab.sees("#no-ollama", "Start Ollama on attic")
    await tab.sees("#no-ollama", "systemctl start ollama")
    start_ollama()
    await tab.misses("#no-ollama")
    await tab.expect("#message", lambda it: it.to_be_visible())


@ensureDeferred
async def test_a_first_model_is_pulled_with_its_progress(shared: Cluster, tab: Tab) -> None:
    """Of three sizes. The page goes on when it is there."""
    shared.ollama.reset()
    await answer(tab, "/ctllm/desktops", {"desktops": [{**DESKTOP, "models": []}]})
    lines = "".join(
        json.dumps(line) + "\n"
        for line in (
            {"status": "pulling manifest"},
            {"status": "pulling 8f", "digest": "sha256:8f", "total": 800_000_000, "completed": 1},
            {"error": "no room on the disk"},
        )
    )
    await tab.do(lambda page: page.route("**/api/pull", lambda route: route.fulfill(body=lines)))
    await log_in(tab, shared)
    await tab.sees("#no-model", "Get a model for attic")
    await tab.expect("#no-model input[type=radio]", lambda it: it.to_have_count(3))
    await tab.use("#no-model input[value='gemma3:4b']", lambda radio: radio.check())
    await tab.use("#pull-first", lambda button: button.click())
    await tab.sees("#no-model", "no room on the disk")
    await tab.do(lambda page: page.unroute("**/ctllm/desktops"))
    await tab.misses("#no-model")


@ensureDeferred
async def test_a_desktop_that_is_too_old_says_how_to_update_it(shared: Cluster, tab: Tab) -> None:
    await answer(tab, "/ctllm/desktops", {"desktops": [{**DESKTOP, "resources": False}]})
    await log_in(tab, shared)
    await tab.sees("#old-desktop", "Update ctllm on attic")
    await tab.sees("#old-desktop", "pip install --upgrade")


@ensureDeferred
async def test_the_demo_model_says_what_it_is_and_what_comes_next(
    shared: Cluster, tab: Tab
) -> None:
    name = "<b>attic</b>"
    await answer(
        tab,
        "/ctllm/desktops",
        {"desktops": [{**DESKTOP, "name": name, "ollama": "demo", "models": ["demo:echo"]}]},
    )
    await log_in(tab, shared)
    await tab.sees("#demo-help", "demo model")
    await tab.use("#demo-help summary", lambda summary: summary.click())
    await tab.sees("#demo-help", f"ctllm found no Ollama on {name}.")
    await tab.sees("#demo-help", "ollama.com/install.sh")


@pytest.mark.parametrize("retry_after", [2, 7])
@ensureDeferred
async def test_a_cloud_that_is_draining_is_retried_when_it_says(
    shared: Cluster, tab: Tab, retry_after: int
) -> None:
    await log_in(tab, shared)
    body = {"error": {"code": "draining", "message": "The cloud is restarting."}}
    headers = {"Retry-After": str(retry_after)}

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json=body, headers=headers)

    await tab.do(lambda page: page.route("**/health", refuse))
    await tab.sees("#no-server", "The cloud is restarting.")
    await tab.sees("#no-server", "Trying again")
    await tab.do(lambda page: page.unroute("**/health"))
    await tab.misses("#no-server")


# -- on the machine itself


async def start_local_desktop(cluster: Cluster, *options: str) -> int:
    """Start a desktop that is logged in nowhere; return the port of its page."""
    port = free_port()
    cluster.run_role("desktop", "alice", f"--desktop-listen=127.0.0.1:{port}", *options)

    async def is_listening() -> bool:
        with contextlib.suppress(OSError):
            await deferToThread(lambda: socket.create_connection(("127.0.0.1", port)).close())
            return True
        return False

    await wait_until(is_listening, "the desktop to listen")
    return port


async def local_link(cluster: Cluster) -> str:
    """Return the link that opens the desktop's page."""
    output = await cluster.run_ctllm("alice", "show")
    return next(word for word in output.split() if word.startswith("http://127.0.0.1:"))


SETUP: dict[str, Any] = {
    "ollama": {"state": "down", "url": "http://127.0.0.1:11434", "version": ""},
    "cloud": {"state": "signed_out", "url": "", "user": "", "message": ""},
    "tray": {"installed": False, "autostart": False},
    "system": "linux",
    "login": None,
}


@ensureDeferred
async def test_the_first_run_leads_through_four_steps(shared: Cluster, chromium: Chromium) -> None:
    """With a desktop's responses in place of the cloud's. Each step can be skipped."""
    tab = await chromium.tab()
    known = json.loads(json.dumps(SETUP))
    begun: list[Any] = []
    user = {"id": "local", "name": "ada"}

    def serve(route: Route) -> None:
        request = route.request
        path = request.url.partition(str(shared.cloud_port))[2].partition("?")[0]
        if path == "/ctllm/page":
            route.fulfill(json={"role": "desktop", "version": "1"})
        elif path == "/ctllm/session" and request.method == "POST":
            route.fulfill(status=201, json={"user": user, "token": "t" * 43, "expires_in": 600})
        elif path == "/ctllm/session":
            route.fulfill(json={"user": user, "scopes": [], "expires_in": 600})
        elif path == "/ctllm/desktops":
            route.fulfill(json={"desktops": [{**DESKTOP, "ollama": known["ollama"]["state"]}]})
        elif path == "/ctllm/desktop/setup/login" and request.method == "POST":
            begun.append(json.loads(request.post_data or "null"))
            url = "https://login.example/device"
            known["login"] = {
                "state": "code", "url": url, "user_code": "ABCD-EFGH", "message": "",
                "providers": [],
            }  # fmt: skip
            route.fulfill(status=202, json=known["login"])
        elif path == "/ctllm/desktop/setup/autostart":
            known["tray"]["autostart"] = json.loads(request.post_data or "{}")["enabled"]
            route.fulfill(json=known["tray"])
        elif path == "/ctllm/desktop/setup":
            route.fulfill(json=known)
        else:
            route.fulfill(status=404, json={"error": {"code": "not_found", "message": "No."}})

    await tab.do(lambda page: page.route("**/ctllm/**", serve))
    await tab.do(
        lambda page: page.route("**/api/**", lambda route: route.fulfill(json={"models": []}))
    )
    await tab.hurry()
    await tab.open(f"http://127.0.0.1:{shared.cloud_port}/#invite={'c' * 43}")
    await tab.sees("#setup", "Step 1 of 4: Ollama")
    assert await tab.find("location.hash") == ""
    await tab.sees("#setup", "systemctl start ollama")
    known["ollama"] = {**known["ollama"], "state": "up", "version": "0.9.0"}
    await tab.sees("#setup", "Ollama 0.9.0 is running")
    await tab.click("Continue")
    await tab.sees("#setup", "Step 2 of 4")
    await tab.use("#setup-cloud", lambda box: box.fill("ctllm.example.org"))
    await tab.click("Log in")
    await tab.sees("#setup", "ABCD-EFGH")
    assert begun == [{"cloud": "https://ctllm.example.org"}]
    await tab.expect("#setup a", lambda it: it.to_have_attribute("rel", "noopener noreferrer"))
    cloud = {"state": "connected", "url": "https://ctllm.example.org", "user": "ada", "message": ""}
    known["cloud"], known["login"] = cloud, None
    await tab.sees("#setup-connected", "connected to https://ctllm.example.org as ada")
    await tab.click("Continue")
    await tab.sees("#setup", "llama3.2 is ready")
    await tab.click("Continue")
    await tab.use("#setup-autostart", lambda box: box.click())
    await tab.expect("#setup-autostart", lambda it: it.to_be_checked())
    await tab.click("Start chatting")
    await tab.misses("#setup")
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "ada")
    await tab.misses("#setup")
    await tab.click("Settings")
    await tab.click("Set up this machine")
    await tab.sees("#setup", "Step 1 of 4")
    await tab.close()


@ensureDeferred
async def test_the_page_of_a_desktop_opens_with_its_link_alone(cluster: Cluster, tab: Tab) -> None:
    """The token is this tab's: a reload keeps it, another tab has none. It ends with the daemon."""
    cluster.ollama, ollama_port = cluster.start_fake_ollama("llama3.2")
    port = await start_local_desktop(cluster, f"--ollama-host=127.0.0.1:{ollama_port}")
    await tab.open(f"http://127.0.0.1:{port}/")
    await tab.sees("#logged-out", "Open this page from your desktop")
    await tab.sees("#logged-out", "ctllm show")
    await tab.misses("#account")
    await tab.open(await local_link(cluster))
    await tab.sees("#account", "Logged in as")
    assert await tab.find("location.hash") == ""
    await tab.sees("#setup", "is running at http")
    await tab.click("Not now")
    await tab.misses("#setup")
    await tab.do(lambda page: page.reload())
    await tab.sees("#account", "Logged in as")
    other = await tab.do(lambda page: page.context.new_page())
    await tab.do(lambda _: other.goto(f"http://127.0.0.1:{port}/"))
    await tab.do(lambda _: expect(other.locator("#logged-out")).to_be_visible())
    await tab.do(lambda _: other.close())
    assert await tab.do(lambda page: page.context.cookies()) == []
    await tab.click("Log out")
    await tab.sees("#logged-out", "You have logged out.")
    assert await tab.find("sessionStorage.getItem('ctllm-desktop-token')") is None

"""Ollama's own command with OLLAMA_AUTH=1: an approval on the page, then the models."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import defer
from twisted.internet.defer import Deferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.ollama_cli import OllamaCli
from tests.fake_ollama import Script

MODEL = "llama3.2"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
BLOB = b"a blob of a model"
BLOB_PATH = f"/api/blobs/sha256:{sha256(BLOB).hexdigest()}"
#: A script that streams for as long as any test waits.
ENDLESS = Script(lines=("word ",) * 10_000, line_interval=0.1)


@pytest.fixture
def cli(shared: Cluster) -> OllamaCli:
    """Return an `ollama` command whose key is not registered."""
    shared.ollama.reset()
    return OllamaCli(shared.cloud_port)


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def approve(
    cluster: Cluster, cli: OllamaCli, *scopes: str, token: str = ""
) -> dict[str, Any]:
    """Approve the machine of `cli` without the page; return it."""
    code = (await cli.ask()).partition("#machine=")[2]
    body = {"code": code, "name": "laptop", "scopes": scopes}
    status, _, response = await cluster.request(
        "POST", "/ctllm/machines", body, token or cluster.alice_token
    )
    assert status == 201, response
    return json.loads(response)


async def remove(cluster: Cluster, machine_id: str, token: str = "") -> int:
    path = f"/ctllm/machines/{machine_id}"
    status, _, _ = await cluster.request("DELETE", path, token=token or cluster.alice_token)
    return status


async def start_chat(cluster: Cluster, cli: OllamaCli) -> Deferred[tuple[int, Any]]:
    """Start a chat that has no end, and wait until Ollama streams."""
    cluster.ollama.script("/api/chat", ENDLESS)
    answer = defer.ensureDeferred(cli.send("POST", "/api/chat", CHAT))
    await cluster.ollama.wait_for(
        lambda record: record.path == "/api/chat" and record.lines_sent > 1
    )
    return answer


# -- the page


@ensureDeferred
async def test_a_machine_works_after_its_approval_on_the_page(
    shared: Cluster, cli: OllamaCli, tab: Tab
) -> None:
    """The person is not logged in yet, and manages models, too."""
    link = await cli.ask()
    await tab.open(link)
    await tab.sees("#logged-out-reason", "Log in to say whether the machine may use your models.")
    await log_in(tab, shared)
    await tab.sees("#machine", "Let a machine use your models?")
    await tab.sees("#machine-warning", "it is their machine")
    await tab.sees("#machine-user", "alice")
    await tab.sees("#machine-fingerprint", cli.key.fingerprint)
    await tab.sees("#machine-origin", "from 127.0.0.0/24, as ollama 0.17.4")
    await tab.sees("#machine-origin", "as ollama 0.17.4 on linux (amd64)")
    assert await tab.find("document.activeElement.id") == "decline-machine"
    assert not await tab.find("document.getElementById('machine-manage').checked")
    await tab.use("#machine-name", lambda box: box.fill("Work laptop"))
    await tab.use("#machine-manage", lambda box: box.check())
    await tab.click("Allow")
    await tab.sees(".toasts", "Work laptop may use your models now.")
    assert await tab.find("location.hash") == ""

    assert await cli.send("HEAD", "/") == (200, None)
    assert await cli.send("POST", "/api/me") == (200, {"name": "alice"})
    status, tags = await cli.send("GET", "/api/tags")
    assert (status, tags["models"][0]["name"]) == (200, f"{MODEL}:latest")
    status, last = await cli.send("POST", "/api/chat", CHAT)
    assert (status, last["done"]) == (200, True)
    assert (await cli.send("POST", "/api/show", {"model": MODEL}))[0] == 200
    assert (await cli.send("HEAD", BLOB_PATH))[0] == 404
    assert (await cli.send("POST", BLOB_PATH, BLOB))[0] == 201
    assert (await cli.send("HEAD", BLOB_PATH))[0] == 200
    for record in shared.ollama.requests:
        assert "ts=" not in record.target
        assert "authorization" not in {name.lower() for name, _ in record.headers}


@ensureDeferred
async def test_a_request_from_another_network_is_marked(shared: Cluster, tab: Tab) -> None:
    """The page shows that network, not the whole address."""
    cli = OllamaCli(shared.cloud_port, forwarded_for="8.8.8.77")
    await log_in(tab, shared)
    await tab.open(await cli.ask())
    await tab.sees("#machine-origin", "from 8.8.8.0/24, which is not where you are")
    await tab.click("Do not allow")
    await tab.misses("#machine")


@ensureDeferred
async def test_enter_and_the_default_button_decline(
    shared: Cluster, cli: OllamaCli, tab: Tab
) -> None:
    await log_in(tab, shared)
    for press in ("#decline-machine", "#machine-name", "#machine-manage"):
        link = await cli.ask()
        await tab.open(link)
        await tab.sees("#machine-fingerprint", cli.key.fingerprint)
        await tab.use(press, lambda box: box.press("Enter"))
        await tab.misses("#machine")

        async def has_new_link(old: str = link) -> bool:
            return await cli.ask() != old

        await wait_until(has_new_link, "the request to be declined")
    assert (await cli.send("GET", "/api/tags"))[0] == 401


@ensureDeferred
async def test_a_link_that_was_answered_or_has_expired_is_explained(
    shared: Cluster, cli: OllamaCli, tab: Tab
) -> None:
    link = await cli.ask()
    await approve(shared, cli)
    await log_in(tab, shared)
    for dead in (link, f"{shared.url}/#machine={'x' * 22}"):
        await tab.open(dead)
        await tab.sees(".toasts", "has expired, or it was answered before")
        await tab.misses("#machine")
        await tab.use("#message", lambda box: box.fill(""))
    await tab.open(f"{shared.url}/#machine=<b>1</b>")
    await tab.sees(".toasts", "The body is invalid")


@ensureDeferred
async def test_machines_are_renamed_and_removed_in_the_settings(
    shared: Cluster, cli: OllamaCli, tab: Tab
) -> None:
    await approve(shared, cli)
    await log_in(tab, shared)
    await tab.click("Settings")
    row = f".machine:has-text('{cli.key.fingerprint}')"
    await tab.sees(row, "may use models")
    await tab.use(f"{row} input", lambda box: box.fill("Kitchen"))
    await tab.use(f"{row} input", lambda box: box.press("Tab"))
    await tab.use(f"{row} [aria-label='Remove Kitchen']", lambda button: button.click())
    await tab.sees("#confirmation", "Remove “Kitchen”?")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await tab.misses(row)
    await tab.click("Close")
    assert (await cli.send("GET", "/api/tags"))[0] == 401


@ensureDeferred
async def test_another_user_is_asked_after_logging_in_over_the_question(
    shared: Cluster, cli: OllamaCli, tab: Tab
) -> None:
    await log_in(tab, shared)
    await tab.open(await cli.ask())
    await tab.sees("#machine-user", "alice")
    await tab.use("#decline-machine", lambda button: button.press("Escape"))
    await tab.misses("#machine")
    await tab.open(await cli.ask())
    await tab.sees("#machine-user", "alice")
    link = await shared.create_invite("bob")
    await tab.find(f"location.hash = {json.dumps('#' + link.partition('#')[2])}")
    await tab.click("Log in as bob")
    await tab.sees("#machine-user", "bob")
    await tab.click("Do not allow")
    await tab.misses("#machine")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@ensureDeferred
async def test_the_question_fits_a_narrow_window(
    shared: Cluster, cli: OllamaCli, chromium: Chromium, tmp_path: Any, scheme: str
) -> None:
    """The screenshots are for review by eye."""
    tab = await chromium.tab(color_scheme=scheme)
    await log_in(tab, shared)
    await tab.do(lambda page: page.set_viewport_size({"width": 360, "height": 800}))
    await tab.open(await cli.ask())
    await tab.sees("#machine-fingerprint", cli.key.fingerprint)
    await tab.do(lambda page: page.screenshot(path=tmp_path / f"{scheme}-machine.png"))
    assert await tab.find("document.documentElement.scrollWidth") <= 360
    assert await tab.find("document.getElementById('machine').scrollWidth") <= 360
    await tab.click("Allow")
    await tab.misses("#machine")
    await cli.send("GET", "/api/tags")
    await tab.click("Menu")
    await tab.click("Settings")
    await tab.sees("#settings-machines", cli.key.fingerprint)
    await tab.do(lambda page: page.screenshot(path=tmp_path / f"{scheme}-machines.png"))
    assert await tab.find("document.documentElement.scrollWidth") <= 360
    await tab.close()


# -- signatures


@ensureDeferred
async def test_signatures_of_something_else_are_refused(shared: Cluster, cli: OllamaCli) -> None:
    """Each is that of a registered machine, and none reaches Ollama."""
    await approve(shared, cli, "manage")
    other, now = OllamaCli(shared.cloud_port), int(time.time())
    good = cli.key.sign("GET", "/api/tags", now)
    forged = f"{cli.key.public_key}:{other.key.sign('GET', '/api/tags', now).partition(':')[2]}"
    shared.ollama.reset()
    refused: list[dict[str, Any]] = [
        {"signed": ("GET", "/api/ps")},
        {"signed": ("POST", "/api/tags")},
        {"credentials": forged},
        {"credentials": f"Bearer {good}"},
        {"credentials": good, "query": f"ts={now + 1}"},
        {"credentials": good, "query": f"ts={now}&ts={now}"},
        {"credentials": good, "query": f"ts={now}&stream=false"},
        {"credentials": good, "query": ""},
        {"credentials": good, "query": "ts=" + "9" * 1000},
    ]
    for changes in refused:
        status, response = await cli.send("GET", "/api/tags", **changes)
        assert (status, "signin_url" in response) == (401, False), changes
    delete = await cli.send("DELETE", "/api/delete", credentials=good, query=f"ts={now}")
    assert delete[0] == 401
    for ts in (now - 90, now + 90):
        status, response = await cli.send("GET", "/api/tags", ts=ts)
        assert status == 403
        assert "Check the clock" in response["error"]
    assert len(shared.ollama.requests) == 0
    assert (await cli.send("GET", "/api/tags"))[0] == 200


@ensureDeferred
async def test_without_manage_a_machine_only_uses_models(shared: Cluster, cli: OllamaCli) -> None:
    machine = await approve(shared, cli)
    assert (await cli.send("POST", "/api/show", {"model": MODEL}))[0] == 200
    shared.ollama.reset()
    for method, path, body in (
        ("HEAD", BLOB_PATH, None),
        ("POST", BLOB_PATH, BLOB),
        ("DELETE", "/api/delete", {"model": MODEL}),
        ("POST", "/api/signout", None),
        ("GET", "/ctllm/session", None),
        ("DELETE", "/ctllm/proxy", None),
        ("GET", "/ctllm/machines", None),
        ("DELETE", f"/ctllm/machines/{machine['id']}", None),
        ("POST", "/ctllm/session/invite", None),
    ):
        assert (await cli.send(method, path, body))[0] == 403, path
    assert len(shared.ollama.requests) == 0


@ensureDeferred
async def test_a_key_belongs_to_one_user(shared: Cluster, cli: OllamaCli) -> None:
    """Bob approves a link that alice's machine had; then alice tries to take it over."""
    bob = await shared.create_token("bob")
    code = (await cli.ask()).partition("#machine=")[2]
    body = {"code": code, "name": "x", "scopes": []}
    machine = await approve(shared, cli, token=bob)
    status, _, _ = await shared.request("POST", "/ctllm/machines", body, shared.alice_token)
    assert status == 404
    assert (await cli.send("POST", "/api/me"))[1] == {"name": "bob"}
    assert (await cli.send("GET", "/api/tags"))[0] == 503  # bob has no desktop
    assert await remove(shared, machine["id"]) == 404
    assert await remove(shared, machine["id"], bob) == 204
    assert (await cli.send("POST", "/api/me"))[0] == 401


# -- the end of access


@ensureDeferred
async def test_a_removal_ends_a_response_in_progress(shared: Cluster, cli: OllamaCli) -> None:
    machine = await approve(shared, cli)
    answer = await start_chat(shared, cli)
    assert await remove(shared, machine["id"]) == 204
    status, last = await answer
    assert (status, last["error"]) == (
        200,
        "This machine was removed from the account that it used.",
    )
    await shared.ollama.wait_for(lambda record: record.closed_by == "client")
    assert (await cli.send("GET", "/api/tags"))[0] == 401


@ensureDeferred
async def test_a_desktop_lists_renames_and_removes_machines(
    shared: Cluster, cli: OllamaCli
) -> None:
    await approve(shared, cli)
    key = cli.key.fingerprint
    assert (await cli.send("GET", "/api/tags"))[0] == 200
    await shared.run_ctllm("alice", "machines", "rename", key, "Attic PC")
    listed = json.loads(await shared.run_ctllm("alice", "machines", "--json"))
    [machine] = [each for each in listed if each["fingerprint"] == key]
    assert (machine["name"], machine["scopes"]) == ("Attic PC", ["use"])
    assert machine["last_address"] == "127.0.0.0/24"
    table = await shared.run_ctllm("alice", "machines", "ls")
    [row] = [line for line in table.splitlines() if key in line]
    assert row.startswith("Attic PC  ")
    answer = await start_chat(shared, cli)
    await shared.run_ctllm("alice", "machines", "rm", "Attic PC")
    assert "was removed" in (await answer)[1]["error"]
    assert key not in await shared.run_ctllm("alice", "machines")


@ensureDeferred
async def test_a_revocation_of_the_user_ends_the_machine_for_good(cluster: Cluster) -> None:
    """Also after the cloud was restarted, and until the user approves the machine again."""
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama(MODEL)
    desktop = await cluster.start_desktop("alice", port)
    cluster.alice_token = await cluster.create_token("alice")
    cli = OllamaCli(cluster.cloud_port)
    await approve(cluster, cli)

    await cloud.stop()
    cloud = await cluster.start_cloud()

    async def is_served() -> bool:
        return (await cli.send("GET", "/api/tags"))[0] == 200

    await wait_until(is_served, "the machine to work after a restart of the cloud")
    answer = await start_chat(cluster, cli)
    await cluster.run_ctllm("cloud", "revoke", "alice")
    _, last = await answer
    assert "administrator has logged you out" in last["error"]
    assert (await cli.send("GET", "/api/tags"))[0] == 401
    await cloud.stop()
    await cluster.start_cloud()
    cluster.alice_token = await cluster.create_token("alice")
    assert (await cli.send("GET", "/api/tags"))[0] == 401
    await desktop.stop()
    await approve(cluster, cli)
    assert (await cli.send("POST", "/api/me"))[1] == {"name": "alice"}


@ensureDeferred
async def test_a_disabled_user_has_no_machines_until_enabled(cluster: Cluster) -> None:
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama(MODEL)
    await cluster.start_desktop("alice", port)
    cluster.alice_token = await cluster.create_token("alice")
    cli = OllamaCli(cluster.cloud_port)
    await approve(cluster, cli)
    answer = await start_chat(cluster, cli)
    await cluster.run_ctllm("cloud", "users", "disable", "alice")
    _, last = await answer
    assert "error" in last
    status, response = await cli.send("GET", "/api/tags")
    assert (status, "signin_url" in response) == (403, False)
    await cluster.run_ctllm("cloud", "users", "enable", "alice")

    async def is_known() -> bool:
        return (await cli.send("POST", "/api/me"))[0] == 200

    await wait_until(is_known, "the machine to work again")
    await cluster.run_ctllm("cloud", "users", "forget", "alice")
    assert (await cli.send("POST", "/api/me"))[0] == 401
    assert not list((cluster.state_dir("cloud") / "cloud" / "machines").glob("*.json"))

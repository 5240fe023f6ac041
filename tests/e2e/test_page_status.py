"""The path of the page's connection, the desktops and the proxy, in a real Chromium."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from ctllm import __version__
from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import LAYOUTS, check_screen, log_in, show_view
from tests.ports import free_port

NODES = ("browser", "cloud", "proxy", "desktop", "ollama")


async def show_status(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await log_in(tab, cluster, name)
    await show_view(tab, "status")


async def expect_path(tab: Tab, **states: str) -> None:
    """Wait until the nodes of the path have these states."""

    def has_text(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_text(state)

    def has_state(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_attribute("data-state", state)

    for name, state in states.items():
        await tab.expect(f"#{name} .state", has_text(state))
        await tab.expect(f"#{name}", has_state(state))


@ensureDeferred
async def test_the_path_shows_the_state_of_each_node(shared: Cluster, tab: Tab) -> None:
    """Each has its version or name; the latencies are those of this connection."""
    await show_status(tab, shared)
    await expect_path(tab, **dict.fromkeys(NODES, "ok"))
    [desktop] = await shared.list_desktops(shared.alice_token)
    await tab.sees("#cloud .detail", f"ctllm {__version__}")
    await tab.sees("#cloud .latency", "ms")
    await tab.sees("#proxy .detail", "running")
    await tab.sees("#desktop .detail", desktop["name"])
    await tab.sees("#desktop .latency", "ms")
    await tab.sees("#ollama .detail", f"version {desktop['version']}")
    await tab.sees(".sidebar .path-line", f"Connected to {desktop['name']}")
    await tab.sees("#desktops", "Ollama is running")
    await tab.sees("#desktops", f"{len(shared.ollama.models)} models")


@ensureDeferred
async def test_a_logged_out_page_shows_the_path_to_the_cloud(shared: Cluster, tab: Tab) -> None:
    await tab.open(f"{shared.url}/#view=status")
    await expect_path(tab, browser="ok", cloud="ok", proxy="unknown", desktop="unknown")
    await tab.sees("#hint", "Log in to see the rest of the path.")
    await tab.misses("#desktops")


@ensureDeferred
async def test_a_user_without_a_desktop_sees_the_command_to_connect_one(
    shared: Cluster, tab: Tab
) -> None:
    """The proxy is stopped and started from the page; stopping asks first."""
    await tab.hurry()
    await show_status(tab, shared, "carol")
    await expect_path(tab, proxy="ok", desktop="off", ollama="unknown")
    await tab.sees("#hint", "ctllm login")
    await tab.sees(".sidebar .path-line", "Desktop: not connected")
    await tab.click("Stop")
    await tab.sees("#confirmation", "Stop the proxy?")
    await tab.click("Cancel")
    await expect_path(tab, proxy="ok")
    await tab.click("Stop")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await expect_path(tab, proxy="off", desktop="unknown", ollama="unknown")
    await tab.sees("#proxy .detail", "not running")
    await tab.sees("#hint", "Your proxy starts when you send a message.")
    await tab.click("Start")
    await expect_path(tab, proxy="ok", desktop="off")
    await tab.sees("#proxy-section", "running")


@pytest.mark.parametrize(
    ("status", "state", "detail", "hint"),
    [
        ({"state": "starting", "error": None}, "waiting", "starting", ""),
        ({"state": "failed", "error": "It ran out of luck."}, "off", "did not start", "of luck"),
    ],
)
@ensureDeferred
async def test_a_proxy_that_is_not_running_is_shown_with_its_state(
    shared: Cluster, tab: Tab, status: dict[str, Any], state: str, detail: str, hint: str
) -> None:
    """The test replaces the cloud's response, because these states last too short a time."""
    response = {"since": 0, "exchanges": 0, "desktops": 0, "idle_seconds": None, **status}
    await tab.do(
        lambda page: page.route(
            "**/ctllm/proxy",
            lambda route: (
                route.fulfill(json=response) if route.request.method == "GET" else route.continue_()
            ),
        )
    )
    await show_status(tab, shared)
    await expect_path(tab, cloud="ok", proxy=state, desktop="unknown", ollama="unknown")
    await tab.sees("#proxy .detail", detail)
    await tab.expect("#hint", lambda it: it.to_contain_text(hint))


@ensureDeferred
async def test_a_browser_without_a_network_is_shown_as_offline(shared: Cluster, tab: Tab) -> None:
    """The path is complete again once the network is back, without waiting for the next poll."""
    await show_status(tab, shared)
    await expect_path(tab, ollama="ok")
    await tab.do(lambda page: page.context.set_offline(True))
    await expect_path(tab, browser="off", cloud="off", proxy="unknown", desktop="unknown")
    await tab.sees(".next-try", "Trying again")
    await tab.do(lambda page: page.context.set_offline(False))
    await expect_path(tab, **dict.fromkeys(NODES, "ok"))
    await tab.misses(".next-try")


@ensureDeferred
async def test_the_path_follows_failures_and_recoveries(cluster: Cluster, tab: Tab) -> None:
    """Ollama, the desktop and the cloud stop and start; the page updates without a reload."""
    port = free_port()
    cloud = await cluster.start_cloud("--reconnect-grace-seconds=1")
    options = ("--ollama-check-interval-seconds=1", "--desktop-name=attic")
    ollama = await cluster.run_fake_ollama(port)
    desktop = await cluster.start_desktop("alice", port, *options)
    await tab.hurry()
    await show_status(tab, cluster)
    await expect_path(tab, ollama="ok")
    await ollama.stop(signal.SIGKILL)
    await expect_path(tab, desktop="ok", ollama="off")
    await tab.sees("#hint", "Ollama is not running on attic. Start it there.")
    await cluster.run_fake_ollama(port)
    await expect_path(tab, ollama="ok")
    await desktop.stop()
    await expect_path(tab, proxy="ok", desktop="off", ollama="unknown")
    await tab.sees("#hint", "No desktop is connected.")
    cluster.run_role(
        "desktop", "alice", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off", *options
    )
    await expect_path(tab, desktop="ok", ollama="ok")
    await cloud.stop(signal.SIGKILL)
    await expect_path(tab, browser="ok", cloud="off", proxy="unknown", desktop="unknown")
    await cluster.start_cloud("--reconnect-grace-seconds=1")
    await expect_path(tab, **dict.fromkeys(NODES, "ok"))


@pytest.mark.parametrize(("scheme", "width"), LAYOUTS)
@ensureDeferred
async def test_the_status_is_accessible_and_fits_the_window(
    shared: Cluster, chromium: Chromium, scheme: str, width: int
) -> None:
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    await show_status(tab, shared)
    await expect_path(tab, ollama="ok")
    await tab.sees("#proxy-section", "running")
    await check_screen(tab, "status")
    await tab.do(lambda page: page.context.set_offline(True))
    await expect_path(tab, cloud="off")
    await check_screen(tab, "status-offline")
    await tab.do(lambda page: page.context.set_offline(False))
    await tab.close()

"""Answers that survive the page, the network, the proxy and the cloud, in a real Chromium."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.network_relay import NetworkRelay
from tests.e2e.process_info import child_pids
from tests.fake_ollama import Record, Script
from tests.ports import free_port

RESPONSE = ".response:last-child"
#: Each word is there once; characters of two, three and four bytes.
WORDS = tuple(f"wörd{n}€😀 " for n in range(110))
ANSWER = "".join(WORDS).strip()
INTERVAL = 0.05


class Home:
    """A cloud and a desktop of alice, and a relay between her browser and the cloud."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cloud: ChildProcess
        self.desktop: ChildProcess
        self.relay = NetworkRelay(cluster.cloud_port)
        self.ollama_port = free_port()

    async def start(self, *options: str) -> None:
        await self.start_cloud()
        self.cluster.ollama, self.ollama_port = self.cluster.start_fake_ollama()
        self.cluster.ollama.script("/api/chat", Script(lines=WORDS, line_interval=INTERVAL))
        self.desktop = await self.cluster.start_desktop("alice", self.ollama_port, *options)

    async def start_cloud(self) -> None:
        self.cloud = await self.cluster.start_cloud("--reconnect-grace-seconds=20")

    async def log_in(self, tab: Tab) -> None:
        link = await self.cluster.create_invite("alice")
        await tab.open(link.replace(str(self.cluster.cloud_port), str(self.relay.port)))
        await tab.click("Log in as alice")
        await tab.expect("#send", lambda it: it.to_be_enabled())

    async def ask(self, tab: Tab) -> None:
        """Log in, ask, and wait for the first words."""
        await self.log_in(tab)
        await tab.use("#message", lambda box: box.fill("hello"))
        await tab.use("#message", lambda box: box.press("Enter"))
        await tab.sees(RESPONSE, "wörd10€")

    def chat_requests(self) -> list[Record]:
        """Return the chat requests that Ollama received, oldest first."""
        return [each for each in self.cluster.ollama.requests if each.path == "/api/chat"]


@pytest_twisted.async_yield_fixture()
async def home(cluster: Cluster) -> AsyncIterator[Home]:
    place = Home(cluster)
    yield place
    await place.relay.stopListening()


async def expect_answer(tab: Tab) -> None:
    """Wait for the end of the answer; it is exactly what Ollama sent."""
    await tab.do(lambda page: page.locator(f"{RESPONSE} .end.complete").wait_for(timeout=60_000))
    # What has arrived is rendered with the next frames. The order of the words is compared exactly.
    await tab.expect(f"{RESPONSE} .text", lambda it: it.to_have_text(ANSWER))


async def reload(home: Home, tab: Tab) -> None:
    await tab.do(lambda page: page.reload())


async def reload_twice(home: Home, tab: Tab) -> None:
    await tab.do(lambda page: page.reload())
    await tab.sees(RESPONSE, "wörd30€")
    await tab.do(lambda page: page.reload())


async def reset_network(home: Home, tab: Tab) -> None:
    home.relay.reset()
    await tab.sees(RESPONSE, "wörd30€")
    home.relay.reset()


async def lose_network(home: Home, tab: Tab) -> None:
    home.relay.accept_mode = "refuse"
    home.relay.reset()
    await tab.sees(f"{RESPONSE} .reconnecting", "The connection was interrupted.")
    home.relay.accept_mode = "forward"


async def go_offline(home: Home, tab: Tab) -> None:
    """As a phone in a lift: the connections are dead and nobody says so."""
    home.relay.blackhole("refuse")
    await tab.do(lambda page: page.context.set_offline(True))
    await wait_until(lambda: tab.find("!navigator.onLine"), "the page to be offline")
    home.relay.reset()  # a browser closes its connections when the network changes
    home.relay.accept_mode = "forward"
    await tab.do(lambda page: page.context.set_offline(False))


async def kill_proxy(home: Home, tab: Tab) -> None:
    for pid in child_pids(home.cloud.pid):
        os.kill(pid, signal.SIGKILL)


async def restart_cloud(home: Home, tab: Tab) -> None:
    await home.cloud.stop(signal.SIGKILL)
    await home.start_cloud()


@pytest.mark.parametrize(
    "interrupt",
    [reload, reload_twice, reset_network, lose_network, go_offline, kill_proxy, restart_cloud],
)
@ensureDeferred
async def test_an_answer_goes_on_where_it_was_after(
    home: Home, tab: Tab, interrupt: Callable[[Home, Tab], Awaitable[None]]
) -> None:
    """Not one character is lost or repeated, and Ollama is asked once."""
    await home.start()
    await home.ask(tab)
    await interrupt(home, tab)
    await expect_answer(tab)
    assert len(home.chat_requests()) == 1
    await tab.do(lambda page: page.reload())
    await expect_answer(tab)


@ensureDeferred
async def test_an_answer_is_complete_after_the_page_was_away(home: Home, tab: Tab) -> None:
    """It goes on at the desktop while no page reads it."""
    await home.start()
    await home.ask(tab)
    await tab.do(lambda page: page.goto("about:blank"))
    await home.chat_requests()[-1].closed
    await tab.do(lambda page: page.go_back())
    await expect_answer(tab)
    assert len(home.chat_requests()) == 1


@ensureDeferred
async def test_a_second_tab_shows_the_answer_too(home: Home, tab: Tab) -> None:
    """Both show all of it; Stop in one of them stops both, and Ollama."""
    await home.start()
    await home.ask(tab)
    second = await tab.open_beside()
    await second.open(await tab.find("location.href"))
    await second.sees(RESPONSE, "wörd20€")
    await expect_answer(tab)
    await expect_answer(second)
    await second.use("#message", lambda box: box.fill("again"))
    await second.use("#message", lambda box: box.press("Enter"))
    await tab.do(lambda page: page.bring_to_front())  # behind another page it has few frames
    await tab.sees(RESPONSE, "wörd5€")
    await tab.click("Stop")
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    await second.sees(f"{RESPONSE} .end", "Stopped.")
    record = home.chat_requests()[-1]
    await record.closed
    assert record.closed_by == "client"
    await second.do(lambda page: page.close())


@ensureDeferred
async def test_a_second_device_shows_the_answer_too(
    home: Home, tab: Tab, chromium: Chromium
) -> None:
    """It knows the conversation from the desktop, and reads the same generation."""
    await home.start()
    await home.ask(tab)
    await tab.use("#sync-status", lambda it: it.click())
    await tab.use("#sync-dialog .sync-desktops input", lambda it: it.check())
    await tab.sees("#sync-dialog .sync-desktops", "Synchronised")
    await tab.use("#sync-dialog", lambda it: it.press("Escape"))
    phone = await chromium.tab()
    await home.log_in(phone)
    await phone.click("Synchronise")
    await phone.use(".conversation", lambda it: it.first.click())
    await phone.sees(RESPONSE, "wörd5€")
    for each in (phone, tab):
        await expect_answer(each)
    assert len(home.chat_requests()) == 1
    await phone.close()


@ensureDeferred
async def test_closing_the_page_ends_the_generation_after_the_grace_time(
    home: Home, chromium: Chromium
) -> None:
    await home.start("--generation-grace-seconds=1")
    tab = await chromium.tab()
    await home.ask(tab)
    record = home.chat_requests()[-1]
    assert record.closed_by is None
    await tab.close()
    await record.closed
    assert record.closed_by == "client"


@ensureDeferred
async def test_an_answer_that_the_desktop_has_lost_is_said(home: Home, tab: Tab) -> None:
    """The text received so far stays, and the model can be asked to go on with it."""
    await home.start()
    await home.ask(tab)
    await home.desktop.stop(signal.SIGKILL)
    home.cluster.run_role(
        "desktop", "alice", f"--ollama-host=127.0.0.1:{home.ollama_port}", "--desktop-listen=off"
    )
    notice = "The desktop does not have the rest of it any more."
    await tab.sees(f"{RESPONSE} .error", notice)
    await tab.sees(f"{RESPONSE} .text", "wörd10€")  # it is drawn in a later frame than the notice
    text = await tab.do(lambda page: page.locator(f"{RESPONSE} .text").inner_text())
    assert ANSWER.startswith(text.strip()) and "wörd10€" in text


@ensureDeferred
async def test_a_message_waits_for_the_network(home: Home, tab: Tab) -> None:
    """It is sent once, when the network is back, even if the page is reloaded before."""
    await home.start()
    await home.log_in(tab)
    home.relay.accept_mode = "refuse"
    home.relay.reset()
    await tab.use("#message", lambda box: box.fill("hello"))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(f"{RESPONSE} .reconnecting", "Not sent yet. Trying again.")
    assert not home.chat_requests()
    home.relay.accept_mode = "forward"
    await expect_answer(tab)
    assert len(home.chat_requests()) == 1


@ensureDeferred
async def test_a_desktop_that_stays_away_is_said_and_asked_again(home: Home, tab: Tab) -> None:
    """After two minutes the person may decide; the answer goes on all the same."""
    await home.start()
    await home.ask(tab)
    home.relay.accept_mode = "refuse"
    home.relay.reset()
    await tab.sees(f"{RESPONSE} .reconnecting", "The connection was interrupted.")
    await tab.misses(".silent-answer")
    await tab.find("void (ahead = 180)")
    await tab.sees(f"{RESPONSE} .reconnecting", "The desktop has not answered for 3 min.")
    home.relay.accept_mode = "forward"
    await tab.click("Try again now")
    await expect_answer(tab)
    await tab.misses(".reconnecting, .silent-answer")
    assert len(home.chat_requests()) == 1


@ensureDeferred
async def test_stop_without_a_network_ends_the_generation_later(home: Home, tab: Tab) -> None:
    await home.start()
    await home.ask(tab)
    record = home.chat_requests()[-1]
    home.relay.accept_mode = "refuse"
    home.relay.reset()
    await tab.sees(f"{RESPONSE} .reconnecting", "The connection was interrupted.")
    await tab.click("Stop")
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    assert record.closed_by is None
    home.relay.accept_mode = "forward"
    await record.closed
    assert record.closed_by == "client"

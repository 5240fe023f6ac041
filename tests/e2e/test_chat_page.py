"""The chat page in a real Chromium, served by the real processes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import Record, Script
from tests.ports import free_port

#: Seconds to load a model; longer than any test waits, so that only a cancellation ends it.
LOAD_SECONDS = 300.0
NODES = ("browser", "cloud", "proxy", "desktop", "ollama")
RESPONSE = ".response:last-child"


@pytest.fixture(autouse=True)
def reset_fake_ollama(request: pytest.FixtureRequest) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").ollama.reset()


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def log_in_until_ready(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    """Log in, and wait until the Send button is enabled."""
    await log_in(tab, cluster, name)
    await tab.expect("#send", lambda it: it.to_be_enabled())


async def send_message(tab: Tab, message: str) -> None:
    """Type a message and send it with Enter."""
    await tab.use("#message", lambda box: box.fill(message))
    await tab.use("#message", lambda box: box.press("Enter"))


async def expect_path(tab: Tab, **states: str) -> None:
    """Wait until the nodes of the path have these states."""

    def has_text(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_text(state)

    def has_state(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_attribute("data-state", state)

    for name, state in states.items():
        await tab.expect(f"#{name} .state", has_text(state))
        await tab.expect(f"#{name}", has_state(state))


async def wait_for_chat_request(cluster: Cluster) -> Record:
    """Wait until Ollama receives a chat request."""
    return await cluster.ollama.wait_for(lambda record: record.path == "/api/chat")


def chat_request_bodies(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the bodies of Ollama's chat requests, oldest first."""
    return [json.loads(r.body or b"") for r in cluster.ollama.requests if r.path == "/api/chat"]


async def response_text(tab: Tab) -> str:
    """Return the text of the last response that the page shows."""
    return await tab.do(lambda page: page.locator(f"{RESPONSE} .text").inner_text())


# -- chat


@ensureDeferred
async def test_a_response_is_shown_while_it_streams(shared: Cluster, tab: Tab) -> None:
    """The page appends each chunk, and marks the end as complete."""
    words = tuple(f"word{n} " for n in range(40))
    shared.ollama.script("/api/chat", Script(lines=words, line_interval=0.04))
    await log_in_until_ready(tab, shared)
    await send_message(tab, "hello there")
    await tab.sees(".question", "hello there")
    await tab.sees(RESPONSE, "word0")
    await tab.sees("#status", "Receiving the response.")
    texts: list[str] = []

    async def has_last_word() -> bool:
        texts.append(await response_text(tab))
        return "word39" in texts[-1]

    await wait_until(has_last_word, "the last word of the response")
    assert len(set(texts)) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert await response_text(tab) == "".join(words)
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.misses("#stop")


@ensureDeferred
async def test_requests_carry_the_conversation_until_a_new_chat(shared: Cluster, tab: Tab) -> None:
    await log_in_until_ready(tab, shared)
    await tab.use("#models", lambda box: box.select_option("nomic-embed-text:latest"))
    await tab.use("#message", lambda box: box.fill("first"))
    await tab.use("#message", lambda box: box.press("Shift+Enter"))
    await tab.use("#message", lambda box: box.press_sequentially("line"))
    await tab.click("Send")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    first_response = await response_text(tab)
    await send_message(tab, "second")
    await tab.expect(".end", lambda it: it.to_have_text(["Complete.", "Complete."]))
    assert "second" in await response_text(tab)
    bodies = chat_request_bodies(shared)
    assert [body["model"] for body in bodies] == ["nomic-embed-text:latest"] * 2
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "first\nline"},
        {"role": "assistant", "content": first_response},
        {"role": "user", "content": "second"},
    ]
    await tab.click("New chat")
    await tab.misses("article")
    await send_message(tab, "third")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert chat_request_bodies(shared)[2]["messages"] == [{"role": "user", "content": "third"}]


@pytest.mark.parametrize(
    "script",
    [Script(lines=1000, line_interval=0.05), Script(load_seconds=LOAD_SECONDS)],
    ids=["streaming", "loading"],
)
@ensureDeferred
async def test_stop_cancels_the_request_at_ollama(
    shared: Cluster, tab: Tab, script: Script
) -> None:
    """The text received so far stays, marked as stopped; the next message can be sent."""
    shared.ollama.script("/api/chat", script, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "go on and on")
    record = await wait_for_chat_request(shared)
    if script.lines:
        await tab.sees(RESPONSE, "word")
    await tab.misses("#send")
    assert record.closed_by is None
    await tab.click("Stop")
    await record.closed
    assert record.closed_by == "client"
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    await send_message(tab, "and now?")
    await tab.sees(f"{RESPONSE} .end", "Complete.")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        # Either message may appear: an error sent right before the connection closes can be lost.
        (
            Script(break_after=2, pause_after=(2, 0.5)),
            r"The connection was interrupted\.|Error: .*",
        ),
        (Script(error_in_stream=(2, "it fell over")), "Error: it fell over.*"),
    ],
    ids=["connection-lost", "error"],
)
@ensureDeferred
async def test_an_interrupted_response_is_marked_as_incomplete(
    shared: Cluster, tab: Tab, script: Script, reason: str
) -> None:
    """The text received so far stays."""
    shared.ollama.script("/api/chat", script)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "tell me something long")
    notice = re.compile(rf"This response is incomplete\. ({reason})")
    await tab.expect(f"{RESPONSE} :is(.broken, .error)", lambda it: it.to_have_text(notice))
    assert await response_text(tab) == "This is"


@ensureDeferred
async def test_a_refused_message_returns_to_the_input(shared: Cluster, tab: Tab) -> None:
    """The page shows Ollama's error; Enter sends the message again."""
    refusal = Script(error_before=(500, '{"error":"out of memory"}', {}))
    shared.ollama.script("/api/chat", refusal, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "hello")
    await tab.sees(f"{RESPONSE} .error", "Error: out of memory")
    await tab.expect("#message", lambda it: it.to_have_value("hello"))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(f"{RESPONSE} .end", "Complete.")


@ensureDeferred
async def test_a_response_is_marked_as_interrupted_when_the_cloud_is_killed(
    cluster: Cluster, tab: Tab
) -> None:
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    await cluster.start_desktop("alice", port)
    await log_in_until_ready(tab, cluster)
    await send_message(tab, "hello")
    await tab.sees(RESPONSE, "word")
    await cloud.stop(signal.SIGKILL)
    notice = "This response is incomplete. The connection was interrupted."
    await tab.sees(f"{RESPONSE} .broken", notice)


@ensureDeferred
async def test_the_demo_model_has_a_badge(shared: Cluster, tab: Tab) -> None:
    """The desktop's name is shown as text, even if it contains markup."""
    name = "<b>attic</b>"
    await shared.start_desktop("dora", free_port(), "--demo=on", f"--desktop-name={name}")
    await log_in_until_ready(tab, shared, "dora")
    await expect_path(tab, desktop="ok", ollama="demo")
    await tab.expect("#desktop .detail", lambda it: it.to_have_text(name))
    await tab.sees("#demo", "demo model")
    await send_message(tab, "hello there")
    await tab.sees(RESPONSE, "demo:echo")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert "hello there" in await response_text(tab)


# -- safety


MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@ensureDeferred
async def test_markup_in_messages_and_responses_is_shown_as_text(shared: Cluster, tab: Tab) -> None:
    shared.ollama.script("/api/chat", Script(lines=(MARKUP, " <b>done</b>")))
    await log_in_until_ready(tab, shared)
    await send_message(tab, MARKUP)
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert await response_text(tab) == f"{MARKUP} <b>done</b>"
    await tab.expect(".question .text", lambda it: it.to_have_text(MARKUP))
    assert await tab.find("document.querySelector('#log :is(img, script, b)')") is None
    assert await tab.find("document.title") == "ctllm"


@ensureDeferred
async def test_the_content_security_policy_blocks_injected_markup_and_code(
    shared: Cluster, chromium: Chromium
) -> None:
    """Closing the tab then fails: other tests notice a violation of the policy, too."""
    tab = await chromium.tab()
    await tab.open(shared.url)
    await tab.do(
        lambda page: page.evaluate(
            """async () => {
                const script = document.createElement('script');
                const policy = trustedTypes.createPolicy('in', {createScript: text => text});
                for (const act of [
                    () => { document.body.innerHTML = '<b>in</b>'; },
                    () => { script.text = policy.createScript('document.title = "owned"'); },
                    () => document.body.append(script),
                    () => document.body.setAttribute('style', 'color: red'),
                    () => fetch('http://127.0.0.1:9/'),
                ]) { try { await act(); } catch {} }
            }"""
        )
    )
    expected = {"require-trusted-types-for", "script-src-elem", "style-src-attr", "connect-src"}
    assert set(await tab.blocked()) == expected
    assert await tab.find("document.title") == "ctllm"
    with pytest.raises(AssertionError, match="connect-src"):
        await tab.close()

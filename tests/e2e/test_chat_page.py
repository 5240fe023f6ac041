"""The first page as people have it: in a real Chromium, before the real processes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
import pytest_twisted
from playwright.sync_api import Page
from pytest_twisted import ensureDeferred
from twisted.internet import defer

from ctllm import __version__
from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import Record, Script
from tests.ports import free_port

#: Longer than any test waits: what ends must have been ended.
LONG = 300.0
NODES = ("browser", "cloud", "proxy", "desktop", "ollama")
ANSWER = ".response:last-child"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One browser for all tests."""
    made = Chromium()
    pytest_twisted.blockon(defer.ensureDeferred(made.start()))
    yield made
    pytest_twisted.blockon(defer.ensureDeferred(made.close()))


@pytest_twisted.async_yield_fixture()
async def tab(chromium: Chromium) -> Any:
    """A page of a fresh context; nothing may be wrong with it afterwards."""
    made = await chromium.tab()
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Forget what the last test told the fake Ollama."""
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").ollama.reset()


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def ready(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    """Log in, and wait until a question may be asked."""
    await log_in(tab, cluster, name)
    await tab.expect("#send", lambda it: it.to_be_enabled())


async def ask(tab: Tab, question: str) -> None:
    """Write a question and send it as most people do."""
    await tab.use("#message", lambda box: box.fill(question))
    await tab.use("#message", lambda box: box.press("Enter"))


async def path(tab: Tab, **states: str) -> None:
    """Wait until these nodes of the path are so."""

    def has_text(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_text(state)

    def has_state(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_attribute("data-state", state)

    for name, state in states.items():
        await tab.expect(f"#{name} .state", has_text(state))
        await tab.expect(f"#{name}", has_state(state))


async def asked(cluster: Cluster) -> Record:
    """Wait for the question to reach Ollama."""
    return await cluster.ollama.wait_for(lambda record: record.path == "/api/chat")


def questions(cluster: Cluster) -> list[dict[str, Any]]:
    """What Ollama was asked, oldest first."""
    return [json.loads(r.body or b"") for r in cluster.ollama.requests if r.path == "/api/chat"]


async def text(tab: Tab) -> str:
    """Give what the model said last, as it is on the screen now."""
    return await tab.do(lambda page: page.locator(f"{ANSWER} .text").inner_text())


# -- logging in and out


@ensureDeferred
async def test_the_printed_link_signs_in(shared: Cluster, tab: Tab) -> None:
    """It asks, and says who is signed in; the secret is gone from the address and in no log."""
    link = await shared.create_invite("alice")
    await tab.open(link)
    await tab.sees("#login", "Log in as alice?")
    await tab.sees("#login", "You are not logged in.")
    assert await tab.find("location.href") == f"{shared.url}/"
    await tab.click("Log in as alice")
    await tab.sees("#account", "Logged in as alice")
    await tab.misses("#logged-out")
    assert await tab.find("location.href") == f"{shared.url}/"
    secret = link.partition("#invite=")[2]
    assert secret and all(secret not in program.output for program in shared.processes)


@ensureDeferred
async def test_who_is_not_signed_in_is_told_how(shared: Cluster, tab: Tab) -> None:
    """The path is known up to the cloud, and nothing else is offered."""
    await tab.open(shared.url)
    await tab.sees("#logged-out", "ctllm invite")
    await path(tab, browser="ok", cloud="ok", proxy="unknown", desktop="unknown", ollama="unknown")
    await tab.misses("#chat")
    await tab.misses("#account")


@ensureDeferred
async def test_a_used_link_says_so(shared: Cluster, tab: Tab) -> None:
    """It signs nobody in, and whoever is signed in stays so."""
    link = await shared.create_invite("alice")
    await shared.log_in(link)
    await tab.open(link)
    await tab.sees("#logged-out-reason", "This login link has expired or was used before.")
    assert await tab.find("location.hash") == ""
    await log_in(tab, shared)
    await tab.open(link)
    await tab.sees("#status", "or was used before. You are still logged in.")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_a_foreign_page_signs_nobody_in(shared: Cluster, tab: Tab) -> None:
    """Led to a link, the user is asked; until a yes nothing changes and nothing is spent."""
    link = await shared.create_invite("bob")
    await tab.open(link)
    await tab.click("Cancel")
    await tab.sees("#logged-out", "You are not logged in")
    await ready(tab, shared)
    await tab.use("#message", lambda box: box.fill("for alice alone"))
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))
    await tab.sees("#login-title", "Log in as bob?")
    await tab.sees("#login-effect", "You are logged in as alice")
    assert await tab.find("document.activeElement.id") == "decline-login"
    assert await tab.find("location.hash") == ""
    await tab.click("Stay alice")
    await tab.sees("#user-name", "alice")
    await tab.expect("#message", lambda it: it.to_have_value("for alice alone"))
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))
    await tab.click("Log in as bob")
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.expect("#message", lambda it: it.to_have_value(""))
    assert not [each for each in questions(shared) if "alice alone" in str(each)]


@ensureDeferred
async def test_a_link_for_who_is_signed_in_already(shared: Cluster, tab: Tab) -> None:
    """There is nothing to ask: it is used at once."""
    await log_in(tab, shared)
    link = await shared.create_invite("alice")
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))

    async def spent() -> bool:
        body = {"invite": link.partition("#invite=")[2]}
        return (await shared.request("POST", "/ctllm/session/introspect", body))[0] == 401

    await wait_until(spent, "the link to be used")
    await tab.misses("#login")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_other_tabs_notice_who_is_signed_in(shared: Cluster, tab: Tab) -> None:
    """They show the new user, forget the old one's words, and hear of a sign-out."""
    await ready(tab, shared)
    await ask(tab, "a question of alice's")
    await tab.sees(f"{ANSWER} .end", "Complete.")
    await tab.use("#message", lambda box: box.fill("what alice began to write"))
    link = await shared.create_invite("bob")
    other = await tab.do(lambda page: page.context.new_page())
    await tab.do(lambda _: other.goto(link))
    await tab.do(lambda _: other.get_by_role("button", name="Log in as bob").click())
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.sees("#status", "You are logged in as bob now, from another tab.")
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.expect("#log article", lambda it: it.to_have_count(0))
    await tab.do(lambda _: other.get_by_role("button", name="Log out").click())
    await tab.sees("#logged-out-reason", "You logged out in another tab.")
    await tab.misses("#chat")


@ensureDeferred
async def test_settings(shared: Cluster, tab: Tab) -> None:
    """A link leads there, signed in; they are left for the page, and opened from it."""
    link = await shared.create_invite("alice")
    await tab.open(f"{link}&view=settings")
    await tab.click("Log in as alice")
    await tab.sees("#settings-user", "alice")
    await tab.sees("#settings-url", shared.url)
    await tab.sees("#settings-desktops", "Ollama is running")
    assert await tab.find("location.hash") == "#view=settings"
    await tab.click("Close")
    await tab.misses("#settings")
    await tab.do(lambda page: page.wait_for_url(f"{shared.url}/"))
    await tab.click("Settings")
    await tab.sees("#settings-user", "alice")


@ensureDeferred
async def test_a_reload_keeps_the_session_and_signing_out_ends_it(
    shared: Cluster, tab: Tab
) -> None:
    """A cookie that no script reads has it, until the user or the browser lets go."""
    await log_in(tab, shared)
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    [cookie] = await tab.do(lambda page: page.context.cookies())
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        "ctllm-session", True, "Strict", "/ctllm/session",
    )  # fmt: skip
    await tab.click("Log out")
    await tab.sees("#logged-out-reason", "You have logged out.")
    await tab.misses("#chat")
    assert await tab.do(lambda page: page.context.cookies()) == []
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")
    await tab.do(lambda page: page.context.add_cookies([cast(Any, cookie)]))
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")


@ensureDeferred
async def test_a_token_is_renewed_before_it_ends(shared: Cluster, tab: Tab) -> None:
    """Ten minutes later the user is signed in as before; without a session, signed out."""
    await tab.hurry()
    await ready(tab, shared)

    def after(page: Page, minutes: int) -> int:
        with page.expect_response("**/ctllm/session/token") as renewal:
            page.evaluate(f"ahead = {minutes * 60}")
        return renewal.value.status

    assert await tab.do(lambda page: after(page, 10)) == 200
    await path(tab, proxy="ok", ollama="ok")
    await tab.do(lambda page: page.context.clear_cookies())
    assert await tab.do(lambda page: after(page, 20)) == 401
    await tab.sees("#logged-out-reason", "Your session has ended.")


# -- the path


@ensureDeferred
async def test_the_path_and_the_models_are_shown(shared: Cluster, tab: Tab) -> None:
    """Each part says that it is there, and what it is."""
    await ready(tab, shared)
    await path(tab, **dict.fromkeys(NODES, "ok"))
    [desktop] = await shared.list_desktops(shared.alice_token)
    await tab.sees("#cloud .detail", f"ctllm {__version__}")
    await tab.sees("#proxy .detail", "running")
    await tab.sees("#desktop .detail", desktop["name"])
    await tab.sees("#ollama .detail", f"version {desktop['version']}")
    await tab.expect("#models option", lambda it: it.to_have_text(shared.ollama.models))
    await tab.misses("#demo")


@ensureDeferred
async def test_a_user_without_a_desktop_is_told_what_to_do(shared: Cluster, tab: Tab) -> None:
    """The proxy runs, and is asleep when it was stopped; the command to enter is there to copy."""
    await tab.hurry()
    await log_in(tab, shared, "carol")
    await path(tab, proxy="ok", desktop="off", ollama="unknown")
    await tab.sees("#hint", "ctllm login")
    await tab.expect("#send", lambda it: it.to_be_disabled())
    token = await shared.create_token("carol")
    assert (await shared.request("DELETE", "/ctllm/proxy", token=token))[0] == 204
    await path(tab, proxy="off", desktop="unknown", ollama="unknown")
    await tab.sees("#proxy .detail", "not running")


@pytest.mark.parametrize(
    ("told", "state", "detail", "hint"),
    [
        ({"state": "starting", "error": None}, "waiting", "starting", ""),
        ({"state": "failed", "error": "It ran out of luck."}, "off", "did not start", "of luck"),
    ],
)
@ensureDeferred
async def test_a_proxy_that_does_not_run_yet(
    shared: Cluster, tab: Tab, told: dict[str, Any], state: str, detail: str, hint: str
) -> None:
    """States that pass too fast to be met: the cloud's answer is made up."""
    whole = {"since": 0, "exchanges": 0, "desktops": 0, "idle_seconds": None, **told}
    await tab.do(
        lambda page: page.route(
            "**/ctllm/proxy",
            lambda route: (
                route.fulfill(json=whole) if route.request.method == "GET" else route.continue_()
            ),
        )
    )
    await log_in(tab, shared)
    await path(tab, cloud="ok", proxy=state, desktop="unknown", ollama="unknown")
    await tab.sees("#proxy .detail", detail)
    await tab.expect("#hint", lambda it: it.to_contain_text(hint))


@ensureDeferred
async def test_a_browser_without_a_network_says_so(shared: Cluster, tab: Tab) -> None:
    """And sees at once that it is back."""
    await ready(tab, shared)
    await tab.do(lambda page: page.context.set_offline(True))
    await path(tab, browser="off", cloud="off", proxy="unknown", desktop="unknown")
    await tab.do(lambda page: page.context.set_offline(False))
    await path(tab, **dict.fromkeys(NODES, "ok"))


def ollama(cluster: Cluster, port: int) -> Any:
    """An Ollama that can be killed."""
    return cluster.start_process(
        "ollama", "python", "-m", "tests.fake_ollama", f"--port={port}", "--model=llama3.2"
    )


@ensureDeferred
async def test_the_path_shows_what_goes_and_what_comes_back(cluster: Cluster, tab: Tab) -> None:
    """Ollama, the desktop, the cloud: the page sees each go and come without being touched."""
    port = free_port()
    cloud = await cluster.start_cloud("--reconnect-grace-seconds=1")
    options = ("--ollama-check-interval-seconds=1", "--desktop-name=attic")
    running = ollama(cluster, port)
    desktop = await cluster.start_desktop("alice", port, *options)
    await tab.hurry()
    await ready(tab, cluster)
    await running.stop(signal.SIGKILL)
    await path(tab, desktop="ok", ollama="off")
    await tab.sees("#hint", "Ollama is not running on attic. Start it there.")
    ollama(cluster, port)
    await path(tab, ollama="ok")
    await desktop.stop()
    await path(tab, proxy="ok", desktop="off", ollama="unknown")
    await tab.sees("#hint", "No desktop is connected.")
    cluster.run_role(
        "desktop", "alice", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off", *options
    )
    await path(tab, desktop="ok", ollama="ok")
    await cloud.stop(signal.SIGKILL)
    await path(tab, browser="ok", cloud="off", proxy="unknown", desktop="unknown")
    await tab.sees("#hint", "The cloud cannot be reached. Trying again in 5 s.")
    await cluster.start_cloud("--reconnect-grace-seconds=1")
    await path(tab, **dict.fromkeys(NODES, "ok"))
    await tab.sees("#user-name", "alice")


# -- talking


@ensureDeferred
async def test_an_answer_grows_piece_by_piece(shared: Cluster, tab: Tab) -> None:
    """Words are there as they are said; the end says that it is whole."""
    words = tuple(f"word{n} " for n in range(40))
    shared.ollama.script("/api/chat", Script(lines=words, line_interval=0.04))
    await ready(tab, shared)
    await ask(tab, "hello there")
    await tab.sees(".question", "hello there")
    await tab.sees(ANSWER, "word0")
    await tab.sees("#status", "Receiving the response.")
    seen: list[str] = []

    async def last() -> bool:
        seen.append(await text(tab))
        return "word39" in seen[-1]

    await wait_until(last, "the last word")
    assert len(set(seen)) > 5
    assert all(later.startswith(sooner) for sooner, later in pairwise(seen))
    await tab.sees(f"{ANSWER} .end", "Complete.")
    assert await text(tab) == "".join(words)
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.misses("#stop")


@ensureDeferred
async def test_a_conversation_goes_on_and_starts_over(shared: Cluster, tab: Tab) -> None:
    """The model hears what was said before, in the order of it, until the user starts over."""
    await ready(tab, shared)
    await tab.use("#models", lambda box: box.select_option("nomic-embed-text:latest"))
    await tab.use("#message", lambda box: box.fill("first"))
    await tab.use("#message", lambda box: box.press("Shift+Enter"))
    await tab.use("#message", lambda box: box.press_sequentially("line"))
    await tab.click("Send")
    await tab.sees(f"{ANSWER} .end", "Complete.")
    said = await text(tab)
    await ask(tab, "second")
    await tab.expect(".end", lambda it: it.to_have_text(["Complete.", "Complete."]))
    assert "second" in await text(tab)
    bodies = questions(shared)
    assert [body["model"] for body in bodies] == ["nomic-embed-text:latest"] * 2
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "first\nline"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "second"},
    ]
    await tab.click("New chat")
    await tab.misses("article")
    await ask(tab, "third")
    await tab.sees(f"{ANSWER} .end", "Complete.")
    assert questions(shared)[2]["messages"] == [{"role": "user", "content": "third"}]


@pytest.mark.parametrize(
    "script",
    [Script(lines=1000, line_interval=0.05), Script(load_seconds=LONG)],
    ids=["streaming", "loading"],
)
@ensureDeferred
async def test_stop_cancels(shared: Cluster, tab: Tab, script: Script) -> None:
    """Ollama stops too; what was said stays, marked, and the next question may be asked."""
    shared.ollama.script("/api/chat", script, times=1)
    await ready(tab, shared)
    await ask(tab, "go on and on")
    record = await asked(shared)
    if script.lines:
        await tab.sees(ANSWER, "word")
    await tab.misses("#send")
    assert record.closed_by is None
    await tab.click("Stop")
    await record.closed
    assert record.closed_by == "client"
    await tab.sees(f"{ANSWER} .end", "Stopped.")
    await ask(tab, "and now?")
    await tab.sees(f"{ANSWER} .end", "Complete.")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        # Which of the two is a race: what comes right before the end is lost with the connection.
        (
            Script(break_after=2, pause_after=(2, 0.5)),
            r"The connection was interrupted\.|Error: .*",
        ),
        (Script(error_in_stream=(2, "it fell over")), "Error: it fell over.*"),
    ],
    ids=["broken off", "error"],
)
@ensureDeferred
async def test_half_an_answer_is_marked(
    shared: Cluster, tab: Tab, script: Script, words: str
) -> None:
    """What came stays, and never passes for a whole answer."""
    shared.ollama.script("/api/chat", script)
    await ready(tab, shared)
    await ask(tab, "tell me something long")
    marked = re.compile(rf"This response is incomplete\. ({words})")
    await tab.expect(f"{ANSWER} :is(.broken, .error)", lambda it: it.to_have_text(marked))
    assert await text(tab) == "This is"


@ensureDeferred
async def test_a_question_that_was_refused_waits_in_the_box(shared: Cluster, tab: Tab) -> None:
    """Ollama's own words say why; to ask again is one key."""
    refusal = Script(error_before=(500, '{"error":"out of memory"}', {}))
    shared.ollama.script("/api/chat", refusal, times=1)
    await ready(tab, shared)
    await ask(tab, "hello")
    await tab.sees(f"{ANSWER} .error", "Error: out of memory")
    await tab.expect("#message", lambda it: it.to_have_value("hello"))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(f"{ANSWER} .end", "Complete.")


@ensureDeferred
async def test_a_cloud_that_dies_in_mid_answer_leaves_it_marked(cluster: Cluster, tab: Tab) -> None:
    """The connection is cut without a word, and the page says just that."""
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    await cluster.start_desktop("alice", port)
    await ready(tab, cluster)
    await ask(tab, "hello")
    await tab.sees(ANSWER, "word")
    await cloud.stop(signal.SIGKILL)
    marked = "This response is incomplete. The connection was interrupted."
    await tab.sees(f"{ANSWER} .broken", marked)


@ensureDeferred
async def test_the_demo_wears_a_badge(shared: Cluster, tab: Tab) -> None:
    """Nobody takes the fake Ollama for a model; the desktop's name is text, whatever is in it."""
    name = "<b>attic</b>"
    await shared.start_desktop("dora", free_port(), "--demo=on", f"--desktop-name={name}")
    await ready(tab, shared, "dora")
    await path(tab, desktop="ok", ollama="demo")
    await tab.expect("#desktop .detail", lambda it: it.to_have_text(name))
    await tab.sees("#demo", "demo model")
    await ask(tab, "hello there")
    await tab.sees(ANSWER, "demo:echo")
    await tab.sees(f"{ANSWER} .end", "Complete.")
    assert "hello there" in await text(tab)


# -- safety


MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@ensureDeferred
async def test_markup_stays_text(shared: Cluster, tab: Tab) -> None:
    """What people and models write is shown as it is."""
    shared.ollama.script("/api/chat", Script(lines=(MARKUP, " <b>done</b>")))
    await ready(tab, shared)
    await ask(tab, MARKUP)
    await tab.sees(f"{ANSWER} .end", "Complete.")
    assert await text(tab) == f"{MARKUP} <b>done</b>"
    await tab.expect(".question .text", lambda it: it.to_have_text(MARKUP))
    assert await tab.find("document.querySelector('#log :is(img, script, b)')") is None
    assert await tab.find("document.title") == "ctllm"


@ensureDeferred
async def test_the_policy_blocks_what_got_in_anyway(shared: Cluster, chromium: Chromium) -> None:
    """Neither markup nor code nor another site is let in: this also shows that tests notice."""
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


# -- looks


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360), ("light", 360)])
@ensureDeferred
async def test_the_page_fits(
    shared: Cluster, chromium: Chromium, tmp_path: Any, scheme: str, width: int
) -> None:
    """Nothing sticks out at the side, whatever is on the page; pictures are for a look at it."""
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    script = Script(lines=("A very " + "l" * 200 + "ong word. ", "Then some more. " * 20))
    shared.ollama.script("/api/chat", script)

    async def fits(name: str) -> None:
        file = tmp_path / f"{scheme}-{width}-{name}.png"
        await tab.do(lambda page: page.screenshot(path=file, full_page=True))
        assert await tab.find("document.documentElement.scrollWidth") <= width

    await tab.open(shared.url)
    await tab.sees("#cloud .detail", "ctllm")
    await fits("logged-out")
    await tab.open(await shared.create_invite("a" * 64))
    await tab.sees("#login", "Log in as aaa")
    await fits("asked")
    await tab.click("Cancel")
    await ready(tab, shared, "alice")
    await fits("ready")
    await tab.open(await shared.create_invite("bob"))
    await tab.sees("#login", "You are logged in as alice")
    await fits("asked-again")
    await tab.click("Stay alice")
    await tab.click("Settings")
    await tab.sees("#settings-desktops", "Ollama is running")
    await fits("settings")
    await tab.click("Close")
    await ask(tab, "What is " + "long" * 60 + "?")
    await tab.sees(f"{ANSWER} .end", "Complete.")
    await fits("answered")
    await tab.close()

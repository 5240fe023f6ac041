"""What a screen reader is told: Chromium's accessibility tree, and what its live regions say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import log_in
from tests.fake_ollama import Script

WORDS = tuple(
    f"{word} " for n in range(1, 13) for word in f"Sentence {n} has seven words in it.".split()
)
#: Keeps what each live region has said, in order.
RECORD = """() => {
    window.said = [];
    const live = '[aria-live], [role=status], [role=log], [role=alert]';
    new MutationObserver(records => {
        const regions = new Set(records.map(({target}) =>
            (target instanceof Element ? target : target.parentElement)?.closest(live)));
        for (const region of regions) {
            const text = region?.textContent.trim();
            if (text) said.push([region.getAttribute('role'), text]);
        }
    }).observe(document.body, {childList: true, characterData: true, subtree: true});
}"""
CONTROLS = {
    "button", "checkbox", "combobox", "DisclosureTriangle", "link", "menuitem",
    "option", "radio", "searchbox", "spinbutton", "tab", "textbox",
}  # fmt: skip


class Node:
    """A node of the accessibility tree."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.id: str = raw["nodeId"]
        self.parent: str | None = raw.get("parentId")
        self.role: str = raw.get("role", {}).get("value", "")
        self.name: str = raw.get("name", {}).get("value", "")
        self.is_ignored: bool = raw["ignored"]
        self.properties: dict[str, Any] = {
            each["name"]: each["value"].get("value") for each in raw.get("properties", [])
        }

    def __repr__(self) -> str:
        return f"{self.role} {self.name!r} {self.properties}"


class AccessibilityTree:
    """What Chromium tells a screen reader of a page."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self.nodes = {node.id: node for node in map(Node, nodes)}

    def ancestors(self, node: Node) -> Iterator[Node]:
        while node.parent is not None and (found := self.nodes.get(node.parent)):
            yield found
            node = found

    def texts(self, words: str) -> list[Node]:
        return [each for each in self.nodes.values() if is_text(each) and words in each.name]

    def region(self, node: Node) -> Node | None:
        """Return the live region that a node is in."""
        live = ("log", "status", "alert")
        return next((each for each in self.ancestors(node) if each.role in live), None)


def is_text(node: Node) -> bool:
    return node.role == "StaticText" and not node.is_ignored


async def read_tree(tab: Tab) -> AccessibilityTree:
    session = await tab.do(lambda page: page.context.new_cdp_session(page))
    answer = await tab.do(lambda _: session.send("Accessibility.getFullAXTree"))
    await tab.do(lambda _: session.detach())
    return AccessibilityTree(answer["nodes"])


async def send(tab: Tab, text: str) -> None:
    await tab.expect("#models", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill(text))
    await tab.use("#message", lambda box: box.press("Enter"))


@ensureDeferred
async def test_an_answer_is_told_by_sentences_and_its_end_once(shared: Cluster, tab: Tab) -> None:
    """In one polite region, never in the answer itself. The title says that the model answers."""
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=WORDS, line_interval=0.1), times=1)
    await log_in(tab, shared)
    await tab.find(RECORD)
    await send(tab, "Count.")
    await tab.sees(".response", "Sentence 4")
    assert await tab.find("document.title") == "● Count. · ctllm"
    tree = await read_tree(tab)
    regions = [tree.region(node) for node in tree.texts("Sentence 1 has")]
    assert {node and node.role for node in regions} == {None, "log"}
    (log,) = [node for node in regions if node]
    assert (log.properties["live"], log.properties["atomic"]) == ("polite", True)
    (answer,) = [each for each in tree.nodes.values() if each.role == "article"][1:]
    assert answer.properties["busy"] and "live" not in answer.properties
    await tab.expect(".response:last-child .end.complete", lambda it: it.to_be_attached())
    assert await tab.find("document.title") == "Count. · ctllm"
    said = await tab.find("said")
    spoken = [text for role, text in said if role == "log"]
    print(len(WORDS), "tokens:", spoken)
    assert " ".join(spoken) == "".join(WORDS) + "Complete."
    assert 2 < len(spoken) < 9  # about one in two seconds
    others = [text for role, text in said if role != "log"]
    assert not [text for text in others if "Sentence" in text or "Complete" in text], others
    assert {role for role, _ in said} == {"log", "status"}, said
    finished = [node for node in (await read_tree(tab)).nodes.values() if node.role == "article"]
    assert not any(node.properties.get("busy") for node in finished)


@ensureDeferred
async def test_an_end_that_is_no_success_is_told_too(shared: Cluster, tab: Tab) -> None:
    """When it happens, and not again to who comes back to the conversation."""
    shared.ollama.reset()
    broken = Script(lines=("One. ", "Two. "), error_in_stream=(2, "out of memory"))
    shared.ollama.script("/api/chat", broken, times=1)
    await log_in(tab, shared)
    await tab.find(RECORD)
    await send(tab, "first")
    await tab.sees(".end.broken", "out of memory")
    spoken = [text for role, text in await tab.find("said") if role == "log"]
    assert spoken == ["One. Two. This response is incomplete. Error: out of memory"]
    shared.ollama.script("/api/chat", Script(lines=WORDS, line_interval=0.5), times=1)
    await send(tab, "second")
    await tab.sees(".response:last-child", "Sentence")
    record = await shared.ollama.wait_for(lambda it: it.path == "/api/chat" and it.lines_sent > 2)
    await tab.use("#stop", lambda button: button.click())
    await record.closed
    await tab.expect(".response:last-child .end.stopped", lambda it: it.to_be_attached())
    last = [text for role, text in await tab.find("said") if role == "log"][-1]
    assert last.endswith("Stopped.") and last.count("Stopped.") == 1
    await tab.click("New chat")
    await tab.misses("article")
    await tab.find("void (said.length = 0)")
    await tab.use(".conversation a", lambda link: link.click())
    await tab.sees(".end.broken", "out of memory")
    assert not [text for _, text in await tab.find("said") if "memory" in text or "One" in text]


@ensureDeferred
async def test_every_control_of_the_chat_has_a_name_and_a_role(
    shared: Cluster, chromium: Chromium
) -> None:
    """Also in its dialogs and menus, and on a narrow screen."""
    shared.ollama.reset()
    tab = await chromium.tab(reduced_motion="reduce")
    await log_in(tab, shared)
    answer = "A table.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint(1)\n```\n"
    shared.ollama.script("/api/chat", Script(lines=(answer,)), times=1)
    await send(tab, "hello")
    await tab.expect(".response .end.complete", lambda it: it.to_be_attached())
    seen = await controls(tab)
    assert {"Your message", "Send", "Attach images or text files", "Model"} <= seen
    await tab.use("#chat-settings-button", lambda button: button.click())
    await tab.expect("#chat-settings", lambda it: it.to_be_visible())
    assert {"Temperature", "Top P", "Name of the preset", "Done"} <= await controls(tab)
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.use("#conversations-menu", lambda button: button.click())
    assert {"Import…", "Delete all…"} <= await controls(tab)
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.do(lambda page: page.set_viewport_size({"width": 320, "height": 640}))
    await tab.expect("#open-drawer", lambda it: it.to_be_visible())
    assert "Menu" in await controls(tab)
    await tab.close()


async def controls(tab: Tab) -> set[str]:
    """Return the names of the controls on the screen; fails the test if one has none."""
    nodes = [node for node in (await read_tree(tab)).nodes.values() if not node.is_ignored]
    focusable = [node for node in nodes if node.properties.get("focusable")]
    nameless = [node for node in nodes if node.role in CONTROLS and not node.name.strip()]
    assert not nameless, nameless
    unknown = [node for node in focusable if node.role in ("generic", "none", "Unknown", "")]
    assert not unknown, unknown
    return {node.name for node in nodes if node.role in CONTROLS}

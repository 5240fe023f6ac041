"""How fast the chat page is: its first load, opening many conversations, a long answer.

`python -m benchmarks.page` from the root of the repository, with Chromium and a built page. The
page comes from a whole system on this machine: cloud, streaming proxy, desktop and a fake Ollama.
The browser is slowed down as a phone is: its processor by `--slowdown`, its network for the first
load.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page
from twisted.internet import task
from twisted.internet.defer import Deferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.fake_ollama import Script

#: A phone with 4G: milliseconds, and bytes a second.
NETWORK = {
    "offline": False,
    "latency": 100,
    "downloadThroughput": 9e6 / 8,
    "uploadThroughput": 4e6 / 8,
}
ANSWER_BYTES = 200_000
MESSAGES = 500
CONVERSATIONS = 2_000
#: The state of the screen at which a person can do something.
IS_READY = "document.querySelector('#send, #providers, #logged-out') !== null"
IS_STREAMING = "document.querySelector('.response:last-child')?.ariaBusy !== 'false'"
#: Notes when the page is ready, and every task that is longer than 50 ms.
OBSERVE = f"""
window.longTasks = [];
new PerformanceObserver(list => {{
    for (const entry of list.getEntries()) longTasks.push(Math.round(entry.duration));
}}).observe({{type: 'longtask', buffered: true}});
const watch = new MutationObserver(() => {{
    if (!({IS_READY})) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => {{
        document.documentElement.dataset.readyAt = performance.now();
    }}));
}});
watch.observe(document, {{childList: true, subtree: true}});
"""
READ_SIZES = """performance.getEntriesByType('resource')
    .filter(each => /\\.(js|css)$/.test(new URL(each.name).pathname))
    .concat(performance.getEntriesByType('navigation'))
    .map(each => [each.name, each.encodedBodySize, each.startTime])"""
HAS_DATABASE = """async () => (await indexedDB.databases())
    .some(each => each.name.startsWith('ctllm-conversations'))"""
#: Adds conversations to the database of the user who is logged in, as web/src/storage does.
SEED = """async ([count, messages, text]) => {
    const {name} = (await indexedDB.databases())
        .find(each => each.name.startsWith('ctllm-conversations'));
    const database = await new Promise((resolve, reject) => {
        const opening = indexedDB.open(name);
        opening.onsuccess = () => resolve(opening.result);
        opening.onerror = () => reject(opening.error);
    });
    const id = () => [...crypto.getRandomValues(new Uint8Array(16))]
        .map(byte => byte.toString(16).padStart(2, '0')).join('');
    const timed = value => ({value, at: 1});
    let last = '';
    for (let number = 0; number < count; number += 1) {
        const writing = database.transaction(['summaries', 'heads', 'messages'], 'readwrite');
        const conversation = last = id();
        const at = Date.now() - (count - number) * 60_000;
        let parent = null;
        for (let index = 0; index < messages; index += 1) {
            const isAnswer = index % 2 === 1;
            const message = {
                conversation, id: id(), parent, role: isAnswer ? 'assistant' : 'user',
                content: isAnswer ? text : `Question ${index}`, thinking: '', toolCalls: [],
                toolName: '', model: isAnswer ? 'llama3.2' : '', state: 'complete', error: '',
                generation: null, statistics: null, createdAt: at, updatedAt: at,
                attachmentCount: 0,
            };
            writing.objectStore('messages').put(message);
            parent = message.id;
        }
        const title = `Conversation ${number}`;
        writing.objectStore('heads').put({
            version: 1, id: conversation, createdAt: at, title: timed(title), system: timed(''),
            options: timed({}), think: timed(null), model: timed(''), desktop: timed(''),
            leaf: timed(parent),
        });
        writing.objectStore('summaries').put({
            id: conversation, title, createdAt: at, updatedAt: at, messages, runningIds: [],
            changes: 1,
        });
        await new Promise(resolve => { writing.oncomplete = resolve; });
    }
    database.close();
    return last;
}"""
#: What a trace records: the tasks of each thread.
TRACED = ["-*", "toplevel"]
WORDS = "the model answers with a long text about many things and code that is of use".split()


def write_answer(size: int) -> str:
    """Return Markdown of headings, paragraphs, lists, code, tables and formulas."""
    chooser = random.Random(14)

    def say(count: int) -> str:
        return " ".join(chooser.choice(WORDS) for _ in range(count))

    text = ""
    while len(text) < size:
        items = "\n".join(f"- {say(12)} *with* `code`" for _ in range(5))
        code = "\n".join(f"def f{n}(a, b):\n    return a + {n}  # {say(4)}" for n in range(10))
        rows = "\n".join(f"| {say(3)} | {n} |" for n in range(8))
        text += f"## {say(4)}\n\n{say(90)} **bold** [link](https://example.com/). $x^2 + y_1$\n\n"
        text += f"{items}\n\n```python\n{code}\n```\n\n| a | b |\n|---|--:|\n{rows}\n\n"
    return text[:size]


def browser_of(page: Page) -> Browser:
    assert page.context.browser is not None
    return page.context.browser


def read_thread_times(trace: bytes) -> list[float]:
    """Return the processor time of each task of the page, in milliseconds, longest first.

    Unlike the time of a clock, it has no time in it during which other processes ran.
    """
    events = json.loads(trace)["traceEvents"]
    pages = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    spans = [each for each in events if each["ph"] == "X" and (each["pid"], each["tid"]) in pages]
    # The browser keeps another process ready.
    busiest = Counter((each["pid"], each["tid"]) for each in spans).most_common(1)[0][0]
    spans = [each for each in spans if (each["pid"], each["tid"]) == busiest]
    times, end = [], 0.0
    for span in sorted(spans, key=lambda each: (each["ts"], -each["dur"])):
        if span["ts"] >= end:  # not a part of the one before
            times.append(span.get("tdur", 0) / 1000)
            end = span["ts"] + span["dur"]
    return sorted(times, reverse=True)


class PageBenchmark:
    """The measurements; each returns rows of a name and a value."""

    def __init__(self, cluster: Cluster, chromium: Chromium, slowdown: float) -> None:
        self._cluster = cluster
        self._chromium = chromium
        self._slowdown = slowdown

    async def _open_tab(self) -> Tab:
        tab = await self._chromium.tab(viewport={"width": 390, "height": 844})
        await tab.do(lambda page: page.add_init_script(OBSERVE))
        return tab

    def _throttle(self, page: Page, network: dict[str, Any] | None = None) -> CDPSession:
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": self._slowdown})
        if network:
            session.send("Network.enable")
            session.send("Network.emulateNetworkConditions", network)
        return session

    def _observe(self, page: Page) -> CDPSession:
        return page.context.new_cdp_session(page)

    async def _log_in(self, tab: Tab) -> None:
        await tab.open(await self._cluster.create_invite("alice"))
        await tab.click("Log in as alice")
        await tab.expect("#send", lambda it: it.to_be_attached())
        await tab.do(lambda page: page.wait_for_function(HAS_DATABASE))

    async def first_load(self) -> list[tuple[str, str]]:
        """The first visit of somebody who is not logged in, over a slow network."""
        tab = await self._open_tab()
        await tab.do(lambda page: self._throttle(page, NETWORK))
        # By a name, as a phone does: a page of 127.0.0.1 asks first whether a desktop serves it.
        await tab.open(self._cluster.url.replace("127.0.0.1", "cloud.localhost"))
        ready_at = await self._wait_until_ready(tab)
        sizes = await tab.find(READ_SIZES)
        needed = sum(size for _, size, start in sizes if start < ready_at)
        paint = await tab.find(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        await tab.do(lambda page: page.context.close())
        return [
            ("first load, bytes (compressed)", f"{needed:,.0f}"),
            ("first load, first paint", f"{paint:.0f} ms"),
            ("first load, interactive", f"{ready_at:.0f} ms"),
        ]

    async def many_conversations(self) -> list[tuple[str, str]]:
        """Opening the page of a user who has thousands of conversations."""
        tab = await self._open_tab()
        await self._log_in(tab)
        await tab.do(lambda page: page.evaluate(SEED, [CONVERSATIONS, 4, write_answer(1_000)]))
        rows = []
        slower = f", processor {self._slowdown:g} times slower"
        for name, throttle in (("", self._observe), (slower, self._throttle)):
            await tab.do(throttle)
            await tab.do(lambda page: page.reload())
            ready_at = await self._wait_until_ready(tab)
            rows.append(
                (f"opening with {CONVERSATIONS:,} conversations{name}", f"{ready_at:.0f} ms")
            )
        await tab.do(lambda page: page.context.close())
        return rows

    async def streaming(self) -> list[tuple[str, str]]:
        """A long answer at the end of a long conversation."""
        tab = await self._open_tab()
        await self._log_in(tab)
        seed = [1, MESSAGES, write_answer(800)]
        last = await tab.do(lambda page: page.evaluate(SEED, seed))
        await tab.do(lambda page: page.reload())
        await tab.expect("#send", lambda it: it.to_be_attached())
        await tab.find(f"void (location.hash = '#view=chat&id={last}')")
        await tab.expect(".question", lambda it: it.not_to_have_count(0))
        await tab.expect("#send", lambda it: it.to_be_enabled())
        answer = write_answer(ANSWER_BYTES)
        pieces = tuple(answer[start : start + 40] for start in range(0, len(answer), 40))
        self._cluster.ollama.script("/api/chat", Script(lines=pieces, line_interval=0.004))
        await tab.do(self._throttle)
        await tab.use("#message", lambda box: box.fill("A long answer, please."))
        await tab.find("void longTasks.splice(0)")
        await tab.do(lambda page: browser_of(page).start_tracing(page=page, categories=TRACED))
        await tab.use("#message", lambda box: box.press("Enter"))
        await tab.expect(".response[aria-busy=true]", lambda it: it.to_be_attached())
        # Playwright's assertions would take longer than anything that the page does.
        while await tab.find(IS_STREAMING):
            await tab.do(lambda page: page.wait_for_timeout(1_000))
        tasks = sorted(await tab.find("longTasks"), reverse=True)
        times = read_thread_times(await tab.do(lambda page: browser_of(page).stop_tracing()))
        await tab.do(lambda page: page.context.close())
        name = f"{ANSWER_BYTES // 1000} kB in a conversation of {MESSAGES} messages"
        return [
            (f"{name}, tasks above 50 ms", str(len(tasks))),
            (f"{name}, longest tasks", f"{tasks[:8]} ms"),
            (f"{name}, tasks above 50 ms of processor time", str(sum(it > 50 for it in times))),
            (f"{name}, most processor time", f"{[round(it) for it in times[:8]]} ms"),
        ]

    async def _wait_until_ready(self, tab: Tab) -> float:
        await tab.expect("html", lambda it: it.to_have_attribute("data-ready-at", re.compile(".")))
        return float(await tab.find("document.documentElement.dataset.readyAt"))


async def measure(slowdown: float, only: list[str]) -> list[tuple[str, str]]:
    """Start everything, measure, and stop everything."""
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory))
        chromium = Chromium()
        try:
            await cluster.start_cloud()
            cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
            await cluster.start_desktop("alice", port)
            await chromium.start()
            benchmark = PageBenchmark(cluster, chromium, slowdown)
            measurements: dict[str, Callable[[], Any]] = {
                "load": benchmark.first_load,
                "open": benchmark.many_conversations,
                "stream": benchmark.streaming,
            }
            for name, act in measurements.items():
                if not only or name in only:
                    rows += await act()
        finally:
            await chromium.close()
            await cluster.stop()
    return rows


def main() -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slowdown", type=float, default=4.0, help="of the processor (4)")
    parser.add_argument("--only", action="append", default=[], choices=["load", "open", "stream"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    def run(_: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(report())

    async def report() -> None:
        rows = await measure(arguments.slowdown, arguments.only)
        if arguments.json:
            print(json.dumps(dict(rows), indent=2))
        else:
            for name, value in rows:
                print(f"| {name:<70} | {value:>12} |")
        sys.stdout.flush()

    task.react(run)


if __name__ == "__main__":
    main()

"""Models in the page: lists, details, copies, deletions and pulls, in a real Chromium."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.page_checks import LAYOUTS, check_screen, log_in, show_view
from tests.fake_ollama import Script

#: A pull that has begun, and goes on after more time than any test takes.
SLOW_PULL = Script(lines=8, line_interval=0.3, pause_after=(4, 300.0))


@pytest.fixture(autouse=True)
def reset_fake_ollama(shared: Cluster) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    shared.ollama.reset()


async def show_models(tab: Tab, cluster: Cluster) -> None:
    await log_in(tab, cluster)
    await show_view(tab, "models")
    await tab.sees("#models-view", cluster.ollama.models[0])


def card(model: str) -> str:
    return f".model:has(.card-name > :text-is('{model}'))"


async def choose(tab: Tab, model: str, action: str) -> None:
    """Choose an action of a model's menu."""
    await tab.click(f"What to do with {model}")
    await tab.do(lambda page: page.get_by_role("menuitem", name=action).click())


async def pull(tab: Tab, model: str) -> None:
    """Pull a model from the open dialog."""
    await tab.use("#pull-name", lambda box: box.fill(model))
    await tab.use("#pull-name", lambda box: box.press("Enter"))


async def wait_for_the_end_of_pulls(cluster: Cluster) -> None:
    pulls = [each for each in cluster.ollama.requests if each.path == "/api/pull"]
    await wait_until(lambda: all(each.closed_by for each in pulls), "the pulls to end")


@ensureDeferred
async def test_the_models_of_a_desktop_are_listed_with_what_is_in_memory(
    shared: Cluster, tab: Tab
) -> None:
    """A model is removed from memory by its menu."""
    [model, *_] = shared.ollama.models
    body = {"model": model, "prompt": "Hi", "stream": False}
    status, _, _ = await shared.request("POST", "/api/generate", body, token=shared.alice_token)
    assert status == 200
    await show_models(tab, shared)
    for name in shared.ollama.models:
        await tab.sees("#models-view", name)
    await tab.sees(card(model), "in memory")
    await tab.sees(card(model), "context of 4,096 tokens")
    await choose(tab, model, "Remove from memory")
    await tab.sees(".toasts", "is not in memory any more")
    await tab.misses(f"{card(model)} .tag")


@ensureDeferred
async def test_the_details_of_a_model_are_shown(shared: Cluster, tab: Tab) -> None:
    """The maker of a model wrote them: markup in them is text."""
    evil = "<img src=x onerror=\"document.title='evil'\">"
    details = {
        "license": f"Do what you want. {evil}",
        "template": "{{ .Prompt }}",
        "details": {"family": evil, "parameter_size": "3.2B", "quantization_level": "Q4_K_M"},
        "model_info": {"llama.context_length": 131072},
        "capabilities": ["completion", "vision"],
    }
    script = Script(error_before=(200, json.dumps(details), {"Content-Type": "application/json"}))
    shared.ollama.script("/api/show", script)
    await show_models(tab, shared)
    await choose(tab, shared.ollama.models[0], "Details")
    await tab.sees("#model-details", "Q4_K_M")
    await tab.sees("#model-details", "131,072 tokens")
    await tab.sees("#model-details", "completion, vision")
    await tab.sees("#model-details", "<img")
    await tab.do(lambda page: page.get_by_text("Licence").click())
    await tab.sees("#model-details [open] pre", "Do what you want.")
    assert await tab.find("document.title") != "evil"
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#model-details")


@ensureDeferred
async def test_a_model_is_copied_and_deleted_after_a_question(shared: Cluster, tab: Tab) -> None:
    [model, *_] = shared.ollama.models
    await show_models(tab, shared)
    await choose(tab, model, "Copy …")
    await tab.use("#copy-model input", lambda box: box.fill("second"))
    await tab.use("#copy-model input", lambda box: box.press("Enter"))
    await tab.misses("#copy-model")
    await tab.sees(card("second:latest"), "demo")
    await choose(tab, "second:latest", "Delete …")
    await tab.sees("#confirmation", "Delete second:latest?")
    await tab.do(lambda page: page.keyboard.press("Enter"))
    await tab.misses("#confirmation")
    assert "second:latest" in shared.ollama.models
    await choose(tab, "second:latest", "Delete …")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await tab.misses(card("second:latest"))
    assert "second:latest" not in shared.ollama.models


@ensureDeferred
async def test_a_pull_shows_its_progress_and_goes_on_without_its_dialog(
    shared: Cluster, tab: Tab
) -> None:
    """Another view is shown in the meantime; the list has the model at the end."""
    shared.ollama.script("/api/pull", Script(lines=20, line_interval=0.2))
    await show_models(tab, shared)
    await tab.click("Pull a model")
    await pull(tab, "qwen3:1.7b")
    await tab.sees("#pull .pull", "qwen3:1.7b to ")
    await tab.sees("#pull .pull", " of 2 GB")
    await tab.sees("#pull .pull", " a second · ")
    await tab.sees("#pull .pull", " left")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#pull")
    await show_view(tab, "status")
    await tab.sees("#status-view", "Connection")
    await show_view(tab, "models")
    await tab.sees("#pulls .pull", "Complete")
    await tab.sees(card("qwen3:1.7b"), "demo")
    await tab.click("Remove qwen3:1.7b from this list")
    await tab.misses("#pulls")


@ensureDeferred
async def test_several_pulls_run_at_once_and_one_is_cancelled(shared: Cluster, tab: Tab) -> None:
    """Ollama sees that it is cancelled; the other one goes on."""
    shared.ollama.script("/api/pull", SLOW_PULL)
    await show_models(tab, shared)
    await tab.click("Pull a model")
    for model in ("first", "second"):
        await pull(tab, model)
    await tab.expect("#pull .pull[data-pull=running]", lambda it: it.to_have_count(2))

    async def pulls() -> list[Any]:
        return [each for each in shared.ollama.requests if each.path == "/api/pull"]

    async def both_run() -> bool:
        return len(await pulls()) == 2

    await wait_until(both_run, "both pulls to reach Ollama")
    await tab.use("#pull [aria-label='Cancel the pull of first']", lambda button: button.click())
    await tab.sees("#pull .pull[data-pull=cancelled]", "What was downloaded is kept")
    [cancelled] = [each for each in await pulls() if b"first" in (each.body or b"")]
    await wait_until(lambda: cancelled.closed_by == "client", "Ollama to see the end")
    await tab.expect("#pull .pull[data-pull=running]", lambda it: it.to_have_count(1))
    await tab.use("#pull [aria-label='Cancel the pull of second']", lambda button: button.click())
    await tab.expect("#pull .pull[data-pull=cancelled]", lambda it: it.to_have_count(2))
    await wait_for_the_end_of_pulls(shared)


@ensureDeferred
async def test_a_pull_that_ended_with_the_page_is_found_again(shared: Cluster, tab: Tab) -> None:
    """The page says that it has ended, and goes on with it when the person wants that."""
    shared.ollama.script("/api/pull", SLOW_PULL, times=1)
    await show_models(tab, shared)
    await tab.click("Pull a model")
    await pull(tab, "fourth")
    await tab.sees("#pull .pull[data-pull=running]", " of 2 GB")
    await tab.do(lambda page: page.reload())
    await tab.sees(".toasts", "The pull of fourth ended with the page.")
    await tab.sees("#pulls .pull[data-pull=interrupted]", "the page was closed")
    await wait_for_the_end_of_pulls(shared)
    await tab.use("#pulls [aria-label='Pull fourth again']", lambda button: button.click())
    await tab.sees("#pulls .pull[data-pull=complete]", "Complete")
    await tab.do(lambda page: page.reload())
    await tab.sees(card("fourth:latest"), "demo")
    await tab.misses("#pulls")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            Script(error_before=(500, '{"error":"pull model manifest: file does not exist"}', {})),
            "file does not exist",
        ),
        (Script(lines=9, error_in_stream=(3, "no space left on device")), "no space left"),
        (Script(lines=9, break_after=3), "it closed the connection"),
    ],
)
@ensureDeferred
async def test_a_pull_that_fails_says_why_and_can_be_repeated(
    shared: Cluster, tab: Tab, script: Script, reason: str
) -> None:
    shared.ollama.script("/api/pull", script, times=1)
    await show_models(tab, shared)
    await tab.click("Pull a model")
    await pull(tab, "third")
    await tab.sees("#pull .pull[data-pull=failed]", reason)
    await tab.use("#pull [aria-label='Pull third again']", lambda button: button.click())
    await tab.sees("#pull .pull[data-pull=complete]", "Complete")
    await tab.expect("#pull .pull", lambda it: it.to_have_count(1))


@ensureDeferred
async def test_the_menu_of_a_model_is_operated_with_the_keyboard(shared: Cluster, tab: Tab) -> None:
    """Arrows move in it, Escape closes it and returns the focus."""
    await show_models(tab, shared)
    name = f"What to do with {shared.ollama.models[0]}"
    focused = "document.activeElement.textContent || document.activeElement.ariaLabel"

    def press(key: str) -> Any:
        return tab.do(lambda page: page.keyboard.press(key))

    await tab.use(f"[aria-label='{name}']", lambda button: button.focus())
    await press("Enter")
    assert await tab.find(focused) == "Details"
    await press("ArrowUp")
    assert await tab.find(focused) == "Delete …"
    await press("Home")
    assert await tab.find(focused) == "Details"
    await press("Escape")
    await tab.misses("[role=menu]")
    assert await tab.find(focused) == name


@pytest.mark.parametrize(("scheme", "width"), LAYOUTS)
@ensureDeferred
async def test_the_models_are_accessible_and_fit_the_window(
    shared: Cluster, chromium: Chromium, scheme: str, width: int
) -> None:
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    shared.ollama.script("/api/pull", SLOW_PULL)
    body = {"model": shared.ollama.models[0], "prompt": "Hi", "stream": False}
    await shared.request("POST", "/api/generate", body, token=shared.alice_token)
    await show_models(tab, shared)
    await tab.sees(".tag", "in memory")
    await tab.click("Pull a model")
    await pull(tab, "a-model-with-a-very-long-name/" + "x" * 60)
    await tab.sees("#pull .pull", " of 2 GB")
    await check_screen(tab, "models-pull")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#pull")
    await check_screen(tab, "models")
    await tab.click(f"What to do with {shared.ollama.models[0]}")
    await check_screen(tab, "models-menu")
    await tab.do(lambda page: page.get_by_role("menuitem", name="Details").click())
    await tab.sees("#model-details", "Template")
    await check_screen(tab, "models-details")
    await tab.close()  # which ends the pull
    await wait_for_the_end_of_pulls(shared)

"""The first run on a machine: the page of a real desktop, from its link to the first chat."""

from __future__ import annotations

from io import BytesIO

import pytest
import zxingcpp
from PIL import Image
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider
from tests.e2e.page_checks import SCHEMES, check_everywhere, choose_scheme
from tests.e2e.test_loopback_page import LocalDesktop

#: What the autostart consists of on Linux: the tray's entry, the daemon's unit and what enables it.
ENTRY = "autostart/ctllm-tray.desktop"
UNIT = "systemd/user/ctllm-desktop.service"
LINK = "systemd/user/default.target.wants/ctllm-desktop.service"


@pytest.fixture
def desktop(cluster: Cluster) -> LocalDesktop:
    """Return a desktop whose session has a configuration folder of its own."""
    cluster.extra_environment["XDG_CONFIG_HOME"] = str(cluster.directory / "config")
    return LocalDesktop(cluster)


async def open_page(tab: Tab, desktop: LocalDesktop) -> None:
    url, code = await desktop.show("--local")
    await tab.open(f"{url}/#invite={code}")
    await tab.sees("#setup", "Ollama")


async def start_cloud(cluster: Cluster) -> OidcProvider:
    """Start a cloud whose users sign in with a provider."""
    provider = await start_provider(cluster, users={"ada": []})
    configure(cluster, provider.table("acme"))
    await cluster.start_cloud()
    return provider


async def begin_login(tab: Tab, cluster: Cluster) -> None:
    await tab.use("#setup-cloud", lambda box: box.fill(cluster.url))
    await tab.use("#setup-login", lambda button: button.click())
    await tab.expect(".qr-code", lambda it: it.to_be_visible())


async def read_qr_code(tab: Tab) -> str:
    """Return what a camera reads from the screen."""
    picture = await tab.do(lambda page: page.screenshot())
    (code,) = zxingcpp.read_barcodes(Image.open(BytesIO(picture)))
    return str(code.text)


@ensureDeferred
async def test_a_phone_reads_the_link_that_logs_the_machine_in(
    desktop: LocalDesktop, chromium: Chromium
) -> None:
    """From the screen in either colour scheme. The link has the code in it, so nobody types it."""
    provider = await start_cloud(desktop.cluster)
    await desktop.start()
    tab = await chromium.tab()
    await open_page(tab, desktop)
    await tab.click("Continue")
    await begin_login(tab, desktop.cluster)
    await check_everywhere(tab, "setup-login")
    code = await tab.do(lambda page: page.locator(".user-code").inner_text())
    link = await tab.do(lambda page: page.locator("#setup a").get_attribute("href"))
    for scheme in SCHEMES:
        await choose_scheme(tab, scheme)
        assert await read_qr_code(tab) == link
    assert link is not None and link.startswith(provider.issuer) and code in link
    label = await tab.do(lambda page: page.get_by_role("img").get_attribute("aria-label"))
    assert label is not None and "127.0.0.1" in label and code not in label
    await provider.approve_device(link, "ada")
    await tab.sees("#setup-connected", "as ada")
    await tab.misses(".qr-code")
    await tab.close()


@ensureDeferred
async def test_the_page_makes_the_machine_start_ctllm_with_the_session_and_no_longer(
    desktop: LocalDesktop, tab: Tab
) -> None:
    config = desktop.cluster.directory / "config"

    def files() -> list[str]:
        found = [each for each in config.rglob("*") if not each.is_dir()]
        return sorted(str(each.relative_to(config)) for each in found)

    async def expect_files(*expected: str) -> None:
        await wait_until(lambda: files() == sorted(expected), f"{expected}, not {files()}")

    await desktop.start()
    await open_page(tab, desktop)
    for _ in range(3):
        await tab.use("#setup-next", lambda button: button.click())
    await tab.sees("#setup", "Step 4 of 4")
    await expect_files()
    await tab.use("#setup-autostart", lambda box: box.click())
    await tab.expect("#setup-autostart", lambda it: it.to_be_checked())
    await tab.sees("#setup-next", "Start chatting")
    await expect_files(ENTRY, UNIT, LINK)
    for file in (ENTRY, UNIT):
        assert str(desktop.cluster.state_dir("home")) in (config / file).read_text()
    await tab.do(lambda page: page.reload())
    for _ in range(3):
        await tab.use("#setup-next", lambda button: button.click())
    await tab.expect("#setup-autostart", lambda it: it.to_be_checked())
    await tab.use("#setup-autostart", lambda box: box.click())
    await tab.expect("#setup-autostart", lambda it: it.not_to_be_checked())
    await expect_files()

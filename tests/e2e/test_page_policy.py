"""The policy of the page in a real Chromium: injected markup and code do nothing."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium
from tests.e2e.cluster import Cluster

INJECT = """async () => {
    const script = document.createElement('script');
    script.append('document.title = "owned"');
    const image = document.createElement('img');
    image.src = 'http://127.0.0.1:9/leak';
    for (const act of [
        () => { document.body.innerHTML = '<b>in</b>'; },
        () => { trustedTypes.createPolicy('in', {createScript: text => text}); },
        () => document.body.append(script),
        () => document.body.append(image),
        () => document.body.setAttribute('style', 'color: red'),
        () => fetch('http://127.0.0.1:9/'),
    ]) { try { await act(); } catch {} }
}"""


@ensureDeferred
async def test_injected_markup_and_code_do_nothing(shared: Cluster, chromium: Chromium) -> None:
    """Closing the tab then fails: other tests notice a violation of the policy, too."""
    tab = await chromium.tab()
    await tab.open(shared.url)
    title = await tab.find("document.title")
    await tab.do(lambda page: page.evaluate(INJECT))
    assert set(await tab.blocked()) == {
        "require-trusted-types-for", "trusted-types", "img-src",
        "style-src-attr", "connect-src",
    }  # fmt: skip
    assert await tab.find("document.title") == title
    with pytest.raises(AssertionError, match="connect-src"):
        await tab.close()

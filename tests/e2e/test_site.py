"""The static site: one build, served by nginx with the configuration of its image."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, Request, sync_playwright

from tests.e2e.chromium import CHROMIUM_ARGS, INIT_SCRIPT
from tests.e2e.page_checks import _RUN_AXE, AXE

ROOT = Path(__file__).parents[2]
NGINX_CONF = ROOT / "containers" / "static-site" / "nginx.conf"
PAGES = (
    "/",
    "/downloads/",
    "/docs/operations.html",
    "/docs/reference/management-api.html",
    "/docs/search.html?q=HTTPS_PROXY",
)
LAYOUTS: list[tuple[Literal["light", "dark"], int]] = [
    ("light", 1280),
    ("dark", 1280),
    ("light", 360),
    ("dark", 360),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site. The build fails if a link leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    dist = folder / "dist"
    dist.mkdir()
    (dist / "ctllm-0.1.0-py3-none-any.whl").write_bytes(b"wheel")
    command = [sys.executable, "-m", "site_builder", "--output", str(folder / "site")]
    subprocess.run([*command, "--dist", str(dist)], check=True, cwd=ROOT)
    return folder / "site"


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the site with the nginx.conf of its image; return its URL."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None:
        pytest.fail('This test needs Debian\'s package "nginx-light".', pytrace=False)
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = NGINX_CONF.read_text().replace("listen 8080;", f"listen 127.0.0.1:{port};")
    if os.getuid() == 0:  # else its workers are nobody, who cannot read this folder
        text = f"user root;\n{text}"
    text = text.replace(" /tmp/", f" {folder}/").replace("/srv/site;", f"{built};")
    (folder / "nginx.conf").write_text(text.replace("/dev/stdout", f"{folder}/access.log"))
    process = subprocess.Popen([nginx, "-e", "stderr", "-c", folder / "nginx.conf"])
    url = f"http://127.0.0.1:{port}"
    _wait_until_healthy(url, process)
    yield url
    process.terminate()
    process.wait(10)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if fetch(f"{url}/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail("nginx does not respond")


def fetch(url: str, **headers: str) -> tuple[int, Message, bytes]:
    """Return status, headers and body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=names)) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_every_page_is_accessible_and_stays_within_its_policy_and_origin(site: str) -> None:
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=CHROMIUM_ARGS
        )
        for scheme, width in LAYOUTS:
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme
            )
            context.add_init_script(INIT_SCRIPT)
            page = context.new_page()
            page.on("request", partial(_note_foreign, site, problems))
            for path in PAGES:
                problems += _check(page, f"{site}{path}", width)
            context.close()
        browser.close()
    assert problems == []


def _note_foreign(site: str, problems: list[str], request: Request) -> None:
    if not request.url.startswith((f"{site}/", "data:")):
        problems.append(f"{request.url} is of another origin")


def _check(page: Page, url: str, width: int) -> list[str]:
    page.goto(url)
    if "search.html" in url:
        page.wait_for_selector("#search-results li a[href*='operations.html']")
    page.evaluate(AXE.read_text())
    found = [*page.evaluate(_RUN_AXE, []), *page.evaluate("blocked")]
    shown = page.evaluate("document.documentElement.scrollWidth")
    found += [f"{shown} px wide"] if shown > width else []
    return [f"{url} at {width}: {each}" for each in found]


def test_pages_are_revalidated_and_what_they_need_is_kept(site: str) -> None:
    status, headers, body = fetch(f"{site}/docs/")
    assert (status, headers["Cache-Control"]) == (200, "no-cache")
    assert fetch(f"{site}/docs/", If_None_Match=headers["ETag"])[0] == 304
    assets = re.findall(r'(?:href|src)="(_static/[^"]+\?v=[0-9a-f]+)"', body.decode())
    assert assets
    for asset in assets:
        status, headers, _ = fetch(f"{site}/docs/{asset}", Accept_Encoding="gzip")
        assert (status, headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        assert headers["Content-Encoding"] == "gzip"


def test_what_does_not_exist_has_a_page_of_its_own(site: str) -> None:
    status, headers, body = fetch(f"{site}/docs/nowhere.png?v=0123456789ab")
    assert (status, headers["Cache-Control"]) == (404, "no-cache")
    assert b"There is no such page" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_the_downloads_are_listed_with_their_checksums(site: str) -> None:
    page = fetch(f"{site}/downloads/")[2].decode()
    assert "ctllm-0.1.0-py3-none-any.whl" in page
    assert re.search(r"<code>[0-9a-f]{64}</code>", page)
    assert fetch(f"{site}/downloads/ctllm-0.1.0-py3-none-any.whl")[2] == b"wheel"

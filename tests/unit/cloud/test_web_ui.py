"""`ctllm.cloud.web_ui`: the page, and the headers that let it run only its own script."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib import resources
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.web_ui import HEADERS, PAGE, accepts_html

TEXT = PAGE.decode()
HEADER = {name.decode(): value.decode() for name, value in HEADERS}
POLICY = {
    name: sources
    for name, *sources in (part.split() for part in HEADER["Content-Security-Policy"].split("; "))
}


OPENAPI: dict[str, Any] = json.loads(
    resources.files("ctllm.cloud").joinpath("openapi.json").read_bytes()
)


class PageParser(HTMLParser):
    """Parses the elements of the page, and the text of its script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(TEXT)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.inline:
            self.inline[self.cdata_elem].append(data)


PARSED = PageParser()


class HeaderTests(SynchronousTestCase):
    """The headers of the response with the page."""

    def test_the_policy_allows_only_the_pages_own_script_and_style(self) -> None:
        for tag, directive in (("script", "script-src"), ("style", "style-src")):
            digest = sha256("".join(PARSED.inline[tag]).encode()).digest()
            self.assertEqual(POLICY[directive], [f"'sha256-{b64encode(digest).decode()}'"])

    def test_the_policy_forbids_everything_else(self) -> None:
        rest = {name: POLICY[name] for name in POLICY if name not in ("script-src", "style-src")}
        self.assertEqual(
            rest,
            {
                "default-src": ["'none'"],
                "connect-src": ["'self'"],
                "img-src": ["'self'", "data:"],
                "base-uri": ["'none'"],
                "form-action": ["'none'"],
                "frame-ancestors": ["'none'"],
                "require-trusted-types-for": ["'script'"],
            },
        )

    def test_forbids_sniffing_framing_referrers_and_stale_copies(self) -> None:
        policies = ("Content-Security-Policy", "Permissions-Policy")
        self.assertEqual(
            {name: HEADER[name] for name in HEADER if name not in policies},
            {
                "Content-Type": "text/html; charset=utf-8",
                "Cache-Control": "no-cache",
                "Vary": "Accept",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Opener-Policy": "same-origin",
            },
        )


class PageTests(SynchronousTestCase):
    """The HTML of the page."""

    def test_lines_end_with_lf(self) -> None:
        """Browsers convert other line ends before they hash the script."""
        self.assertNotIn(b"\r", PAGE)

    def test_loads_nothing_external(self) -> None:
        for tag, attributes in PARSED.elements:
            for name in ("src", "srcset", "href", "action", "poster", "data"):
                value = attributes.get(name) or "data:"
                self.assertTrue(value.startswith("data:"), (tag, name, value))
        self.assertNotRegex("".join(PARSED.inline["style"]), r"url\(|@import")
        self.assertNotRegex(TEXT.replace("http://www.w3.org/2000/svg", ""), r"(?i)\w+://")

    def test_calls_only_documented_paths(self) -> None:
        script = "".join(PARSED.inline["script"])
        management = {*OPENAPI["paths"]} - {
            "/ctllm/openapi.json",
            "/ctllm/desktops/{desktop}/keys",
            "/ctllm/tunnel/authorization",
            "/ctllm/exchanges/{exchange}",
            "/ctllm/session/invite",
            "/ctllm/callback",
            "/ctllm/machines/{machine}",
        }
        self.assertEqual(
            set(re.findall(r"'(/[a-z/]+)'", script)), management | {"/api/tags", "/api/chat"}
        )

    def test_has_no_inline_handlers_and_styles(self) -> None:
        for tag, attributes in PARSED.elements:
            blocked = [name for name in attributes if name == "style" or name.startswith("on")]
            self.assertEqual(blocked, [], tag)

    def test_inserts_text_only_and_stores_no_tokens(self) -> None:
        sinks = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextual"
        code = r"\beval\b|new Function|import\(|srcdoc"
        places = r"localStorage|indexedDB|document\.cookie"
        self.assertNotRegex(TEXT, f"{sinks}|{code}|{places}")
        # It only outlives the redirects to a provider, and has no secret.
        kept = re.findall(r"sessionStorage(?:\.\w+\('(\w+)')?", TEXT)
        self.assertLessEqual(set(kept), {"machine"})

    def test_every_control_has_a_label(self) -> None:
        labelled = {a["for"] for tag, a in PARSED.elements if tag == "label" and "for" in a}
        self.assertEqual(labelled, {a["id"] for tag, a in PARSED.elements if tag == "textarea"})
        self.assertRegex(TEXT, r"<label>Model <select ")
        self.assertNotRegex(TEXT, r"<button[^>]*></button>")


class AcceptsHtmlTests(SynchronousTestCase):
    """Which clients get the page."""

    def test_accept_headers_of_browsers_do(self) -> None:
        chromium = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        for accept in (chromium, b"text/html", b"TEXT/HTML ; q=0.5", b"*/*, text/html;q=0.001"):
            self.assertTrue(accepts_html(accept), accept)

    def test_wildcards_and_refusals_do_not(self) -> None:
        for accept in (
            None,
            b"",
            b"*/*",
            b"text/*",
            b"application/json",
            b"text/html;q=0",
            b"text/html; Q=0.00, */*",
            b"application/json;x=text/html",
            b"text/htmlx",
        ):
            self.assertFalse(accepts_html(accept), accept)

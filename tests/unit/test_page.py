"""The first page runs only what is in it, and the API's description tells the whole contract."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import jsonschema_rs
from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__, errors
from ctllm.cloud.web_ui import HEADERS, PAGE, accepts_html

TEXT = PAGE.decode()
HEADER = {name.decode(): value.decode() for name, value in HEADERS}
POLICY = {
    name: sources
    for name, *sources in (part.split() for part in HEADER["Content-Security-Policy"].split("; "))
}


class _Elements(HTMLParser):
    """Every element of the page with its attributes, and the text of its script and style."""

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


PARSED = _Elements()


class PolicyTests(SynchronousTestCase):
    def test_inline_hashes(self) -> None:
        """The policy allows the script and the style as a browser reads them, and nothing else."""
        for tag, directive in (("script", "script-src"), ("style", "style-src")):
            digest = sha256("".join(PARSED.inline[tag]).encode()).digest()
            self.assertEqual(POLICY[directive], [f"'sha256-{b64encode(digest).decode()}'"])

    def test_rest_of_policy(self) -> None:
        """Everything else is forbidden, but speaking with the cloud and the icon."""
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

    def test_headers(self) -> None:
        """No sniffing, framing, referrer, or stale copy is allowed."""
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


class ContentTests(SynchronousTestCase):
    def test_line_ends(self) -> None:
        """Browsers hash the script with its line ends made LF: there are no others."""
        self.assertNotIn(b"\r", PAGE)

    def test_nothing_external(self) -> None:
        """No element fetches anything: what it names is inside the page."""
        for tag, attributes in PARSED.elements:
            for name in ("src", "srcset", "href", "action", "poster", "data"):
                value = attributes.get(name) or "data:"
                self.assertTrue(value.startswith("data:"), (tag, name, value))
        self.assertNotRegex("".join(PARSED.inline["style"]), r"url\(|@import")
        self.assertNotRegex(TEXT.replace("http://www.w3.org/2000/svg", ""), r"(?i)\w+://")

    def test_paths(self) -> None:
        """The script speaks with the cloud's contract and Ollama's API, and nothing else."""
        script = "".join(PARSED.inline["script"])
        management = {*DOCUMENT["paths"]} - {
            "/ctllm/openapi.json",
            "/ctllm/desktops/{desktop}/keys",
            "/ctllm/exchanges/{exchange}",
            "/ctllm/session/invite",
        }
        self.assertEqual(
            set(re.findall(r"'(/[a-z/]+)'", script)), management | {"/api/tags", "/api/chat"}
        )

    def test_no_inline_code(self) -> None:
        """No handler or style stands in an attribute: the policy would block it."""
        for tag, attributes in PARSED.elements:
            blocked = [name for name in attributes if name == "style" or name.startswith("on")]
            self.assertEqual(blocked, [], tag)

    def test_no_markup_from_text(self) -> None:
        """What models say becomes text only, and no token is kept where another page finds it."""
        sinks = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextual"
        code = r"\beval\b|new Function|import\(|srcdoc"
        places = r"localStorage|sessionStorage|indexedDB|document\.cookie"
        self.assertNotRegex(TEXT, f"{sinks}|{code}|{places}")

    def test_labels(self) -> None:
        """Each control has a name: its words, or a label."""
        labelled = {a["for"] for tag, a in PARSED.elements if tag == "label" and "for" in a}
        self.assertEqual(labelled, {a["id"] for tag, a in PARSED.elements if tag == "textarea"})
        self.assertRegex(TEXT, r"<label>Model <select ")
        self.assertNotRegex(TEXT, r"<button[^>]*></button>")


class AcceptTests(SynchronousTestCase):
    def test_browsers(self) -> None:
        """Who names HTML gets the page."""
        chromium = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        for accept in (chromium, b"text/html", b"TEXT/HTML ; q=0.5", b"*/*, text/html;q=0.001"):
            self.assertTrue(accepts_html(accept), accept)

    def test_others(self) -> None:
        """Who takes anything, or refuses HTML, gets Ollama's answer."""
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


DOCUMENT: dict[str, Any] = json.loads(
    resources.files("ctllm.cloud").joinpath("openapi.json").read_bytes()
)
CONTRACT = {
    "post /ctllm/session": "201 400 401 403 413 415",
    "get /ctllm/session": "200 401 403",
    "delete /ctllm/session": "204 403",
    "post /ctllm/session/token": "200 400 401 403 413 415",
    "post /ctllm/session/invite": "201 401 403",
    "post /ctllm/session/introspect": "200 400 401 403 413 415",
    "get /ctllm/proxy": "200 401 403",
    "put /ctllm/proxy": "200 401 403 503",
    "delete /ctllm/proxy": "204 401 403",
    "get /ctllm/desktops": "200 401 403 503",
    "put /ctllm/desktops/{desktop}/keys": "204 400 401 403 404 413 415",
    "get /ctllm/exchanges/{exchange}": "200 401 403 404 410 429 503",
    "get /ctllm/openapi.json": "200",
    "get /health": "200",
}


def _walk(value: Any) -> list[dict[str, Any]]:
    """Give every object in `value`, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in _walk(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in _walk(item))]


def _accepts(schema: str, value: object) -> bool:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return jsonschema_rs.is_valid(whole, value)


class DescriptionTests(SynchronousTestCase):
    def test_statuses(self) -> None:
        """Each endpoint of the contract is there, with every status that it gives."""
        operations = {
            f"{method} {path}": " ".join(operation["responses"])
            for path, item in DOCUMENT["paths"].items()
            for method, operation in item.items()
            if method != "parameters"
        }
        self.assertEqual(operations, CONTRACT)

    def test_references(self) -> None:
        """Each reference leads somewhere, and each component is used."""
        used = {found["$ref"] for found in _walk(DOCUMENT) if "$ref" in found}
        components = DOCUMENT["components"]
        there = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "responses")
            for name in components[kind]
        }
        self.assertEqual(used, there)

    def test_schemas(self) -> None:
        """Each schema is sound, and each object with properties allows no others."""
        for name, schema in DOCUMENT["components"]["schemas"].items():
            jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]})
            for found in _walk(schema):
                if "properties" in found:
                    self.assertIs(found["additionalProperties"], False, name)

    def test_errors(self) -> None:
        """The codes and statuses of errors are those of the tree of errors."""
        for name, response in DOCUMENT["components"]["responses"].items():
            shape = response["content"]["application/json"]["schema"]["properties"]["error"]
            for code in shape["properties"]["code"]["enum"]:
                status = str(errors.error_from_wire(code, "").status)
                told = [
                    operation["responses"].get(status, {}).get("$ref", "").rpartition("/")[2]
                    for operation in _walk(DOCUMENT["paths"])
                    if "responses" in operation and status in operation["responses"]
                ]
                self.assertEqual(set(told), {name}, code)

    def test_headers_of_errors(self) -> None:
        """401 says how to sign in, 429 and 503 when to come back."""
        responses = DOCUMENT["components"]["responses"]
        required = {
            name: [key for key, header in response.get("headers", {}).items() if header["required"]]
            for name, response in responses.items()
        }
        self.assertEqual(required.pop("Unauthenticated"), ["WWW-Authenticate"])
        for late in ("TooManyRequests", "Unavailable"):
            self.assertEqual(required.pop(late), ["Retry-After"])
        self.assertEqual(set(map(tuple, required.values())), {()})

    def test_security(self) -> None:
        """Without a token there are the health, this document, and the ways in and out."""
        free = {
            operation["operationId"]
            for operation in _walk(DOCUMENT["paths"])
            if "operationId" in operation and operation["security"] != [{"bearer": []}]
        }
        ways = {"openSession", "introspectLink", "renewToken", "closeSession"}
        self.assertEqual(free, ways | {"readHealth", "readDescription"})

    def test_bodies(self) -> None:
        """Bodies are taken as the contract has them, and at no limit one further."""
        secret, digest = "A" * 43, "0f" * 32
        for schema, value in (
            ("SignIn", {"invite": secret, "client": "browser"}),
            ("Link", {"invite": secret}),
            ("Renewal", {}),
            ("Renewal", {"refresh": f"ctllm-r-{secret}"}),
            ("KeyLease", {"hashes": [digest] * 100, "seconds": 600}),
            ("KeyLease", {"hashes": [], "seconds": 10}),
        ):
            self.assertTrue(_accepts(schema, value), (schema, value))
        for schema, value in (
            ("SignIn", {"invite": secret}),
            ("SignIn", {"invite": f"{secret}\n", "client": "browser"}),
            ("SignIn", {"invite": secret, "client": "tray"}),
            ("SignIn", {"invite": secret, "client": "browser", "more": 1}),
            ("Link", {"invite": secret, "client": "browser"}),
            ("Renewal", {"refresh": None}),
            ("Renewal", {"refresh": secret}),
            ("KeyLease", {"hashes": [digest] * 101, "seconds": 600}),
            ("KeyLease", {"hashes": [digest.upper()], "seconds": 600}),
            ("KeyLease", {"hashes": [], "seconds": 9}),
            ("KeyLease", {"hashes": [], "seconds": 601}),
        ):
            self.assertFalse(_accepts(schema, value), (schema, value))

    def test_version(self) -> None:
        """The document has the version of the program."""
        self.assertEqual(DOCUMENT["info"]["version"], __version__)

"""`ctllm.web_ui.page_files`: which request gets which file of the page."""

from __future__ import annotations

import gzip
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import RequestHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.web_ui.page_files import PageFiles
from tests.unit.fakes import MemoryTransport

SCRIPT = b"export const answer = 42;\n" * 100
FILES = {
    "index.html": b"<!doctype html><title>page</title>",
    "assets/index-abc.js": SCRIPT,
    "assets/font-abc.woff2": b"\x00font" * 100,
    "service-worker.js": b"self;",
    "manifest.webmanifest": b"{}",
    "secret.txt": b"not part of a page",
}
HTML = {"Accept": "text/html,*/*;q=0.8"}


class PageFilesTests(SynchronousTestCase):
    """A server of the files in a folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        for name, content in FILES.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.page = PageFiles(self.folder)

    async def app(self, request: ServerRequest) -> None:
        self.assertTrue(self.page.serves(request.head))
        self.page.respond(request)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
        """Send a request; return the status and the headers. `body` has the content."""
        transport = MemoryTransport()
        transport.protocol = HttpServerFactory(self.app, Clock()).buildProtocol(None)
        transport.protocol.makeConnection(transport)
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        transport.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode())
        head, _, self.body = transport.take_written().partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        return int(status.split()[1]), dict(field.split(": ", 1) for field in fields)

    def test_serves_the_page_at_the_root(self) -> None:
        status, headers = self.get("/?x=1", **HTML)
        self.assertEqual((status, self.body), (200, FILES["index.html"]))
        self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(headers["Cache-Control"], "no-cache")
        self.assertEqual(headers["Vary"], "Accept, Accept-Encoding")
        self.get("/", "HEAD", **HTML)
        self.assertEqual(self.body, b"")

    def test_serves_assets_for_ever_and_compressed(self) -> None:
        status, headers = self.get("/assets/index-abc.js", Accept_Encoding="gzip, br")
        self.assertEqual((status, gzip.decompress(self.body)), (200, SCRIPT))
        self.assertLess(len(self.body), len(SCRIPT))
        self.assertEqual(headers["Content-Encoding"], "gzip")
        self.assertEqual(headers["Content-Type"], "text/javascript; charset=utf-8")
        self.assertEqual(headers["Cache-Control"], "public, max-age=31536000, immutable")
        self.assertEqual(headers["Vary"], "Accept-Encoding")
        _, headers = self.get("/assets/index-abc.js")
        self.assertEqual(self.body, SCRIPT)
        self.assertNotIn("Content-Encoding", headers)

    def test_does_not_compress_what_is_compressed(self) -> None:
        _, headers = self.get("/assets/font-abc.woff2", Accept_Encoding="gzip")
        self.assertNotIn("Content-Encoding", headers)
        self.assertEqual(self.body, FILES["assets/font-abc.woff2"])

    def test_every_file_has_a_strict_policy(self) -> None:
        for path in ("/", "/assets/index-abc.js", "/service-worker.js", "/manifest.webmanifest"):
            _, headers = self.get(path, **HTML)
            policy = headers["Content-Security-Policy"].split("; ")
            self.assertIn("default-src 'none'", policy)
            self.assertIn("script-src 'self'", policy)
            self.assertIn("require-trusted-types-for 'script'", policy)
            self.assertNotIn("unsafe", headers["Content-Security-Policy"])
            self.assertNotIn("http", headers["Content-Security-Policy"])
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["Referrer-Policy"], "no-referrer")

    def test_an_old_asset_is_not_found(self) -> None:
        status, _ = self.get("/assets/index-old.js")
        self.assertEqual(status, 404)
        self.assertIn(b"Reload it", self.body)

    def test_a_page_that_is_not_built_is_reported(self) -> None:
        self.page = PageFiles(self.folder / "none")
        status, _ = self.get("/", **HTML)
        self.assertEqual(status, 404)
        self.assertIn(b"make page", self.body)

    def test_serves_nothing_else(self) -> None:
        for method, target, accept in (
            ("GET", b"/", b"*/*"),
            ("POST", b"/", b"text/html"),
            ("GET", b"/secret.txt", b"text/html"),
            ("GET", b"/api/tags", b"text/html"),
            ("GET", b"/index.html", b"text/html"),
            ("DELETE", b"/assets/index-abc.js", b"*/*"),
        ):
            head = RequestHead(method.encode(), target, ((b"Accept", accept),))
            self.assertFalse(self.page.serves(head), (method, target))

"""`ctllm.web_ui.static_export`: files for nginx, with the headers that the cloud sends."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import get_header
from ctllm.web_ui.page_files import MEDIA_TYPES, PageFile, PageFiles
from ctllm.web_ui.security_headers import SECURITY_HEADERS
from ctllm.web_ui.static_export import export, headers_conf, types_conf

SCRIPT = b"export const answer = 42;\n" * 100
INDEX = PageFile(b"/", b"<!doctype html>")
ASSETS = [PageFile(b"/assets/%d.js" % number, SCRIPT) for number in range(3)]


def nginx_map(configuration: str, variable: str) -> dict[str, str]:
    """Return the entries of a map of nginx."""
    (block,) = re.findall(rf"map \$uri \{variable} {{(.*?)}}", configuration, re.DOTALL)
    return dict(re.findall(r'"?([^\s"]+)"? "([^"]*)";', block))


class StaticExportTests(SynchronousTestCase):
    def test_writes_each_file_and_a_compressed_one_where_that_is_of_use(self) -> None:
        source, target = Path(self.mktemp()), Path(self.mktemp())
        (source / "assets").mkdir(parents=True)
        for name, content in (("index.html", b"<p>"), ("assets/a.js", SCRIPT), ("x.png", b"png")):
            (source / name).write_bytes(content)
        export(PageFiles(source), target)
        files = target / "files"
        self.assertEqual(
            sorted(str(each.relative_to(files)) for each in files.rglob("*") if each.is_file()),
            ["assets/a.js", "assets/a.js.gz", "index.html", "index.html.gz", "x.png"],
        )
        self.assertEqual(gzip.decompress((files / "assets/a.js.gz").read_bytes()), SCRIPT)
        self.assertEqual((target / "nginx/headers.conf").read_text(), headers_conf())

    def test_the_headers_are_those_of_the_cloud(self) -> None:
        lines = headers_conf().splitlines()
        found = [
            (name.encode(), value.encode())
            for name, value in re.findall(r'add_header (\S+) "([^"]*)" always;', headers_conf())
        ]
        self.assertEqual(found, list(SECURITY_HEADERS))
        self.assertEqual(lines[len(found) :], [
            "add_header Cache-Control $page_cache_control;", "add_header Vary $page_vary;",
        ])  # fmt: skip

    def test_each_file_is_cached_as_by_the_cloud(self) -> None:
        files = [INDEX, *ASSETS, PageFile(b"/theme.js", SCRIPT)]
        configuration = types_conf(files)
        for variable, header in (
            ("$page_cache_control", b"cache-control"),
            ("$page_vary", b"vary"),
        ):
            entries = nginx_map(configuration, variable)
            for file in files:
                path = "/index.html" if file is INDEX else file.path.decode()
                expected = get_header(file.headers, header) or b""
                self.assertEqual(entries.get(path, entries["default"]), expected.decode(), path)

    def test_has_the_media_types_of_the_cloud(self) -> None:
        for name, value in MEDIA_TYPES.items():
            self.assertIn(f'"{value.decode()}" {name};', types_conf([INDEX]))

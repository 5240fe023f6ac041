"""The built page in `ctllm/page`: its size, and that it has nothing inline and nothing foreign."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

PAGE = Path(str(resources.files("ctllm").joinpath("page")))
SOURCES = Path(__file__).parents[3] / "web" / "src"
MAX_FIRST_LOAD = 100_000
#: The addresses of scripts and workers in a script.
IMPORT = re.compile(
    r"""(?:\bfrom|\bimport)\s*\(?["']([^"']+)["']|new Worker\(\s*["']([^"']+)["']"""
)
STATIC_IMPORT = re.compile(r"""(?:\bfrom|\bimport)["']\./([\w.-]+\.js)["']""")
#: What makes elements or code of text.
HTML_SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|setHTML|"
    r"createContextualFragment|\beval\(|new Function|parseFromString"
)


class Elements(HTMLParser):
    """The elements of a document with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inline = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.inline += data.strip()


class PageBuildTests(SynchronousTestCase):
    """What `make page` built."""

    def setUp(self) -> None:
        if not (PAGE / "index.html").exists():
            raise SkipTest("The page has not been built. Build it with: make page")
        self.document = Elements((PAGE / "index.html").read_text())

    def files(self, suffix: str) -> list[Path]:
        return sorted(PAGE.rglob(f"*{suffix}"))

    def first_load(self) -> set[Path]:
        """Return the document, and the scripts and styles that it needs to show anything."""
        waiting = [
            PAGE / path.lstrip("/")
            for tag, attributes in self.document.elements
            for path in [attributes.get("src") or attributes.get("href") or ""]
            if tag == "script" or attributes.get("rel") in ("stylesheet", "modulepreload")
        ]
        found = {PAGE / "index.html"}
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found.add(path)
            if path.suffix == ".js":
                waiting += [path.parent / name for name in STATIC_IMPORT.findall(path.read_text())]
        return found

    def test_the_first_load_is_below_100_kilobytes_compressed(self) -> None:
        sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in self.first_load()}
        self.assertGreater(len(sizes), 2, "the scripts and styles of the document are counted")
        self.assertLess(sum(sizes.values()), MAX_FIRST_LOAD, sizes)

    def test_colours_of_code_and_formulas_are_loaded_late(self) -> None:
        early = {path.name.rpartition("-")[0] for path in self.first_load()}
        self.assertFalse(early & {"typeset-math", "highlight-code", "format-worker", "python"})

    def test_the_document_has_no_inline_script_or_style(self) -> None:
        self.assertEqual(self.document.inline, "")
        for tag, attributes in self.document.elements:
            self.assertNotEqual(tag, "style")
            for name in attributes:
                self.assertFalse(name == "style" or name.startswith("on"), (tag, name))
            if tag == "script":
                self.assertIn("src", attributes)

    def test_the_document_loads_only_its_own_files(self) -> None:
        for tag, attributes in self.document.elements:
            for name in ("src", "href"):
                address = attributes.get(name, "/")
                self.assertTrue(re.match(r"/(?!/)", address), (tag, address))
                if address != "/":
                    self.assertTrue((PAGE / address.lstrip("/")).is_file(), address)

    def test_styles_load_only_files_of_the_page(self) -> None:
        for path in self.files(".css"):
            text = path.read_text()
            self.assertNotIn("@import", text)
            for address in re.findall(r"url\(\s*[\"']?([^\"')]+)", text):
                self.assertTrue(address.startswith(("/assets/", "./", "#")), (path.name, address))

    def test_scripts_import_only_files_of_the_page(self) -> None:
        for path in self.files(".js"):
            for match in IMPORT.findall(path.read_text()):
                for address in filter(None, match):
                    self.assertNotRegex(address, r"^(?:[a-z]+:|//)", path.name)

    def test_there_are_no_source_maps(self) -> None:
        self.assertEqual(self.files(".map"), [])
        for path in [*self.files(".js"), *self.files(".css")]:
            self.assertNotIn("sourceMappingURL", path.read_text(), path.name)

    def test_the_files_name_no_folder_of_the_machine_that_built_them(self) -> None:
        for path in [*self.files(".js"), *self.files(".css"), *self.files(".html")]:
            self.assertNotIn(str(SOURCES.parents[1]), path.read_text(), path.name)


class PageSourceTests(SynchronousTestCase):
    """The sources of the page in `web/src`."""

    def test_nothing_makes_elements_or_code_of_text(self) -> None:
        """Answers become elements one by one, so there is no HTML that could be wrong."""
        if not SOURCES.is_dir():
            raise SkipTest("The sources of the page are not here.")
        sources = [*SOURCES.rglob("*.ts"), *SOURCES.rglob("*.tsx")]
        self.assertGreater(len(sources), 10)
        for path in sources:
            if ".test." in path.name or path.name == "testing.ts":
                continue
            self.assertNotRegex(path.read_text(), HTML_SINKS, str(path.relative_to(SOURCES)))

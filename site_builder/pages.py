"""The pages of the documentation: which files they are, and where their links lead on the site.

A page is a file of the repository that also reads well on a forge. On the site it may have another
name, parts that are generated, and links to files that the site has not.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from site_builder.reference import GENERATED

REPOSITORY = "https://github.com/ctllm/ctllm"
INDEX = "docs/index.md"
#: Pages outside docs/, and their names on the site.
OTHER_PAGES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changes.md",
    "benchmarks/README.md": "benchmarks.md",
}
#: Files that the site has a copy of where a page links to them.
_COPIED = re.compile(r"etc/.+|ctllm/cloud/openapi\.json|.+\.(?:svg|png)")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"\s*(```+)")
_MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.M)


@dataclass(frozen=True, slots=True)
class StagedSite:
    """What Sphinx reads: texts by the paths of pages, and files of the repository to copy."""

    pages: Mapping[str, str]
    copies: Mapping[str, str]


def find_pages(root: Path) -> dict[str, str]:
    """Return the path on the site of every page, by its path in the repository."""
    pages = {
        path.relative_to(root).as_posix(): path.relative_to(root / "docs").as_posix()
        for path in sorted((root / "docs").rglob("*.md"))
    }
    return pages | {path: name for path, name in OTHER_PAGES.items() if (root / path).exists()}


def stage(root: Path) -> StagedSite:
    """Return the pages as the site has them."""
    names = find_pages(root)
    links = _Links(root, names)
    pages = {}
    for path, name in names.items():
        text = (root / path).read_text()
        text = map_links(insert_generated(text), partial(links.resolve, path))
        pages[name] = add_toctrees(text) if path == INDEX else text
    return StagedSite(pages, links.copies)


def insert_generated(text: str) -> str:
    """Return the text with the generated parts in the places of their markers."""
    return _MARKER.sub(lambda found: GENERATED[found[1]](), text)


def map_links(text: str, change: Callable[[str], str]) -> str:
    """Return the text with the changed targets of its links. Code keeps its own."""
    return "\n".join(
        line if is_code else _LINK.sub(lambda found: f"]({change(found['target'])})", line)
        for is_code, line in _classify_lines(text)
    )


def add_toctrees(text: str) -> str:
    """Return the index with a hidden table of contents for each of its sections."""
    first, *sections = re.split(r"^## ", text, flags=re.M)
    return first + "".join(
        f"## {section.rstrip()}\n\n{_toctree(section)}\n" for section in sections
    )


def _toctree(section: str) -> str:
    caption = section.partition("\n")[0]
    entries = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\.md\)", section, re.M)
    lines = [f"{title} </{target}>" for title, target in entries]
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"])


def _classify_lines(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the lines, each with whether it is in a fenced block of code."""
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
            yield True, line
        elif found and line.strip() == fence:
            fence = ""
            yield True, line
        else:
            yield bool(fence), line


class _Links:
    """Targets of links on the site. `copies` has the files that they need."""

    def __init__(self, root: Path, names: Mapping[str, str]) -> None:
        self._root = root
        self._names = names
        self.copies: dict[str, str] = {}

    def resolve(self, page: str, target: str) -> str:
        """Return the target on the site of a link in `page`, a path in the repository."""
        if re.match(r"[a-z]+:|#", target):
            return target
        path, hash_sign, heading = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        return self._locate(self._names[page], file) + hash_sign + heading

    def _locate(self, page: str, file: str) -> str:
        name = self._names.get(file)
        if name is None and _COPIED.fullmatch(file) and (self._root / file).is_file():
            name = file.removeprefix("docs/") if file.startswith("docs/") else f"files/{file}"
            self.copies[file] = name
        if name is None:
            kind = "tree" if (self._root / file).is_dir() else "blob"
            return f"{REPOSITORY}/{kind}/main/{file}"
        return posixpath.relpath(name, posixpath.dirname(page) or ".")

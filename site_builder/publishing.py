"""What is done to each page after it is built, so that it runs under the site's policy.

The policy (containers/static-site/nginx.conf) allows files of the site alone: inline styles and
scripts, which Sphinx and Furo write, become files. The URL of every file that a page needs has a
hash of its content, so that browsers can keep it for ever.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape

_INLINE = re.compile(
    r"<(?P<tag>script|style)(?P<attributes>(?:\s[^>]*)?)>(?P<text>.*?)</(?P=tag)>", re.S
)
_ASSET = re.compile(
    r"(?P<before><(?:link|script|img|source)\b[^>]*?\s(?:href|src|srcset)=\")(?P<url>[^\"]+)(?P<after>\")"
)
_STYLE_ATTRIBUTE = re.compile(r'\sstyle="([^"]*)"')
_ASSET_NAME = re.compile(r".+\.(?:css|js|svg|png|webp|ico|woff2)")
#: Parts of a page that may be wider than the screen: the keyboard must reach them to scroll.
_SCROLLS = re.compile(r"<(pre|div class=\"table-wrapper[^\"]*\")>")
_LABELS = (
    (' role="heading">', ' role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer">', '<aside class="toc-drawer" aria-label="This page">'),
    # The page of search results has no title of its own.
    ('<div id="search-results">', '<h1>Search</h1>\n<div id="search-results">'),
    # A table without headers: its first row is empty in Markdown.
    ('<th class="head"><p></p></th>', '<td class="head"></td>'),
)
_DIGITS = 12

#: Returns the content of a file by its path in the site, or None if there is none.
Reader = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the site. `name` is its path in it."""

    name: str
    html: str


def extract_inline(page: Page) -> tuple[Page, dict[str, str]]:
    """Return the page without inline styles and scripts, and the files that it has instead.

    The order of scripts is kept, because a script without `async` blocks as an inline one does.
    """
    files: dict[str, str] = {}

    def replace(found: re.Match[str]) -> str:
        text = found["text"].strip()
        if not text or " src=" in found["attributes"]:
            return found[0]
        kind = "js" if found["tag"] == "script" else "css"
        name = f"assets/{digest(text.encode())}.{kind}"
        files[name] = text + "\n"
        url = relative_url(page.name, name)
        if kind == "css":
            return f'<link rel="stylesheet" href="{url}">'
        return f'<script src="{url}"></script>'

    rules: dict[str, str] = {}

    def replace_attribute(found: re.Match[str]) -> str:
        name = digest(found[1].encode())
        rules[name] = f'[data-style="{name}"] {{ {unescape(found[1])} }}'
        return f' data-style="{name}"'

    html = _STYLE_ATTRIBUTE.sub(replace_attribute, page.html)
    if rules:
        html = html.replace(
            "</head>", f"<style>{chr(10).join(sorted(rules.values()))}</style></head>"
        )
    return Page(page.name, _INLINE.sub(replace, html)), files


def improve_access(page: Page) -> Page:
    """Return the page with what assistive technology and keyboards need, and Furo leaves out."""
    html = _SCROLLS.sub(r'<\1 tabindex="0">', page.html)
    for before, after in _LABELS:
        html = html.replace(before, after)
    return Page(page.name, html)


def fingerprint(page: Page, read: Reader) -> Page:
    """Return the page with a hash in the URL of each file of the site that it needs."""

    def replace(found: re.Match[str]) -> str:
        url = unescape(found["url"]).partition("?")[0]
        name = resolve_url(page.name, url)
        content = read(name) if name is not None and _ASSET_NAME.fullmatch(name) else None
        if content is None:
            return found[0]
        return f"{found['before']}{url}?v={digest(content)}{found['after']}"

    return Page(page.name, _ASSET.sub(replace, page.html))


def resolve_url(page: str, url: str) -> str | None:
    """Return the path in the site of a URL without query and fragment, None for another site's."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", url, re.I):
        return None
    path = posixpath.normpath(posixpath.join("/", posixpath.dirname(page), url))
    is_folder = url.endswith(("/", "..")) or url == "."
    return posixpath.join(path, "index.html" if is_folder else "").strip("/")


def relative_url(page: str, name: str) -> str:
    """Return the URL of a file of the site, from a page."""
    if page == "404.html":  # is shown at any address
        return f"/{name}"
    return posixpath.relpath(name, posixpath.dirname(page) or ".")


def digest(content: bytes) -> str:
    """Return the hash that URLs have."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page: `target` is its attribute, without entities."""

    page: str
    target: str


_LINK = re.compile(
    r"<(?:a|link|img|script|source|area|form)\b[^>]*?\s(?:href|src|srcset|action)=\"([^\"]*)\""
)
_ANCHOR = re.compile(r"\s(?:id|name)=\"([^\"]+)\"")


def find_links(page: Page) -> Iterator[Link]:
    """Yield the links of a page and the files that it needs."""
    for target in _LINK.findall(page.html):
        yield Link(page.name, unescape(target))


def find_broken_links(pages: Mapping[str, Page], names: frozenset[str]) -> list[Link]:
    """Return the links that lead to no file of the site (`names`), or to no anchor of a page."""
    anchors = {name: frozenset(_ANCHOR.findall(page.html)) for name, page in pages.items()}
    return [
        link
        for page in pages.values()
        for link in find_links(page)
        if not _leads_somewhere(link, anchors, names)
    ]


def find_external_links(pages: Mapping[str, Page]) -> list[str]:
    """Return the sorted addresses of other sites that pages link to."""
    links = (link.target for page in pages.values() for link in find_links(page))
    return sorted(
        {link.partition("#")[0] for link in links if link.startswith(("http:", "https:"))}
    )


def _leads_somewhere(
    link: Link, anchors: Mapping[str, frozenset[str]], names: frozenset[str]
) -> bool:
    path, _, anchor = link.target.partition("#")
    path = path.partition("?")[0]
    name = resolve_url(link.page, path) if path else link.page
    if name is None:
        return True
    return name in names and (not anchor or anchor in anchors.get(name, (anchor,)))

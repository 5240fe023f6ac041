"""The page of downloads: what `dist/` has, with sizes and checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

#: What a file is for, by the end of its name. A file that has none of these ends is not listed.
KINDS: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"ctllm-server.*\.deb"), "Debian and Ubuntu: a cloud"),
    (re.compile(r".*\.deb"), "Debian and Ubuntu: a desktop"),
    (re.compile(r".*\.whl"), "pip, pipx and uv: every system with Python 3.11 or later"),
    (
        re.compile(r".*-linux.*\.tar\.gz|.*bundle.*\.tar\.gz"),
        "Linux without Python: unpack and run",
    ),
    (re.compile(r"install-macos\.sh"), "macOS: installs the wheel"),
    (re.compile(r"install-windows\.ps1"), "Windows: installs the wheel"),
    (re.compile(r".*\.tar\.gz"), "The source"),
    (re.compile(r".*(?:cdx|sbom).*\.json"), "The list of components (CycloneDX)"),
    (re.compile(r"SHA256SUMS"), "The checksums, for sha256sum --check"),
)
_NONE = """<p>This copy of the site has no packages. Build them with
<code>make packages</code>, then the site again.</p>"""


@dataclass(frozen=True, slots=True)
class Download:
    """A file to download."""

    name: str
    kind: str
    size: int
    sha256: str


def find_downloads(folder: Path) -> list[Download]:
    """Return the files of a folder that people may want, in the order of their kinds."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [_describe(path) for path in files if path.is_file() and _kind(path.name)]
    order = [text for _, text in KINDS]
    return sorted(found, key=lambda each: (order.index(each.kind), each.name))


def render_downloads(downloads: Sequence[Download]) -> str:
    """Return the HTML that replaces the marker in site/downloads/index.html."""
    if not downloads:
        return _NONE
    return "\n".join(['<ul class="downloads">', *_render_items(downloads), "</ul>"])


def format_size(size: int) -> str:
    """Return a number of bytes for people."""
    if size < 1_000_000:
        return f"{max(1, round(size / 1000))} kB"
    return f"{size / 1_000_000:.1f} MB"


def _render_items(downloads: Iterable[Download]) -> Iterable[str]:
    for each in downloads:
        name = escape(each.name)
        yield (
            f'<li><a href="{name}" download>{name}</a> <span class="size">{format_size(each.size)}'
            f"</span><p>{escape(each.kind)}</p>"
            f'<p class="sum">SHA-256 <code>{each.sha256}</code></p></li>'
        )


def _describe(path: Path) -> Download:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return Download(path.name, _kind(path.name) or "", path.stat().st_size, checksum)


def _kind(name: str) -> str | None:
    return next((text for pattern, text in KINDS if pattern.fullmatch(name)), None)

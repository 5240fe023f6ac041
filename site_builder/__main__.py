"""`python -m site_builder` builds the whole site; see `make site`."""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from site_builder import pages, publishing
from site_builder.downloads import Download, find_downloads, render_downloads
from site_builder.publishing import Page

ROOT = Path(__file__).parents[1]
_DOWNLOADS_MARKER = "<!-- generated: downloads -->"
#: Files that are compressed once here rather than for each request.
_COMPRESSED = frozenset({".html", ".css", ".js", ".svg", ".txt", ".toml", ".json"})
#: What Sphinx leaves for itself, and the source maps of the theme.
_UNWANTED = (".buildinfo", ".doctrees", "objects.inv", "*.map", "*.LICENSE.txt.gz")


def main() -> None:
    """Build the site. Exit with a message if a link leads nowhere."""
    parser = argparse.ArgumentParser(prog="site_builder", description="Build the static site.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the packages to offer")
    arguments = parser.parse_args()
    broken = build(arguments.output, arguments.dist)
    for link in broken:
        print(f"{link.page} links to {link.target}, which does not exist.", file=sys.stderr)
    raise SystemExit(1 if broken else 0)


def build(output: Path, dist: Path) -> list[publishing.Link]:
    """Build the site into `output`, whose content is lost. Returns the links that lead nowhere."""
    shutil.rmtree(output, ignore_errors=True)
    work = output.with_name(f"{output.name}-work")
    shutil.rmtree(work, ignore_errors=True)
    _build_documentation(work, output / "docs")
    _copy_homepage(output, find_downloads(dist), dist)
    return _publish(output, work)


def _build_documentation(work: Path, output: Path) -> None:
    staged = pages.stage(ROOT)
    source = work / "source"
    for name, text in staged.pages.items():
        _write(source / name, text.encode())
    for file, name in staged.copies.items():
        _write(source / name, (ROOT / file).read_bytes())
    for folder in ("_static", "_templates"):
        shutil.copytree(ROOT / "docs" / folder, source / folder)
    shutil.copy(ROOT / "docs" / "conf.py", source)
    shutil.copy(ROOT / "web" / "public" / "icon.svg", source / "_static")
    _run_sphinx(work, source, output)
    for pattern in _UNWANTED:
        for path in output.rglob(pattern):
            path.unlink()


def _run_sphinx(work: Path, source: Path, output: Path) -> None:
    options = ["-q", "-W", "--keep-going", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, "-d", str(work / "trees")]
    subprocess.run([*command, str(source), str(output)], check=True)  # noqa: S603


def _copy_homepage(output: Path, downloads: Iterable[Download], dist: Path) -> None:
    shutil.copytree(ROOT / "site", output, dirs_exist_ok=True)
    shutil.copy(ROOT / "web" / "public" / "icon.svg", output)
    for name in (
        "path.svg",
        "tray.png",
        *sorted(p.name for p in (ROOT / "docs").glob("page-*.png")),
    ):
        _write(output / "images" / name, (ROOT / "docs" / name).read_bytes())
    page = output / "downloads" / "index.html"
    listed = list(downloads)
    page.write_text(page.read_text().replace(_DOWNLOADS_MARKER, render_downloads(listed)))
    for each in listed:
        shutil.copy(dist / each.name, page.parent)


def _publish(output: Path, work: Path) -> list[publishing.Link]:
    built = {}
    for path in sorted(output.rglob("*.html")):
        name = path.relative_to(output).as_posix()
        page, files = publishing.extract_inline(Page(name, path.read_text()))
        for asset, text in files.items():
            _write(output / asset, text.encode())
        built[name] = publishing.improve_access(page)
    built = {name: publishing.fingerprint(page, _reader(output)) for name, page in built.items()}
    for name, page in built.items():
        (output / name).write_text(page.html)
    _write(work / "external-links.txt", "\n".join(publishing.find_external_links(built)).encode())
    names = frozenset(p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file())
    broken = publishing.find_broken_links(built, names)
    _compress(output)
    return broken


def _reader(output: Path) -> publishing.Reader:
    def read(name: str) -> bytes | None:
        path = output / name
        return path.read_bytes() if path.is_file() else None

    return read


def _compress(output: Path) -> None:
    for path in sorted(output.rglob("*")):
        if path.suffix in _COMPRESSED:
            content = path.read_bytes()
            packed = gzip.compress(content, 9, mtime=0)
            if len(packed) < len(content):
                _write(path.with_name(f"{path.name}.gz"), packed)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    main()

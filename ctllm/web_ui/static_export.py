"""Writes the page for a server of static files, and what nginx needs to serve it as the cloud does.

python -m ctllm.web_ui.static_export FOLDER creates `FOLDER/files`, with a `.gz` beside each file of
text, and `FOLDER/nginx` with two files to include: `types.conf` in `http`, and `headers.conf` in
the page's `server`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctllm.http.message.head import get_header
from ctllm.web_ui.page_files import MEDIA_TYPES, PageFile, PageFiles
from ctllm.web_ui.security_headers import SECURITY_HEADERS

#: Headers whose value depends on the file, and the variables of nginx that have it.
_HEADERS_OF_FILES = {b"Cache-Control": "$page_cache_control", b"Vary": "$page_vary"}


def export(page: PageFiles, folder: Path) -> None:
    """Write `page` and nginx's configuration for it to the empty or missing `folder`."""
    for file in page:
        path = folder / "files" / _relative_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        if file.compressed is not None:
            path.with_name(f"{path.name}.gz").write_bytes(file.compressed)
    nginx = folder / "nginx"
    nginx.mkdir(parents=True)
    (nginx / "types.conf").write_text(types_conf(page))
    (nginx / "headers.conf").write_text(headers_conf())


def types_conf(page: Iterable[PageFile]) -> str:
    """Return the media types, and the variables of the headers that depend on the file."""
    lines = ["types {", *(f"    {_quote(value)} {name};" for name, value in MEDIA_TYPES.items())]
    files = list(page)
    for header, variable in _HEADERS_OF_FILES.items():
        lines += ["}", f"map $uri {variable} {{", *_map_lines(files, header)]
    return "\n".join([*lines, "}", ""])


def _map_lines(files: list[PageFile], header: bytes) -> Iterator[str]:
    """Yield the most common value of the header as default, and the files with another one."""
    values = {
        f"/{_relative_path(file)}": get_header(file.headers, header.lower()) or b""
        for file in files
    }
    [(default, _)] = Counter(values.values()).most_common(1) or [(b"", 0)]
    yield f"    default {_quote(default)};"
    for path, value in sorted(values.items()):
        if value != default:
            yield f"    {_quote(path.encode())} {_quote(value)};"


def headers_conf() -> str:
    """Return the headers of every response. Only a file is cached: those have no `always`."""
    lines = [
        f"add_header {name.decode()} {_quote(value)} always;" for name, value in SECURITY_HEADERS
    ]
    lines += [
        f"add_header {name.decode()} {variable};" for name, variable in _HEADERS_OF_FILES.items()
    ]
    return "\n".join([*lines, ""])


def _relative_path(file: PageFile) -> str:
    return "index.html" if file.path == b"/" else file.path.decode().lstrip("/")


def _quote(value: bytes) -> str:
    """Return `value` as a string of nginx; raises ValueError if it cannot be one."""
    text = value.decode("ascii")
    if not text.isprintable() or any(each in text for each in '"\\$'):
        raise ValueError(f"nginx cannot have this in a string: {text}")
    return f'"{text}"'


def main() -> None:
    """Export the page that comes with ctllm."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m ctllm.web_ui.static_export FOLDER")
    export(PageFiles(), Path(sys.argv[1]))


if __name__ == "__main__":
    main()

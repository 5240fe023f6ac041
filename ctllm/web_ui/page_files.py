"""The built files of the page: which request gets which, compressed and cached by clients."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable

from ctllm.errors import NotFound
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.server.request import ServerRequest
from ctllm.web_ui.content_negotiation import accepts_gzip, accepts_html
from ctllm.web_ui.security_headers import SECURITY_HEADERS

#: The media types of what a build has. Any other file is not served.
MEDIA_TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "woff2": b"font/woff2",
    "webmanifest": b"application/manifest+json",
}
_ALREADY_COMPRESSED = ("png", "woff2")
#: The names of these files change with their content.
_HASHED = b"/assets/"
_FOREVER = b"public, max-age=31536000, immutable"


@dataclass(frozen=True)
class PageFile:
    """A file of the page; `path` is that of its URL."""

    path: bytes
    content: bytes

    @cached_property
    def compressed(self) -> bytes | None:
        """The content in gzip, or None if that is of no use."""
        if self.path.decode().rpartition(".")[2] in _ALREADY_COMPRESSED:
            return None
        return gzip.compress(self.content, compresslevel=9, mtime=0)

    @cached_property
    def headers(self) -> Headers:
        """The headers of a response with this file, but for its content coding."""
        extension = "html" if self.path == b"/" else self.path.decode().rpartition(".")[2]
        is_hashed = self.path.startswith(_HASHED)
        return (
            (b"Content-Type", MEDIA_TYPES[extension]),
            (b"Cache-Control", _FOREVER if is_hashed else b"no-cache"),
            # Other clients get Ollama's response at `/`.
            (b"Vary", b"Accept, Accept-Encoding" if self.path == b"/" else b"Accept-Encoding"),
            *SECURITY_HEADERS,
        )


class PageFiles:
    """The files in `directory`, by default those that come with ctllm."""

    def __init__(self, directory: Traversable | None = None) -> None:
        directory = directory or resources.files("ctllm").joinpath("page")
        self._files = {file.path: file for file in _read_files(directory)}

    def __iter__(self) -> Iterator[PageFile]:
        return iter(self._files.values())

    def serves(self, head: RequestHead) -> bool:
        """Return whether `head` requests a file of the page.

        At `/` only a client that accepts text/html does.
        """
        if head.method not in (b"GET", b"HEAD"):
            return False
        if head.path == b"/":
            return accepts_html(get_header(head.headers, b"accept"))
        return head.path in self._files or head.path.startswith(_HASHED)

    def respond(self, request: ServerRequest) -> None:
        """Respond with the file that `request` names; raises NotFound."""
        head = request.head
        file = self._files.get(head.path)
        if file is None:
            raise NotFound(
                "This ctllm has no page: its files have not been built. Build them with: make page"
                if head.path == b"/"
                else "The page has no such file. Reload it: ctllm may have been updated."
            )
        if file.compressed and accepts_gzip(get_header(head.headers, b"accept-encoding")):
            request.respond(200, file.compressed, (*file.headers, (b"Content-Encoding", b"gzip")))
        else:
            request.respond(200, file.content, file.headers)


def _read_files(directory: Traversable, prefix: str = "/") -> Iterator[PageFile]:
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _read_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in MEDIA_TYPES:
            path = "/" if prefix + entry.name == "/index.html" else prefix + entry.name
            yield PageFile(path.encode(), entry.read_bytes())

"""The loopback endpoint: Ollama for the apps of this machine, always at the same place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from ctllm.errors import Forbidden
from ctllm.http.cors import Cors, is_preflight
from ctllm.http.incoming import Incoming
from ctllm.wire.heads import RequestHead, first

#: Origins that only a program of this machine can have; Ollama lets in the same.
_APPS = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")


Answer = Callable[[RequestHead, Incoming], Awaitable[None]]


class EndpointApp:
    """Has `answer` do the rest, once sure that no web page of elsewhere is behind a request."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, incoming: Incoming) -> None:
        """Answer one request; raises CtllmError."""
        asked = incoming.asked
        refuse_foreign(asked)
        incoming.welcome()
        incoming.extra = _CORS.headers(asked)
        if is_preflight(asked):
            incoming.reply(204, None, _CORS.preflight(asked))
        else:
            await self._answer(asked, incoming)


def refuse_foreign(head: RequestHead) -> None:
    """Raise Forbidden for a Host or an Origin that is not of this machine.

    What goes on to Ollama has neither, so Ollama's own guard against pages that a browser on this
    machine has open, and against names that point here, has to stand at this door.
    """
    host = first(head.headers, b"host")
    if host is not None and not _is_local(f"//{host.decode('latin-1')}"):
        raise Forbidden("this endpoint is for this machine; its Host must be localhost")
    origins = [value for name, value in head.headers if name.lower() == b"origin"]
    if not all(map(_is_of_this_machine, origins)):
        raise Forbidden("pages of other sites may not use this endpoint")


def _is_of_this_machine(origin: bytes) -> bool:
    """Whether an Origin is a page that this machine serves, or an app that is installed on it."""
    text = origin.decode("latin-1")
    return text.startswith(_APPS) or _is_local(text)


def _is_local(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


_CORS = Cors(_is_of_this_machine)

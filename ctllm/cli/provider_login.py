"""What `ctllm login` shows for a login with an OpenID provider."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from twisted.internet.defer import Deferred

from ctllm.cli.output import is_terminal, print_error, print_text, write_styled
from ctllm.cli.qr_code import format_qr_code
from ctllm.cli.status_view import Style
from ctllm.errors import BadRequest, CtllmError

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ctllm.desktop.oauth.device_grant import DeviceCode
    from ctllm.desktop.oauth.provider import Provider

#: Lines that the text around a QR code needs.
_TEXT_LINES = 9


class TerminalPrompt:
    """A `LoginPrompt` for a terminal.

    `open_link` opens a link in the browser and returns whether it did; None opens none.
    """

    def __init__(
        self,
        provider: Provider,
        open_link: Callable[[str], Awaitable[bool]] | None,
        out: TextIO = sys.stdout,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._provider = provider
        self._open_link = open_link
        self._out = out
        self._style = Style(out, environ)

    def show_code(self, code: DeviceCode) -> None:
        """Show code, link and QR code, and open the link."""
        what = "enter" if code.link == code.url else "check that it shows"
        print_text(f"To log in with {self._who}, open this link in any browser:\n")
        print_text(f"    {code.link}\n")
        print_text(f"and {what} this code:  {code.user_code}\n")
        if qr_code := self._qr_code(code.link):
            write_styled(f"{qr_code}\n\n")
        minutes = max(1, round(code.expires_in / 60))
        print_text(f"Waiting for up to {minutes} min. Ctrl-C cancels.")
        self._open(code.link)

    def show_link(self, url: str) -> None:
        """Show the link, and open it."""
        print_text(f"To log in with {self._who}, open this link in a browser on this machine:\n")
        print_text(f"    {url}\n")
        print_text("Waiting for the browser. Ctrl-C cancels.")
        self._open(url)

    @property
    def _who(self) -> str:
        """The provider: the cloud chose its title, so its address is shown, too."""
        return f"{self._provider.label} ({self._provider.issuer})"

    def _qr_code(self, link: str) -> str:
        """Return the QR code, where the output is a terminal that it fits in."""
        if not is_terminal(self._out) or not self._style.has_marks:
            return ""
        columns, lines = shutil.get_terminal_size()
        return format_qr_code(link, columns, lines - _TEXT_LINES, self._style.has_colour)

    def _open(self, url: str) -> None:
        if self._open_link is not None:
            opening = Deferred.fromCoroutine(_open(self._open_link, url))
            opening.addErrback(_opening_failed)


async def _open(open_link: Callable[[str], Awaitable[bool]], url: str) -> None:
    await open_link(url)


def _opening_failed(reason: Failure) -> None:
    error = reason.value
    message = error.message if isinstance(error, CtllmError) else str(error)
    print_error(f"The browser could not be opened: {message}")


def choose_provider(providers: tuple[Provider, ...], name: str, stdin: TextIO) -> Provider:
    """Return the provider called `name`, the only one, or what the user chooses.

    Raises BadRequest.
    """
    from ctllm.desktop.oauth.provider import choose_provider

    if name or len(providers) == 1 or not is_terminal(stdin):
        return choose_provider(providers, name)
    print_text("This cloud has several providers:")
    for number, provider in enumerate(providers, 1):
        print_text(f"  {number}  {provider.label} ({provider.name})")
    try:
        return _find(providers, input("Log in with (number or name): ").strip())
    except (EOFError, KeyboardInterrupt):
        raise BadRequest("No provider was chosen.") from None


def _find(providers: tuple[Provider, ...], answer: str) -> Provider:
    from ctllm.desktop.oauth.provider import choose_provider

    if answer.isdecimal() and 1 <= int(answer) <= len(providers):
        return providers[int(answer) - 1]
    if not answer:
        raise BadRequest("No provider was chosen.")
    return choose_provider(providers, answer)

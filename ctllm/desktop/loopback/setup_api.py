"""The first run, for the page of this machine: what is there, logging in, starting by itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.autostart.files import AutostartFile
from ctllm.autostart.installation import has_tray, install, is_installed, remove
from ctllm.common.qr_code import encode_qr_code
from ctllm.desktop.cloud_client import is_invite_link
from ctllm.desktop.ipc.logins import Logins
from ctllm.desktop.loopback.api import MAX_BODY, Route
from ctllm.errors import BadGateway, CtllmError
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.ipc.messages import LoginBegun, LoginEnded, ProviderChoice, Status
from ctllm.reactor.interfaces import Clock

#: Links that are longer have no QR code: its modules would be too small for a camera.
MAX_QR_BYTES = 500
#: Light modules around a QR code (ISO/IEC 18004).
QR_BORDER = 4


class BeginLogin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to log in: `cloud` is the address of a cloud, or an invite link."""

    cloud: Annotated[str, Meta(min_length=1, max_length=2048)]
    provider: Annotated[str, Meta(max_length=64)] = ""


class SetAutostart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to start desktop and tray with the user's session, or no longer."""

    enabled: bool


class LoginProgress(msgspec.Struct, frozen=True):
    """A login that the page began.

    `choose`: begin again with one of `providers`. `code`: enter `user_code` at `url`. `browser`:
    log in at `url`, in a browser of this machine. `running`: an invite is being redeemed.
    `qr_code` is that of `url`, where any device may open it: rows of modules, of which 1 is dark.
    """

    state: Literal["choose", "code", "browser", "running", "complete", "failed"]
    url: str = ""
    user_code: str = ""
    message: str = ""
    providers: tuple[ProviderChoice, ...] = ()
    qr_code: tuple[str, ...] = ()


class SetupApi:
    """The routes below `/ctllm/desktop/setup`. `get_files` returns the files for the autostart."""

    def __init__(
        self,
        get_status: Callable[[], Status],
        logins: Logins,
        get_files: Callable[[], Sequence[AutostartFile]],
        clock: Clock,
    ) -> None:
        self._get_status = get_status
        self._logins = logins
        self._get_files = get_files
        self._clock = clock
        self._login: LoginProgress | None = None
        self._attempt = 0
        self.routes: tuple[Route, ...] = (
            (re.compile("/ctllm/desktop/setup"), {"GET": self._get_setup}),
            (
                re.compile("/ctllm/desktop/setup/login"),
                {"POST": self._begin_login, "DELETE": self._cancel_login},
            ),
            (re.compile("/ctllm/desktop/setup/autostart"), {"POST": self._set_autostart}),
        )

    async def _get_setup(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        request.respond(200, self._describe())

    def _describe(self) -> dict[str, object]:
        status = self._get_status()
        ollama = status.ollama
        return {
            "ollama": {"state": ollama.state, "url": ollama.url, "version": ollama.version},
            "cloud": {
                "state": status.state.value,
                "url": status.cloud_url,
                "user": status.user,
                "message": status.reason,
            },
            "tray": {"installed": has_tray(), "autostart": is_installed(self._get_files())},
            "system": sys.platform if sys.platform in ("linux", "darwin") else "windows",
            "login": self._login,
        }

    # -- logging in

    async def _begin_login(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        """Begin a login in place of the present one; respond with what the user has to do."""
        body = await read_json_body(request, MAX_BODY, self._clock)
        parameters = decode_json_body(body, BeginLogin)
        self._logins.cancel()
        self._attempt += 1
        attempt = self._attempt
        self._login = LoginProgress("running")
        try:
            progress = await self._log_in(parameters, attempt)
        except CtllmError as error:
            self._report(attempt, LoginProgress("failed", message=error.message))
            raise
        self._report(attempt, progress)
        request.respond(202, progress)

    def _report(self, attempt: int, progress: LoginProgress) -> None:
        """Set the progress, unless another login has begun since this `attempt`."""
        if attempt == self._attempt:
            self._login = progress

    async def _log_in(self, parameters: BeginLogin, attempt: int) -> LoginProgress:
        if is_invite_link(parameters.cloud):
            login = await self._logins.log_in_with_invite(parameters.cloud)
            return _complete(login.user_name)
        begun = await self._logins.begin(
            parameters.cloud,
            parameters.provider,
            lambda ended: self._login_ended(ended, attempt),
            opens_browser=False,
        )
        return _progress(begun)

    def _login_ended(self, ended: LoginEnded, attempt: int) -> None:
        failed = LoginProgress("failed", message=ended.error)
        self._report(attempt, failed if ended.error else _complete(ended.user))

    async def _cancel_login(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        self._logins.cancel()
        self._attempt += 1
        self._login = None
        request.respond(204)

    # -- starting with the session

    async def _set_autostart(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        """Write or remove the files, which take effect at the next login to this system.

        The service manager is not told: it would stop the daemon that responds here, or start a
        second one.
        """
        body = await read_json_body(request, MAX_BODY, self._clock)
        change = install if decode_json_body(body, SetAutostart).enabled else remove
        for file in self._get_files():
            change(file)
        request.respond(200, self._describe()["tray"])


def _complete(user: str) -> LoginProgress:
    return LoginProgress("complete", message=f"Logged in as {user}.")


def _progress(begun: LoginBegun) -> LoginProgress:
    """Return what the page shows; raises BadGateway for a link that it must not."""
    if begun.link and not begun.link.startswith(("https://", "http://")):
        raise BadGateway("The provider's link is no address of a web page.")
    return LoginProgress(
        begun.state, begun.link, begun.code, providers=begun.providers, qr_code=_qr_code(begun)
    )


def _qr_code(begun: LoginBegun) -> tuple[str, ...]:
    if begun.state != "code" or not 0 < len(begun.link.encode()) <= MAX_QR_BYTES:
        return ()
    return tuple("".join(map(str, row)) for row in encode_qr_code(begun.link, QR_BORDER))

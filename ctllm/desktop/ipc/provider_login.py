"""A login with an OpenID provider that a client of the IPC, such as the tray, began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.desktop.credential_file import Login
from ctllm.desktop.ipc.browser import BrowserOpener
from ctllm.desktop.oauth.device_grant import DeviceCode
from ctllm.desktop.oauth.provider import Provider
from ctllm.desktop.provider_login import LoginPrompt
from ctllm.errors import ClientDisconnected, CtllmError
from ctllm.ipc.messages import LoginBegun, LoginEnded
from ctllm.reactor.services import Service

#: Logs in at the cloud with this URL and provider, and shows the user what to do.
LogIn = Callable[[str, Provider, LoginPrompt], Awaitable[Login]]


class PendingLogin(Service):
    """One login at a time: another one takes its place. `log_in` runs it until its end."""

    _log = Logger()

    def __init__(self, log_in: LogIn, browser: BrowserOpener) -> None:
        self._log_in = log_in
        self._browser = browser
        self._running: Deferred[None] | None = None

    async def begin(
        self,
        cloud_url: str,
        provider: Provider,
        on_ended: Callable[[LoginEnded], None],
        *,
        opens_browser: bool = True,
    ) -> LoginBegun:
        """Begin a login; return what the user has to do. `on_ended` gets the result.

        The link is opened in the browser, unless whoever asks shows it in one already. Raises
        CtllmError, and then does not call `on_ended`.
        """
        self.cancel()
        prompt = _Prompt()
        running = Deferred.fromCoroutine(self._run(cloud_url, provider, prompt, on_ended))
        self._running = running
        running.addErrback(self._failed)
        begun = await prompt.shown
        if opens_browser and await self._browser.open(begun.link):
            begun = _opened(begun)
        return begun

    def cancel(self) -> None:
        """Give up the present login, if there is one; `on_ended` is called."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def stopService(self) -> None:
        """Give up the present login."""
        super().stopService()
        self.cancel()

    async def _run(
        self,
        cloud_url: str,
        provider: Provider,
        prompt: _Prompt,
        on_ended: Callable[[LoginEnded], None],
    ) -> None:
        try:
            login = await self._log_in(cloud_url, provider, prompt)
        except CancelledError:
            error: CtllmError = ClientDisconnected("The login was cancelled.")
        except CtllmError as failure:
            error = failure
        except Exception:
            self._log.failure("A login failed with an internal error")
            error = CtllmError("Internal error of ctllm; see the desktop's log.")
        else:
            self._log.info(
                "Logged in to {url} as {name}", url=login.cloud_url, name=login.user_name
            )
            on_ended(LoginEnded(login.cloud_url, login.user_name))
            return
        finally:
            self._browser.remove_file()
        if not prompt.fail(error):
            on_ended(LoginEnded(cloud_url, error=error.message))

    def _failed(self, reason: Failure) -> None:
        self._log.failure("The end of a login could not be told", reason)


class _Prompt:
    """A `LoginPrompt` whose Deferred `shown` fires with what the user has to do."""

    def __init__(self) -> None:
        self.shown: Deferred[LoginBegun] = Deferred()

    def show_code(self, code: DeviceCode) -> None:
        self._show(
            LoginBegun("code", code=code.user_code, link=code.link, expires_in=code.expires_in)
        )

    def show_link(self, url: str) -> None:
        self._show(LoginBegun("browser", link=url))

    def fail(self, error: CtllmError) -> bool:
        """Report an error to whoever waits; return False if nobody does any more."""
        if self.shown.called:
            return False
        self.shown.errback(error)
        return True

    def _show(self, begun: LoginBegun) -> None:
        if not self.shown.called:
            self.shown.callback(begun)


def _opened(begun: LoginBegun) -> LoginBegun:
    return LoginBegun(
        begun.state, code=begun.code, link=begun.link, opened=True, expires_in=begun.expires_in
    )

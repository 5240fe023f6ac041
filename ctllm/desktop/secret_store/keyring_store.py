"""Secrets in the keyring of the operating system, which a child process asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctllm.desktop.secret_store.keyring_process import ProcessReactor, ask_keyring
from ctllm.errors import SecretStoreUnavailable
from ctllm.keyring_main import Request, Response

#: The name of this store.
KEYRING = "keyring"
#: Seconds for a request without a dialog: a keyring that takes longer hangs.
DEADLINE = 10.0
#: Seconds for a request with a dialog that a person answers.
PROMPT_DEADLINE = 20.0

_TITLES = {
    "darwin": "macOS Keychain",
    "win32": "Windows Credential Locker",
}


class KeyringStore:
    """The keyring. `command` starts the process that asks it.

    On Linux it is the Secret Service (GNOME Keyring, KWallet, KeePassXC), on the session's D-Bus.
    """

    name = KEYRING

    def __init__(
        self,
        reactor: ProcessReactor,
        command: Sequence[str],
        environ: Mapping[str, str],
        platform: str,
        *,
        deadline: float = DEADLINE,
        prompt_deadline: float = PROMPT_DEADLINE,
    ) -> None:
        self._reactor = reactor
        self._command = command
        self._environ = environ
        self._platform = platform
        self._deadline = deadline
        self._prompt_deadline = prompt_deadline

    @property
    def description(self) -> str:
        """Where the secrets are."""
        return f"in the system's keyring ({_TITLES.get(self._platform, 'Secret Service')})"

    async def check(self, *, may_prompt: bool = False) -> None:
        """Raise SecretStoreUnavailable if the keyring is absent or locked."""
        await self._ask(Request("check", may_prompt=may_prompt))

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        """Return the secret called `name`, or None if the keyring has none."""
        response = await self._ask(Request("get", name, may_prompt=may_prompt))
        return response.secret

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        """Store a secret; the child reads it again and compares."""
        await self._ask(Request("set", name, secret, may_prompt=may_prompt))

    async def delete(self, name: str) -> None:
        """Delete the secret called `name`, if there is one."""
        await self._ask(Request("delete", name))

    async def _ask(self, request: Request) -> Response:
        if self._platform == "linux" and not self._environ.get("DBUS_SESSION_BUS_ADDRESS"):
            raise _unavailable(Response(error="absent", detail="there is no session D-Bus"))
        deadline = self._prompt_deadline if request.may_prompt else self._deadline
        response = await ask_keyring(self._reactor, self._command, self._environ, request, deadline)
        if response.error:
            raise _unavailable(response)
        return response


def _unavailable(response: Response) -> SecretStoreUnavailable:
    detail = f" ({response.detail})" if response.detail else ""
    if response.error == "locked":
        return SecretStoreUnavailable(
            f"The system's keyring is locked{detail}. Unlock it; the desktop tries again by itself."
        )
    if response.error == "absent":
        return SecretStoreUnavailable(
            f"The system's keyring is not available here{detail}. Run this in your desktop "
            'session, or set desktop.credential_store to "file".'
        )
    return SecretStoreUnavailable(
        f"The system's keyring failed{detail}. Restart it, or set desktop.credential_store to "
        '"file".'
    )

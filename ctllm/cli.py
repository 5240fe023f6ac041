"""The command `ctllm`: invitations on the server, sign-in and keys on the desktop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.python import usage

from ctllm import __version__
from ctllm.config import Config, load
from ctllm.errors import BadConfiguration, BadRequest, CtllmError
from ctllm.lines import lines_to_paste


class _Command(usage.Options):
    """A command with an optional argument, which `parseArgs` keeps."""

    argument = ""

    def parseArgs(self, *given: str) -> None:
        needed = 1 if self.argument else 0
        if len(given) != needed:
            wanted = f"needs one argument: {self.argument}" if needed else "takes no argument"
            raise usage.UsageError(wanted)
        self.argument = given[0] if given else ""

    def getSynopsis(self) -> str:
        return f"Usage: {super().getSynopsis().removeprefix('Usage: ')} {self.argument}".rstrip()


class _Invite(_Command):
    """On the server."""

    argument = "NAME"
    longdesc = (
        "Prints a sign-in link for the user NAME. It works once, for the minutes that the "
        "configuration says (15), in a browser or with: ctllm login LINK"
    )


class _Revoke(_Command):
    argument = "NAME"
    longdesc = (
        "Ends every sign-in of the user NAME, browsers and desktops. Tokens in use end within the "
        "minutes that the configuration gives them (10); invitations that are open stay good."
    )


class _Login(_Command):
    argument = "LINK"
    longdesc = "Signs this desktop in with a link that `ctllm invite NAME` printed on the server."


class _Logout(_Command):
    longdesc = "Signs this desktop out. Its API keys stop working within three minutes."


class _Connect(_Command):
    longdesc = "Prints lines to paste that point clients at the cloud, with an API key."


class _Add(_Command):
    argument = "NAME"
    longdesc = "Makes an API key called NAME and prints it. It works while this desktop runs."


class _Remove(_Command):
    argument = "NAME"
    longdesc = "Revokes the API key called NAME; it stops working within seconds."


class _List(_Command):
    longdesc = "Lists the names of the API keys."


class _Keys(usage.Options):
    longdesc = "API keys for programs."
    subCommands = [
        ("add", None, _Add, "Make a key"),
        ("rm", None, _Remove, "Revoke a key"),
        ("ls", None, _List, "List the names"),
    ]
    defaultSubCommand = "ls"


class Options(usage.Options):
    """The command line of `ctllm`."""

    synopsis = "Usage: ctllm [--config FILE] [--state FOLDER] COMMAND"
    longdesc = (
        "Use the models on your own machine from anywhere. The programs themselves are run "
        "with: twistd ctllm --help"
    )
    optParameters = [
        ["config", None, None, "The configuration file (default: as twistd ctllm finds it)"],
        ["state", None, None, "The folder with keys and sign-ins (default: as configured)"],
    ]
    subCommands = [
        ("invite", None, _Invite, "On the server: print a sign-in link for a user"),
        ("revoke", None, _Revoke, "On the server: end every sign-in of a user"),
        ("login", None, _Login, "On a desktop: sign in with such a link"),
        ("logout", None, _Logout, "On a desktop: sign out"),
        ("keys", None, _Keys, "On a desktop: API keys for programs (add, rm, ls)"),
        ("connect", None, _Connect, "On a desktop: lines to paste for clients"),
    ]

    def opt_version(self) -> None:
        """Print the version."""
        print(f"ctllm {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """A command is needed."""
        if self.subCommand is None:
            raise usage.UsageError("which command? (ctllm --help lists them)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; ends with status 1 and a sentence where it cannot."""
    options = Options()
    try:
        options.parseOptions(sys.argv[1:] if arguments is None else arguments)
    except usage.UsageError as error:
        raise SystemExit(f"ctllm: {error}") from None
    try:
        _run(options)
    except CtllmError as error:
        raise SystemExit(f"ctllm: {error.message}") from None


def _run(options: Options) -> None:
    told = options.subOptions
    name = options.subCommand
    if name == "keys":
        name, told = f"keys {told.subCommand}", told.subOptions
    overrides = {"state": options["state"]} if options["state"] else {}
    file = Path(options["config"]) if options["config"] else None
    _COMMANDS[str(name)](load(file, overrides, os.environ), told.argument)


def _cloud_state(config: Config) -> Any:
    from ctllm.cloud.identity import Folder

    folder = Path(config.state) / "cloud"
    if not (folder / "signing-key").exists():
        raise BadConfiguration(
            f"{folder}: no cloud has run with this state folder; "
            "run this on the server, as the same user or with the same --state"
        )
    return Folder(folder)


def _invite(config: Config, name: str) -> None:
    from ctllm.cloud.identity import Invites

    state = _cloud_state(config)
    url = (state.read("url") or b"").decode() or config.cloud.url
    invites = Invites(state.inner("invites"), time.time, config.cloud.invite_minutes)
    print(f"{url}/#invite={invites.create(name)}")


def _revoke(config: Config, name: str) -> None:
    from ctllm.cloud.identity import ISSUER, Sessions, User, user_name

    user = User(ISSUER, user_name(name), name)
    sessions = Sessions(_cloud_state(config).inner("sessions"), time.time)
    print(f"{sessions.close_all(user)} sign-ins of {user.subject} ended.")


def _file(config: Config) -> Any:
    from ctllm.desktop.credentials import CredentialFile

    return CredentialFile(Path(config.state))


def _signed_in(config: Config) -> tuple[Any, Any, Any]:
    """The credential file, what is in it, and the sign-in; raises BadRequest without one."""
    file = _file(config)
    known = file.load()
    if known.sign_in is None:
        raise BadRequest("this desktop is not signed in; run: ctllm login LINK")
    return file, known, known.sign_in


def _with_cloud(work: Callable[[Callable[[str], Any]], Any]) -> None:
    """Run `work` in a reactor; it is given how to make a client for a cloud's URL."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from ctllm.desktop.cloud import CloudClient, agent

    failures: list[CtllmError] = []

    async def guarded(reactor: Any) -> None:
        try:
            await work(lambda url: CloudClient(url, agent(reactor), reactor))
        except CtllmError as error:
            failures.append(error)

    try:
        react(lambda reactor: Deferred.fromCoroutine(guarded(reactor)))
    except SystemExit as ended:
        if failures:
            raise failures[0] from None
        if ended.code:
            raise


def _login(config: Config, link: str) -> None:
    from ctllm.desktop.cloud import split_link
    from ctllm.desktop.session import log_in

    url, invite = split_link(link)

    async def work(client_for: Callable[[str], Any]) -> None:
        sign_in = await log_in(_file(config), client_for(url), invite)
        print(f"Signed in to {sign_in.cloud_url} as {sign_in.user_name}.")

    _with_cloud(work)


def _logout(config: Config, _: str) -> None:
    from ctllm.desktop.credentials import Credentials

    file, known, sign_in = _signed_in(config)

    async def work(client_for: Callable[[str], Any]) -> None:
        try:
            await client_for(sign_in.cloud_url).sign_out(sign_in.refresh)
        finally:  # whoever signs out here is signed out here, whatever the cloud has heard
            file.save(Credentials(known.desktop_id))
        print(f"Signed out of {sign_in.cloud_url}.")

    _with_cloud(work)


def _connect(config: Config, _: str) -> None:
    from ctllm.desktop.keys import make_key

    file, known, sign_in = _signed_in(config)
    key = next(iter(known.keys.values()), None) or make_key(file, "default")
    print(lines_to_paste(sign_in.cloud_url, key, "MODEL"))


def _add(config: Config, name: str) -> None:
    from ctllm.desktop.keys import make_key

    print(make_key(_file(config), name))


def _remove(config: Config, name: str) -> None:
    from ctllm.desktop.keys import revoke_key

    revoke_key(_file(config), name)


def _list(config: Config, _: str) -> None:
    for name in sorted(_file(config).load().keys):
        print(name)


_COMMANDS: dict[str, Callable[[Config, str], None]] = {
    "invite": _invite,
    "revoke": _revoke,
    "login": _login,
    "logout": _logout,
    "connect": _connect,
    "keys add": _add,
    "keys rm": _remove,
    "keys ls": _list,
}

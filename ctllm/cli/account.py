"""Commands for a desktop: sign-in and keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path
from typing import Any

from ctllm.cli.options import Command, Connect
from ctllm.cli.output import print_error, print_text
from ctllm.cli.reactor_runner import run_in_reactor
from ctllm.client_snippets import (
    PLACEHOLDER_MODEL,
    Target,
    find_client,
    format_client_list,
    format_common_clients,
    format_instructions,
)
from ctllm.config import Config
from ctllm.errors import BadRequest, CtllmError

#: Characters of a line that may be a sign-in link.
MAX_LINK = 4096
ARGUMENT_WARNING = (
    "warning: other users of this machine can read a link among the arguments, and whoever "
    "uses it first is signed in. Run `ctllm login` without it, and paste it when asked."
)


def _file(config: Config) -> Any:
    from ctllm.desktop.credential_file import CredentialFile

    file = CredentialFile(Path(config.state_dir))
    file.on_damage = print_error
    return file


def _signed_in(config: Config) -> tuple[Any, Any, Any]:
    """The credential file, what is in it, and the sign-in; raises BadRequest without one."""
    file = _file(config)
    known = file.load()
    if known.login is None:
        raise BadRequest("this desktop is not signed in; run: ctllm login")
    return file, known, known.login


def _with_cloud(work: Callable[[Callable[[str], Any]], Any]) -> None:
    """Run `work` in a reactor; it is given how to make a client for a cloud's URL."""
    from ctllm.desktop.cloud_client import CloudClient

    run_in_reactor(lambda reactor: work(lambda url: CloudClient(url, reactor)))


def _sign_in_link(given: str) -> str:
    """Give the link to sign in with: `given`, a line of standard input (-), or what is typed.

    The link is a secret that is good for whoever brings it first, so it is not echoed.
    """
    if given == "-":
        return sys.stdin.readline(MAX_LINK)
    if given:
        return given
    if not sys.stdin.isatty():
        raise BadRequest("There is no terminal to ask for the link. Pipe it to: ctllm login -")
    try:
        return getpass("Paste the sign-in link (it is not shown): ")
    except (EOFError, KeyboardInterrupt):
        raise BadRequest("No link was given.") from None


def login(config: Config, told: Command) -> None:
    """Sign this desktop in with a link."""
    from ctllm.desktop.cloud_client import parse_invite_link, require_https
    from ctllm.desktop.cloud_session import log_in

    url, invite = parse_invite_link(_sign_in_link(told.argument))
    if told.argument not in ("", "-"):
        print_error(ARGUMENT_WARNING)
    if not told["insecure-http"]:
        require_https(url)

    async def work(client_for: Callable[[str], Any]) -> None:
        sign_in = await log_in(_file(config), client_for(url), invite)
        print_text(f"Signed in to {sign_in.cloud_url} as {sign_in.user_name}.")

    _with_cloud(work)


def logout(config: Config, _: Command) -> None:
    """Sign this desktop out, here and at the cloud."""
    from ctllm.desktop.cloud_session import log_out

    file, _, _ = _signed_in(config)

    async def work(client_for: Callable[[str], Any]) -> None:
        sign_in = await log_out(file, client_for)
        print_text(f"Signed out of {sign_in.cloud_url}.")

    _with_cloud(work)


def connect(config: Config, told: Connect) -> None:
    """Print what a client needs, or lines for the usual ones and the names of all."""
    if not told.argument:
        print_text(format_common_clients(_cloud(config, told["model"] or PLACEHOLDER_MODEL)))
        print_text(format_client_list())
        return
    client = find_client(told.argument)
    address, model = _running(config)
    model = told["model"] or model
    endpoint = None if told["cloud"] or not address else Target(address, model=model)
    needs_cloud = told["cloud"] or endpoint is None
    asks_cloud = not told["endpoint"] and (needs_cloud or _file(config).load().login is not None)
    print_text(format_instructions(client, endpoint, _cloud(config, model) if asks_cloud else None))


def _cloud(config: Config, model: str) -> Target:
    """The cloud with a key; one is made where there is none. Raises BadRequest."""
    from ctllm.desktop.api_key_lease import create_api_key

    file, known, sign_in = _signed_in(config)
    key = next(iter(known.api_keys.values()), None) or create_api_key(file, "default")
    return Target(sign_in.cloud_url, key, model)


def _running(config: Config) -> tuple[str, str]:
    """Where the endpoint is and a model, by the desktop that runs here, else as configured."""
    from ctllm.ipc.client import IpcClient

    try:
        with IpcClient(Path(config.state_dir)) as daemon:
            status = daemon.status()
    except CtllmError:
        return _configured(config.desktop.listen), PLACEHOLDER_MODEL
    return status.endpoint, next(iter(status.ollama.models), PLACEHOLDER_MODEL)


def _configured(endpoint: str) -> str:
    """An endpoint's URL, or nothing where there is none or it is an endpoint string."""
    host, colon, port = endpoint.rpartition(":")
    return f"http://{endpoint}" if colon and port.isdecimal() and "=" not in host else ""


def add(config: Config, told: Command) -> None:
    """Make a key and print it."""
    from ctllm.desktop.api_key_lease import create_api_key

    print_text(create_api_key(_file(config), told.argument, bool(told["manage"])))


def remove(config: Config, told: Command) -> None:
    """Revoke a key."""
    from ctllm.desktop.api_key_lease import revoke_api_key

    revoke_api_key(_file(config), told.argument)


def names(config: Config, _: Command) -> None:
    """Print the names of the keys."""
    known = _file(config).load()
    for name in sorted(known.api_keys):
        print_text(f"{name} (manage)" if name in known.manage_keys else name)

"""Commands for the account of a desktop: login and logout, API keys, setup of clients."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from ctllm.cli.output import print_error, print_text
from ctllm.cli.parser import Parser
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

if TYPE_CHECKING:
    from ctllm.desktop.cloud_client import CloudClient
    from ctllm.desktop.credential_file import CredentialFile, Credentials, Login

    ClientFactory = Callable[[str], CloudClient]

#: Maximum length of a line from standard input, in characters.
MAX_LINK = 4096
ARGUMENT_WARNING = (
    "warning: other users of this machine can see the link in the process list, and whoever uses "
    "it first is logged in. Run `ctllm login` without it and paste it when asked."
)


def add_commands(parser: Parser) -> None:
    """Add login, logout, connect and keys."""
    login_parser = parser.add_command(
        "login",
        login,
        "Log in to a cloud with an invite link",
        "Log in this desktop with a link that `ctllm invite NAME` printed on the server. The "
        "command asks for the link; with - it reads the link from standard input. A link among the "
        "arguments is visible to other users of this machine. A cloud on another machine needs an "
        "https:// URL.",
        heading="on a desktop",
        examples=("ctllm login", "ctllm login - < link.txt"),
    )
    login_parser.add_argument(
        "link", metavar="LINK", nargs="?", default="", help="the link, or - for standard input"
    )
    login_parser.add_argument(
        "--insecure-http", action="store_true",
        help="accept an http:// URL, for example over a VPN: ctllm encrypts nothing then",
    )  # fmt: skip
    parser.add_command(
        "logout",
        logout,
        "Log out",
        "Log out this desktop. Its API keys stop working at once; if the cloud cannot be reached, "
        "within three minutes.",
        heading="on a desktop",
    )
    connect_parser = parser.add_command(
        "connect",
        connect,
        "Show how to set up a client",
        "Show what CLIENT needs to use your models: through this desktop, which needs no API key, "
        "and through the cloud, with one. Without CLIENT, show common setups and list all clients.",
        heading="on a desktop",
        examples=(
            "ctllm connect",
            "ctllm connect codex",
            "ctllm connect codex --cloud --model qwen3:4b",
        ),
    )
    connect_parser.add_argument(
        "client", metavar="CLIENT", nargs="?", default="", help="the client's name"
    )
    routes = connect_parser.add_mutually_exclusive_group()
    routes.add_argument("--endpoint", action="store_true", help="only through this desktop")
    routes.add_argument("--cloud", action="store_true", help="only through the cloud")
    connect_parser.add_argument("--model", default="", help="the model to use in the examples")
    _add_keys_commands(parser)


def _add_keys_commands(parser: Parser) -> None:
    keys_parser = parser.add_command(
        "keys",
        list_keys,
        "Manage API keys (add, rm, ls)",
        "Manage the API keys of this desktop. A key works while the desktop runs. Without a "
        "command, list the names.",
        heading="on a desktop",
        examples=("ctllm keys add laptop", "ctllm keys add admin --manage", "ctllm keys rm laptop"),
    )
    keys_parser.enable_commands()
    add = keys_parser.add_command(
        "add",
        add_key,
        "Create a key",
        "Create an API key and print it. It works while this desktop runs. It may use models; to "
        "pull, create, copy, push and delete them it needs --manage.",
        examples=("ctllm keys add laptop", "ctllm keys add admin --manage"),
    )
    add.add_argument("name", metavar="NAME", help="a name for the key")
    add.add_argument("--manage", action="store_true", help="let the key change models, too")
    remove = keys_parser.add_command(
        "rm",
        remove_key,
        "Revoke a key",
        "Revoke an API key. It stops working within seconds.",
        examples=("ctllm keys rm laptop",),
    )
    remove.add_argument("name", metavar="NAME", help="the name of the key")
    keys_parser.add_command("ls", list_keys, "List the names", "List the names of the API keys.")


def login(config: Config, arguments: Namespace) -> None:
    """Log in this desktop with a link."""
    from ctllm.desktop.cloud_client import parse_invite_link, require_https
    from ctllm.desktop.cloud_session import log_in

    url, invite = parse_invite_link(_read_link(arguments.link))
    if arguments.link not in ("", "-"):
        print_error(ARGUMENT_WARNING)
    if not arguments.insecure_http:
        require_https(url)

    async def work(client_factory: ClientFactory) -> None:
        session = await log_in(_credential_file(config), client_factory(url), invite)
        print_text(f"Logged in to {session.cloud_url} as {session.user_name}.")

    _run_with_cloud(work)


def logout(config: Config, _: Namespace) -> None:
    """Log out this desktop, here and at the cloud."""
    from ctllm.desktop.cloud_session import log_out

    file, _credentials, _login = _require_login(config)

    async def work(client_factory: ClientFactory) -> None:
        session = await log_out(file, client_factory)
        print_text(f"Logged out of {session.cloud_url}.")

    _run_with_cloud(work)


def connect(config: Config, arguments: Namespace) -> None:
    """Print the setup of a client; without one, common setups and the list of clients."""
    if not arguments.client:
        print_text(
            format_common_clients(_cloud_target(config, arguments.model or PLACEHOLDER_MODEL))
        )
        print_text(format_client_list())
        return
    client = find_client(arguments.client)
    address, model = _find_endpoint(config)
    model = arguments.model or model
    endpoint = None if arguments.cloud or not address else Target(address, model=model)
    # Without a login the cloud is left out, unless it is the only way.
    needs_cloud = arguments.cloud or endpoint is None
    has_cloud = needs_cloud or _credential_file(config).load().login is not None
    cloud = _cloud_target(config, model) if has_cloud and not arguments.endpoint else None
    print_text(format_instructions(client, endpoint, cloud))


def add_key(config: Config, arguments: Namespace) -> None:
    """Create an API key and print it."""
    from ctllm.desktop.api_key_lease import create_api_key

    print_text(create_api_key(_credential_file(config), arguments.name, arguments.manage))


def remove_key(config: Config, arguments: Namespace) -> None:
    """Revoke an API key."""
    from ctllm.desktop.api_key_lease import revoke_api_key

    revoke_api_key(_credential_file(config), arguments.name)


def list_keys(config: Config, _: Namespace) -> None:
    """Print the names of the API keys."""
    credentials = _credential_file(config).load()
    for name in sorted(credentials.api_keys):
        print_text(f"{name} (manage)" if name in credentials.manage_keys else name)


def _credential_file(config: Config) -> CredentialFile:
    from ctllm.desktop.credential_file import CredentialFile

    return CredentialFile(Path(config.state_dir), print_error)


def _require_login(config: Config) -> tuple[CredentialFile, Credentials, Login]:
    """Return the credential file with its content. Raises BadRequest without a login."""
    file = _credential_file(config)
    credentials = file.load()
    if credentials.login is None:
        raise BadRequest("this desktop is not logged in; run: ctllm login")
    return file, credentials, credentials.login


def _run_with_cloud(work: Callable[[ClientFactory], Coroutine[object, object, None]]) -> None:
    """Run `work` in the reactor with a factory of clients for a cloud's URL."""
    from ctllm.desktop.cloud_client import CloudClient

    run_in_reactor(lambda reactor: work(lambda url: CloudClient(url, reactor)))


def _read_link(given: str) -> str:
    """Return the invite link: `given`, a line of standard input for "-", else what is typed.

    The link is a secret, so the terminal does not echo it. Raises BadRequest without a link.
    """
    if given == "-":
        return sys.stdin.readline(MAX_LINK)
    if given:
        return given
    if not sys.stdin.isatty():
        raise BadRequest("There is no terminal to ask for the link. Pipe it to: ctllm login -")
    try:
        return getpass("Paste the invite link (it is not shown): ")
    except (EOFError, KeyboardInterrupt):
        raise BadRequest("No link was given.") from None


def _cloud_target(config: Config, model: str) -> Target:
    """Return the cloud with an API key; create one if there is none. Raises BadRequest."""
    from ctllm.desktop.api_key_lease import create_api_key

    file, credentials, session = _require_login(config)
    key = next(iter(credentials.api_keys.values()), None) or create_api_key(file, "default")
    return Target(session.cloud_url, key, model)


def _find_endpoint(config: Config) -> tuple[str, str]:
    """Return the desktop's URL for apps and a model: of the running desktop, else as configured."""
    from ctllm.ipc.client import IpcClient

    try:
        with IpcClient(Path(config.state_dir)) as daemon:
            status = daemon.status()
    except CtllmError:
        return _configured_url(config.desktop.listen), PLACEHOLDER_MODEL
    return status.endpoint, next(iter(status.ollama.models), PLACEHOLDER_MODEL)


def _configured_url(listen: str) -> str:
    """Return the URL of host:port; "" for "off" and for endpoint strings."""
    host, colon, port = listen.rpartition(":")
    return f"http://{listen}" if colon and port.isdecimal() and "=" not in host else ""

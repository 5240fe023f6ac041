"""Commands for the account of a desktop: login and logout, setup of clients."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from ctllm.cli.keys import open_credentials, wait_for_cloud
from ctllm.cli.output import is_terminal, print_error, print_text
from ctllm.cli.parser import Parser
from ctllm.cli.reactor_runner import Reactor, run_in_reactor
from ctllm.client_snippets import (
    PLACEHOLDER_KEY,
    PLACEHOLDER_MODEL,
    Target,
    find_client,
    format_client_list,
    format_common_clients,
    format_instructions,
)
from ctllm.config import Config
from ctllm.errors import (
    BadRequest,
    CtllmError,
    NotRunning,
    SecretStoreUnavailable,
    Unauthorized,
)

if TYPE_CHECKING:
    from ctllm.desktop.cloud_client import CloudClient
    from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
    from ctllm.desktop.login_store import LoginStore

    ClientFactory = Callable[[str], CloudClient]

#: Seconds for the revocation of a provider's token.
LOGOUT_TIMEOUT = 10.0
#: Maximum length of a line from standard input, in characters.
MAX_LINK = 4096
ARGUMENT_WARNING = (
    "warning: other users of this machine can see the link in the process list, and whoever uses "
    "it first is logged in. Run `ctllm login` without it and paste it when asked."
)


def add_commands(parser: Parser) -> None:
    """Add login, logout and connect."""
    login_parser = parser.add_command(
        "login",
        login,
        "Log in to a cloud",
        "Log in this desktop at CLOUD, with the provider that the cloud names: the command shows a "
        "code and a link, and opens the link in the browser. Or log in with an invite link that "
        "`ctllm invite NAME` printed on the server: the command asks for it, and with - reads it "
        "from standard input. An invite link among the arguments is visible to other users of this "
        "machine. A cloud on another machine needs an https:// URL.",
        heading="on a desktop",
        examples=("ctllm login https://cloud.example", "ctllm login", "ctllm login - < link.txt"),
    )
    login_parser.add_argument(
        "link", metavar="CLOUD", nargs="?", default="",
        help="the cloud's address or an invite link, or - for standard input",
    )  # fmt: skip
    login_parser.add_argument(
        "--provider", metavar="NAME", default="", help="the provider, if the cloud has several"
    )
    methods = login_parser.add_mutually_exclusive_group()
    methods.add_argument(
        "--device", dest="method", action="store_const", const="device", default="auto",
        help="log in with a code, in any browser",
    )  # fmt: skip
    methods.add_argument(
        "--browser", dest="method", action="store_const", const="browser",
        help="log in in a browser on this machine",
    )  # fmt: skip
    login_parser.add_argument(
        "--no-browser", action="store_true", help="show the link, and do not open it"
    )
    login_parser.add_argument(
        "--insecure-http", action="store_true",
        help="accept an http:// URL, for example over a VPN: ctllm encrypts nothing then",
    )  # fmt: skip
    parser.add_command(
        "logout",
        logout,
        "Log out",
        "Log out this desktop, and revoke its tokens at the cloud and at the provider. Its API "
        "keys stop working at once; if the cloud cannot be reached, within three minutes.",
        heading="on a desktop",
    )
    connect_parser = parser.add_command(
        "connect",
        connect,
        "Show how to set up a client",
        "Show what CLIENT needs to use your models: through this desktop, which needs no API key, "
        "and through the cloud, with one. --cloud creates an API key for the client and shows it; "
        "do this once for each place where it runs. Without CLIENT, show common setups and list "
        "all clients.",
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
    routes.add_argument(
        "--cloud", action="store_true", help="only through the cloud, with a new API key"
    )
    connect_parser.add_argument("--model", default="", help="the model to use in the examples")


def login(config: Config, arguments: Namespace) -> None:
    """Log in this desktop with an invite link, or with a provider of a cloud."""
    from ctllm.desktop.cloud_client import is_invite_link, parse_cloud_url, require_https

    link = _read_link(arguments.link)
    if is_invite_link(link):
        _log_in_with_invite(config, arguments, link)
        return
    url = parse_cloud_url(link)
    if not arguments.insecure_http:
        require_https(url)

    async def work(client_factory: ClientFactory, reactor: Reactor) -> None:
        logins = _login_store(config, reactor)
        _tell_present_login(logins.file)
        session = await _log_in_with_provider(
            logins, client_factory, reactor, url, arguments, Path(config.state_dir)
        )
        _tell_login(session, logins)

    _run_with_cloud(work)


def _log_in_with_invite(config: Config, arguments: Namespace, link: str) -> None:
    from ctllm.desktop.cloud_client import parse_invite_link, require_https
    from ctllm.desktop.cloud_login import log_in_with_invite
    from ctllm.desktop.oauth_client import OAuthClient

    url, invite = parse_invite_link(link)
    if arguments.link not in ("", "-"):
        print_error(ARGUMENT_WARNING)
    if not arguments.insecure_http:
        require_https(url)

    async def work(client_factory: ClientFactory, reactor: Reactor) -> None:
        logins = _login_store(config, reactor)
        oauth = OAuthClient(reactor, timeout=LOGOUT_TIMEOUT)
        session = await log_in_with_invite(logins, client_factory, oauth, url, invite, print_error)
        _tell_login(session, logins)

    _run_with_cloud(work)


async def _log_in_with_provider(
    logins: LoginStore,
    client_factory: ClientFactory,
    reactor: Reactor,
    url: str,
    arguments: Namespace,
    state_dir: Path,
) -> Login:
    from ctllm.cli.provider_login import TerminalPrompt, choose_provider
    from ctllm.desktop.cloud_login import find_providers, log_in_with_provider
    from ctllm.desktop.ipc.browser import BrowserOpener, has_display
    from ctllm.desktop.oauth_client import OAuthClient
    from ctllm.desktop.provider_login import LoginMethod, ProviderLogin

    providers = await find_providers(client_factory(url))
    provider = choose_provider(providers, arguments.provider, sys.stdin)
    oauth = OAuthClient(reactor)
    browser = BrowserOpener(
        reactor, state_dir, lambda: has_display(os.environ, sys.platform), name="login.html"
    )
    prompt = TerminalPrompt(provider, None if arguments.no_browser else browser.open)
    try:
        grant = await ProviderLogin(reactor, oauth, prompt).run(
            provider, LoginMethod(arguments.method)
        )
        return await log_in_with_provider(logins, client_factory, oauth, url, grant, print_error)
    finally:
        browser.remove_file()


def _tell_login(login: Login, logins: LoginStore) -> None:
    """Tell which login is stored, and where its tokens are."""
    print_text(f"Logged in to {login.cloud_url} as {login.user_name}.")
    print_text(f"The tokens are {logins.description()}.")


def _tell_present_login(file: CredentialFile) -> None:
    """Tell which login will be replaced."""
    known = file.load().login
    if known is not None and not known.ended:
        print_text(
            f"This desktop is logged in to {known.cloud_url} as {known.user_name}. "
            "The new login will replace that one.\n"
        )


def logout(config: Config, _: Namespace) -> None:
    """Log out this desktop, here, at the cloud and at the provider."""
    from ctllm.desktop.cloud_login import log_out
    from ctllm.desktop.oauth_client import OAuthClient

    _require_login(config)

    async def work(client_factory: ClientFactory, reactor: Reactor) -> None:
        logins = _login_store(config, reactor)
        if not await _has_readable_tokens(logins) and (url := _log_out_by_daemon(config)):
            print_text(f"Logged out of {url}.")
            return
        oauth = OAuthClient(reactor, timeout=LOGOUT_TIMEOUT)
        session = await log_out(logins, client_factory, oauth)
        print_text(f"Logged out of {session.cloud_url}.")

    _run_with_cloud(work)


async def _has_readable_tokens(logins: LoginStore) -> bool:
    """Whether this process can read the tokens, or there are none to read."""
    try:
        await logins.load(may_prompt=True)
    except SecretStoreUnavailable:
        return False
    except Unauthorized:
        return True
    return True


def _log_out_by_daemon(config: Config) -> str:
    """Let the daemon log out, which may have the key of the tokens; return the cloud's URL.

    Returns an empty string if no daemon runs.
    """
    from ctllm.ipc import protocol
    from ctllm.ipc.client import IpcClient

    try:
        with IpcClient(Path(config.state_dir)) as daemon:
            return str(daemon.call(protocol.Logout)["cloud_url"])
    except NotRunning:
        return ""


def connect(config: Config, arguments: Namespace) -> None:
    """Print the setup of a client; without one, common setups and the list of clients."""
    if not arguments.client:
        model = arguments.model or PLACEHOLDER_MODEL
        print_text(format_common_clients(_cloud_target(config, model, "default", arguments.cloud)))
        print_text(format_client_list())
        return
    client = find_client(arguments.client)
    address, model = _find_endpoint(config)
    model = arguments.model or model
    endpoint = None if arguments.cloud or not address else Target(address, model=model)
    # Without a login the cloud is left out, unless it is the only way.
    needs_cloud = arguments.cloud or endpoint is None
    has_cloud = needs_cloud or open_credentials(config).load().login is not None
    needs_key = arguments.cloud and client.needs_key
    cloud = (
        _cloud_target(config, model, client.name, needs_key)
        if has_cloud and not arguments.endpoint
        else None
    )
    print_text(format_instructions(client, endpoint, cloud))


def _login_store(config: Config, reactor: Reactor) -> LoginStore:
    from ctllm.desktop.login_store import open_login_store
    from ctllm.desktop.secret_store.factory import make_secret_stores

    state_dir, desktop = Path(config.state_dir), config.desktop
    stores = make_secret_stores(
        state_dir, reactor, desktop.credential_store, desktop.passphrase_file, os.environ,
        print_error,
    )  # fmt: skip
    return open_login_store(state_dir, reactor, print_error, stores)


def _require_login(config: Config) -> tuple[CredentialFile, Credentials, Login]:
    """Return the credential file with its content. Raises BadRequest without a login."""
    file = open_credentials(config)
    credentials = file.load()
    if credentials.login is None:
        raise BadRequest("this desktop is not logged in; run: ctllm login")
    return file, credentials, credentials.login


def _run_with_cloud(
    work: Callable[[ClientFactory, Reactor], Coroutine[object, object, None]],
) -> None:
    """Run `work` in the reactor, with a factory of clients for a cloud's URL."""
    from ctllm.desktop.cloud_client import CloudClient

    run_in_reactor(lambda reactor: work(lambda url: CloudClient(url, reactor), reactor))


def _read_link(given: str) -> str:
    """Return the invite link: `given`, a line of standard input for "-", else what is typed.

    The link is a secret, so the terminal does not echo it. Raises BadRequest without a link.
    """
    if given == "-":
        return "" if sys.stdin is None else sys.stdin.readline(MAX_LINK)
    if given:
        return given
    if not is_terminal(sys.stdin):
        raise BadRequest("There is no terminal to ask for the link. Pipe it to: ctllm login -")
    try:
        return getpass("Address of the cloud, or the invite link (it is not shown): ")
    except (EOFError, KeyboardInterrupt):
        raise BadRequest("No link was given.") from None


def _cloud_target(config: Config, model: str, key_name: str, creates_key: bool) -> Target:
    """Return the cloud; with a new API key, or with a placeholder for one. Raises BadRequest.

    The key gets a name of its own, because earlier ones may be in use and are stored nowhere.
    """
    from ctllm.desktop.api_keys import create_numbered_key

    file, _credentials, session = _require_login(config)
    if not creates_key:
        return Target(session.cloud_url, PLACEHOLDER_KEY, model)
    name, key = create_numbered_key(file, key_name, time.time())
    print_error(f"created the API key {name}; it is shown once. To revoke it: ctllm keys rm {name}")
    wait_for_cloud(config)
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

"""The command line of `ctllm`: which commands there are, and what each is told."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python import usage

from ctllm import __version__
from ctllm.cli.output import print_text


class Command(usage.Options):
    """A command with an optional argument, which `parseArgs` keeps."""

    argument = ""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Take options before the argument or after it."""
        words = list(options or ())
        if words and not words[0].startswith("-"):
            words.append(words.pop(0))
        super().parseOptions(words)  # type: ignore[no-untyped-call]

    def parseArgs(self, *given: str) -> None:
        """Keep the argument; UsageError unless there are as many as are needed."""
        needed = 1 if self.argument else 0
        if len(given) != needed:
            wanted = f"needs one argument: {self.argument}" if needed else "takes no argument"
            raise usage.UsageError(wanted)
        self.argument = given[0] if given else ""

    def getSynopsis(self) -> str:
        """The command and its argument."""
        return f"Usage: {super().getSynopsis().removeprefix('Usage: ')} {self.argument}".rstrip()


class _Invite(Command):
    """On the server."""

    argument = "NAME"
    longdesc = (
        "Prints a sign-in link for the user NAME. It works once, for the minutes that the "
        "configuration says (15), in a browser or on a desktop, which `ctllm login` signs in."
    )


class _Revoke(Command):
    argument = "NAME"
    longdesc = (
        "Ends every sign-in of the user NAME, browsers and desktops, and all that came of one: "
        "tokens, API keys, invitations that are open. A cloud that runs closes the connections of "
        "that user within two seconds. To let NAME in again, make a new invitation."
    )


class _Firewall(Command):
    longdesc = (
        "Closes the containers of streaming proxies off from this machine: what they send to it "
        "or through it is dropped, but for their answers to the cloud. Prints the commands, then "
        "runs them; what is there already stays. To be run as root, after each start of the "
        "machine."
    )
    optFlags = [
        ["check", None, "Only print what is missing; the status is 1 if anything is"],
        ["remove", None, "Take away what this command has put there"],
    ]


class _ProxiesList(Command):
    longdesc = "Lists the streaming proxies: whose (a hash), state, age, use."


class _ProxiesRemove(Command):
    argument = "PROXY"
    longdesc = (
        "Ends the streaming proxy whose name begins with PROXY, or all of them for `all`. Answers "
        "that are under way break off. Whoever needs one again gets a new one."
    )


class _ProxiesDrain(Command):
    longdesc = (
        "Starts no more streaming proxies, waits until those that run have nothing under way, and "
        "ends them. The cloud starts none until it is restarted, or told `ctllm proxies resume`."
    )
    optParameters = [
        ["seconds", None, 300, "End those that still have something under way after so long", int]
    ]


class _ProxiesResume(Command):
    longdesc = "Has a cloud that was drained start streaming proxies again."


class _Proxies(usage.Options):
    longdesc = "On the server: its streaming proxies, whether its cloud runs or not."
    subCommands = [
        ("ls", None, _ProxiesList, "List them"),
        ("rm", None, _ProxiesRemove, "End one, or all"),
        ("drain", None, _ProxiesDrain, "End all, each once nothing of it is under way"),
        ("resume", None, _ProxiesResume, "Start proxies again after drain"),
    ]
    defaultSubCommand = "ls"


_JSON = ["json", None, "Print JSON, for programs"]


class _Status(Command):
    longdesc = (
        "Says how the desktop that runs here is. The status is 0 when it is connected, 2 when it "
        "is and Ollama is down, 3 when none runs, 4 when it is signed out, 5 while it is not "
        "connected, and 1 when it cannot be asked."
    )
    optFlags = [_JSON, ["watch", None, "Go on, and say it again whenever it changes"]]


class _Show(Command):
    longdesc = "Opens the chat page in your browser, signed in; without one, prints its address."
    optFlags = [_JSON]


class _Hide(Command):
    longdesc = "Hides the window of the chat page, where it has one of its own."
    optFlags = [_JSON]


class _Settings(Command):
    longdesc = "Opens the settings in your browser; without one, prints their address."
    optFlags = [_JSON]


class _Prefer(Command):
    argument = "WHERE"
    longdesc = (
        "Says where requests of this machine's apps go, now and after a restart. auto: to Ollama "
        "here, and to your other desktops for models that only they have or while it fails. "
        "local: to them only while it fails. cloud: to them first. never: never to them."
    )
    optFlags = [_JSON]


class _Quit(Command):
    longdesc = "Ends the desktop that runs here, once the answers under way are whole."
    optFlags = [_JSON]
    optParameters = [["seconds", None, 10, "Wait no longer than this for them", float]]


class _Logs(Command):
    longdesc = "Prints the last lines of the log of the desktop that runs here."
    optFlags = [_JSON, ["follow", "f", "Go on, and print what is added"]]
    optParameters = [["lines", "n", 100, "How many", int]]


class _Autostart(Command):
    argument = "on|off"
    longdesc = (
        "Has the desktop and its tray start with your session, or not any more: a systemd unit of "
        "yours and an autostart entry, a launchd agent, or an entry of the Startup folder."
    )
    optParameters = [["with-config", None, None, "A configuration file that they are to use"]]


class _Login(Command):
    longdesc = (
        "Signs this desktop in with a link that `ctllm invite NAME` printed on the server. It asks "
        "for the link, or reads it from standard input where LINK is -. Other users of this "
        "machine can read a link that is given as an argument, and sign in with it first. A cloud "
        "on another machine must have an https:// address."
    )
    optFlags = [
        ["insecure-http", None, "Let it be http://, as over a VPN: nothing is encrypted by ctllm"]
    ]

    def parseArgs(self, *given: str) -> None:
        """Keep the link, or how to get it."""
        if len(given) > 1:
            raise usage.UsageError("takes one argument at most: LINK, or - for standard input")
        self.argument = "".join(given)

    def getSynopsis(self) -> str:
        """The command and what may follow."""
        return f"{super().getSynopsis()} [LINK|-]"


class _Logout(Command):
    longdesc = (
        "Signs this desktop out. Its API keys stop working at once, or within three minutes where "
        "the cloud cannot be reached."
    )


class Connect(Command):
    """Its argument is optional."""

    argument = ""
    synopsis = "[options] [CLIENT]"
    longdesc = (
        "Prints what CLIENT needs to use your models: by the endpoint of this desktop, which needs "
        "no key, and by the cloud, with an API key. Without CLIENT it prints lines to paste for "
        "the usual ones and the names of all."
    )
    optFlags = [
        ["endpoint", None, "Only for the endpoint of this desktop"],
        ["cloud", None, "Only for the cloud"],
    ]
    optParameters = [["model", None, None, "The model that the lines name"]]

    def parseArgs(self, *given: str) -> None:
        """Keep the client, where one is named."""
        if len(given) > 1:
            raise usage.UsageError("takes one argument at most: CLIENT")
        self.argument = "".join(given)

    def postOptions(self) -> None:
        """One of the two, or none."""
        if self["endpoint"] and self["cloud"]:
            raise usage.UsageError("--endpoint or --cloud, not both; without them both are shown")


class _Add(Command):
    argument = "NAME"
    longdesc = (
        "Makes an API key called NAME and prints it. It works while this desktop runs. It may use "
        "models; to pull, create, copy, push and delete them it needs --manage."
    )
    optFlags = [["manage", None, "The key may change models, too"]]


class _Remove(Command):
    argument = "NAME"
    longdesc = "Revokes the API key called NAME; it stops working within seconds."


class _List(Command):
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

    synopsis = "Usage: ctllm [--config FILE] [--state-dir FOLDER] COMMAND"
    longdesc = (
        "Use the models on your own machine from anywhere. The programs themselves are run "
        "with: twistd ctllm --help"
    )
    optParameters = [
        ["config", None, None, "The configuration file (default: as twistd ctllm finds it)"],
        ["state-dir", None, None, "The folder with keys and sign-ins (default: as configured)"],
    ]
    subCommands = [
        ("invite", None, _Invite, "On the server: print a sign-in link for a user"),
        ("revoke", None, _Revoke, "On the server: end every sign-in of a user"),
        ("firewall", None, _Firewall, "On the server: close containers off from it"),
        ("proxies", None, _Proxies, "On the server: its streaming proxies (ls, rm, drain, resume)"),
        ("status", None, _Status, "On a desktop: how is it?"),
        ("show", None, _Show, "On a desktop: open the chat page"),
        ("hide", None, _Hide, "On a desktop: hide the window of the chat page"),
        ("settings", None, _Settings, "On a desktop: open the settings"),
        (
            "prefer",
            None,
            _Prefer,
            "On a desktop: where apps' requests go (auto, local, cloud, never)",
        ),
        ("quit", None, _Quit, "On a desktop: end it, in order"),
        ("logs", None, _Logs, "On a desktop: what it has logged"),
        ("autostart", None, _Autostart, "On a desktop: start with the session (on, off)"),
        ("login", None, _Login, "On a desktop: sign in with such a link"),
        ("logout", None, _Logout, "On a desktop: sign out"),
        ("keys", None, _Keys, "On a desktop: API keys for programs (add, rm, ls)"),
        ("connect", None, Connect, "On a desktop: what each client needs to use your models"),
    ]

    def opt_version(self) -> None:
        """Print the version."""
        print_text(f"ctllm {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """A command is needed."""
        if self.subCommand is None:
            raise usage.UsageError("which command? (ctllm --help lists them)")

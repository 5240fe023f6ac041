"""The command `ctllm`, as somebody types it."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import time
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__
from ctllm.auth.api_keys import owner_tag, parse_owner_tag
from ctllm.cli import main
from ctllm.client_snippets import CLIENTS
from ctllm.cloud.identity import (
    Authentication,
    Invites,
    PrivateDirectory,
    Revocations,
    Sessions,
    User,
    load_signing_keys,
)
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
from ctllm.errors import BadRequest, Unauthorized

ANN = Login("https://cloud.example", "ctllm|ann", "ann", "secret")


class CommandTests(SynchronousTestCase):
    """Each on a state folder of its own."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.file = CredentialFile(self.state)
        self.config = Path(self.mktemp())
        self.config.write_text("")

    def run_(self, *words: str) -> str:
        """What the command prints."""
        with redirect_stdout(io.StringIO()) as out:
            main(["--config", str(self.config), "--state-dir", str(self.state), *words])
        return out.getvalue()

    def refused(self, *words: str) -> str:
        """The sentence that it ends with, with a status that says that it failed."""
        ended = self.assertRaises(SystemExit, self.run_, *words)
        assert isinstance(ended.code, str)
        self.assertTrue(ended.code.startswith("ctllm: "), ended.code)
        self.assertNotIn("Traceback", ended.code)
        return ended.code

    def signed_in(self, **keys: str) -> None:
        self.file.save(Credentials("d" * 32, ANN, keys))

    def test_version(self) -> None:
        """By --version, and that is all."""
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(self.assertRaises(SystemExit, main, ["--version"]).code, 0)
        self.assertEqual(out.getvalue(), f"ctllm {__version__}\n")

    def test_starts_light(self) -> None:
        """What only a cloud needs is not imported for a command that needs none of it."""
        program = "import sys, ctllm.cli; sys.exit(bool({'treq', 'OpenSSL'} & set(sys.modules)))"
        self.assertEqual(subprocess.run([sys.executable, "-c", program], check=False).returncode, 0)

    def test_words_that_it_does_not_know(self) -> None:
        """It says what is wrong and where help is."""
        self.assertIn("--help", self.refused())
        for words in (
            ["frobnicate"],
            ["login", "a", "b"],
            ["connect", "curl", "x"],
            ["connect", "--endpoint", "--cloud", "curl"],
        ):
            self.refused(*words)
        self.assertIn("NAME", self.refused("keys", "add"))

    def test_keys(self) -> None:
        """Made (and printed alone, for scripts), listed by name, revoked."""
        self.signed_in()
        key = self.run_("keys", "add", "laptop").strip()
        self.assertEqual(parse_owner_tag(key), owner_tag(ANN.user_id))
        self.run_("keys", "add", "car")
        self.assertEqual(self.run_("keys", "ls"), "car\nlaptop\n")
        self.assertEqual(self.run_("keys"), "car\nlaptop\n")
        self.refused("keys", "add", "car")
        self.run_("keys", "rm", "laptop")
        self.assertEqual(self.run_("keys"), "car\n")
        self.refused("keys", "rm", "laptop")

    def test_options_before_and_after_the_argument(self) -> None:
        """As the documents write them, and as getopt has them."""
        self.signed_in()
        self.run_("keys", "add", "boss", "--manage")
        self.run_("keys", "add", "--manage", "chief")
        self.assertEqual(self.run_("keys", "ls"), "boss (manage)\nchief (manage)\n")
        self.assertIn("unrecognized arguments: b", self.refused("keys", "add", "a", "b"))

    def test_connect(self) -> None:
        """Lines with the cloud's address and a key that works, the same one each time."""
        self.signed_in()
        printed = self.run_("connect")
        (key,) = self.file.load().api_keys.values()
        for part in (key, f"OLLAMA_HOST={ANN.cloud_url} ", f"{ANN.cloud_url}/v1 "):
            self.assertIn(part, printed)
        self.assertEqual(self.run_("connect"), printed)
        for client in CLIENTS:
            self.assertIn(f"\n  {client.name} ", printed)

    def test_connect_a_client(self) -> None:
        """By the endpoint, which needs no sign-in and comes first, and by the cloud."""
        printed = self.run_("connect", "codex")
        self.assertIn('base_url = "http://127.0.0.1:11435/v1"', printed)
        self.assertNotIn("From anywhere", printed)
        self.assertIn("ctllm login", self.refused("connect", "codex", "--cloud"))
        self.signed_in()
        both = self.run_("connect", "Codex", "--model", "qwen3:4b")
        (key,) = self.file.load().api_keys.values()
        here, there = both.split("From anywhere")
        self.assertNotIn(key, here)
        for part in (key, f'base_url = "{ANN.cloud_url}/v1"', 'model = "qwen3:4b"'):
            self.assertIn(part, there)
        self.assertNotIn(key, self.run_("connect", "--endpoint", "codex"))
        self.assertNotIn("11435", self.run_("connect", "codex", "--cloud"))
        self.config.write_text('[desktop]\nlisten = "off"\n')
        self.assertNotIn("no API key needed", self.run_("connect", "codex"))

    def test_connect_an_unknown_client(self) -> None:
        """It says which one was probably meant, and how to see all."""
        said = self.refused("connect", "claude-cod")
        self.assertIn("claude-code", said)
        self.assertIn("ctllm connect", said)

    def test_not_signed_in(self) -> None:
        """What needs a sign-in says how to get one."""
        for words in (["connect"], ["keys", "add", "x"]):
            self.assertIn("ctllm login", self.refused(*words))
        self.refused("logout")

    def test_links_that_are_none(self) -> None:
        """Nobody is dialled; the sentence shows what one looks like."""
        for link in ("cloud", "https://c.example/", "https://c.example/#x=y", "#invite=x",
                     "ftp://c.example/#invite=x", "https://c.example/?invite=x"):  # fmt: skip
            self.assertIn("#invite=", self.refused("login", link))
        self.assertFalse(self.file.path.exists())

    def test_a_cloud_without_encryption(self) -> None:
        """Only on this machine, or where somebody says that it is as it should be."""
        for host in ("cloud.example", "192.168.1.5:8080", "100.64.1.2", "[2001:db8::1]"):
            with redirect_stderr(io.StringIO()):
                said = self.refused("login", f"http://{host}/#invite=x")
            self.assertIn(f"The connection to http://{host} would not be encrypted", said)
            self.assertIn("--insecure-http", said)
        for words in (
            ["--insecure-http", "http://100.64.1.2/#invite=x"],
            ["http://127.0.0.1:8080/#invite=x"],
            ["http://localhost/#invite=x"],
            ["http://[::1]:8080/#invite=x"],
            ["https://cloud.example/#invite=x"],
        ):
            with (
                mock.patch("ctllm.cli.account.run_in_reactor") as ran,
                redirect_stderr(io.StringIO()),
            ):
                self.run_("login", *words)
            self.assertTrue(ran.called, words)

    def logged_in(self, *words: str, typed: str = "", terminal: bool = False) -> tuple[str, str]:
        """The link that `ctllm login` takes, and what it says on standard error."""
        taken: list[str] = []

        def split(link: str) -> Any:
            taken.append(link)
            raise BadRequest("that is all")

        asked = mock.Mock(isatty=lambda: terminal, readline=io.StringIO(typed).readline)
        errors = io.StringIO()
        with (
            mock.patch("sys.stdin", asked),
            mock.patch("ctllm.cli.account.getpass", return_value=typed) as getpass,
            mock.patch("ctllm.desktop.cloud_client.parse_invite_link", split),
            redirect_stderr(errors),
        ):
            self.assertIn("that is all", self.refused("login", *words))
        self.assertEqual(getpass.called, terminal)
        return taken[0], errors.getvalue()

    def test_where_a_link_comes_from(self) -> None:
        """It is asked for without an echo, or read from standard input."""
        link = "https://c.example/#invite=x"
        self.assertEqual(self.logged_in(typed=link, terminal=True), (link, ""))
        self.assertEqual(self.logged_in("-", typed=f"{link}\nmore"), (f"{link}\n", ""))
        with mock.patch("sys.stdin", io.StringIO(link)):
            self.assertIn("ctllm login -", self.refused("login"))

    def test_no_link_is_typed(self) -> None:
        """The end of the input and Ctrl-C are answered with a sentence."""
        terminal = mock.Mock(isatty=lambda: True)
        for end in (EOFError, KeyboardInterrupt):
            with (
                mock.patch("sys.stdin", terminal),
                mock.patch("ctllm.cli.account.getpass", side_effect=end),
            ):
                self.assertIn("No link was given.", self.refused("login"))

    def test_a_link_among_the_arguments(self) -> None:
        """It is taken, and the danger is named."""
        errors = io.StringIO()
        with mock.patch("ctllm.cli.account.run_in_reactor"), redirect_stderr(errors):
            self.run_("login", "https://c.example/#invite=x")
        self.assertIn("other users of this machine can see", errors.getvalue())
        self.assertNotIn("invite=x", errors.getvalue())

    def test_revoke(self) -> None:
        """Every sign-in of that user is over, nobody else's, and how many is said."""
        self.assertIn("no cloud has run", self.refused("revoke", "ann"))
        folder = PrivateDirectory(self.state / "cloud")
        load_signing_keys(folder)
        sessions = Sessions(folder.subdirectory("sessions"), time)
        ann, bob = User("ctllm", "ann", "ann"), User("ctllm", "bob", "bob")
        gone = [sessions.create(Authentication(ann, 0.0), each) for each in ("browser", "desktop")]
        kept = sessions.create(Authentication(bob, 0.0), "desktop")
        invites = Invites(folder.subdirectory("invites"), time)
        lost, good = invites.create("ann"), invites.create("bob")
        before = time()
        said = "Ended 2 sessions and 1 open invites of ann.\n"
        self.assertEqual(self.run_("revoke", "Ann"), said)
        revocations = Revocations(
            folder.subdirectory("revocations"), load_signing_keys(folder).instance_secret
        )
        self.assertEqual(len(revocations.read_changes()), 1)
        self.assertTrue(revocations.is_revoked(ann, before))
        self.assertFalse(revocations.is_revoked(ann, time()))
        self.assertFalse(revocations.is_revoked(bob, before))
        self.assertRaises(Unauthorized, invites.verify, lost)
        invites.verify(good)
        for refresh in gone:
            self.assertRaises(Unauthorized, sessions.renew, refresh)
        sessions.renew(kept)
        self.refused("revoke", "no name")

    def test_invite(self) -> None:
        """A link with an invitation that works once, to the address that the cloud keeps."""
        self.assertIn("no cloud has run", self.refused("invite", "ann"))
        folder = PrivateDirectory(self.state / "cloud")
        load_signing_keys(folder)
        folder.replace("url", b"https://cloud.example")
        url, _, secret = self.run_("invite", "Ann").strip().partition("/#invite=")
        self.assertEqual(url, "https://cloud.example")
        invites = Invites(folder.subdirectory("invites"), time)
        self.assertEqual(invites.redeem(secret).id, "ctllm|ann")
        self.refused("invite", "no name")
        for damaged in (b"https://cl\xff", b"https://cloud\x1b[2J", b"\0\0"):
            folder.replace("url", damaged)
            self.assertIn("url is damaged; restart the cloud", self.refused("invite", "ann"))

    def test_a_broken_file(self) -> None:
        """It is named, not shown, and kept."""
        self.signed_in()
        self.file.path.write_text('{"desktop_id": "hunter2')
        errors = io.StringIO()
        with redirect_stderr(errors):
            self.run_("keys")
        self.assertIn(f"{self.file.path} was damaged", errors.getvalue())
        self.assertIn("ctllm login", errors.getvalue())
        self.assertNotIn("hunter2", errors.getvalue())
        (aside,) = self.file.path.parent.glob("credentials.json.damaged-*")
        self.assertEqual(aside.read_text(), '{"desktop_id": "hunter2')

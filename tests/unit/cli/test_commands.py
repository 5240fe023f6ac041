"""Tests of the commands of `ctllm`."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__
from ctllm.auth.api_keys import KeyUse, owner_tag, parse_owner_tag, record_key
from ctllm.cli import build_parser, main
from ctllm.client_snippets import CLIENTS
from ctllm.cloud.identity import (
    Authentication,
    Invites,
    KnownUsers,
    PrivateDirectory,
    Revocations,
    Sessions,
    User,
    load_signing_keys,
)
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login, name_key
from ctllm.desktop.key_usage import KeyUsageFile
from ctllm.errors import BadRequest, Unauthorized

ANN_OF_CLOUD = User("ctllm", "ann", "ann")
EVE = User("https://login.example", "auth0|eve", "Eve")
OTHER_EVE = User("https://other.example", "eve", "Eve\x1b")
ANN = Login("https://cloud.example", "ctllm|ann", "ann", "secret")


class Terminal(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


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
        records = tuple(name_key(name, record_key(key)) for name, key in keys.items())
        self.file.save(Credentials("d" * 32, ANN, records))

    def key_names(self) -> list[str]:
        return [key.name for key in self.file.load().api_keys]

    def printed_key(self, printed: str) -> str:
        """The one API key in what was printed."""
        (key,) = set(re.findall(r"ctllm-k-[\w-]+", printed))
        return key

    def test_version_prints_the_version_and_exits(self) -> None:
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(self.assertRaises(SystemExit, main, ["--version"]).code, 0)
        self.assertEqual(out.getvalue(), f"ctllm {__version__}\n")

    def test_does_not_import_what_only_a_cloud_needs(self) -> None:
        program = "import sys, ctllm.cli; sys.exit(bool({'treq', 'OpenSSL'} & set(sys.modules)))"
        self.assertEqual(subprocess.run([sys.executable, "-c", program], check=False).returncode, 0)

    def test_a_wrong_command_line_names_the_help(self) -> None:
        self.assertIn("--help", self.refused())
        for words in (
            ["frobnicate"],
            ["login", "a", "b"],
            ["connect", "curl", "x"],
            ["connect", "--endpoint", "--cloud", "curl"],
        ):
            self.refused(*words)
        self.assertIn("NAME", self.refused("keys", "add"))

    def test_numbers_of_lines_and_seconds_are_not_negative(self) -> None:
        for arguments in (
            ("logs", "-n", "-3"),
            ("quit", "--seconds=-1"),
            ("quit", "--seconds=nan"),
        ):
            self.assertIn("is not a", self.refused(*arguments))

    def test_refuses_the_renamed_option_with_the_new_name(self) -> None:
        for words in (["--state", "x", "keys"], ["keys", "--state=x"], ["keys", "ls", "--state=x"]):
            self.assertIn("--state is now --state-dir", self.refused(*words))

    def test_suggests_a_command_for_an_unknown_one(self) -> None:
        self.assertIn("did you mean login?", self.refused("logn"))

    def test_each_example_parses(self) -> None:
        parser = build_parser()
        commands = [parser]
        for command in commands:
            commands += command.commands.values()
            for line in re.findall(r"^  (?:sudo )?ctllm (.*)$", command.epilog or "", re.MULTILINE):
                words = re.split(r" {2,}| < ", line)[0].split()
                if words[0] != "COMMAND":
                    parser.parse_args(words)

    def test_keys_are_added_listed_and_revoked(self) -> None:
        self.signed_in()
        key = self.run_("keys", "add", "laptop").strip()
        self.assertEqual(parse_owner_tag(key), owner_tag(ANN.user_id))
        self.run_("keys", "add", "car")
        for words in (("keys", "ls"), ("keys",)):
            rows = [line.split()[0] for line in self.run_(*words).splitlines()]
            self.assertEqual(rows, ["NAME", "car", "laptop"])
        self.assertNotIn(key[-43:], self.run_("keys", "ls") + self.run_("keys", "ls", "--json"))
        self.refused("keys", "add", "car")
        self.run_("keys", "rm", "laptop")
        self.assertEqual(self.key_names(), ["car"])
        self.refused("keys", "rm", "laptop")
        self.run_("keys", "rm", "car")
        self.assertIn("ctllm keys add NAME", self.run_("keys"))

    def test_a_key_has_the_restrictions_that_were_given(self) -> None:
        self.signed_in()
        self.run_(
            "keys", "add", "bot", "--scope", "manage", "--expires", "30d",
            "--models", "Llama*,qwen3", "--models", "qwen3", "--models", "hf.co/*/*",
            "--requests-per-minute", "60",
        )  # fmt: skip
        (key,) = self.file.load().api_keys
        self.assertEqual((key.scope, key.requests_per_minute), ("manage", 60))
        self.assertEqual(key.models, ("llama*", "qwen3", "hf.co/*/*"))
        self.assertEqual((key.expires or 0) - key.created, 30 * 86400)
        _, row = self.run_("keys", "ls").splitlines()
        for part in ("bot", "manage", "llama*,qwen3,hf.co/*/*", "60/min", "never"):
            self.assertIn(part, row)

    def test_a_key_lasts_to_the_end_of_the_given_day(self) -> None:
        self.signed_in()
        self.run_("keys", "add", "bot", "--expires=2099-01-31")
        (key,) = self.file.load().api_keys
        self.assertEqual(key.expires, datetime(2099, 2, 1).astimezone().timestamp())

    def test_refuses_restrictions_that_mean_nothing(self) -> None:
        self.signed_in()
        for option, values in {
            "--expires": ("soon", "0d", "-1d", "1.5h", "30", "2020-01-31", "2027-02-30", "999999y"),
            "--models": ("", "a,,b", "a b", "a/b/c/d", "[a-z]", ",".join("abcdefghijklmnopq")),
            "--requests-per-minute": ("0", "-1", "1.5", "many", "10000000"),
            "--scope": ("serve", "all"),
        }.items():
            for value in values:
                error = self.refused("keys", "add", "x", f"{option}={value}")
                self.assertIn(option.strip("-")[:5], error)
        self.assertEqual(self.key_names(), [])

    def test_manage_is_refused_with_the_new_option(self) -> None:
        self.signed_in()
        for words in (("boss", "--manage"), ("--manage", "boss")):
            self.assertIn("--manage is now --scope manage", self.refused("keys", "add", *words))
        self.assertEqual(self.key_names(), [])

    def test_the_list_shows_when_and_from_where_a_key_was_used(self) -> None:
        self.signed_in(used="1", idle="2")
        used, idle = self.file.load().api_keys
        at = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
        use = KeyUse(used.id, int(at.timestamp()), "192.0.2.0/24", 7)
        KeyUsageFile(self.state).save([use])
        _, first, second = self.run_("keys", "ls").splitlines()
        self.assertIn(at.astimezone().strftime("%Y-%m-%d %H:%M"), second)
        self.assertIn("192.0.2.0/24", second)
        self.assertEqual(first.split()[-2:], ["never", "-"])
        listed = {each["name"]: each for each in json.loads(self.run_("keys", "--json"))}
        self.assertEqual(listed["used"]["last_used"], at.isoformat())
        self.assertEqual(listed["used"]["last_address"], "192.0.2.0/24")
        self.assertEqual(listed["used"]["requests"], 7)
        self.assertEqual(listed["idle"]["id"], idle.id)
        self.assertIsNone(listed["idle"]["last_used"])

    def test_options_stand_before_or_after_arguments(self) -> None:
        self.signed_in()
        self.run_("keys", "add", "boss", "--scope", "manage")
        self.run_("keys", "add", "--scope=manage", "chief")
        self.assertEqual([key.scope for key in self.file.load().api_keys], ["manage", "manage"])
        self.assertIn("unrecognized arguments: b", self.refused("keys", "add", "a", "b"))

    def test_connect_creates_a_key_only_with_cloud(self) -> None:
        self.signed_in()
        printed = self.run_("connect")
        for part in (f"OLLAMA_HOST={ANN.cloud_url} ", f"{ANN.cloud_url}/v1 ", "YOUR-KEY"):
            self.assertIn(part, printed)
        self.assertIn("ctllm connect --cloud", printed)
        self.assertEqual(self.run_("connect"), printed)
        for client in CLIENTS:
            self.assertIn(f"\n  {client.name} ", printed)
        self.assertIn("ctllm connect codex --cloud", self.run_("connect", "codex"))
        self.assertEqual(self.key_names(), [])

    def test_connect_cloud_creates_another_key_each_time(self) -> None:
        """The earlier ones may be in use, and are stored nowhere."""
        self.signed_in()
        errors = io.StringIO()
        with redirect_stderr(errors):
            keys = [self.printed_key(self.run_("connect", "codex", "--cloud")) for _ in range(2)]
            keys.append(self.printed_key(self.run_("connect", "--cloud")))
            self.run_("connect", "ollama", "--cloud")  # which cannot use one
        self.assertEqual(self.key_names(), ["codex", "codex-2", "default"])
        for key, record in zip(keys, self.file.load().api_keys, strict=True):
            self.assertTrue(record.matches(key))
        self.assertIn("ctllm keys rm codex-2", errors.getvalue())

    def test_connect_prints_a_client_with_the_endpoint_first(self) -> None:
        printed = self.run_("connect", "codex")
        self.assertIn('base_url = "http://127.0.0.1:11435/v1"', printed)
        self.assertNotIn("From anywhere", printed)
        self.assertIn("ctllm login", self.refused("connect", "codex", "--cloud"))
        self.signed_in()
        both = self.run_("connect", "Codex", "--model", "qwen3:4b")
        here, there = both.split("From anywhere")
        self.assertNotIn("YOUR-KEY", here)
        for part in ("YOUR-KEY", f'base_url = "{ANN.cloud_url}/v1"', 'model = "qwen3:4b"'):
            self.assertIn(part, there)
        self.assertNotIn("YOUR-KEY", self.run_("connect", "--endpoint", "codex"))
        self.assertNotIn("11435", self.run_("connect", "codex", "--cloud"))
        self.config.write_text('[desktop]\nlisten = "off"\n')
        self.assertNotIn("no API key needed", self.run_("connect", "codex"))

    def test_connect_suggests_a_client_for_an_unknown_one(self) -> None:
        said = self.refused("connect", "claude-cod")
        self.assertIn("claude-code", said)
        self.assertIn("ctllm connect", said)

    def test_commands_that_need_a_login_name_ctllm_login(self) -> None:
        for words in (["connect"], ["keys", "add", "x"]):
            self.assertIn("ctllm login", self.refused(*words))
        self.refused("logout")

    def test_login_refuses_what_is_no_invite_link_and_no_address(self) -> None:
        for link in ("two words", "https://c.example/#x=y", "#invite=x", "ftp://c.example/",
                     "ftp://c.example/#invite=x", "https://c.example/?invite=x", "c.example:x",
                     "https://c.example:99999", "https://user@c.example"):  # fmt: skip
            self.assertIn("#invite=", self.refused("login", link))
        self.assertFalse(self.file.path.exists())

    def test_login_refuses_http_to_other_machines_unless_told_otherwise(self) -> None:
        for host in ("cloud.example", "192.168.1.5:8080", "100.64.1.2", "[2001:db8::1]"):
            with redirect_stderr(io.StringIO()):
                for link in (f"http://{host}/#invite=x", f"http://{host}/"):
                    said = self.refused("login", link)
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

    def test_login_reads_the_link_from_the_terminal_or_standard_input(self) -> None:
        link = "https://c.example/#invite=x"
        self.assertEqual(self.logged_in(typed=link, terminal=True), (link, ""))
        self.assertEqual(self.logged_in("-", typed=f"{link}\nmore"), (f"{link}\n", ""))
        with mock.patch("sys.stdin", io.StringIO(link)):
            self.assertIn("ctllm login -", self.refused("login"))

    def test_login_without_a_link_is_an_error(self) -> None:
        terminal = mock.Mock(isatty=lambda: True)
        for end in (EOFError, KeyboardInterrupt):
            with (
                mock.patch("sys.stdin", terminal),
                mock.patch("ctllm.cli.account.getpass", side_effect=end),
            ):
                self.assertIn("No link was given.", self.refused("login"))

    def test_login_warns_of_a_link_among_the_arguments(self) -> None:
        errors = io.StringIO()
        with mock.patch("ctllm.cli.account.run_in_reactor"), redirect_stderr(errors):
            self.run_("login", "https://c.example/#invite=x")
        self.assertIn("other users of this machine can see", errors.getvalue())
        self.assertNotIn("invite=x", errors.getvalue())

    def test_revoke_ends_the_sessions_and_invites_of_one_user(self) -> None:
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

    def signed_in_users(self) -> PrivateDirectory:
        """A cloud where ann and two people called Eve have signed in."""
        folder = PrivateDirectory(self.state / "cloud")
        known = KnownUsers(folder.subdirectory("users"), load_signing_keys(folder).instance_secret)
        for user in (ANN_OF_CLOUD, EVE, OTHER_EVE):
            known.record(user)
        sessions = Sessions(folder.subdirectory("sessions"), time)
        sessions.create(Authentication(EVE, time()), "desktop")
        return folder

    def test_users_lists_columns_on_a_terminal_and_tabs_elsewhere(self) -> None:
        self.assertIn("no cloud has run", self.refused("users"))
        load_signing_keys(PrivateDirectory(self.state / "cloud"))
        with redirect_stderr(io.StringIO()) as errors:
            self.assertEqual(self.run_("users"), "")
        self.assertIn("ctllm invite", errors.getvalue())
        self.signed_in_users()
        rows = [line.split("\t") for line in self.run_("users").splitlines()]
        self.assertEqual([row[0] for row in rows], ["ann", "Eve", "Eve\ufffd"])
        self.assertEqual([row[3:] for row in rows][1], ["1", "active", EVE.id])
        with redirect_stdout(Terminal()) as out:
            main(["--config", str(self.config), "--state-dir", str(self.state), "users", "ls"])
        table = out.getvalue().splitlines()
        self.assertTrue(table[0].startswith("NAME"))
        self.assertNotIn("\t", "".join(table))

    def test_users_names_the_configured_provider_and_prints_json(self) -> None:
        self.signed_in_users()
        self.config.write_text(
            '[cloud.providers.work]\nissuer = "https://login.example/"\nclient_id = "x"\n'
        )
        listed = json.loads(self.run_("users", "--json"))
        self.assertEqual([each["provider"] for each in listed], [None, "work", None])
        self.assertEqual([each["sessions"] for each in listed], [0, 1, 0])
        self.assertEqual({each["state"] for each in listed}, {"active"})

    def test_users_disable_and_enable_say_what_they_did(self) -> None:
        self.signed_in_users()
        self.assertIn("Disabled Eve", self.run_("users", "disable", "Eve"))
        self.assertEqual(self.run_("users").count("disabled"), 1)
        self.assertIn("Enabled Eve", self.run_("users", "enable", EVE.id))
        self.assertIn("was not disabled", self.run_("users", "enable", EVE.id))
        self.refused("users", "disable", "nobody")

    def test_revoking_a_providers_user_says_how_to_keep_the_user_out(self) -> None:
        self.signed_in_users()
        said = self.run_("revoke", EVE.id)
        self.assertIn("Ended 1 sessions and 0 open invites of Eve.", said)
        self.assertIn("ctllm users disable 'https://login.example|auth0|eve'", said)
        self.assertNotIn("users disable", self.run_("revoke", "ann"))

    def test_users_export_and_forget(self) -> None:
        folder = self.signed_in_users()
        exported = json.loads(self.run_("users", "export", EVE.id))
        self.assertEqual(exported["subject"], EVE.subject)
        with mock.patch("ctllm.cli.users.time.sleep") as slept:
            said = self.run_("users", "forget", EVE.id)
        self.assertTrue(slept.called)
        for word in ("removed 1 sessions", "audit log", "users disable"):
            self.assertIn(word, said)
        self.assertNotIn("auth0", "".join(self.run_("users")))
        self.assertEqual(folder.subdirectory("sessions").list_files(), [])

    def test_invite_prints_a_link_that_works_once(self) -> None:
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

    def test_a_damaged_credential_file_is_named_and_set_aside(self) -> None:
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

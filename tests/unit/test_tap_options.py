"""Tests of `ctllm.tap_options`."""

from __future__ import annotations

import base64
import io
import os
from contextlib import redirect_stdout
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import KEYS, Config
from ctllm.config.renamed import RENAMED_OPTIONS
from ctllm.proxy_args import ProxyArguments
from ctllm.tap_options import Options

KEY = bytes(range(32))
KEY_TEXT = base64.urlsafe_b64encode(KEY).rstrip(b"=").decode()
PROXY = ("proxy", "--id=p", f"--cloud-key={KEY_TEXT}")


def parsed(*arguments: str, **environ: str) -> Options:
    """Parse as if the machine had no configuration file."""
    options = Options({"HOME": "/home/ada", "CTLLM_CONFIG": "/dev/null"} | environ)
    options.parseOptions(arguments)
    return options


class _Case(SynchronousTestCase):
    def assert_refused(self, *arguments: str, sentence: str, **environ: str) -> None:
        error = self.assertRaises(usage.UsageError, parsed, *arguments, **environ)
        self.assertEqual(str(error), sentence)


class RoleTests(_Case):
    def test_the_default_role_is_all_at_the_defaults(self) -> None:
        options = parsed()
        self.assertEqual(options.role, "all")
        self.assertEqual(options.configuration(), Config(state_dir="/home/ada/.local/state/ctllm"))

    def test_each_key_is_one_option_of_the_role_all(self) -> None:
        names = [name for name, *_ in Options.subCommands[0][2].rows()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(sorted(names), sorted(["config", *(key.option for key in KEYS.values())]))

    def test_each_role_has_the_options_of_its_sections(self) -> None:
        def options(role: str) -> set[str]:
            [level] = [level for name, _, level, _ in Options.subCommands if name == role]
            return {row[0] for row in level.rows()}

        def keys(*sections: str) -> set[str]:
            return {key.option for key in KEYS.values() if key.section in sections} | {"config"}

        self.assertEqual(options("cloud"), keys("", "cloud", "proxy"))
        self.assertEqual(
            options("desktop"),
            keys("", "desktop", "proxy") - {"max-memory-bytes", "max-open-files"},
        )
        proxy_only = {"socket", "port", "host", "id", "cloud-key", "uid"}
        self.assertEqual(options("proxy"), keys("", "proxy") | proxy_only)
        self.assertFalse(proxy_only & {key.option for key in KEYS.values()})

    def test_converts_numbers_choices_and_lists(self) -> None:
        cloud = parsed(
            "cloud", "--access-token-ttl-seconds", "60", "--cors-origins=https://a,https://b"
        )
        self.assertEqual(cloud.role, "cloud")
        self.assertEqual(cloud.configuration().cloud.access_token_ttl_seconds, 60)
        self.assertEqual(cloud.configuration().cloud.cors_origins, ("https://a", "https://b"))
        self.assertEqual(parsed("desktop", "--demo=off").configuration().desktop.demo, "off")

    def test_common_options_after_the_role_take_precedence(self) -> None:
        self.assertEqual(parsed("--state-dir=/a", "cloud").configuration().state_dir, "/a")
        self.assertEqual(
            parsed("--state-dir=/a", "cloud", "--state-dir=/b").configuration().state_dir, "/b"
        )

    def test_options_take_precedence_over_the_file_of_the_config_option(self) -> None:
        file, other = Path(self.mktemp()), Path(self.mktemp())
        file.write_text("[proxy]\nresume_buffer_bytes = 1\nreconnect_grace_seconds = 2\n")
        other.write_text("[proxy]\nresume_buffer_bytes = 3\n")
        options = parsed(f"--config={file}", "desktop", "--reconnect-grace-seconds=4")
        self.assertEqual(options["config"], file)
        self.assertEqual(options.configuration().proxy.resume_buffer_bytes, 1)
        self.assertEqual(options.configuration().proxy.reconnect_grace_seconds, 4)
        after_role = parsed(f"--config={file}", "desktop", f"--config={other}")
        self.assertEqual(after_role["config"], other)
        self.assertEqual(after_role.configuration().proxy.resume_buffer_bytes, 3)


class ProxyArgumentsTests(_Case):
    def test_a_proxy_listens_on_a_socket(self) -> None:
        options = parsed(*PROXY, "--socket=/run/p.sock", "--resume-buffer-bytes=9")
        expected = ProxyArguments(
            socket=Path("/run/p.sock"), port=None, host="127.0.0.1", id="p", cloud_key=KEY
        )
        self.assertEqual(options.proxy_arguments(), expected)
        self.assertEqual(options.configuration().proxy.resume_buffer_bytes, 9)

    def test_a_proxy_waits_for_a_user_only_if_it_is_told_to(self) -> None:
        self.assertFalse(parsed(*PROXY, "--port=0").proxy_arguments().is_waiting)
        self.assertTrue(parsed(*PROXY, "--port=0", "--waiting").proxy_arguments().is_waiting)

    def test_a_proxy_listens_on_a_port_of_loopback(self) -> None:
        arguments = parsed(*PROXY, "--port=0").proxy_arguments()
        self.assertEqual((arguments.socket, arguments.port, arguments.host), (None, 0, "127.0.0.1"))

    def test_a_host_needs_a_port(self) -> None:
        arguments = parsed(*PROXY, "--port=80", "--host=0.0.0.0").proxy_arguments()
        self.assertEqual((arguments.port, arguments.host), (80, "0.0.0.0"))
        self.assert_refused(*PROXY, "--socket=/a", "--host=0.0.0.0", sentence="--host needs --port")
        sentence = "--host=x:y: must be an IPv4 address"
        self.assert_refused(*PROXY, "--port=80", "--host=x:y", sentence=sentence)

    def test_a_proxy_needs_either_a_socket_or_a_port(self) -> None:
        sentence = "give either --socket or --port"
        self.assert_refused(*PROXY, sentence=sentence)
        self.assert_refused(*PROXY, "--port=0", "--socket=/a", sentence=sentence)

    def test_a_proxy_needs_an_id_and_a_cloud_key(self) -> None:
        self.assert_refused("proxy", "--port=0", sentence="--id is missing")
        self.assert_refused("proxy", "--port=0", "--id=p", sentence="--cloud-key is missing")

    def test_a_wrong_proxy_argument_states_what_is_expected(self) -> None:
        port = "must be a whole number from 0 to 65535"
        self.assert_refused(*PROXY, "--port=65536", sentence=f"--port=65536: {port}")
        self.assert_refused(*PROXY, "--port=x", sentence=f"--port=x: {port}")
        path = "must be a path of at most 107 bytes"
        self.assert_refused(*PROXY, "--socket=", sentence=f"--socket=: {path}")
        long = "/" + "ä" * 54
        self.assert_refused(*PROXY, f"--socket={long}", sentence=f"--socket={long}: {path}")
        self.assert_refused(
            *PROXY,
            "--id=a/b",
            sentence="--id=a/b: must be 1 to 128 letters, digits, dots or dashes",
        )
        key = "must be an Ed25519 public key in base64url (43 characters)"
        for text in ("", "x" * 42, "+" * 43, "x" * 44):
            self.assert_refused(
                *PROXY, f"--cloud-key={text}", sentence=f"--cloud-key={text}: {key}"
            )


class RefusalTests(_Case):
    def test_an_unknown_option_names_the_most_similar_one(self) -> None:
        sentence = "--lisen: no such option; did you mean --listen?"
        self.assert_refused("cloud", "--lisen=x", sentence=sentence)
        self.assert_refused("--lisen=x", sentence=sentence)
        self.assert_refused("cloud", "--qqq", sentence="--qqq: no such option")

    def test_an_option_of_another_role_names_that_role(self) -> None:
        sentence = "--listen: is an option of all, cloud; write it after the role"
        self.assert_refused("--listen=127.0.0.1:1", sentence=sentence)
        self.assert_refused("desktop", "--listen=127.0.0.1:1", sentence=sentence)

    def test_refuses_renamed_options_with_the_new_name(self) -> None:
        for old, new in RENAMED_OPTIONS.items():
            sentence = f"--{old} is now --{new}"
            for role in ([], ["all"], ["desktop"], ["cloud"], PROXY):
                self.assert_refused(*role, f"--{old}=1", sentence=sentence)
                self.assert_refused(*role, f"--{old}", "1", sentence=sentence)

    def test_help_has_no_renamed_options(self) -> None:
        for _, _, level, _ in Options.subCommands:
            self.assertFalse({row[0] for row in level.rows()} & set(RENAMED_OPTIONS))

    def test_an_unknown_role_names_the_most_similar_one(self) -> None:
        self.assert_refused("clud", sentence="clud: no such role; did you mean cloud?")

    def test_a_wrong_value_is_a_usage_error(self) -> None:
        self.assert_refused(
            "cloud",
            "--max-proxies=0",
            sentence="--max-proxies=0: must be a whole number, at least 1",
        )

    def test_a_missing_file_is_a_usage_error(self) -> None:
        missing = self.mktemp()
        self.assert_refused(f"--config={missing}", sentence=f"{missing}: no such file")

    def test_a_role_checks_only_what_it_needs(self) -> None:
        url = "cloud.public_url: must be set when cloud.listen is an endpoint string"
        self.assert_refused("cloud", "--listen=unix:/a", sentence=url)
        self.assert_refused("all", "--listen=unix:/a", sentence=url)
        parsed("cloud", "--listen=unix:/a", "--public-url=https://a")
        port = "$OLLAMA_HOST: has an invalid port; it must be a number from 0 to 65535"
        self.assert_refused("desktop", sentence=port, OLLAMA_HOST="a:66000")
        self.assert_refused(sentence=port, OLLAMA_HOST="a:66000")
        parsed("cloud", OLLAMA_HOST="a:66000")

    def test_ollama_is_not_at_an_address_of_ctllm(self) -> None:
        own = "desktop.ollama_host: is the address of ctllm itself"
        for address in ("127.0.0.1:11435", "localhost:8434"):
            self.assert_refused("desktop", f"--ollama-host={address}", sentence=own)
            parsed("desktop", OLLAMA_HOST=address)


class HelpTests(SynchronousTestCase):
    def print_help(self, *arguments: str) -> str:
        self.patch(os, "environ", {"COLUMNS": "80"})
        with redirect_stdout(io.StringIO()) as output:
            self.assertRaises(SystemExit, parsed, *arguments)
        return output.getvalue()

    def test_the_help_lists_the_roles_and_examples(self) -> None:
        text = self.print_help("--help")
        for role, *_ in Options.subCommands:
            self.assertRegex(text, rf"(?m)^  {role} +\S")
        self.assertIn("Examples:\n  twistd -n ctllm ", text)

    def test_the_help_of_a_role_lists_its_options_within_the_width(self) -> None:
        for role, _, level, _ in Options.subCommands:
            text = self.print_help(role, "--help")
            for row in level.rows():
                self.assertRegex(text, rf"(?m)^  --{row[0]}=( |$)")
            self.assertIn(f"Examples:\n  {level.examples[0]}", text)
            self.assertLessEqual(max(len(line) for line in text.splitlines()), 80)
        self.assertIn("[default: 127.0.0.1:8434]", self.print_help("cloud", "--help"))
        self.assertIn(
            "[auto, off, on; default: auto]", " ".join(self.print_help("all", "--help").split())
        )

    def test_each_example_parses(self) -> None:
        for _, _, level, _ in Options.subCommands:
            for line in level.examples:
                words = line.replace("KEY", KEY_TEXT).split()
                if words[:3] != ["twistd", "-n", "ctllm"] or "--config" in words:
                    continue
                parsed(*words[3:])

    def test_after_an_error_the_usage_names_the_help_only(self) -> None:
        options = Options({"CTLLM_CONFIG": "/dev/null"})
        self.assertRaises(usage.UsageError, options.parseOptions, ["cloud", "--max-proxies=0"])
        hint = "For all options and examples: twistd ctllm cloud --help\n"
        self.assertEqual(options.getUsage(), hint)

    def test_version_is_that_of_ctllm(self) -> None:
        self.assertRegex(self.print_help("--version"), r"^ctllm [0-9.]+\n$")

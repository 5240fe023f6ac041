"""Tests of `ctllm.config.loader`, of the schema and of the example file."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import (
    KEYS,
    OPTIONS,
    TABLES,
    Cloud,
    Config,
    Provider,
    load,
    to_options,
)
from ctllm.config.renamed import RENAMED_KEYS, RENAMED_OPTIONS
from ctllm.errors import BadConfiguration

EXAMPLE = Path(__file__).parents[3] / "etc" / "ctllm.toml"
# An empty file, so that no test reads the configuration of the machine it runs on.
ENVIRON = {"HOME": "/home/ada", "CTLLM_CONFIG": "/dev/null"}


class _WithFile(SynchronousTestCase):
    def file(self, text: str) -> Path:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return path

    def loaded(self, text: str, **overrides: str) -> Config:
        options = {name.replace("_", "-"): value for name, value in overrides.items()}
        return load(self.file(text), options, ENVIRON)

    def assert_refused(self, text: str, expected: str) -> None:
        path = self.file(text)
        error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON)
        self.assertEqual(error.message, f"{path}{expected}")


class PrecedenceTests(_WithFile):
    def test_uses_the_defaults_without_a_file_and_options(self) -> None:
        config = self.loaded("")
        self.assertEqual(config.cloud, Cloud())
        self.assertEqual(config.cloud.listen, "127.0.0.1:8434")
        self.assertEqual(config.proxy.stream_window_bytes, 262144)

    def test_a_file_takes_precedence_over_the_defaults(self) -> None:
        config = self.loaded('log_format = "json"\n[cloud]\ncors_origins = ["https://a.example"]\n')
        self.assertEqual(config.log_format, "json")
        self.assertEqual(config.cloud.cors_origins, ("https://a.example",))
        self.assertEqual(config.cloud.access_token_ttl_seconds, 600)

    def test_options_take_precedence_over_the_file(self) -> None:
        config = self.loaded(
            '[cloud]\naccess_token_ttl_seconds = 60\nmetrics_listen = "off"\n',
            access_token_ttl_seconds="90",
            cors_origins="https://a.example, http://b.example:80",
        )
        self.assertEqual(config.cloud.access_token_ttl_seconds, 90)
        self.assertEqual(config.cloud.metrics_listen, "off")
        self.assertEqual(config.cloud.cors_origins, ("https://a.example", "http://b.example:80"))

    def test_a_string_of_digits_stays_a_string(self) -> None:
        self.assertEqual(self.loaded("", desktop_name="42").desktop.desktop_name, "42")

    def test_ctllm_config_takes_precedence_over_xdg_config_home(self) -> None:
        home = Path(self.mktemp())
        (home / "ctllm").mkdir(parents=True)
        (home / "ctllm" / "ctllm.toml").write_text("[cloud]\nsession_ttl_days = 7\n")
        environ = {"HOME": "/home/ada", "XDG_CONFIG_HOME": str(home)}
        self.assertEqual(load(None, {}, environ).cloud.session_ttl_days, 7)
        environ["CTLLM_CONFIG"] = str(self.file("[cloud]\nsession_ttl_days = 8\n"))
        self.assertEqual(load(None, {}, environ).cloud.session_ttl_days, 8)
        named = self.file("[cloud]\nsession_ttl_days = 9\n")
        self.assertEqual(load(named, {}, environ).cloud.session_ttl_days, 9)

    def test_finds_the_file_in_dot_config_without_xdg_config_home(self) -> None:
        home = Path(self.mktemp())
        (home / ".config" / "ctllm").mkdir(parents=True)
        (home / ".config" / "ctllm" / "ctllm.toml").write_text("[cloud]\nsession_ttl_days = 7\n")
        self.assertEqual(load(None, {}, {"HOME": str(home)}).cloud.session_ttl_days, 7)

    def test_state_dir_falls_back_to_systemd_then_xdg_then_home(self) -> None:

        def state(given: str = "", **environ: str) -> str:
            return load(None, {"state-dir": given}, ENVIRON | environ).state_dir

        systemd = {"STATE_DIRECTORY": "/var/lib/ctllm:/var/lib/other", "XDG_STATE_HOME": "/x"}
        self.assertEqual(state("/srv", **systemd), "/srv")
        self.assertEqual(state("~/s"), "/home/ada/s")
        self.assertEqual(state("s"), str(Path("s").absolute()))
        self.assertEqual(state(**systemd), "/var/lib/ctllm")
        self.assertEqual(state(XDG_STATE_HOME="/x"), "/x/ctllm")
        self.assertEqual(state(), "/home/ada/.local/state/ctllm")


class RefusalTests(_WithFile):
    def test_refuses_a_named_file_that_does_not_exist(self) -> None:
        missing = Path(self.mktemp())
        for path, environ in ((missing, {}), (None, {"CTLLM_CONFIG": str(missing)})):
            error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON | environ)
            self.assertEqual(error.message, f"{missing}: no such file")

    def test_refuses_a_file_that_cannot_be_read_or_decoded(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        error = self.assertRaises(BadConfiguration, load, folder, {}, ENVIRON)
        self.assertEqual(error.message, f"{folder}: cannot be read: Is a directory")
        (binary := folder / "b").write_bytes(b"\xff\xfe")
        error = self.assertRaises(BadConfiguration, load, binary, {}, ENVIRON)
        self.assertEqual(error.message, f"{binary}: must be UTF-8 text")

    def test_a_syntax_error_names_the_line(self) -> None:
        self.assert_refused(
            "\n[cloud]\nlisten: 5\n",
            ", line 3: invalid TOML: Expected '=' after a key in a key/value pair",
        )
        self.assert_refused("[cloud]\npublic_url =", ", line 2: invalid TOML: Invalid value")

    def test_an_unknown_key_names_the_line_and_the_most_similar_key(self) -> None:
        self.assert_refused(
            '# a\n[desktop]\ndemo = "on"\n\n[cloud]\n# lisen = 1\nlisen = "x"\n',
            ', line 7: cloud.lisen: no such key; did you mean "listen"?',
        )
        self.assert_refused(
            'log_fromat = "json"\n', ', line 1: log_fromat: no such key; did you mean "log_format"?'
        )
        self.assert_refused("[cloud]\nqqq = 1\n", ", line 2: cloud.qqq: no such key")

    def test_a_key_in_a_wrong_section_names_the_right_one(self) -> None:
        self.assert_refused(
            "[desktop]\nstream_window_bytes = 1\n",
            ", line 2: desktop.stream_window_bytes: belongs under [proxy]",
        )
        self.assert_refused(
            "stream_window_bytes = 1\n", ", line 1: stream_window_bytes: belongs under [proxy]"
        )
        self.assert_refused(
            '[proxy]\nstate_dir = "/"\n',
            ", line 2: proxy.state_dir: belongs at the top, before the first section",
        )

    def test_refuses_renamed_keys_with_the_new_name(self) -> None:
        for old, new in RENAMED_KEYS.items():
            section, _, name = old.rpartition(".")
            header = f"[{section}]\n" if section else "\n"
            self.assert_refused(f"{header}{name} = 1\n", f", line 2: {old} is now {new}")
            self.assert_refused(f"{name} = 1\n", f": {old} is now {new}".replace(":", ", line 1:"))
            self.assertIn(new, KEYS)
            self.assertNotIn(old, KEYS)

    def test_refuses_renamed_options_with_the_new_name(self) -> None:
        for old, new in RENAMED_OPTIONS.items():
            error = self.assertRaises(BadConfiguration, load, None, {old: "1"}, ENVIRON)
            self.assertEqual(error.message, f"--{old} is now --{new}")
            self.assertIn(new, OPTIONS)
            self.assertNotIn(old, OPTIONS)

    def test_an_unknown_section_names_the_line_and_the_most_similar_one(self) -> None:
        self.assert_refused(
            "\n[clould]\nlisten = 1\n", ", line 2: [clould]: no such section; did you mean [cloud]?"
        )
        self.assert_refused(
            "cloud = 1\n", ", line 1: [cloud]: must be a section with keys of its own"
        )

    def test_accepts_dotted_keys_and_inline_tables(self) -> None:
        self.assertEqual(self.loaded('cloud.listen = "[::1]:1"\n').cloud.listen, "[::1]:1")
        self.assert_refused(
            "\ncloud.max_proxies = 0\n",
            ", line 2: cloud.max_proxies: must be a whole number, at least 1",
        )
        self.assert_refused(
            "cloud = {max_proxies = 0}\n",
            ": cloud.max_proxies: must be a whole number, at least 1",
        )

    def test_a_wrong_value_states_what_is_expected(self) -> None:
        number = "must be a whole number, at least 60 and at most 3600"
        network = "must be an IPv4 network such as 10.128.0.0/12, without host bits"
        small = "must be larger than /28, the size of each proxy's subnet"
        private = "must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        for key, value, expected in (
            ("access_token_ttl_seconds", "59", number),
            ("access_token_ttl_seconds", "3601", number),
            ("access_token_ttl_seconds", "60.5", number),
            ("access_token_ttl_seconds", '"60"', number),
            ("access_token_ttl_seconds", "true", number),
            ("spawner", '"podman"', 'must be "docker", "process" or "swarm"'),
            ("listen", "8434", "must be a string"),
            ("docker_network_pool", '"10.128.0.1/12"', network),
            ("docker_network_pool", '"fd00::/8"', network),
            ("docker_network_pool", '"10.0.0.0/28"', small),
            ("docker_network_pool", '"8.8.0.0/16"', private),
            ("docker_network_pool", '"127.0.0.0/8"', private),
            ("docker_network_pool", '"169.254.0.0/16"', private),
            ("docker_network_pool", '"10.0.0.0/7"', private),
            ("cors_origins", '"https://a.example"', "must be a list of strings"),
            ("cors_origins", "[1]", "must be a list of strings"),
        ):
            self.assert_refused(f"[cloud]\n{key} = {value}\n", f", line 2: cloud.{key}: {expected}")
        long = "must be a string of at most 100 characters, in one line"
        invisible = "must be one line of printable characters"
        for name, expected in (
            ("x" * 101, long),
            (r"a\nb", invisible),
            (r"\u0085x", invisible),
            (r"a\u00a0", invisible),
            (r"a\u202eb", invisible),
        ):
            self.assert_refused(
                f'[desktop]\ndesktop_name = "{name}"\n',
                f", line 2: desktop.desktop_name: {expected}",
            )
        self.assert_refused(
            'log_format = "xml"\n', ', line 1: log_format: must be "json" or "text"'
        )

    def test_refuses_a_wrong_value_in_the_file_that_an_option_overrides(self) -> None:
        path = self.file("[cloud]\naccess_token_ttl_seconds = 5\n")
        self.assertRaises(BadConfiguration, load, path, {"access-token-ttl-seconds": "60"}, ENVIRON)

    def test_a_wrong_option_is_named_as_on_the_command_line(self) -> None:
        for name, value, expected in (
            (
                "access-token-ttl-seconds",
                "5",
                "--access-token-ttl-seconds=5: "
                "must be a whole number, at least 60 and at most 3600",
            ),
            (
                "access-token-ttl-seconds",
                "x",
                "--access-token-ttl-seconds=x: "
                "must be a whole number, at least 60 and at most 3600",
            ),
            (
                "resume-buffer-bytes",
                "٣",
                "--resume-buffer-bytes=٣: must be a whole number, at least 0",
            ),
            ("demo", "maybe", '--demo=maybe: must be "auto", "off" or "on"'),
            ("lisen", "x", "--lisen: no such option; did you mean --listen?"),
        ):
            error = self.assertRaises(BadConfiguration, load, None, {name: value}, ENVIRON)
            self.assertEqual(error.message, expected)

    def test_messages_do_not_repeat_a_url_with_a_password(self) -> None:
        url = "http://ada:sesame@a.example"
        error = self.assertRaises(BadConfiguration, load, None, {"cloud-url": url}, ENVIRON)
        self.assertIn("--cloud-url=…: must be a URL without user", error.message)
        path = self.file(f'[desktop]\nollama_host = "{url}"\n')
        error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON)
        self.assertIn("line 2: desktop.ollama_host: must be host:port", error.message)
        self.assertNotIn("sesame", error.message)


class ExampleFileTests(SynchronousTestCase):
    def uncommented(self) -> str:
        return re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text("utf-8"))

    def test_the_example_has_each_key_once_in_its_section(self) -> None:
        section, found = "", []
        for line in self.uncommented().splitlines():
            if header := re.fullmatch(r"\[(\w+)\]", line):
                section = header[1]
            elif line and not line.startswith("# ") and line != "#":
                found.append((section, line.partition(" = ")[0]))
        self.assertEqual(found, [(key.section, key.name) for key in KEYS.values()])

    def test_the_example_has_the_defaults(self) -> None:
        path = Path(self.mktemp())
        path.write_text(self.uncommented(), "utf-8")
        defaults = load(None, {}, ENVIRON)
        self.assertEqual(load(path, {}, ENVIRON), defaults)
        self.assertEqual(load(EXAMPLE, {}, ENVIRON), defaults)
        self.assertEqual(defaults, Config(state_dir=defaults.state_dir))


class KeyTests(SynchronousTestCase):
    def test_each_default_passes_its_own_check(self) -> None:
        for key in KEYS.values():
            given = list(key.default) if isinstance(key.default, tuple) else key.default
            self.assertEqual(key.convert(given), key.default)
            self.assertTrue(key.description.endswith("."), key.name)

    def test_a_section_converted_to_options_loads_as_the_same_section(self) -> None:
        cloud = Cloud(
            cors_origins=("https://a.example", "https://b.example"),
            max_proxies=7,
            metrics_listen="off",
        )
        given = dict(each.removeprefix("--").split("=", 1) for each in to_options(cloud))
        self.assertEqual(load(None, given, ENVIRON).cloud, cloud)


class ExampleTablesTests(_WithFile):
    """The examples of `[cloud.providers.NAME]` and `[cloud.tiers.NAME]` in the example file."""

    def examples(self) -> dict[str, str]:
        """Return the TOML of each example, by its header: its lines without the "# "."""
        found: dict[str, list[str]] = {}
        header = ""
        for line in EXAMPLE.read_text("utf-8").splitlines():
            if match := re.fullmatch(r"# \[(cloud\.\w+\.\w+)\]", line):
                header = match[1]
                found[header] = [line.removeprefix("# ")]
            elif header and line == "#":
                header = ""
            elif header and re.match(r"# \w+ = ", line):
                found[header].append(line.removeprefix("# "))
        return {header: "\n".join(lines) for header, lines in found.items()}

    def test_there_is_one_for_each_common_provider_and_for_tiers(self) -> None:
        names = ("example", "auth0", "keycloak", "authentik", "google", "entra")
        expected = [*(f"cloud.providers.{name}" for name in names), "cloud.tiers.guests"]
        self.assertEqual(list(self.examples()), expected)

    def test_each_is_a_valid_configuration_on_its_own(self) -> None:
        for header, text in self.examples().items():
            _, kind, name = header.split(".")
            tables = getattr(self.loaded(text).cloud, kind)
            self.assertEqual(list(tables), [name])

    def test_all_of_them_are_a_valid_configuration_where_they_stand(self) -> None:
        """Uncommented in the middle of the file, they do not swallow the keys that follow."""
        text = EXAMPLE.read_text("utf-8")
        for example in self.examples().values():
            for line in example.splitlines():
                self.assertIn(f"# {line}\n", text)
                text = text.replace(f"# {line}\n", f"{line}\n", 1)
        config = self.loaded(text)
        self.assertEqual(len(config.cloud.providers), 6)
        self.assertEqual(config.desktop, Config().desktop)

    def test_nobody_may_sign_in_by_an_example_without_being_in_a_group(self) -> None:
        for header, text in self.examples().items():
            if header.startswith("cloud.providers.") and not header.endswith(".example"):
                (provider,) = self.loaded(text).cloud.providers.values()
                self.assertTrue(provider.allowed_groups and provider.groups_claim, header)

    def test_the_first_has_every_key_with_its_default(self) -> None:
        for header, tables in (
            ("cloud.providers.example", "cloud.providers"),
            ("cloud.tiers.guests", "cloud.tiers"),
        ):
            lines = self.examples()[header].splitlines()[1:]
            self.assertEqual({line.partition(" = ")[0] for line in lines}, set(TABLES[tables]))
        (provider,) = self.loaded(
            self.examples()["cloud.providers.example"]
        ).cloud.providers.values()
        self.assertEqual(provider, Provider(issuer="https://login.example.org/", client_id="ctllm"))

    def test_the_examples_of_the_readme_are_valid(self) -> None:
        readme = (EXAMPLE.parents[1] / "README.md").read_text("utf-8")
        examples = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
        names = [name for text in examples for name in self.loaded(text).cloud.providers]
        self.assertEqual(names, ["auth0", "keycloak"])

"""The configuration: where it comes from, what it refuses, and how clearly it says so."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import (
    KEYS,
    OPTIONS,
    Cloud,
    Config,
    load,
    resolve_ollama_url,
    resolve_public_url,
    to_endpoint_string,
    to_options,
)
from ctllm.config.renamed import RENAMED_KEYS, RENAMED_OPTIONS
from ctllm.errors import BadConfiguration

EXAMPLE = Path(__file__).parents[2] / "etc" / "ctllm.toml"
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
    def test_defaults(self) -> None:
        """Without a file and options everything is at its default."""
        config = self.loaded("")
        self.assertEqual(config.cloud, Cloud())
        self.assertEqual(config.cloud.listen, "127.0.0.1:8434")
        self.assertEqual(config.proxy.stream_window_bytes, 262144)

    def test_file_over_defaults(self) -> None:
        """What the file says counts; what it leaves out stays at its default."""
        config = self.loaded('log_format = "json"\n[cloud]\ncors_origins = ["https://a.example"]\n')
        self.assertEqual(config.log_format, "json")
        self.assertEqual(config.cloud.cors_origins, ("https://a.example",))
        self.assertEqual(config.cloud.access_token_ttl_seconds, 600)

    def test_options_over_file(self) -> None:
        """An option of the command line wins over the file, and comes as text."""
        config = self.loaded(
            '[cloud]\naccess_token_ttl_seconds = 60\nmetrics_listen = "off"\n',
            access_token_ttl_seconds="90",
            cors_origins="https://a.example, http://b.example:80",
        )
        self.assertEqual(config.cloud.access_token_ttl_seconds, 90)
        self.assertEqual(config.cloud.metrics_listen, "off")
        self.assertEqual(config.cloud.cors_origins, ("https://a.example", "http://b.example:80"))

    def test_text_options_stay_text(self) -> None:
        """A name made of digits is a name, not a number."""
        self.assertEqual(self.loaded("", desktop_name="42").desktop.desktop_name, "42")

    def test_search(self) -> None:
        """The file that `$CTLLM_CONFIG` names comes before the one in `$XDG_CONFIG_HOME`."""
        home = Path(self.mktemp())
        (home / "ctllm").mkdir(parents=True)
        (home / "ctllm" / "ctllm.toml").write_text("[cloud]\nsession_ttl_days = 7\n")
        environ = {"HOME": "/home/ada", "XDG_CONFIG_HOME": str(home)}
        self.assertEqual(load(None, {}, environ).cloud.session_ttl_days, 7)
        environ["CTLLM_CONFIG"] = str(self.file("[cloud]\nsession_ttl_days = 8\n"))
        self.assertEqual(load(None, {}, environ).cloud.session_ttl_days, 8)
        named = self.file("[cloud]\nsession_ttl_days = 9\n")
        self.assertEqual(load(named, {}, environ).cloud.session_ttl_days, 9)

    def test_search_below_home(self) -> None:
        """Without `$XDG_CONFIG_HOME` it is ~/.config."""
        home = Path(self.mktemp())
        (home / ".config" / "ctllm").mkdir(parents=True)
        (home / ".config" / "ctllm" / "ctllm.toml").write_text("[cloud]\nsession_ttl_days = 7\n")
        self.assertEqual(load(None, {}, {"HOME": str(home)}).cloud.session_ttl_days, 7)

    def test_state_folder(self) -> None:
        """The state folder is what was said, else systemd's, else XDG's, else below home."""

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
    def test_missing_file(self) -> None:
        """A file that somebody named and that is not there is an error, not "no file"."""
        missing = Path(self.mktemp())
        for path, environ in ((missing, {}), (None, {"CTLLM_CONFIG": str(missing)})):
            error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON | environ)
            self.assertEqual(error.message, f"{missing}: no such file")

    def test_unreadable_file(self) -> None:
        """What cannot be read or is no text is an error that names it."""
        folder = Path(self.mktemp())
        folder.mkdir()
        error = self.assertRaises(BadConfiguration, load, folder, {}, ENVIRON)
        self.assertEqual(error.message, f"{folder}: cannot be read: Is a directory")
        (binary := folder / "b").write_bytes(b"\xff\xfe")
        error = self.assertRaises(BadConfiguration, load, binary, {}, ENVIRON)
        self.assertEqual(error.message, f"{binary}: must be UTF-8 text")

    def test_not_toml(self) -> None:
        """An error of TOML's syntax names the line, the last one for an unexpected end too."""
        self.assert_refused(
            "\n[cloud]\nlisten: 5\n",
            ", line 3: invalid TOML: Expected '=' after a key in a key/value pair",
        )
        self.assert_refused("[cloud]\npublic_url =", ", line 2: invalid TOML: Invalid value")

    def test_unknown_key(self) -> None:
        """A wrong key is named with its line, and with the right one that is nearest."""
        self.assert_refused(
            '# a\n[desktop]\ndemo = "on"\n\n[cloud]\n# lisen = 1\nlisen = "x"\n',
            ', line 7: cloud.lisen: no such key; did you mean "listen"?',
        )
        self.assert_refused(
            'log_fromat = "json"\n', ', line 1: log_fromat: no such key; did you mean "log_format"?'
        )
        self.assert_refused("[cloud]\nqqq = 1\n", ", line 2: cloud.qqq: no such key")

    def test_misplaced_key(self) -> None:
        """A right key in a wrong section says where it belongs."""
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

    def test_unknown_section(self) -> None:
        """A wrong section is named with its line, and with the nearest; a section is a table."""
        self.assert_refused(
            "\n[clould]\nlisten = 1\n", ", line 2: [clould]: no such section; did you mean [cloud]?"
        )
        self.assert_refused(
            "cloud = 1\n", ", line 1: [cloud]: must be a section with keys of its own"
        )

    def test_dotted_and_inline(self) -> None:
        """TOML's other spellings work; where the line is not found, the key still is named."""
        self.assertEqual(self.loaded('cloud.listen = "[::1]:1"\n').cloud.listen, "[::1]:1")
        self.assert_refused(
            "\ncloud.max_proxies = 0\n",
            ", line 2: cloud.max_proxies: must be a whole number, at least 1",
        )
        self.assert_refused(
            "cloud = {max_proxies = 0}\n",
            ": cloud.max_proxies: must be a whole number, at least 1",
        )

    def test_wrong_values(self) -> None:
        """Each kind of value says what would be right."""
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
            ("spawner", '"podman"', 'must be "docker" or "process"'),
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

    def test_overridden_values_are_judged(self) -> None:
        """A wrong value in the file is an error even where an option overrides it."""
        path = self.file("[cloud]\naccess_token_ttl_seconds = 5\n")
        self.assertRaises(BadConfiguration, load, path, {"access-token-ttl-seconds": "60"}, ENVIRON)

    def test_wrong_options(self) -> None:
        """An error of the command line names the option as it is written there."""
        for name, value, expected in (
            (
                "access-token-ttl-seconds",
                "5",
                "--access-token-ttl-seconds=5: must be a whole number, at least 60 and at most 3600",
            ),
            (
                "access-token-ttl-seconds",
                "x",
                "--access-token-ttl-seconds=x: must be a whole number, at least 60 and at most 3600",
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

    def test_no_password_in_messages(self) -> None:
        """A password that somebody put into a URL does not come back in the message."""
        url = "http://ada:sesame@a.example"
        error = self.assertRaises(BadConfiguration, load, None, {"cloud-url": url}, ENVIRON)
        self.assertIn("--cloud-url=…: must be a URL without user", error.message)
        path = self.file(f'[desktop]\nollama_host = "{url}"\n')
        error = self.assertRaises(BadConfiguration, load, path, {}, ENVIRON)
        self.assertIn("line 2: desktop.ollama_host: must be host:port", error.message)
        self.assertNotIn("sesame", error.message)


class AddressTests(SynchronousTestCase):
    def accepts(self, option: str, *values: str) -> None:
        for value in values:
            config = load(None, {option: value}, ENVIRON)
            key = OPTIONS[option]
            found = getattr(getattr(config, key.section), key.name)
            self.assertIn(value, found if isinstance(found, tuple) else (found,))

    def refuses(self, option: str, *values: str) -> None:
        for value in values:
            try:
                load(None, {option: value}, ENVIRON)
            except BadConfiguration:
                continue
            self.fail(f"--{option} took {value!r}")

    def test_endpoint_strings(self) -> None:
        """Each address becomes an endpoint on which Twisted listens at that interface and port."""
        for listen, interface, port in (
            ("127.0.0.1:8434", "127.0.0.1", 8434),
            ("0.0.0.0:0", "0.0.0.0", 0),
            ("localhost:65535", "localhost", 65535),
            ("[::1]:8434", "::1", 8434),
            ("[fd00::a:1]:80", "fd00::a:1", 80),
            ("tcp:8434", "", 8434),
            ("tcp6:port=80:interface=\\:\\:1", "::1", 80),
        ):
            reactor = MemoryReactor()
            serverFromString(reactor, to_endpoint_string(listen)).listen(Factory())
            [server] = reactor.tcpServers
            self.assertEqual((server[3], server[0]), (interface, port))

    def test_endpoint_string_forms(self) -> None:
        """Plain addresses are spelt out with their colons escaped; endpoint strings stay."""
        self.assertEqual(to_endpoint_string("127.0.0.1:8434"), "tcp:8434:interface=127.0.0.1")
        self.assertEqual(to_endpoint_string("[::1]:8434"), r"tcp6:8434:interface=\:\:1")
        self.assertEqual(to_endpoint_string("unix:/run/a.sock"), "unix:/run/a.sock")

    def test_listen(self) -> None:
        """`listen` takes addresses and endpoint strings, and nothing that cannot be one."""
        self.accepts("listen", "a-b.example:1", "unix:/run/a.sock", "systemd:domain=INET:index=0")
        self.accepts("listen", "tcp:0", "ssl:port=443:privateKey=/k", "tcp6:80:interface=\\:\\:1")
        self.refuses("listen", "", "off", "8434", ":8434", "127.0.0.1", "127.0.0.1:", "a:65536")
        self.refuses(
            "listen",
            "a:-1",
            "a:٣",
            "::1:80",
            "[::1",
            "[fe80::1%eth0]:1",
            "[a]:1",
            "1.2.3.999:1",
            "a b:1",
            "-a:1",
        )
        self.refuses("listen", "unix:", "tcp:", "tcp:x", "tcp6:99999", "ssl:port=x", "http://a:1")

    def test_off(self) -> None:
        """What may be turned off takes "off" besides addresses."""
        for key in ("metrics-listen", "desktop-listen"):
            self.accepts(key, "off", "127.0.0.1:1", "unix:/a")
            self.refuses(key, "", "on", "8435")

    def test_web_addresses(self) -> None:
        """An address of the cloud is a whole site over http or https, or empty."""
        for key in ("public-url", "cloud-url"):
            self.accepts(key, "", "https://a.example", "http://127.0.0.1:8434/", "https://[::1]:1")
            self.refuses(key, "a.example", "ftp://a", "https://", "https://:80", "https://a:x")
            self.refuses(
                key, "https://a/b", "https://a?b", "https://a#b", "https://u:p@a", "https://a b"
            )

    def test_origins(self) -> None:
        """Origins are what browsers send: no path, no slash, lower case, never a wildcard."""
        self.accepts(
            "cors-origins", "https://a.example", "http://localhost:5173", "app://obsidian.md"
        )
        self.accepts("cors-origins", "http://localhost:*", "app://*", "vscode-webview://*")
        self.refuses("cors-origins", "http://*", "https://*:443", "https://*.a.example", "app://a*")
        self.refuses("cors-origins", "*", "null", "https://a/", "https://A.example", "a.example")
        self.refuses("cors-origins", "https://a,https://b/c", "https://u@a", "https://")

    def test_public_url(self) -> None:
        """Links use the public address, else the one to listen on, as a client can reach it."""
        self.assertEqual(
            resolve_public_url("https://a.example/", "127.0.0.1:1"), "https://a.example"
        )
        self.assertEqual(resolve_public_url("", "127.0.0.1:8434"), "http://127.0.0.1:8434")
        self.assertEqual(resolve_public_url("", "0.0.0.0:80"), "http://127.0.0.1:80")
        self.assertEqual(resolve_public_url("", "[::]:80"), "http://[::1]:80")
        error = self.assertRaises(BadConfiguration, resolve_public_url, "", "unix:/a")
        self.assertEqual(
            error.message, "cloud.public_url: must be set when cloud.listen is an endpoint string"
        )


class OllamaUrlTests(SynchronousTestCase):
    def test_every_form(self) -> None:
        """Every form that Ollama's own OLLAMA_HOST may have gives the URL to connect to."""
        for value, url in {
            "": "http://127.0.0.1:11434",
            "1.2.3.4": "http://1.2.3.4:11434",
            "1.2.3.4:": "http://1.2.3.4:11434",
            "1.2.3.4:1234": "http://1.2.3.4:1234",
            ":1234": "http://127.0.0.1:1234",
            "0.0.0.0": "http://127.0.0.1:11434",
            "0.0.0.0:80": "http://127.0.0.1:80",
            "example.com": "http://example.com:11434",
            "::1": "http://[::1]:11434",
            "[::1]": "http://[::1]:11434",
            "[::]": "http://[::1]:11434",
            "[::1]:1337": "http://[::1]:1337",
            "http://1.2.3.4": "http://1.2.3.4:80",
            "https://1.2.3.4": "https://1.2.3.4:443",
            "http://0.0.0.0:4321/": "http://127.0.0.1:4321",
            "https://example.com/ollama/": "https://example.com:443/ollama",
            ' " 1.2.3.4 " ': "http://1.2.3.4:11434",
            "'1.2.3.4'": "http://1.2.3.4:11434",
        }.items():
            self.assertEqual(resolve_ollama_url(value, {}), url, value)
            self.assertEqual(resolve_ollama_url("", {"OLLAMA_HOST": value}), url, value)

    def test_value_over_environment(self) -> None:
        """What is configured wins over the environment."""
        self.assertEqual(resolve_ollama_url("a", {"OLLAMA_HOST": "b"}), "http://a:11434")

    def test_refused(self) -> None:
        """What is no address is an error, which names the environment if it came from there."""
        for value in (
            "a:66000",
            "a:-1",
            "ftp://a",
            "a b",
            "u:p@a",
            "http://a/?q",
            "1.2.3.4.5",
            "://a:b",
        ):
            self.assertRaises(BadConfiguration, resolve_ollama_url, value, {})
            error = self.assertRaises(
                BadConfiguration, resolve_ollama_url, "", {"OLLAMA_HOST": value}
            )
            self.assertTrue(error.message.startswith("$OLLAMA_HOST: "), error.message)


class ExampleFileTests(SynchronousTestCase):
    def uncommented(self) -> str:
        return re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text("utf-8"))

    def test_every_key_and_no_other(self) -> None:
        """The example file has each key once, in its section, and nothing else."""
        section, found = "", []
        for line in self.uncommented().splitlines():
            if header := re.fullmatch(r"\[(\w+)\]", line):
                section = header[1]
            elif line and not line.startswith("# ") and line != "#":
                found.append((section, line.partition(" = ")[0]))
        self.assertEqual(found, [(key.section, key.name) for key in KEYS.values()])

    def test_is_at_the_defaults(self) -> None:
        """Uncommented or as it is, the example file changes nothing."""
        path = Path(self.mktemp())
        path.write_text(self.uncommented(), "utf-8")
        defaults = load(None, {}, ENVIRON)
        self.assertEqual(load(path, {}, ENVIRON), defaults)
        self.assertEqual(load(EXAMPLE, {}, ENVIRON), defaults)
        self.assertEqual(defaults, Config(state_dir=defaults.state_dir))


class KeyTests(SynchronousTestCase):
    def test_defaults_are_acceptable(self) -> None:
        """Each default would pass its own check, and each key says what it is for."""
        for key in KEYS.values():
            given = list(key.default) if isinstance(key.default, tuple) else key.default
            self.assertEqual(key.convert(given), key.default)
            self.assertTrue(key.description.endswith("."), key.name)

    def test_arguments(self) -> None:
        """A section handed to another process as options arrives as it was."""
        cloud = Cloud(
            cors_origins=("https://a.example", "https://b.example"),
            max_proxies=7,
            metrics_listen="off",
        )
        given = dict(each.removeprefix("--").split("=", 1) for each in to_options(cloud))
        self.assertEqual(load(None, given, ENVIRON).cloud, cloud)

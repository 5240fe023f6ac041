"""Tests of `ctllm.config.validators`."""

from __future__ import annotations

from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import (
    OPTIONS,
    load,
    resolve_ollama_url,
    resolve_public_url,
    to_endpoint_string,
)
from ctllm.errors import BadConfiguration

#: An empty file, so that tests do not read the configuration of the machine.
ENVIRON = {"HOME": "/home/ada", "CTLLM_CONFIG": "/dev/null"}


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

    def test_twisted_listens_at_the_address_of_the_endpoint_string(self) -> None:
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

    def test_addresses_become_endpoint_strings_with_escaped_colons(self) -> None:
        self.assertEqual(to_endpoint_string("127.0.0.1:8434"), "tcp:8434:interface=127.0.0.1")
        self.assertEqual(to_endpoint_string("[::1]:8434"), r"tcp6:8434:interface=\:\:1")
        self.assertEqual(to_endpoint_string("unix:/run/a.sock"), "unix:/run/a.sock")

    def test_listen_accepts_addresses_and_endpoint_strings_only(self) -> None:
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

    def test_optional_listeners_accept_off(self) -> None:
        for key in ("metrics-listen", "desktop-listen"):
            self.accepts(key, "off", "127.0.0.1:1", "unix:/a")
            self.refuses(key, "", "on", "8435")

    def test_cloud_urls_have_no_user_path_or_query(self) -> None:
        for key in ("public-url", "cloud-url"):
            self.accepts(key, "", "https://a.example", "http://127.0.0.1:8434/", "https://[::1]:1")
            self.refuses(key, "a.example", "ftp://a", "https://", "https://:80", "https://a:x")
            self.refuses(
                key, "https://a/b", "https://a?b", "https://a#b", "https://u:p@a", "https://a b"
            )

    def test_origins_are_as_browsers_send_them(self) -> None:
        self.accepts(
            "cors-origins", "https://a.example", "http://localhost:5173", "app://obsidian.md"
        )
        self.accepts("cors-origins", "http://localhost:*", "app://*", "vscode-webview://*")
        self.refuses("cors-origins", "http://*", "https://*:443", "https://*.a.example", "app://a*")
        self.refuses("cors-origins", "*", "null", "https://a/", "https://A.example", "a.example")
        self.refuses("cors-origins", "https://a,https://b/c", "https://u@a", "https://")

    def test_the_public_url_falls_back_to_a_reachable_listen_address(self) -> None:
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
    def test_accepts_each_form_of_ollama_host(self) -> None:
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

    def test_the_configured_value_takes_precedence_over_ollama_host(self) -> None:
        self.assertEqual(resolve_ollama_url("a", {"OLLAMA_HOST": "b"}), "http://a:11434")

    def test_ollama_is_not_at_an_address_of_ctllm_itself(self) -> None:
        """Apps use ctllm by OLLAMA_HOST, and each request would come back without end."""
        own = ("0.0.0.0:11435", "unix:/run/ctllm.sock", "", "https://ctllm.example.org")
        default = "http://127.0.0.1:11434"
        for value in (
            ":11435",
            "localhost:11435",
            "http://127.0.0.1:11435/",
            "[::1]:11435",
            "https://ctllm.example.org",
        ):
            self.assertEqual(resolve_ollama_url("", {"OLLAMA_HOST": value}, own), default, value)
            self.assertRaises(BadConfiguration, resolve_ollama_url, value, {}, own)
        for value in ("192.168.1.5:11435", "http://ctllm.example.org", "", "off"):
            url = resolve_ollama_url(value, {})
            self.assertEqual(resolve_ollama_url("", {"OLLAMA_HOST": value}, own), url, value)
            self.assertEqual(resolve_ollama_url(value, {}, (*own, "off:1")), url, value)

    def test_refuses_what_is_no_address_and_names_the_environment_variable(self) -> None:
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

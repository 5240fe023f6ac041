"""Which proxy leads to a cloud, as the environment says."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.client.proxy_environment import HttpProxy, is_loopback, proxy_for

CLOUD = "https://cloud.example"
P = "http://proxy.example:3128"


class ProxyVariableTests(SynchronousTestCase):
    def proxy(self, url: str, **environ: str) -> str:
        return str(proxy_for(url, environ) or "")

    def test_scheme_then_all_proxy_with_lower_case_first(self) -> None:
        for url, environ, found in (
            (CLOUD, {}, ""),
            (CLOUD, {"HTTPS_PROXY": P}, P),
            (CLOUD, {"https_proxy": P}, P),
            (CLOUD, {"https_proxy": P, "HTTPS_PROXY": "http://other:1"}, P),
            (CLOUD, {"HTTP_PROXY": P}, ""),
            (CLOUD, {"ALL_PROXY": P}, P),
            (CLOUD, {"all_proxy": P}, P),
            (CLOUD, {"ALL_PROXY": "http://other:1", "HTTPS_PROXY": P}, P),
            (CLOUD, {"HTTPS_PROXY": ""}, ""),
            (CLOUD, {"HTTPS_PROXY": " ", "ALL_PROXY": P}, P),
            ("http://cloud.example", {"HTTPS_PROXY": P}, ""),
            ("http://cloud.example", {"HTTP_PROXY": P}, P),
            ("http://cloud.example", {"http_proxy": P}, P),
            ("http://cloud.example", {"ALL_PROXY": P}, P),
        ):
            self.assertEqual(self.proxy(url, **environ), found, (url, environ))

    def test_parses_scheme_port_and_user(self) -> None:
        for value, found in (
            ("proxy.example:3128", HttpProxy("proxy.example", 3128)),
            ("http://proxy.example", HttpProxy("proxy.example", 80)),
            ("https://proxy.example", HttpProxy("proxy.example", 443, True)),
            ("http://[2001:db8::1]:3128/", HttpProxy("2001:db8::1", 3128)),
            (
                "http://al%40ice:se%3Acret@proxy.example:1",
                HttpProxy("proxy.example", 1, False, b"Basic YWxAaWNlOnNlOmNyZXQ="),
            ),
        ):
            self.assertEqual(proxy_for(CLOUD, {"HTTPS_PROXY": value}), found)

    def test_password_is_not_in_str_or_repr(self) -> None:
        proxy = proxy_for(CLOUD, {"HTTPS_PROXY": "http://alice:hunter2@proxy.example:1"})
        self.assertEqual(str(proxy), "http://proxy.example:1")
        self.assertNotIn("Basic", repr(proxy))

    def test_refuses_unusable_values_without_showing_them(self) -> None:
        for value in (
            "socks5://u:hunter2@proxy.example:1080",
            "http://",
            "http://hunter2:99999",
            "http://[hunter2",
            "http://u:hunter2@",
        ):
            error = self.assertRaises(ValueError, proxy_for, CLOUD, {"HTTPS_PROXY": value})
            self.assertIn("HTTPS_PROXY", str(error))
            self.assertNotIn("hunter2", str(error))


class NoProxyTests(SynchronousTestCase):
    def direct(self, url: str, no_proxy: str) -> bool:
        return proxy_for(url, {"ALL_PROXY": P, "NO_PROXY": no_proxy}) is None

    def test_matches_names_domains_networks_and_ports(self) -> None:
        for url, entries in (
            (CLOUD, "*"),
            (CLOUD, "cloud.example"),
            (CLOUD, "CLOUD.example"),
            (CLOUD, ".example"),
            (CLOUD, "*.example"),
            (CLOUD, "example"),
            (CLOUD, "other.example, cloud.example"),
            (CLOUD, "other.example cloud.example"),
            (CLOUD, "cloud.example:443"),
            ("https://cloud.example:8443", "cloud.example:8443"),
            ("https://10.1.2.3", "10.1.2.3"),
            ("https://10.1.2.3", "10.0.0.0/8"),
            ("https://10.1.2.3:8443", "10.1.2.3:8443"),
            ("https://[2001:db8::7]", "2001:db8::/32"),
            ("https://[2001:db8::7]", "[2001:db8::7]"),
            ("https://[2001:db8::7]:8443", "[2001:db8::7]:8443"),
        ):
            self.assertTrue(self.direct(url, entries), (url, entries))
        self.assertIsNone(proxy_for(CLOUD, {"ALL_PROXY": P, "no_proxy": "example"}))

    def test_does_not_match_other_hosts(self) -> None:
        for url, entries in (
            (CLOUD, ""),
            (CLOUD, ","),
            (CLOUD, "oud.example"),
            (CLOUD, "cloud.example.org"),
            (CLOUD, "cloud"),
            (CLOUD, "cloud.example:8443"),
            (CLOUD, "10.0.0.0/8"),
            ("https://11.1.2.3", "10.0.0.0/8"),
            ("https://10.1.2.3", "10.1.2.3:8443"),
            ("https://[2001:db9::7]", "2001:db8::/32"),
        ):
            self.assertFalse(self.direct(url, entries), (url, entries))

    def test_loopback_never_uses_a_proxy(self) -> None:
        for host in ("localhost", "cloud.localhost", "127.0.0.1", "127.1.2.3", "[::1]"):
            self.assertTrue(self.direct(f"http://{host}:8080", ""), host)
            self.assertTrue(is_loopback(host.strip("[]")))
        for host in ("localhost.example", "10.0.0.1", "128.0.0.1"):
            self.assertFalse(is_loopback(host))

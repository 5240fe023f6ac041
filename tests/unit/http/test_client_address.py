"""`ctllm.http.client_address`: X-Forwarded-For is believed as far as trusted proxies wrote it."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import Cloud
from ctllm.http.client_address import (
    MAX_PROXIES,
    TrustedProxies,
    client_network,
    parse_forwarded,
    truncate_address,
)
from ctllm.http.message.head import RequestHead

TRUSTED = TrustedProxies(("10.0.0.0/8", "2001:db8:ffff::/48", "unix"))


def address(peer: str, *values: str, trusted: TrustedProxies = TRUSTED) -> str:
    headers = tuple((b"X-Forwarded-For", value.encode("latin-1")) for value in values)
    return trusted.client_address(peer, RequestHead(b"GET", b"/", headers))


class ClientAddressTests(SynchronousTestCase):
    """Which address counts."""

    def test_an_untrusted_peer_cannot_choose_its_address(self) -> None:
        for claimed in ("10.0.0.1", "192.0.2.1", "192.0.2.1, 10.0.0.1", "unix"):
            self.assertEqual(address("198.51.100.7", claimed), "198.51.100.7")

    def test_the_rightmost_untrusted_address_counts_and_not_what_its_client_claims(self) -> None:
        self.assertEqual(address("10.0.0.1", "192.0.2.66, 198.51.100.7"), "198.51.100.7")
        self.assertEqual(address("10.0.0.1", "192.0.2.66, 198.51.100.7, 10.9.9.9"), "198.51.100.7")
        self.assertEqual(address("", "192.0.2.66,198.51.100.7"), "198.51.100.7")

    def test_several_headers_are_one_list(self) -> None:
        self.assertEqual(
            address("10.0.0.1", "192.0.2.66", "198.51.100.7, 10.0.0.2"), "198.51.100.7"
        )

    def test_without_an_untrusted_address_the_farthest_proxy_counts(self) -> None:
        self.assertEqual(address("10.0.0.1", "10.3.3.3, 10.2.2.2"), "10.3.3.3")
        self.assertEqual(address("10.0.0.1"), "10.0.0.1")
        self.assertEqual(address(""), "")

    def test_a_malformed_entry_and_all_before_it_are_not_believed(self) -> None:
        malformed = (
            "", "unknown", "1.2.3", "192.0.2.1.", "fe80::1%eth0", "_hidden", "\xff", "9" * 99,
            "192.0.2.1:", "192.0.2.1:99999999", "[2001:db8::1", "[192.0.2.1]x",
        )  # fmt: skip
        for bad in malformed:
            self.assertEqual(address("10.0.0.1", f"192.0.2.1, {bad}, 10.2.2.2"), "10.2.2.2", bad)

    def test_ports_brackets_and_mapped_addresses_are_understood(self) -> None:
        self.assertEqual(address("10.0.0.1", "198.51.100.7:50123"), "198.51.100.7")
        self.assertEqual(address("10.0.0.1", "[2001:DB8::7]:443"), "2001:db8::7")
        self.assertEqual(address("::ffff:10.0.0.1", "::ffff:198.51.100.7"), "198.51.100.7")
        self.assertEqual(address("::ffff:198.51.100.7", "192.0.2.1"), "198.51.100.7")
        self.assertEqual(address("fe80::1%eth0"), "fe80::1")

    def test_a_long_list_is_examined_only_at_its_end(self) -> None:
        proxies = ", ".join(["10.0.0.2"] * MAX_PROXIES)
        self.assertEqual(address("10.0.0.1", f"198.51.100.7, {proxies}"), "10.0.0.2")

    def test_a_unix_socket_is_trusted_only_if_it_is_listed(self) -> None:
        self.assertEqual(address("", "192.0.2.1", trusted=TrustedProxies(("10.0.0.0/8",))), "")

    def test_by_default_proxies_on_this_machine_are_trusted(self) -> None:
        trusted = TrustedProxies(Cloud().trusted_proxies)
        for peer in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""):
            self.assertEqual(address(peer, "192.0.2.1", trusted=trusted), "192.0.2.1")
        self.assertEqual(address("10.0.0.1", "192.0.2.1", trusted=trusted), "10.0.0.1")

    @given(st.text(st.characters(max_codepoint=255), max_size=80), st.text(max_size=40))
    def test_anything_gives_an_address_or_nothing(self, header: str, peer: str) -> None:
        for each in (address("10.0.0.1", header), address(peer, header)):
            if each:
                ipaddress.ip_address(each)
        parse_forwarded(header)


class NetworkTests(SynchronousTestCase):
    """What is recorded, and what counts as one client."""

    def test_what_is_recorded_names_a_network_and_no_client(self) -> None:
        self.assertEqual(truncate_address("203.0.113.77"), "203.0.113.0/24")
        self.assertEqual(truncate_address("2001:db8:1:2:3::4"), "2001:db8:1::/48")
        self.assertEqual(truncate_address("::ffff:203.0.113.77"), "203.0.113.0/24")
        self.assertEqual((truncate_address(""), truncate_address("bob")), ("", ""))

    def test_an_ipv6_client_has_a_whole_network(self) -> None:
        self.assertEqual(
            client_network("2001:db8:1:2:3::4"), client_network("2001:db8:1:2:ffff::9")
        )
        self.assertNotEqual(client_network("2001:db8:1:2::4"), client_network("2001:db8:1:3::4"))
        self.assertEqual(client_network("203.0.113.77"), "203.0.113.77")

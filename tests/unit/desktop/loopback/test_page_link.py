"""`ctllm.desktop.loopback.page_link`: where a browser of this machine finds the page."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.loopback.page_link import page_url


class PageUrlTests(SynchronousTestCase):
    def test_is_at_an_address_of_the_loopback_interface_or_nowhere(self) -> None:
        for authority, url in (
            ("127.0.0.1:11435", "http://127.0.0.1:11435"),
            ("[::1]:11435", "http://[::1]:11435"),
            ("0.0.0.0:11435", "http://127.0.0.1:11435"),
            ("[::]:11435", "http://[::1]:11435"),
            ("192.168.1.5:11435", ""),
            ("[fd00::1]:11435", ""),
            ("", ""),
        ):
            self.assertEqual(page_url(authority), url, authority)

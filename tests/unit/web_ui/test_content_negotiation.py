"""`ctllm.web_ui.content_negotiation`: what clients accept."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.web_ui.content_negotiation import accepts_gzip, accepts_html


class AcceptsHtmlTests(SynchronousTestCase):
    """Which clients get the page."""

    def test_accept_headers_of_browsers_do(self) -> None:
        chromium = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        for accept in (chromium, b"text/html", b"TEXT/HTML ; q=0.5", b"*/*, text/html;q=0.001"):
            self.assertTrue(accepts_html(accept), accept)

    def test_wildcards_and_refusals_do_not(self) -> None:
        for accept in (
            None,
            b"",
            b"*/*",
            b"text/*",
            b"application/json",
            b"text/html;q=0",
            b"text/html; Q=0.00, */*",
            b"application/json;x=text/html",
            b"text/htmlx",
        ):
            self.assertFalse(accepts_html(accept), accept)

    def test_gzip_is_accepted_where_it_is_named(self) -> None:
        for named in (b"gzip", b"br, GZIP;q=0.5", b"gzip, deflate, br, zstd"):
            self.assertTrue(accepts_gzip(named), named)
        for accept in (None, b"", b"identity", b"gzip;q=0", b"*", b"xgzip"):
            self.assertFalse(accepts_gzip(accept), accept)

"""`ctllm.http.same_site`: which requests pages of other sites make."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import RequestHead
from ctllm.http.same_site import is_from_other_site, is_own_origin

HOST = (b"Host", b"cloud.example:8443")
OWN = (b"Origin", b"https://Cloud.example:8443")


def request(*headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"POST", b"/", (HOST, *headers))


class SameSiteTests(SynchronousTestCase):
    def test_programs_and_own_pages_are_not_foreign(self) -> None:
        for headers in (
            (),
            (OWN,),
            (OWN, (b"Sec-Fetch-Site", b"same-origin")),
            ((b"Sec-Fetch-Site", b"none"),),
        ):
            self.assertFalse(is_from_other_site(request(*headers)), headers)

    def test_other_origins_are_foreign(self) -> None:
        """Another port or subdomain, and one that hides, too."""
        for origin in (
            b"https://cloud.example",
            b"https://cloud.example:8443.evil.example",
            b"https://a.cloud.example:8443",
            b"https://evil.example",
            b"null",
            b"",
            b"file://",
        ):
            self.assertFalse(is_own_origin(request((b"Origin", origin))), origin)
            self.assertTrue(is_from_other_site(request(OWN, (b"origin", origin))), origin)

    def test_what_a_browser_calls_foreign_is(self) -> None:
        for site in (b"cross-site", b"same-site", b"", b"Cross-Site"):
            self.assertTrue(is_from_other_site(request((b"Sec-Fetch-Site", site))), site)
        both = ((b"Sec-Fetch-Site", b"none"), (b"sec-fetch-site", b"cross-site"))
        self.assertTrue(is_from_other_site(request(*both)))

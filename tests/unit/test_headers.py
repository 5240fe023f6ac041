"""Which headers go on: nothing that says who asked, nothing that changes what was asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.headers import ASSERTION, end_to_end, for_client, for_ollama, for_proxy
from ctllm.wire.heads import AnswerHead, Headers, RequestHead, first

HOST = b"127.0.0.1:11434"

SECRETS = (
    (b"Authorization", b"Bearer secret"),
    (b"Cookie", b"ctllm-session=secret"),
    (b"X-Api-Key", b"secret"),
    (b"Api-Key", b"secret"),
    (b"Proxy-Authorization", b"Basic secret"),
    (b"X-Authorization", b"Bearer secret"),
    (b"X-Goog-Api-Key", b"secret"),
    (b"X-Auth-Token", b"secret"),
    (b"X-Csrf-Token", b"secret"),
    (b"X-Amz-Security-Token", b"secret"),
    (b"Ocp-Apim-Subscription-Key", b"secret"),
    (b"Cf-Access-Client-Secret", b"secret"),
    (b"Cookie2", b"$Version=1"),
    (b"Set-Cookie", b"a=b"),
    (b"DPoP", b"secret"),
    (b"Client-Cert", b":secret:"),
    (b"Client-Cert-Chain", b":secret:"),
    (b"X-Client-Cert", b"secret"),
    (b"X-SSL-Client-Cert", b"secret"),
)
WHEREABOUTS = (
    (b"Origin", b"https://someone.example"),
    (b"Referer", b"https://someone.example/private"),
    (b"Forwarded", b"for=192.0.2.1"),
    (b"Via", b"1.1 home"),
    (b"X-Forwarded-For", b"192.0.2.1"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Real-Ip", b"192.0.2.1"),
    (b"True-Client-Ip", b"192.0.2.1"),
    (b"X-Client-Ip", b"192.0.2.1"),
    (b"Cf-Connecting-Ip", b"192.0.2.1"),
    (b"HTTP-Referer", b"https://someone.example"),
    (b"From", b"someone@example"),
    (b"Alt-Used", b"cloud.example"),
    (b"CDN-Loop", b"here"),
    (b"X-Forwarded", b"for=192.0.2.1"),
    (b"X-Forwarded-Host", b"cloud.example"),
    (b"X-Forwarded-User", b"alice"),
    (b"X-Original-Forwarded-For", b"192.0.2.1"),
    (b"X-Original-Url", b"/private"),
    (b"X-Real-Port", b"4711"),
    (b"X-Remote-User", b"alice"),
    (b"Remote-User", b"alice"),
    (b"X-Auth-Request-Email", b"someone@example"),
    (b"X-Cluster-Client-Ip", b"192.0.2.1"),
    (b"X-Azure-ClientIp", b"192.0.2.1"),
    (b"X-Envoy-External-Address", b"192.0.2.1"),
    (b"X-Amzn-Trace-Id", b"Root=1"),
    (b"Fastly-Client-Ip", b"192.0.2.1"),
    (b"Fly-Client-Ip", b"192.0.2.1"),
    (b"Tailscale-User-Login", b"someone@example"),
    (b"Cf-Ipcountry", b"XX"),
    (b"Sec-Fetch-Site", b"cross-site"),
    (b"Sec-Ch-Ua-Platform", b"mine"),
    (b"Access-Control-Request-Method", b"POST"),
    (b"Ctllm-Desktop", b"mine"),
    (b"Ctllm-Assertion", b"secret"),
)
KEPT = (
    (b"Content-Type", b"application/json"),
    (b"Accept", b"*/*"),
    (b"Content-Length", b"4"),
    (b"Anthropic-Version", b"2023-06-01"),
    (b"Anthropic-Beta", b"tools"),
    (b"OpenAI-Beta", b"responses"),
    (b"User-Agent", b"ollama-python/0.6"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"X-Request-Id", b"1"),
    (b"Idempotency-Key", b"1"),
    (b"Accept-Encoding", b"gzip"),
    (b"Range", b"bytes=0-1"),
    (b"If-None-Match", b"x"),
    (b"X-Mine", b"1"),
)


def post(*headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"POST", b"/api/chat?x=1", headers)


def names(headers: Headers) -> list[bytes]:
    return [name.lower() for name, _ in headers]


def spelled(name: bytes) -> list[bytes]:
    return [name, name.lower(), name.upper(), name.swapcase()]


class ToOllama(SynchronousTestCase):
    """What the desktop sends on."""

    def test_nothing_about_who_asks(self) -> None:
        """Neither secrets nor whereabouts, however their names are spelled or often they come."""
        for name, value in SECRETS + WHEREABOUTS:
            for spelling in spelled(name):
                found = for_ollama(post((spelling, value), *KEPT, (spelling, value)), HOST)
                self.assertEqual(found.headers, ((b"Host", HOST), *KEPT), spelling)

    def test_its_own_host(self) -> None:
        """One Host, and not the client's, even of a client that sent two."""
        found = for_ollama(post((b"HOST", b"evil.example"), (b"host", b"two.example")), HOST)
        self.assertEqual(found.headers, ((b"Host", HOST),))

    def test_what_was_asked_stays(self) -> None:
        """Method, target and the rest of the headers, in order and as spelled."""
        found = for_ollama(post(*KEPT), HOST)
        self.assertEqual((found.method, found.target), (b"POST", b"/api/chat?x=1"))
        self.assertEqual(found.headers[1:], KEPT)


class ToTheProxy(SynchronousTestCase):
    """What the front sends on."""

    def test_the_assertion_is_the_clouds_own(self) -> None:
        """One that the client sent, however spelled and often, is not among the headers."""
        for spelling in spelled(ASSERTION):
            found = for_proxy(post((spelling, b"forged"), (spelling, b"again")), b"signed")
            self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_a_client_cannot_name_it_away(self) -> None:
        """As hop-by-hop, that is: it would then not be believed, or something else would."""
        found = for_proxy(post((b"Connection", b"ctllm-assertion, host")), b"signed")
        self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_no_credentials(self) -> None:
        """The proxy has no use for what the user signed in with."""
        for name, value in SECRETS:
            for spelling in spelled(name):
                found = for_proxy(post((spelling, value), *KEPT), b"signed")
                self.assertEqual(found.headers, (*KEPT, (ASSERTION, b"signed")), spelling)

    def test_the_wanted_desktop_goes_on(self) -> None:
        """The proxy chooses by it."""
        found = for_proxy(post((b"Ctllm-Desktop", b"home")), b"signed")
        self.assertEqual(first(found.headers, b"ctllm-desktop"), b"home")


class Hops(SynchronousTestCase):
    """What concerns one connection."""

    def test_named_headers_end_here(self) -> None:
        """Those that any Connection header names, with spaces, in any case, of several lists."""
        headers = (
            (b"connection", b"close,  X-One ,"),
            (b"CONNECTION", b"x-two"),
            (b"X-ONE", b"1"),
            (b"x-Two", b"2"),
            (b"X-Three", b"3"),
        )
        self.assertEqual(end_to_end(headers), ((b"X-Three", b"3"),))

    def test_framing_cannot_be_named_away(self) -> None:
        """Or a body would become the next request."""
        hostile = (b"Connection", b"content-length, transfer-encoding, content-type")
        sized = for_ollama(post(hostile, *KEPT), HOST)
        self.assertEqual(sized.headers, ((b"Host", HOST), *KEPT))
        chunked = for_ollama(post(hostile, (b"transfer-ENCODING", b"chunked")), HOST)
        self.assertEqual(chunked.headers[1:], ((b"Transfer-Encoding", b"chunked"),))

    def test_one_framing_at_every_stage(self) -> None:
        """A chunked body is chunked on each connection, said once."""
        head = post((b"Transfer-Encoding", b"chunked"))
        for _ in range(3):
            head = for_proxy(head, b"signed")
        head = for_ollama(head, HOST)
        self.assertEqual(names(head.headers), [b"host", b"transfer-encoding"])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([name for name, _ in SECRETS + WHEREABOUTS + KEPT]
                                + [b"Connection", b"TE", b"Upgrade", b"Expect", b"Host"]),
                st.sampled_from([b"", b",", b"close", b"host,content-length", b"authorization"]),
            )
        )
    )  # fmt: skip
    def test_whatever_is_sent(self, headers: list[tuple[bytes, bytes]]) -> None:
        """No mixture of headers lets one of the forbidden through to Ollama."""
        found = names(for_ollama(post(*headers), HOST).headers)
        allowed = {name.lower() for name, _ in KEPT} | {b"host"}
        self.assertLessEqual(set(found), allowed)
        self.assertEqual(found.count(b"host"), 1)

    def test_answers_lose_theirs_too(self) -> None:
        """The next connection says for itself how it is kept and framed."""
        head = AnswerHead(
            200,
            b"OK",
            (
                (b"Transfer-Encoding", b"chunked"),
                (b"Connection", b"X-Hop"),
                (b"X-Hop", b"1"),
                (b"Retry-After", b"3"),
            ),
        )
        self.assertEqual(for_client(head).headers, ((b"Retry-After", b"3"),))

    def test_what_ollama_says_of_origins_ends_here(self) -> None:
        """It was not told the page's: only the door that the page came to may answer for it."""
        said = (
            (b"access-control-Allow-Origin", b"*"),
            (b"Access-Control-Allow-Credentials", b"true"),
            (b"Vary", b"Origin"),
        )
        self.assertEqual(for_client(AnswerHead(200, b"OK", said)).headers, said[2:])

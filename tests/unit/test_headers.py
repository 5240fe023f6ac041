"""Which headers go on: nothing that says who asked, nothing that changes what was asked."""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.http.header_policy import (
    ASSERTION,
    RENAMED_HEADERS,
    end_to_end_headers,
    refuse_renamed_headers,
    request_to_ollama,
    request_to_proxy,
    response_from_desktop,
    response_from_ollama,
    response_from_proxy,
)
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    ResponseHead,
    encode_field_value,
    get_header,
)

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
    underscored = name.replace(b"-", b"_")  # which CGI and WSGI take for the same name
    return [name, name.lower(), name.upper(), name.swapcase(), underscored]


class ToOllama(SynchronousTestCase):
    """What the desktop sends on."""

    def test_nothing_about_who_asks(self) -> None:
        """Neither secrets nor whereabouts, however their names are spelled or often they come."""
        for name, value in SECRETS + WHEREABOUTS:
            for spelling in spelled(name):
                found = request_to_ollama(post((spelling, value), *KEPT, (spelling, value)), HOST)
                self.assertEqual(found.headers, ((b"Host", HOST), *KEPT), spelling)

    def test_its_own_host(self) -> None:
        """One Host, and not the client's, even of a client that sent two."""
        found = request_to_ollama(post((b"HOST", b"evil.example"), (b"host", b"two.example")), HOST)
        self.assertEqual(found.headers, ((b"Host", HOST),))

    def test_what_was_asked_stays(self) -> None:
        """Method, target and the rest of the headers, in order and as spelled."""
        found = request_to_ollama(post(*KEPT), HOST)
        self.assertEqual((found.method, found.target), (b"POST", b"/api/chat?x=1"))
        self.assertEqual(found.headers[1:], KEPT)


class ToTheProxy(SynchronousTestCase):
    """What the front sends on."""

    def test_the_assertion_is_the_clouds_own(self) -> None:
        """One that the client sent, however spelled and often, is not among the headers."""
        for spelling in spelled(ASSERTION):
            found = request_to_proxy(post((spelling, b"forged"), (spelling, b"again")), b"signed")
            self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_a_client_cannot_name_it_away(self) -> None:
        """As hop-by-hop, that is: it would then not be believed, or something else would."""
        found = request_to_proxy(post((b"Connection", b"ctllm-assertion, host")), b"signed")
        self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_no_credentials(self) -> None:
        """The proxy has no use for what the user signed in with."""
        for name, value in SECRETS:
            for spelling in spelled(name):
                found = request_to_proxy(post((spelling, value), *KEPT), b"signed")
                self.assertEqual(found.headers, (*KEPT, (ASSERTION, b"signed")), spelling)

    def test_the_wanted_desktop_goes_on(self) -> None:
        """The proxy chooses by it."""
        found = request_to_proxy(post((b"Ctllm-Desktop", b"home")), b"signed")
        self.assertEqual(get_header(found.headers, b"ctllm-desktop"), b"home")


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
        self.assertEqual(end_to_end_headers(headers), ((b"X-Three", b"3"),))

    def test_framing_cannot_be_named_away(self) -> None:
        """Or a body would become the next request."""
        hostile = (b"Connection", b"content-length, transfer-encoding, content-type")
        sized = request_to_ollama(post(hostile, *KEPT), HOST)
        self.assertEqual(sized.headers, ((b"Host", HOST), *KEPT))
        chunked = request_to_ollama(post(hostile, (b"transfer-ENCODING", b"chunked")), HOST)
        self.assertEqual(chunked.headers[1:], ((b"Transfer-Encoding", b"chunked"),))

    def test_one_framing_at_every_stage(self) -> None:
        """A chunked body is chunked on each connection, said once."""
        head = post((b"Transfer-Encoding", b"chunked"))
        for _ in range(3):
            head = request_to_proxy(head, b"signed")
        head = request_to_ollama(head, HOST)
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
        found = names(request_to_ollama(post(*headers), HOST).headers)
        allowed = {name.lower() for name, _ in KEPT} | {b"host"}
        self.assertLessEqual(set(found), allowed)
        self.assertEqual(found.count(b"host"), 1)


ANSWERS = (response_from_ollama, response_from_desktop, response_from_proxy)
INERT = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
)


class Answers(SynchronousTestCase):
    """What an answer may say to servers and browsers on its way."""

    def passed(self, *headers: tuple[bytes, bytes], by: Any = response_from_ollama) -> Headers:
        found: Headers = by(ResponseHead(200, b"OK", headers)).headers
        self.assertEqual(found[-2:], INERT)
        return found[:-2]

    def test_what_clients_read(self) -> None:
        """In order, and as spelled."""
        kept = (
            (b"content-TYPE", b"application/x-ndjson"),
            (b"Content-Length", b"5"),
            (b"Content-Encoding", b"gzip"),
            (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
            (b"Retry-After", b"3"),
            (b"X-Request-Id", b"1"),
            (b"request-id", b"1"),
            (b"x-ratelimit-remaining-tokens", b"9"),
            (b"anthropic-ratelimit-requests-limit", b"9"),
            (b"openai-processing-ms", b"9"),
            (b"ETag", b'W/"1"'),
            (b"Vary", b"Origin"),
            (b"Cache-Control", b"no-cache, no-transform"),
            (b"Location", b"/api/tags?x=1"),
            (b"Allow", b"GET"),
        )
        for by in ANSWERS:
            self.assertEqual(self.passed(*kept, by=by), kept)

    def test_nothing_else(self) -> None:
        """Orders to servers and browsers, claims to be us, and whatever nobody knows."""
        for name, value in (
            (b"X-Accel-Redirect", b"/internal/secret"),
            (b"X-Accel-Buffering", b"yes"),
            (b"X-Accel-Expires", b"86400"),
            (b"X-Sendfile", b"/etc/passwd"),
            (b"X-LIGHTTPD-send-file", b"/etc/passwd"),
            (b"X-Reproxy-URL", b"http://evil.example"),
            (b"Set-Cookie", b"ctllm-session=evil"),
            (b"Clear-Site-Data", b'"*"'),
            (b"Strict-Transport-Security", b"max-age=99999999"),
            (b"Alt-Svc", b'h3="evil.example:443"'),
            (b"Refresh", b"0; url=https://evil.example"),
            (b"Link", b"</x>; rel=preload"),
            (b"Content-Security-Policy", b"default-src *"),
            (b"X-Content-Type-Options", b"no"),
            (b"Content-Disposition", b"attachment; filename=evil.exe"),
            (b"Service-Worker-Allowed", b"/"),
            (b"SourceMap", b"/x"),
            (b"Expires", b"Thu, 01 Jan 2099 00:00:00 GMT"),
            (b"Cache-Control", b"public, max-age=86400"),
            (b"Location", b"https://evil.example/"),
            (b"Location", b"//evil.example/api/"),
            (b"Location", b"/\\evil.example"),
            (b"Location", b"/ctllm/session"),
            (b"Location", b"/api/../ctllm/session"),
            (b"Location", b"/v1/%2E./ctllm/session"),
            (b"WWW-Authenticate", b'Basic realm="your password"'),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"Server", b"nginx"),
            (b"Connection", b"close"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Trailer", b"X-Accel-Redirect"),
            (b"Upgrade", b"h2c"),
            (b"Ctllm-Assertion", b"forged"),
            (b"Ctllm-Route", b"local"),
            (b"Ctllm-Anything", b"1"),
            (b"Retry-After", b"3\x0b"),
            (b"X-Mine", b"1"),
        ):
            for spelling in spelled(name):
                for by in ANSWERS:
                    self.assertEqual(self.passed((spelling, value), by=by), (), spelling)

    def test_what_ctllm_says_of_its_answers(self) -> None:
        """A proxy is believed what is its own to say; of a desktop, how its answer ends."""
        own = ((b"Ctllm-Request-Id", b"1"), (b"Ctllm-Desktop", b"d"))
        framing = (b"Ctllm-Framing", b"close-delimited")
        self.assertEqual(self.passed(*own, framing, by=response_from_proxy), (*own, framing))
        self.assertEqual(self.passed(*own, framing, by=response_from_desktop), (framing,))
        self.assertEqual(self.passed(*own, framing, by=response_from_ollama), ())

    def test_drops_the_old_names_of_renamed_headers(self) -> None:
        for name in RENAMED_HEADERS:
            self.assertEqual(self.passed((name, b"1"), by=response_from_proxy), ())

    def test_what_the_connection_names_ends_here(self) -> None:
        """The next connection says for itself how it is kept and framed."""
        headers = ((b"Connection", b"ETag"), (b"ETag", b"1"), (b"Retry-After", b"3"))
        self.assertEqual(self.passed(*headers), ((b"Retry-After", b"3"),))

    def test_again_and_again(self) -> None:
        """Each stage adds what makes an answer inert once."""
        head = ResponseHead(200, b"OK", ((b"Content-Type", b"text/html"),))
        once = response_from_ollama(head)
        self.assertEqual(response_from_proxy(response_from_desktop(once)), once)


class OwnValues(SynchronousTestCase):
    """Values of headers that ctllm writes."""

    @given(st.binary())
    def test_whatever_they_are(self, value: bytes) -> None:
        """What is written is a value (RFC 9110, section 5.5), and h11 agrees."""
        written = encode_field_value(value)
        self.assertRegex(written, rb"\A(?:[!-~](?:[\t -~]*[!-~])?)?\Z")
        h11.Response(status_code=200, headers=[(b"X", written)])


class RenamedHeadersTests(SynchronousTestCase):
    """A request with the old name of a header."""

    def test_refuses_an_old_name_and_states_the_new_one(self) -> None:
        for old, new in (
            (b"Ctllm-Elsewhere", b"Ctllm-Exclude-Desktop"),
            (b"ctllm-side", b"Ctllm-Route"),
            (b"CTLLM-EXCHANGE", b"Ctllm-Request-Id"),
        ):
            error = self.assertRaises(BadRequest, refuse_renamed_headers, ((old, b"1"),))
            self.assertEqual(
                error.message, f"The header {old.decode()} is now called {new.decode()}."
            )

    def test_accepts_the_new_names(self) -> None:
        refuse_renamed_headers(tuple((name, b"1") for name in RENAMED_HEADERS.values()))

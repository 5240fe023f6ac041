"""`ctllm.http.header_policy`: which headers are forwarded to each stage and back."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import h11
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.http.header_policy import (
    ASSERTION,
    RENAMED_HEADERS,
    REQUEST_ID,
    end_to_end_headers,
    quote_name,
    refuse_renamed_headers,
    request_to_ollama,
    request_to_proxy,
    response_from_desktop,
    response_from_ollama,
    response_from_proxy,
    take_request_id,
)
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    ResponseHead,
    encode_field_value,
    get_header,
)

HOST = b"127.0.0.1:11434"

CREDENTIALS = (
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
    (b"Sec-WebSocket-Protocol", b"ctllm.bearer.c2VjcmV0"),
)
CLIENT_HEADERS = (
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
KEPT_HEADERS = (
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


def spellings(name: bytes) -> list[bytes]:
    underscored = name.replace(b"-", b"_")  # CGI and WSGI equate it with the name
    return [name, name.lower(), name.upper(), name.swapcase(), underscored]


class RequestToOllamaTests(SynchronousTestCase):
    def test_removes_credentials_and_what_identifies_the_client(self) -> None:
        for name, value in CREDENTIALS + CLIENT_HEADERS:
            for spelling in spellings(name):
                found = request_to_ollama(
                    post((spelling, value), *KEPT_HEADERS, (spelling, value)), HOST
                )
                self.assertEqual(found.headers, ((b"Host", HOST), *KEPT_HEADERS), spelling)

    def test_has_one_host_which_is_ollamas(self) -> None:
        found = request_to_ollama(post((b"HOST", b"evil.example"), (b"host", b"two.example")), HOST)
        self.assertEqual(found.headers, ((b"Host", HOST),))

    def test_keeps_method_target_and_other_headers_in_order(self) -> None:
        found = request_to_ollama(post(*KEPT_HEADERS), HOST)
        self.assertEqual((found.method, found.target), (b"POST", b"/api/chat?x=1"))
        self.assertEqual(found.headers[1:], KEPT_HEADERS)


class RequestToProxyTests(SynchronousTestCase):
    def test_removes_assertions_of_the_client(self) -> None:
        for spelling in spellings(ASSERTION):
            found = request_to_proxy(post((spelling, b"forged"), (spelling, b"again")), b"signed")
            self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_client_cannot_remove_the_assertion_as_hop_by_hop(self) -> None:
        found = request_to_proxy(post((b"Connection", b"ctllm-assertion, host")), b"signed")
        self.assertEqual(found.headers, ((ASSERTION, b"signed"),))

    def test_the_id_is_that_of_the_cloud(self) -> None:
        id = bytes(range(16))
        for spelling in spellings(REQUEST_ID):
            found = request_to_proxy(post((spelling, b"a" * 32)), b"signed", id)
            expected = ((ASSERTION, b"signed"), (REQUEST_ID, id.hex().encode()))
            self.assertEqual(found.headers, expected)
            taken, rest = take_request_id(found)
            self.assertEqual((taken, rest.headers), (id, ((ASSERTION, b"signed"),)))

    def test_an_id_of_another_form_is_none(self) -> None:
        for value in (b"", b"a" * 31, b"A" * 32, b"a" * 33, b"\xff" * 32, b"g" * 32):
            self.assertIsNone(take_request_id(post((REQUEST_ID, value)))[0], value)

    def test_removes_credentials(self) -> None:
        for name, value in CREDENTIALS:
            for spelling in spellings(name):
                found = request_to_proxy(post((spelling, value), *KEPT_HEADERS), b"signed")
                self.assertEqual(found.headers, (*KEPT_HEADERS, (ASSERTION, b"signed")), spelling)

    def test_keeps_the_requested_desktop(self) -> None:
        found = request_to_proxy(post((b"Ctllm-Desktop", b"home")), b"signed")
        self.assertEqual(get_header(found.headers, b"ctllm-desktop"), b"home")


class HopByHopTests(SynchronousTestCase):
    def test_removes_headers_that_connection_lists(self) -> None:
        headers = (
            (b"connection", b"close,  X-One ,"),
            (b"CONNECTION", b"x-two"),
            (b"X-ONE", b"1"),
            (b"x-Two", b"2"),
            (b"X-Three", b"3"),
        )
        self.assertEqual(end_to_end_headers(headers), ((b"X-Three", b"3"),))

    def test_client_cannot_remove_the_framing_as_hop_by_hop(self) -> None:
        hostile = (b"Connection", b"content-length, transfer-encoding, content-type")
        sized = request_to_ollama(post(hostile, *KEPT_HEADERS), HOST)
        self.assertEqual(sized.headers, ((b"Host", HOST), *KEPT_HEADERS))
        chunked = request_to_ollama(post(hostile, (b"transfer-ENCODING", b"chunked")), HOST)
        self.assertEqual(chunked.headers[1:], ((b"Transfer-Encoding", b"chunked"),))

    def test_chunked_body_is_announced_once_at_every_stage(self) -> None:
        head = post((b"Transfer-Encoding", b"chunked"))
        for _ in range(3):
            head = request_to_proxy(head, b"signed")
        head = request_to_ollama(head, HOST)
        self.assertEqual(names(head.headers), [b"host", b"transfer-encoding"])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([name for name, _ in CREDENTIALS + CLIENT_HEADERS + KEPT_HEADERS]
                                + [b"Connection", b"TE", b"Upgrade", b"Expect", b"Host"]),
                st.sampled_from([b"", b",", b"close", b"host,content-length", b"authorization"]),
            )
        )
    )  # fmt: skip
    def test_no_combination_of_headers_sends_a_removed_one_to_ollama(
        self, headers: list[tuple[bytes, bytes]]
    ) -> None:
        found = names(request_to_ollama(post(*headers), HOST).headers)
        allowed = {name.lower() for name, _ in KEPT_HEADERS} | {b"host"}
        self.assertLessEqual(set(found), allowed)
        self.assertEqual(found.count(b"host"), 1)


RESPONSE_FILTERS = (response_from_ollama, response_from_desktop, response_from_proxy)
INERT = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
)


class ResponseTests(SynchronousTestCase):
    def kept(
        self,
        *headers: tuple[bytes, bytes],
        policy: Callable[[ResponseHead], ResponseHead] = response_from_ollama,
    ) -> Headers:
        found = policy(ResponseHead(200, b"OK", headers)).headers
        self.assertEqual(found[-2:], INERT)
        return found[:-2]

    def test_keeps_headers_that_clients_read(self) -> None:
        headers = (
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
        for policy in RESPONSE_FILTERS:
            self.assertEqual(self.kept(*headers, policy=policy), headers)

    def test_removes_all_other_headers(self) -> None:
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
            for spelling in spellings(name):
                for policy in RESPONSE_FILTERS:
                    self.assertEqual(self.kept((spelling, value), policy=policy), (), spelling)

    def test_keeps_ctllm_headers_of_the_stage_that_sets_them(self) -> None:
        own = ((b"Ctllm-Request-Id", b"1"), (b"Ctllm-Desktop", b"d"))
        framing = (b"Ctllm-Framing", b"close-delimited")
        self.assertEqual(self.kept(*own, framing, policy=response_from_proxy), (*own, framing))
        self.assertEqual(self.kept(*own, framing, policy=response_from_desktop), (framing,))
        self.assertEqual(self.kept(*own, framing, policy=response_from_ollama), ())

    def test_removes_the_old_names_of_renamed_headers(self) -> None:
        for name in RENAMED_HEADERS:
            self.assertEqual(self.kept((name, b"1"), policy=response_from_proxy), ())

    def test_removes_headers_that_connection_lists(self) -> None:
        headers = ((b"Connection", b"ETag"), (b"ETag", b"1"), (b"Retry-After", b"3"))
        self.assertEqual(self.kept(*headers), ((b"Retry-After", b"3"),))

    def test_adds_inert_content_headers_once(self) -> None:
        head = ResponseHead(200, b"OK", ((b"Content-Type", b"text/html"),))
        once = response_from_ollama(head)
        self.assertEqual(response_from_proxy(response_from_desktop(once)), once)


class FieldValueTests(SynchronousTestCase):
    @given(st.text())
    @example(" m")
    @example("m\t")
    def test_any_name_is_quoted_as_a_valid_field_value(self, name: str) -> None:
        quoted = quote_name(name)
        self.assertEqual(encode_field_value(quoted), quoted)
        h11.Response(status_code=200, headers=[(b"X", quoted)])
        self.assertEqual(unquote(quoted.decode()), name)

    @given(st.binary())
    def test_any_value_is_encoded_as_a_valid_field_value(self, value: bytes) -> None:
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

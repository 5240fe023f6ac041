"""Request headers: those that identify the client are removed, all others reach Ollama."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import FRONT
from tests.e2e.mirrored_requests import HOP_BY_HOP, MirroredCluster, RawRequest

#: Removed before Ollama. Repeated here, so that the tests do not depend on the product's list;
#: names in the case that clients and reverse proxies use.
CREDENTIALS = (
    ("Cookie", "ctllm-session=secret; a=b"),
    ("X-Api-Key", "secret"),
    ("api-key", "secret"),
    ("x-goog-api-key", "secret"),
    ("Proxy-Authorization", "Basic secret"),
    ("X-Authorization", "secret"),
    ("X-Auth-Token", "secret"),
    ("X-CSRF-Token", "secret"),
    ("CF-Access-Client-Secret", "secret"),
    ("X-Client-Cert", "secret"),
    ("Set-Cookie", "a=b"),
)
CLIENT_METADATA = (
    ("Origin", "https://page.example"),
    ("Referer", "https://page.example/private?secret"),
    ("Forwarded", "for=192.0.2.1;host=ctllm.example.org;proto=https"),
    ("Via", "1.1 proxy.example"),
    ("X-Forwarded-For", "192.0.2.1, 192.0.2.2"),
    ("X-Forwarded-Host", "ctllm.example.org"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-User", "alice"),
    ("X-Forwarded", "192.0.2.1"),
    ("X-Original-Forwarded-For", "192.0.2.1"),
    ("X-Original-URL", "/admin"),
    ("X-Real-IP", "192.0.2.1"),
    ("X-Client-IP", "192.0.2.1"),
    ("X-Cluster-Client-IP", "192.0.2.1"),
    ("True-Client-IP", "192.0.2.1"),
    ("Fastly-Client-IP", "192.0.2.1"),
    ("CF-Connecting-IP", "192.0.2.1"),
    ("CF-IPCountry", "XX"),
    ("CF-Ray", "1"),
    ("CF-Visitor", "1"),
    ("CDN-Loop", "cloudflare"),
    ("X-Amzn-Trace-Id", "Root=1"),
    ("X-Envoy-External-Address", "192.0.2.1"),
    ("X-Azure-ClientIP", "192.0.2.1"),
    ("X-Auth-Request-Email", "alice@page.example"),
    ("Remote-User", "alice"),
    ("From", "alice@page.example"),
    ("Alt-Used", "ctllm.example.org"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "cors"),
    ("Sec-CH-UA", '"Chromium";v="1"'),
    ("Sec-CH-UA-Platform", '"Linux"'),
    ("Sec-GPC", "1"),
    ("Access-Control-Request-Private-Network", "true"),
    ("Ctllm-Assertion", "forged"),
    ("Ctllm-Anything", "1"),
    ("Ctllm-Resume", "10"),
)
HOP_BY_HOP_HEADERS = (
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Connection", "X-Hop"),
    ("X-Hop", "1"),
)
FORWARDED = (
    ("accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "en"),
    ("User-Agent", "OpenAI/Python 3.0"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "one,two"),
    ("OpenAI-Beta", "responses=v1"),
    ("x-stainless-lang", "python"),
    ("X-Stainless-Retry-Count", "0"),
    ("X-STAINLESS-OS", "Linux"),
    ("X-Request-Id", "1"),
    ("Idempotency-Key", "1"),
    ("traceparent", "00-1-2-00"),
    ("Range", "bytes=1-"),
    ("If-None-Match", '"x"'),
    ("Cache-Control", "no-cache"),
    ("DNT", "1"),
    ("X-Requested-With", "XMLHttpRequest"),
    ("X-Mine", "1"),
    ("X-Mine", "2"),
    ("X-Latin", "\xe9\xff"),
    ("X-Empty", ""),
)
REQUESTS = (
    RawRequest("GET", "/api/tags"),
    RawRequest("POST", "/api/chat", {"model": "llama3.2", "messages": []}),
    RawRequest("POST", "/v1/messages", {"model": "llama3.2"}, chunked=True),
    RawRequest("DELETE", "/api/future", b"x"),
    RawRequest("OPTIONS", "/api/chat"),
)


@pytest.mark.parametrize("raw_request", REQUESTS, ids=str)
@ensureDeferred
async def test_nothing_about_the_client_reaches_ollama(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """All headers in one request: of these none reaches Ollama, of the others every one."""
    headers = (*CLIENT_METADATA, *FORWARDED, *CREDENTIALS, *HOP_BY_HOP_HEADERS)
    sent = RawRequest(
        raw_request.method, raw_request.target, raw_request.body, headers, raw_request.chunked
    )
    mirrored.fake_ollama.settings.guard_host = False  # otherwise the direct request is refused
    result = await mirrored.send_both(sent)
    stripped = {name.lower() for name, _ in (*CREDENTIALS, *CLIENT_METADATA, *HOP_BY_HOP_HEADERS)}
    stripped |= {"host", "authorization"}
    assert result.relayed_request.forwarded_headers(
        {"host"} | FRAMING
    ) == result.direct_request.forwarded_headers(stripped | FRAMING)
    names = {name.lower() for name, _ in result.relayed_request.headers}
    assert names & (stripped - {"host"}) == set()
    assert names & HOP_BY_HOP <= {"transfer-encoding"}
    assert [value for name, value in result.relayed_request.headers if name.lower() == "host"] == [
        f"127.0.0.1:{mirrored.port}"
    ]
    assert "ctllm.example.org" not in str(result.relayed_request.headers)


#: What frames a body, which nginx changes: it sends a length where it has all chunks.
FRAMING: set[str] = set() if FRONT == "cloud" else {"content-length", "transfer-encoding"}
#: What nginx accepts: no empty one.
HOSTS_OF_NGINX = ("ctllm.example.org", "CTLLM.example.org:443", "192.0.2.7", "a_b")
HOSTS = ("ctllm.example.org", "CTLLM.example.org:443", "192.0.2.7", "[2001:db8::1]:80", "", "a_b")
ORIGINS = ("https://page.example", "null", "chrome-extension://abc", "http://evil.example:81", "x")


@pytest.mark.parametrize("raw_request", REQUESTS, ids=str)
@ensureDeferred
async def test_requests_of_any_host_and_origin_are_accepted(
    mirrored: MirroredCluster, raw_request: RawRequest
) -> None:
    """Ollama itself refuses unknown origins with 403; ctllm does not relay Host and Origin."""
    mirrored.fake_ollama.settings.guard_host = True
    plain = RawRequest(
        raw_request.method, raw_request.target, raw_request.body, chunked=raw_request.chunked
    )
    expected = (await mirrored.send_both(plain)).relayed_response
    assert expected.status != 403
    for origin in ORIGINS:
        result = await mirrored.send_both(
            RawRequest(
                raw_request.method, raw_request.target, raw_request.body, (("Origin", origin),)
            )
        )
        assert result.direct_response.status == 403
        assert result.relayed_response.relayed_parts == expected.relayed_parts
    for host in HOSTS if FRONT == "cloud" else HOSTS_OF_NGINX:
        response = await mirrored.send_relayed(plain, host)
        assert response.relayed_parts == expected.relayed_parts

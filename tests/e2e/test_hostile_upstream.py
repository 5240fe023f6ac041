"""An Ollama with invalid, endless or incomplete responses: clients get an error.

An incomplete response never looks complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.process_info import linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster
from tests.ports import free_port

pytestmark = linux_only

OK = b"HTTP/1.1 200 OK\r\n"
WITH_LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

#: Refused before any byte is relayed: a complete 502 response.
INVALID = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a later version": b"HTTP/2 200 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status over 599": b"HTTP/1.1 999 OK\r\n\r\n",
    "a missing colon": OK + b"nothing\r\n\r\n",
    "a folded line": OK + b"A: b\r\n c\r\n\r\n",
    "a bare line feed": OK + b"A: b\nSet-Cookie: c=d\r\n\r\n",
    "a NUL": OK + b"A: \0\r\n\r\n",
    "both framings": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "a giant head": OK + b"A: " + b"b" * 1_000_000 + b"\r\n\r\n",
    "endless interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    "an empty response": b"",
}
#: Invalid after the head: relayed, then broken off.
INCOMPLETE = {
    "a length not reached": WITH_LENGTH + b"hel",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "a chunk cut short": CHUNKED + b"9\r\nhello",
    "a chunk's size in words": CHUNKED + b"5\r\nhello\r\nfive\r\n",
    "a chunk longer than it says": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": CHUNKED + b"5\r\nhello\r\n" + b"f" * 30 + b"\r\n",
    "a giant extension": CHUNKED + b"5\r\nhello\r\n5;" + b"x" * 100_000,
    "endless trailers": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 40_000,
}
#: Valid responses, and the body that reaches the client.
VALID = {
    "until close": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    "with trailers": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", b"hello"),
    "with bytes after it": (
        WITH_LENGTH + b"hello" + OK + b"Content-Length: 4\r\n\r\nevil", b"hello",
    ),
    "without a body, with bytes after it": (b"HTTP/1.1 204 No Content\r\n\r\nevil", b""),
    "gzipped": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", b"\x1f\x8b"),
}  # fmt: skip


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("answers"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


async def request_response(raw_cluster: RawCluster, entry_point: str, response: bytes) -> bytes:
    """Return what a client receives if Ollama sends `response` and closes."""
    raw_cluster.ollama.responses[b"/probe"] = (response, True)
    client = raw_cluster.entry_points[entry_point]
    head = b"POST /probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    return await client.send(head + client.credential_header + b"\r\nConnection: close\r\n\r\nx")


@pytest.mark.parametrize("entry_point", ["cloud", "endpoint"])
@ensureDeferred
async def test_invalid_responses_become_502(raw_cluster: RawCluster, entry_point: str) -> None:
    """The error names Ollama and contains nothing of its response; the next request succeeds."""
    for name, response in INVALID.items():
        received = await request_response(raw_cluster, entry_point, response)
        assert received.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")), (name, received[:300])
        assert received.count(b"HTTP/1.1") <= 2 and b"Ollama" in received, (name, received[:300])
        assert b"Set-Cookie" not in received, name
    raw_cluster.ollama.responses.clear()
    await raw_cluster.check_serves()


@pytest.mark.parametrize("entry_point", ["cloud", "endpoint"])
@ensureDeferred
async def test_incomplete_responses_do_not_look_complete(
    raw_cluster: RawCluster, entry_point: str
) -> None:
    """What arrived is relayed, without a last chunk and with fewer bytes than Content-Length."""
    for name, response in INCOMPLETE.items():
        received = await request_response(raw_cluster, entry_point, response)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), (name, received[:300])
        assert not body.endswith(b"0\r\n\r\n"), (name, received[-300:])
        if b"content-length: 5" in head.lower():
            assert len(body) < 5, name
    raw_cluster.ollama.responses.clear()
    await raw_cluster.check_serves()


@pytest.mark.parametrize("entry_point", ["cloud", "endpoint"])
@ensureDeferred
async def test_bytes_after_a_response_are_discarded(
    raw_cluster: RawCluster, entry_point: str
) -> None:
    """They belong neither to the response's body nor to the next response."""
    for name, (response, body) in VALID.items():
        received = await request_response(raw_cluster, entry_point, response)
        assert b"evil" not in received, name
        assert body in received and received.startswith(b"HTTP/1.1 20"), (name, received)
        status, _, after = await raw_cluster.cluster.request(
            "GET", "/alive", token=raw_cluster.cluster.api_key
        )
        assert (status, after) == (200, b"{}"), name
    raw_cluster.ollama.responses.clear()


#: Headers that reverse proxies or browsers would act on.
CONTROL_HEADERS = (
    b"X-Accel-Redirect: /internal/secret", b"X-Accel-Buffering: yes", b"X-Sendfile: /etc/passwd",
    b"Set-Cookie: ctllm-session=evil", b'Clear-Site-Data: "*"', b"Alt-Svc: h3=evil:443",
    b"Strict-Transport-Security: max-age=9", b"Refresh: 0; url=//evil", b"Link: </evil>",
    b"Location: //evil.example/", b"Ctllm-Desktop: evil", b"Ctllm-Route: evil",
    b"Ctllm-Framing: close-delimited", b"WWW-Authenticate: Basic realm=evil",
    b"Content-Security-Policy: default-src *",
)  # fmt: skip


@pytest.mark.parametrize("entry_point", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_headers_that_control_browsers_or_proxies_are_removed(
    raw_cluster: RawCluster, entry_point: str
) -> None:
    """In the head, in interim responses and in trailers; HTML is sandboxed."""
    lines = b"\r\n".join(CONTROL_HEADERS)
    body = b"<script>evil()</script>"
    for response in (
        OK + b"Content-Type: text/html\r\n" + lines + b"\r\nContent-Length: 23\r\n\r\n" + body,
        b"HTTP/1.1 103 Early Hints\r\n" + lines + b"\r\n\r\n" + OK
        + b"Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n" + body
        + b"\r\n0\r\n" + lines + b"\r\n\r\n",
        b"HTTP/1.1 307 See\r\n" + lines + b"\r\nContent-Length: 23\r\n\r\n" + body,
    ):  # fmt: skip
        received = await request_response(raw_cluster, entry_point, response)
        head = received.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
        assert body in received, received
        for line in CONTROL_HEADERS:
            assert line.lower() + b"\r\n" not in head, line
            if not line.startswith((b"Content-Security", b"Ctllm-")):
                assert b"\r\n" + line.partition(b":")[0].lower() + b":" not in head, line
        assert head.count(b"\r\nctllm-desktop:") <= 1
        assert b"\r\nx-content-type-options: nosniff\r\n" in head
        assert b"\r\ncontent-security-policy: default-src 'none'; sandbox\r\n" in head
        assert received.count(b"HTTP/1.1") == 1
    raw_cluster.ollama.responses.clear()


@ensureDeferred
async def test_names_that_are_invalid_in_a_header_do_not_break_responses(cluster: Cluster) -> None:
    """Names of models and of a desktop; concurrent requests in the tunnel succeed."""
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    endpoint = free_port()
    await cluster.start_cloud()
    options = ("--desktop-name=attic ", f"--desktop-listen=127.0.0.1:{endpoint}")
    await cluster.start_desktop("alice", ollama, *options)
    token = await cluster.create_token("alice")
    for model in (" m", "m ", "m\t", "a\r\nX: y", "caf\xe9", "\u65e5\u672c", "\x00", "\x7f"):
        for port, key in ((endpoint, None), (cluster.cloud_port, token)):
            other = Deferred.fromCoroutine(
                cluster.request("POST", "/api/chat", {"model": "llama3.2"}, key, port=port)
            )
            status, headers, _ = await cluster.request(
                "POST", "/api/chat", {"model": model}, key, port=port
            )
            assert status in (400, 404), (model, status)  # from Ollama
            assert "x" not in headers
            if port == cluster.cloud_port:
                assert headers["ctllm-desktop"] == "attic"
            assert (await other)[0] == 200


def _ollama(url: str, key: str) -> None:
    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})
    for _ in client.chat(model="m", messages=[{"role": "user", "content": "hi"}], stream=True):
        pass


def _openai(url: str, key: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    for _ in client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    ):
        pass


def _responses(url: str, key: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    for event in client.responses.create(model="m", input="hi", stream=True):
        if event.type == "error":
            raise openai.APIError(event.message, None, body=None)  # type: ignore[arg-type]


def _anthropic(url: str, key: str) -> None:
    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    with client.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
        for _ in stream:
            pass


_CHAT = (
    b'{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"'
)
_CHUNK = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"'
)
_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
    b'"item_id":"i","output_index":0,"content_index":0,"sequence_number":1,"delta":"'
)
_MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","type":"message",'
    b'"role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"'
)
STREAMS: dict[str, tuple[Any, bytes, bytes, bytes, type[Exception]]] = {
    "ollama": (
        _ollama, b"/api/chat", _CHAT, b'he"},"done":false}\n', ollama.ResponseError,
    ),
    "openai": (
        _openai, b"/v1/chat/completions", _CHUNK, b'he"},"finish_reason":null}]}\n\n',
        openai.APIError,
    ),
    "responses": (_responses, b"/v1/responses", _DELTA, b'he"}\n\n', openai.APIError),
    "anthropic": (
        _anthropic, b"/v1/messages", _MESSAGE, b'he"}}\n\n', anthropic.APIStatusError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("client", STREAMS)
@ensureDeferred
async def test_clients_raise_their_api_error_when_a_line_is_cut(
    raw_cluster: RawCluster, client: str
) -> None:
    """Never an error of their parsers."""
    call, target, start, rest, error_class = STREAMS[client]
    media_type = b"application/x-ndjson" if client == "ollama" else b"text/event-stream"
    complete = start + rest
    for cut in (
        len(start), len(start) + 1, len(complete) - 1, len(complete) - 4, len(complete) // 2, 9
    ):  # fmt: skip
        sent = complete[:cut]
        response = OK + b"Content-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % media_type
        raw_cluster.ollama.responses[target] = (
            response + b"%x\r\n%b\r\n" % (len(sent), sent),
            True,
        )
        with pytest.raises(error_class) as raised:
            await deferToThread(call, raw_cluster.cluster.url, raw_cluster.cluster.api_key)
        assert "No complete response" in str(raised.value), (cut, raised.value)
    raw_cluster.ollama.responses.clear()


@ensureDeferred
async def test_endless_interim_responses_are_aborted(raw_cluster: RawCluster) -> None:
    """The connection to Ollama is closed, and the client gets 502."""
    closed: list[bool] = []
    loops: list[LoopingCall] = []

    def flood(transport: Any) -> None:
        transport.protocol.connectionLost = lambda reason: closed.append(True)
        loops.append(LoopingCall(transport.write, b"HTTP/1.1 100 Continue\r\n\r\n" * 100))
        loops[0].start(0.01)

    raw_cluster.ollama.responses[b"/flood"] = (flood, False)
    status, _, _ = await raw_cluster.cluster.request(
        "GET", "/flood", token=raw_cluster.cluster.api_key
    )
    assert status == 502
    await wait_until(lambda: closed, "the connection to be closed")
    loops[0].stop()
    await raw_cluster.check_serves()

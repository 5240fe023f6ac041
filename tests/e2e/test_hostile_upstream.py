"""An Ollama that answers nonsense, without end, or twice: an error, never passed for whole."""

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

#: Refused before a byte of them is passed on: 502, whole.
INVALID = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a later version": b"HTTP/2 200 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of no meaning": b"HTTP/1.1 999 OK\r\n\r\n",
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
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    "nothing": b"",
}
#: Begun, so broken off.
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
#: Fine, and the body that arrives.
VALID = {
    "to the end": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    "with trailers": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", b"hello"),
    "with words after it": (WITH_LENGTH + b"hello" + OK + b"Content-Length: 4\r\n\r\nevil", b"hello"),
    "an empty one with words": (b"HTTP/1.1 204 No Content\r\n\r\nevil", b""),
    "gzipped": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", b"\x1f\x8b"),
}  # fmt: skip


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A line with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("answers"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


async def request_response(raw_cluster: RawCluster, door: str, response: bytes) -> bytes:
    """What a client hears where Ollama says `answer` and closes."""
    raw_cluster.ollama.responses[b"/probe"] = (response, True)
    at = raw_cluster.entry_points[door]
    head = b"POST /probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    return await at.send(head + at.credential_header + b"\r\nConnection: close\r\n\r\nx")


@pytest.mark.parametrize("door", ["cloud", "endpoint"])
@ensureDeferred
async def test_nonsense_is_a_502(raw_cluster: RawCluster, door: str) -> None:
    """A whole answer with a sentence; nothing that Ollama said is in it. The next is served."""
    for name, answer in INVALID.items():
        heard = await request_response(raw_cluster, door, answer)
        assert heard.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")), (name, heard[:300])
        assert heard.count(b"HTTP/1.1") <= 2 and b"Ollama" in heard, (name, heard[:300])
        assert b"Set-Cookie" not in heard, name
    raw_cluster.ollama.responses.clear()
    await raw_cluster.check_serves()


@pytest.mark.parametrize("door", ["cloud", "endpoint"])
@ensureDeferred
async def test_what_breaks_in_the_middle_never_ends_well(
    raw_cluster: RawCluster, door: str
) -> None:
    """What came is passed on; then neither a last chunk nor as many bytes as were said."""
    for name, answer in INCOMPLETE.items():
        heard = await request_response(raw_cluster, door, answer)
        head, _, body = heard.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), (name, heard[:300])
        assert not body.endswith(b"0\r\n\r\n"), (name, heard[-300:])
        if b"content-length: 5" in head.lower():
            assert len(body) < 5, name
    raw_cluster.ollama.responses.clear()
    await raw_cluster.check_serves()


@pytest.mark.parametrize("door", ["cloud", "endpoint"])
@ensureDeferred
async def test_what_follows_an_answer_is_nobodys(raw_cluster: RawCluster, door: str) -> None:
    """Each good body arrives as it was; bytes after it are no part of it and no next answer."""
    for name, (answer, body) in VALID.items():
        heard = await request_response(raw_cluster, door, answer)
        assert b"evil" not in heard, name
        assert body in heard and heard.startswith(b"HTTP/1.1 20"), (name, heard)
        status, _, after = await raw_cluster.cluster.request(
            "GET", "/alive", token=raw_cluster.cluster.api_key
        )
        assert (status, after) == (200, b"{}"), name
    raw_cluster.ollama.responses.clear()


#: What servers and browsers on the way would obey.
CONTROL_HEADERS = (
    b"X-Accel-Redirect: /internal/secret", b"X-Accel-Buffering: yes", b"X-Sendfile: /etc/passwd",
    b"Set-Cookie: ctllm-session=evil", b'Clear-Site-Data: "*"', b"Alt-Svc: h3=evil:443",
    b"Strict-Transport-Security: max-age=9", b"Refresh: 0; url=//evil", b"Link: </evil>",
    b"Location: //evil.example/", b"Ctllm-Desktop: evil", b"Ctllm-Route: evil",
    b"Ctllm-Framing: close-delimited", b"WWW-Authenticate: Basic realm=evil",
    b"Content-Security-Policy: default-src *",
)  # fmt: skip


@pytest.mark.parametrize("door", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_headers_that_give_orders(raw_cluster: RawCluster, door: str) -> None:
    """None of them passes, in the head, before it or after the body; what is HTML is inert."""
    lines = b"\r\n".join(CONTROL_HEADERS)
    body = b"<script>evil()</script>"
    for answer in (
        OK + b"Content-Type: text/html\r\n" + lines + b"\r\nContent-Length: 23\r\n\r\n" + body,
        b"HTTP/1.1 103 Early Hints\r\n" + lines + b"\r\n\r\n" + OK
        + b"Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n" + body
        + b"\r\n0\r\n" + lines + b"\r\n\r\n",
        b"HTTP/1.1 307 See\r\n" + lines + b"\r\nContent-Length: 23\r\n\r\n" + body,
    ):  # fmt: skip
        heard = await request_response(raw_cluster, door, answer)
        head = heard.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
        assert body in heard, heard
        for line in CONTROL_HEADERS:
            assert line.lower() + b"\r\n" not in head, line
            if not line.startswith((b"Content-Security", b"Ctllm-")):
                assert b"\r\n" + line.partition(b":")[0].lower() + b":" not in head, line
        assert head.count(b"\r\nctllm-desktop:") <= 1
        assert b"\r\nx-content-type-options: nosniff\r\n" in head
        assert b"\r\ncontent-security-policy: default-src 'none'; sandbox\r\n" in head
        assert heard.count(b"HTTP/1.1") == 1
    raw_cluster.ollama.responses.clear()


@ensureDeferred
async def test_names_that_no_header_can_have(cluster: Cluster) -> None:
    """A model's, a desktop's: each request is answered, and others on that tunnel are, too."""
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
            assert status in (400, 404), (model, status)  # by Ollama, which was asked
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
async def test_a_death_inside_a_line_is_the_dialects_error(
    raw_cluster: RawCluster, client: str
) -> None:
    """The official clients raise what they raise for any error; never one of their parsers."""
    call, target, begun, rest, kind = STREAMS[client]
    media = b"application/x-ndjson" if client == "ollama" else b"text/event-stream"
    whole = begun + rest
    for cut in (len(begun), len(begun) + 1, len(whole) - 1, len(whole) - 4, len(whole) // 2, 9):
        said = whole[:cut]
        answer = OK + b"Content-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % media
        raw_cluster.ollama.responses[target] = (answer + b"%x\r\n%b\r\n" % (len(said), said), True)
        with pytest.raises(kind) as raised:
            await deferToThread(call, raw_cluster.cluster.url, raw_cluster.cluster.api_key)
        assert "No complete response" in str(raised.value), (cut, raised.value)
    raw_cluster.ollama.responses.clear()


@ensureDeferred
async def test_interim_answers_without_end_are_ended(raw_cluster: RawCluster) -> None:
    """An Ollama that never stops saying 100 is hung up on; its client hears 502."""
    gone: list[bool] = []
    loops: list[LoopingCall] = []

    def flood(transport: Any) -> None:
        transport.protocol.connectionLost = lambda reason: gone.append(True)
        loops.append(LoopingCall(transport.write, b"HTTP/1.1 100 Continue\r\n\r\n" * 100))
        loops[0].start(0.01)

    raw_cluster.ollama.responses[b"/flood"] = (flood, False)
    status, _, _ = await raw_cluster.cluster.request(
        "GET", "/flood", token=raw_cluster.cluster.api_key
    )
    assert status == 502
    await wait_until(lambda: gone, "the connection to be closed")
    loops[0].stop()
    await raw_cluster.check_serves()

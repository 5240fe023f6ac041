"""Answers of every shape, errors and broken ones included: the same through ctllm as directly."""

from __future__ import annotations

import gzip
import json

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.mirrored_requests import MirroredCluster, MirroredResult, RawRequest
from tests.fake_ollama import FakeOllama, Script

CHATS = ("/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages")
STREAMS = tuple(
    RawRequest(
        "POST",
        path,
        {
            "model": "llama3.2",
            "messages": [{"role": "user", "content": "hi"}],
            "input": "hi",
            "max_tokens": 99,
            "stream": True,
        },
    )
    for path in CHATS
)


async def send_scripted(
    mirrored: MirroredCluster, request: RawRequest, script: Script
) -> MirroredResult:
    """Ask twice what the fake Ollama answers by a script."""

    def prepare(fake_ollama: FakeOllama) -> None:
        fake_ollama.script(lambda record: record.header("x-try") is not None, script)

    return await mirrored.send_both(request, prepare)


def raw_response(status_line: str, *headers: str, body: str = "", interim: str = "") -> str:
    return interim + "\r\n".join([status_line, *headers, "", ""]) + body


# -- errors


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 413, 422, 429, 499, 500, 502, 503, 504]
)
@ensureDeferred
async def test_errors_before_the_stream(mirrored: MirroredCluster, status: int) -> None:
    """Status, body and Retry-After are Ollama's own in every dialect; nothing is made of them."""
    headers = {"Retry-After": "17", "WWW-Authenticate": 'Basic realm="x"', "Allow": "GET"}
    for stream in STREAMS:
        body = json.dumps({"error": {"message": f"no: {status}", "type": "t", "code": None}})
        both = await send_scripted(mirrored, stream, Script(error_before=(status, body, headers)))
        assert (both.relayed_response.status, both.relayed_response.body) == (status, body.encode())
        assert both.relayed_response.header("retry-after") == "17"
        assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


@pytest.mark.parametrize("stream", STREAMS, ids=str)
@ensureDeferred
async def test_an_error_in_the_stream(mirrored: MirroredCluster, stream: RawRequest) -> None:
    """Ollama's line stands where it stood, once, and the answer ends as Ollama ended it."""
    both = await send_scripted(mirrored, stream, Script(error_in_stream=(3, "the model fell over")))
    assert both.direct_response.status == 200
    assert both.direct_response.body.count(b"the model fell over") == 1
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


@pytest.mark.parametrize("stream", STREAMS, ids=str)
@ensureDeferred
async def test_a_stream_that_breaks(mirrored: MirroredCluster, stream: RawRequest) -> None:
    """What came is passed on, then the dialect's error follows; neither end is a clean one."""
    both = await send_scripted(mirrored, stream, Script(break_after=3))
    assert not both.direct_response.is_complete
    assert not both.relayed_response.is_complete
    assert both.relayed_response.body.startswith(both.direct_response.body)
    error = both.relayed_response.body.removeprefix(both.direct_response.body)
    assert b"No complete response" in error
    assert error.endswith(b"\n")
    for success in (b'"done":true', b"[DONE]", b"response.completed", b"message_stop"):
        assert success not in both.relayed_response.body


@ensureDeferred
async def test_an_answer_that_breaks(mirrored: MirroredCluster) -> None:
    """One with a length ends short of it, as it did."""
    both = await send_scripted(mirrored, RawRequest("GET", "/api/tags"), Script(break_after=0))
    assert not both.direct_response.is_complete
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


# -- shapes

BINARY = bytes(range(256)).decode("latin-1") * 40
CHUNKED = "Transfer-Encoding: chunked"
RESPONSES = {
    "a length": raw_response("HTTP/1.1 200 OK", "Content-Length: 5", body="hello"),
    "binary": raw_response("HTTP/1.1 200 OK", f"Content-Length: {len(BINARY)}", body=BINARY),
    "nothing": raw_response("HTTP/1.1 200 OK", "Content-Length: 0"),
    "chunks": raw_response("HTTP/1.1 200 OK", CHUNKED, body="1\r\na\r\n0A\r\n0123456789\r\n0\r\n\r\n"),
    "no chunks": raw_response("HTTP/1.1 200 OK", CHUNKED, body="0\r\n\r\n"),
    "chunks with extensions": raw_response(
        "HTTP/1.1 200 OK", CHUNKED, body='3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n'
    ),
    "a chunk of lines": raw_response(
        "HTTP/1.1 200 OK", CHUNKED, "Content-Type: application/x-ndjson",
        body='17\r\n{"done":false}\n{"a":1}\n\r\n0\r\n\r\n',
    ),
    "no content": raw_response("HTTP/1.1 204 No Content"),
    "not modified": raw_response("HTTP/1.1 304 Not Modified", 'ETag: "abc"'),
    "reset content": raw_response("HTTP/1.1 205 Reset Content", "Content-Length: 0"),
    "partial": raw_response(
        "HTTP/1.1 206 Partial Content", "Content-Range: bytes 1-2/9", "Content-Length: 2", body="el"
    ),
    "redirect": raw_response(
        "HTTP/1.1 307 Elsewhere", "Location: /api/tags?x=1", "Content-Length: 0"
    ),
    "a reason of its own": raw_response("HTTP/1.1 200 Fine, thank you!", "Content-Length: 0"),
    "a status of its own": raw_response("HTTP/1.1 299 Odd", "Content-Length: 0"),
    "a failure of its own": raw_response("HTTP/1.1 599 Odder", "Content-Length: 1", body="x"),
    "early hints": raw_response(
        "HTTP/1.1 200 OK", "Content-Length: 1", body="x",
        interim="HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    ),
    "headers": raw_response(
        "HTTP/1.1 200 OK", "x-CASE: Kept", "X-Twice: 1", "x-twice: 2", "X-Empty:",
        "X-Latin: \xe9\xff", "X-Long: " + "y" * 8000, "ETag: W/\"1\"", "Cache-Control: no-store",
        "Server: ollama",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Content-Length: 0", "Content-Type: a/b; c=\"d e\"",
    ),
    "hop-by-hop headers": raw_response(
        "HTTP/1.1 200 OK", "Connection: X-Hop, keep-alive", "Keep-Alive: timeout=5", "X-Kept: 1",
        "Content-Length: 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", RESPONSES)
@ensureDeferred
async def test_shapes(mirrored: MirroredCluster, shape: str) -> None:
    """Every way in which an answer may lie on the wire, followed by another on the connection."""
    for request in (RawRequest("GET", "/api/future"), RawRequest("POST", "/api/future", b"")):
        both = await send_scripted(mirrored, request, Script(verbatim=RESPONSES[shape]))
        assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts
        assert both.relayed_response.framing == both.direct_response.framing


@ensureDeferred
async def test_a_reason_that_is_left_out_is_filled_in(mirrored: MirroredCluster) -> None:
    """With the standard one: some clients show nothing else."""
    shape = raw_response("HTTP/1.1 404 ", "Content-Length: 0")
    both = await send_scripted(mirrored, RawRequest("GET", "/api/future"), Script(verbatim=shape))
    assert (both.direct_response.reason, both.relayed_response.reason) == ("", "Not Found")


@ensureDeferred
async def test_an_answer_without_content_has_no_length(mirrored: MirroredCluster) -> None:
    """As RFC 9110 wants it, whatever Ollama says."""
    shape = raw_response("HTTP/1.1 204 No Content", "Content-Length: 0")
    both = await send_scripted(mirrored, RawRequest("GET", "/api/future"), Script(verbatim=shape))
    assert both.relayed_response.status == 204
    assert both.relayed_response.header("content-length") is None


@ensureDeferred
async def test_compressed_answers_stay_so(mirrored: MirroredCluster) -> None:
    """Nothing is unpacked, and nothing is packed however much the client would like it."""
    packed = gzip.compress(b"hello" * 100).decode("latin-1")
    packing = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    wanted = (("Accept-Encoding", "gzip, br"),)
    both = await send_scripted(
        mirrored, RawRequest("GET", "/x", headers=wanted), Script(verbatim=packing + packed)
    )
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts
    for stream in STREAMS:
        both = await mirrored.send_both(
            RawRequest(stream.method, stream.target, stream.body, wanted)
        )
        assert both.relayed_response.header("content-encoding") is None
        assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


@pytest.mark.parametrize("first", ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK"])
@ensureDeferred
async def test_an_answer_that_ends_with_its_connection(
    mirrored: MirroredCluster, first: str
) -> None:
    """That was its end, and so it is for the client: nobody knows whether it was whole."""
    script = Script(verbatim=raw_response(first, "X-A: b", body="all of it"), break_after=0)
    both = await send_scripted(mirrored, RawRequest("GET", "/api/future"), script)
    assert both.direct_response.framing == "close"
    assert both.relayed_response.framing == "close"
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


HEAD_RESPONSES = {
    "a length": raw_response("HTTP/1.1 200 OK", "Content-Length: 12345", "X-A: b"),
    "chunks": raw_response("HTTP/1.1 200 OK", CHUNKED, "Content-Type: application/x-ndjson"),
    "nothing": raw_response("HTTP/1.1 200 OK", "X-A: b"),
    "an error": raw_response("HTTP/1.1 404 Not Found", "Content-Length: 18"),
}


@pytest.mark.parametrize("shape", HEAD_RESPONSES)
@ensureDeferred
async def test_heads_of_every_shape(mirrored: MirroredCluster, shape: str) -> None:
    """What GET would have had is told and does not follow; the connection goes on."""
    both = await send_scripted(
        mirrored, RawRequest("HEAD", "/api/future"), Script(verbatim=HEAD_RESPONSES[shape])
    )
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts
    assert both.relayed_response.header("content-length") == both.direct_response.header(
        "content-length"
    )


# -- sizes


@pytest.mark.parametrize("size", [1, 65535, 65536, 262144, 262145, 5_000_000])
@ensureDeferred
async def test_sizes(mirrored: MirroredCluster, size: int) -> None:
    """Answers up to many windows, with a length and in a stream."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size].decode("latin-1")
    fixed = raw_response("HTTP/1.1 200 OK", f"Content-Length: {size}", body=body)
    both = await send_scripted(mirrored, RawRequest("GET", "/api/future"), Script(verbatim=fixed))
    assert len(both.relayed_response.body) == size
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts
    both = await send_scripted(mirrored, STREAMS[0], Script(size=size, line_bytes=1000))
    assert len(both.relayed_response.body) >= size
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts


@ensureDeferred
async def test_one_very_long_line(mirrored: MirroredCluster) -> None:
    """A line longer than every buffer on the way."""
    line = '{"response":"' + "x" * 3_000_000 + '"}\n'
    kind = "Content-Type: application/x-ndjson"
    chunk = f"{len(line):x}\r\n{line}\r\n0\r\n\r\n"
    script = Script(verbatim=raw_response("HTTP/1.1 200 OK", CHUNKED, kind, body=chunk))
    both = await send_scripted(mirrored, STREAMS[0], script)
    assert both.relayed_response.body == line.encode()
    assert both.relayed_response.relayed_parts == both.direct_response.relayed_parts

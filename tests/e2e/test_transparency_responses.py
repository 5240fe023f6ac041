"""Responses of every kind, including errors and incomplete ones, are relayed unchanged."""

from __future__ import annotations

import gzip
import json

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import FRONT
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
#: What only a complete response has, in each API.
SUCCESSES = (b'"done":true', b"[DONE]", b"response.completed", b"message_stop")


async def send_scripted(
    mirrored: MirroredCluster, request: RawRequest, script: Script
) -> MirroredResult:
    """Send a request that the fake Ollama answers by `script`."""

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
async def test_errors_before_the_stream_are_relayed_unchanged(
    mirrored: MirroredCluster, status: int
) -> None:
    """Status, body and Retry-After, in each API."""
    headers = {"Retry-After": "17", "WWW-Authenticate": 'Basic realm="x"', "Allow": "GET"}
    for stream in STREAMS:
        body = json.dumps({"error": {"message": f"no: {status}", "type": "t", "code": None}})
        result = await send_scripted(mirrored, stream, Script(error_before=(status, body, headers)))
        assert (result.relayed_response.status, result.relayed_response.body) == (
            status,
            body.encode(),
        )
        assert result.relayed_response.header("retry-after") == "17"
        assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


@pytest.mark.parametrize("stream", STREAMS, ids=str)
@ensureDeferred
async def test_an_error_in_the_stream_is_relayed_as_ollama_sends_it(
    mirrored: MirroredCluster, stream: RawRequest
) -> None:
    """At its position, once; under /v1, Ollama sends no message, and no end of success either."""
    result = await send_scripted(
        mirrored, stream, Script(error_in_stream=(3, "the model fell over"))
    )
    assert result.direct_response.status == 200
    messages = result.direct_response.body.count(b"the model fell over")
    assert messages == (0 if stream.target.startswith("/v1/") else 1)
    for success in SUCCESSES:
        assert success not in result.relayed_response.body
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


@pytest.mark.parametrize("stream", STREAMS, ids=str)
@ensureDeferred
async def test_an_incomplete_stream_ends_with_an_error(
    mirrored: MirroredCluster, stream: RawRequest
) -> None:
    """What arrived is relayed, then the API's error follows, and the framing is incomplete."""
    result = await send_scripted(mirrored, stream, Script(break_after=3))
    assert not result.direct_response.is_complete
    assert not result.relayed_response.is_complete
    assert result.relayed_response.body.startswith(result.direct_response.body)
    error = result.relayed_response.body.removeprefix(result.direct_response.body)
    assert b"No complete response" in error
    assert error.endswith(b"\n")
    for success in SUCCESSES:
        assert success not in result.relayed_response.body


@ensureDeferred
async def test_an_incomplete_response_with_a_length_stays_incomplete(
    mirrored: MirroredCluster,
) -> None:
    result = await send_scripted(mirrored, RawRequest("GET", "/api/tags"), Script(break_after=0))
    assert not result.direct_response.is_complete
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


# -- framing and headers

BINARY = bytes(range(256)).decode("latin-1") * 40
CHUNKED = "Transfer-Encoding: chunked"
RESPONSES = {
    "a length": raw_response("HTTP/1.1 200 OK", "Content-Length: 5", body="hello"),
    "binary": raw_response("HTTP/1.1 200 OK", f"Content-Length: {len(BINARY)}", body=BINARY),
    "nothing": raw_response("HTTP/1.1 200 OK", "Content-Length: 0"),
    "chunks": raw_response(
        "HTTP/1.1 200 OK", CHUNKED, body="1\r\na\r\n0A\r\n0123456789\r\n0\r\n\r\n",
    ),
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


@pytest.mark.parametrize("case", RESPONSES)
@ensureDeferred
async def test_responses_of_every_framing_are_relayed_unchanged(
    mirrored: MirroredCluster, case: str
) -> None:
    """A second request on the connection succeeds."""
    for request in (RawRequest("GET", "/api/future"), RawRequest("POST", "/api/future", b"")):
        result = await send_scripted(mirrored, request, Script(verbatim=RESPONSES[case]))
        assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts
        assert result.relayed_response.framing == result.direct_response.framing


@ensureDeferred
async def test_a_missing_reason_is_filled_in(mirrored: MirroredCluster) -> None:
    """With the standard one, because some clients show only the reason."""
    response = raw_response("HTTP/1.1 404 ", "Content-Length: 0")
    result = await send_scripted(
        mirrored, RawRequest("GET", "/api/future"), Script(verbatim=response)
    )
    assert (result.direct_response.reason, result.relayed_response.reason) == ("", "Not Found")


@ensureDeferred
async def test_a_204_response_has_no_content_length(mirrored: MirroredCluster) -> None:
    """RFC 9110, section 8.6."""
    response = raw_response("HTTP/1.1 204 No Content", "Content-Length: 0")
    result = await send_scripted(
        mirrored, RawRequest("GET", "/api/future"), Script(verbatim=response)
    )
    assert result.relayed_response.status == 204
    assert result.relayed_response.header("content-length") is None


@ensureDeferred
async def test_compression_is_not_changed(mirrored: MirroredCluster) -> None:
    """Whatever Accept-Encoding says, nothing is compressed or decompressed."""
    compressed = gzip.compress(b"hello" * 100).decode("latin-1")
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(compressed)}\r\n\r\n"
    accept_encoding = (("Accept-Encoding", "gzip, br"),)
    result = await send_scripted(
        mirrored,
        RawRequest("GET", "/x", headers=accept_encoding),
        Script(verbatim=head + compressed),
    )
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts
    for stream in STREAMS:
        result = await mirrored.send_both(
            RawRequest(stream.method, stream.target, stream.body, accept_encoding)
        )
        assert result.relayed_response.header("content-encoding") is None
        assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


@pytest.mark.skipif(FRONT == "nginx", reason="nginx itself sends chunks in this case.")
@pytest.mark.parametrize("status_line", ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK"])
@ensureDeferred
async def test_a_close_delimited_response_stays_so(
    mirrored: MirroredCluster, status_line: str
) -> None:
    """Neither Ollama's client nor ctllm's can tell whether it is complete."""
    script = Script(verbatim=raw_response(status_line, "X-A: b", body="all of it"), break_after=0)
    result = await send_scripted(mirrored, RawRequest("GET", "/api/future"), script)
    assert result.direct_response.framing == "close"
    assert result.relayed_response.framing == "close"
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


HEAD_RESPONSES = {
    "a length": raw_response("HTTP/1.1 200 OK", "Content-Length: 12345", "X-A: b"),
    "chunks": raw_response("HTTP/1.1 200 OK", CHUNKED, "Content-Type: application/x-ndjson"),
    "nothing": raw_response("HTTP/1.1 200 OK", "X-A: b"),
    "an error": raw_response("HTTP/1.1 404 Not Found", "Content-Length: 18"),
}


@pytest.mark.parametrize("case", HEAD_RESPONSES)
@ensureDeferred
async def test_responses_to_head_are_relayed_unchanged(
    mirrored: MirroredCluster, case: str
) -> None:
    """The headers of GET without a body; the connection stays open."""
    result = await send_scripted(
        mirrored, RawRequest("HEAD", "/api/future"), Script(verbatim=HEAD_RESPONSES[case])
    )
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts
    assert result.relayed_response.header("content-length") == result.direct_response.header(
        "content-length"
    )


# -- sizes


@pytest.mark.parametrize("size", [1, 65535, 65536, 262144, 262145, 5_000_000])
@ensureDeferred
async def test_bodies_larger_than_the_windows_are_relayed(
    mirrored: MirroredCluster, size: int
) -> None:
    """With a Content-Length, and streamed."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size].decode("latin-1")
    fixed = raw_response("HTTP/1.1 200 OK", f"Content-Length: {size}", body=body)
    result = await send_scripted(mirrored, RawRequest("GET", "/api/future"), Script(verbatim=fixed))
    assert len(result.relayed_response.body) == size
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts
    result = await send_scripted(mirrored, STREAMS[0], Script(size=size, line_bytes=1000))
    assert len(result.relayed_response.body) >= size
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts


@ensureDeferred
async def test_a_line_longer_than_every_buffer_is_relayed(mirrored: MirroredCluster) -> None:
    line = '{"response":"' + "x" * 3_000_000 + '"}\n'
    content_type = "Content-Type: application/x-ndjson"
    chunk = f"{len(line):x}\r\n{line}\r\n0\r\n\r\n"
    script = Script(verbatim=raw_response("HTTP/1.1 200 OK", CHUNKED, content_type, body=chunk))
    result = await send_scripted(mirrored, STREAMS[0], script)
    assert result.relayed_response.body == line.encode()
    assert result.relayed_response.relayed_parts == result.direct_response.relayed_parts

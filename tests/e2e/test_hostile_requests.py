"""Requests that two servers might read two ways, or that are too much: refused at every door.

What reaches "Ollama" is judged by its bytes: exactly the one request that was meant, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from tests.e2e.cluster import Cluster
from tests.e2e.process_info import linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster

pytestmark = linux_only

#: What would be a second request to whoever ends the first one too early.
SMUGGLED = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
HELLO_CHUNK = b"5\r\nhello\r\n"

#: Header lines after a good request line and Host, and the body: each is refused.
REFUSED: dict[str, tuple[bytes, bytes]] = {
    "CL.TE": (b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED),
    "TE.CL": (CHUNKED + b"\r\nContent-Length: 5", b"0\r\n\r\n" + SMUGGLED),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 50", b"hello" + SMUGGLED),
    "one length twice": (b"Content-Length: 5\r\nContent-Length: 5", b"hello"),
    "a list of lengths": (b"Content-Length: 5, 5", b"hello"),
    "a list of two lengths": (b"Content-Length: 5, 6", b"hello!"),
    "a length with a sign": (b"Content-Length: +5", b"hello"),
    "a negative length": (b"Content-Length: -5", b"hello"),
    "a hexadecimal length": (b"Content-Length: 0x5", b"hello"),
    "a length with an underscore": (b"Content-Length: 1_0", b"helloworld"),
    "a length of no digits": (b"Content-Length: ", b"hello"),
    "a length in words": (b"Content-Length: five", b"hello"),
    "a length beyond all machines": (b"Content-Length: " + b"9" * 400, b"hello"),
    "a space before the colon": (b"Content-Length : 5", b"hello"),
    "a tab before the colon": (b"Transfer-Encoding\t: chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a space before a name": (b" Content-Length: 5", b"hello"),
    "a bare line feed": (b"A: b\nContent-Length: 5", b"hello"),
    "a bare carriage return": (b"A: b\rContent-Length: 5", b"hello"),
    "a NUL": (b"A: b\0c", b""),
    "a folded line": (b"A: b\r\n Content-Length: 5", b"hello"),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "another coding": (b"Transfer-Encoding: xchunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding more": (b"Transfer-Encoding: chunked, identity", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding before": (b"Transfer-Encoding: gzip, chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding in quotes": (b'Transfer-Encoding: "chunked"', HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding with a vertical tab": (b"Transfer-Encoding: \x0bchunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "the coding twice": (CHUNKED + b"\r\n" + CHUNKED, HELLO_CHUNK + b"0\r\n\r\n"),
    "no coding and one": (b"Transfer-Encoding: identity\r\n" + CHUNKED, HELLO_CHUNK + b"0\r\n\r\n"),
    "two hosts": (b"Host: evil.example", b""),
    "a line without a colon": (b"nothing", b""),
    "a name of no letters": (b": x", b""),
    "a name with a bracket": (b"Content-Length]: 5", b"hello"),
    "a chunk's size with 0x": (CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a negative chunk": (CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk's size with a sign": (CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": (CHUNKED, b"1" + b"0" * 30 + b"\r\nhello\r\n0\r\n\r\n"),
    "no end of a chunk": (CHUNKED, b"5\r\nhello0\r\n\r\n"),
    "a chunk longer than it says": (CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk lines of bare line feeds": (CHUNKED, b"5\nhello\n0\n\n"),
    "a chunk without a size": (CHUNKED, b"\r\nhello\r\n0\r\n\r\n"),
    "a bare line feed in an extension": (CHUNKED, b"5;\nx\r\nhello\r\n0\r\n\r\n"),
    "a giant extension": (CHUNKED, b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n"),
    "giant trailers": (CHUNKED, HELLO_CHUNK + b"0\r\n" + b"A: b\r\n" * 40_000 + b"\r\n"),
}

REST = b"HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n"
#: Whole requests: what reaches Ollama as its target, or None where nothing may.
REQUEST_LINES: dict[str, tuple[bytes, bytes | None]] = {
    "a coding in HTTP/1.0": (
        b"POST /probe HTTP/1.0\r\nHost: localhost\r\n%b\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n",
        None,
    ),
    "no host": (b"GET /probe HTTP/1.1\r\n%b\r\n\r\n", None),
    "a later version": (b"GET /probe HTTP/2.0\r\nHost: localhost\r\n%b\r\n\r\n", None),
    "an authority as the target": (b"GET evil.example:80 " + REST, None),
    "a tunnel to elsewhere": (b"CONNECT evil.example:80 " + REST, None),
    "a space in the target": (b"GET /probe /x " + REST, None),
    "a line feed in the target": (b"GET /probe\n " + REST, None),
    "an absolute address": (b"GET http://localhost/probe " + REST, b"/probe"),
    "a query without a path": (b"GET http://localhost?/probe " + REST, b"/?/probe"),
    "bytes beyond ASCII": (b"GET /caf\xc3\xa9/\xff?\xfe " + REST, b"/caf\xc3\xa9/\xff?\xfe"),
    "a user's name before the host": (b"GET http://evil@localhost/probe " + REST, None),
    "an authority inside the target": (
        b"GET //evil.example/probe " + REST, b"//evil.example/probe",
    ),
    "blank lines before": (b"\r\n\r\nGET /probe " + REST, b"/probe"),
}  # fmt: skip


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A line with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("fort"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def statuses(received: bytes) -> list[bytes]:
    """The statuses of all answers in what was heard."""
    return [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("door", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_what_reads_two_ways_reaches_nobody(raw_cluster: RawCluster, door: str) -> None:
    """One 4xx or 501, never a second answer; of the body Ollama sees no request at all."""
    at = raw_cluster.entry_points[door]
    wrong = {}
    for name, (lines, body) in REFUSED.items():
        raw_cluster.ollama.requests.clear()
        head = (
            b"POST /probe HTTP/1.1\r\nHost: localhost\r\n" + at.credential_header + b"\r\n" + lines
        )
        heard = await at.send(head + b"\r\n\r\n" + body + SMUGGLED)
        found = statuses(heard)
        if len(found) != 1 or not (found[0][:1] == b"4" or found[0] == b"501"):
            wrong[name] = heard[:300]
        elif raw_cluster.ollama.requests or b"/hidden" in raw_cluster.ollama.received:
            wrong[name] = b"reached Ollama: " + b"".join(raw_cluster.ollama.requests)[:300]
    assert not wrong, "\n".join(f"{name}: {what!r}" for name, what in wrong.items())
    await raw_cluster.check_serves()


@pytest.mark.parametrize("door", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_request_lines_have_one_meaning(raw_cluster: RawCluster, door: str) -> None:
    """Odd ones are refused; those that HTTP allows reach Ollama as a path, with its own Host."""
    at = raw_cluster.entry_points[door]
    for name, (request, target) in REQUEST_LINES.items():
        raw_cluster.ollama.requests.clear()
        heard = await at.send(request % at.credential_header)
        seen = [raw.split(b" ", 2)[1] for raw in raw_cluster.ollama.requests]
        if target is None:
            assert [status[:1] for status in statuses(heard)] == [b"4"], (name, heard)
            assert seen == [], name
        else:
            assert statuses(heard) == [b"200"], (name, heard)
            assert seen == [target], name
            hosts = [line for line in raw_cluster.ollama.requests[0].split(b"\r\n")
                     if line.lower().startswith(b"host:")]  # fmt: skip
            assert hosts == [b"Host: 127.0.0.1:%d" % raw_cluster.ollama.port], name
    assert b"/hidden" not in raw_cluster.ollama.received
    await raw_cluster.check_serves()


@ensureDeferred
async def test_the_host_of_an_absolute_address_is_the_one_that_counts(
    raw_cluster: RawCluster,
) -> None:
    """What Host says beside it does not: a page cannot reach the endpoint by another name."""
    at = raw_cluster.entry_points["endpoint"]
    raw_cluster.ollama.requests.clear()
    for line in (b"GET http://evil.example/probe ", b"GET http://evil.example?x=/probe "):
        heard = await at.send(line + REST % at.credential_header)
        assert statuses(heard) == [b"403"], heard
    assert raw_cluster.ollama.requests == []


@pytest.mark.parametrize("door", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_good_bodies_arrive_as_they_were_meant(raw_cluster: RawCluster, door: str) -> None:
    """By length, in chunks with extensions and trailers, and compressed: one request each."""
    at = raw_cluster.entry_points[door]
    start = b"POST /probe HTTP/1.1\r\nHost: localhost\r\n" + at.credential_header + b"\r\n"
    bomb = b"\x1f\x8b" + bytes(50)
    for lines, body, arrives in (
        (b"Content-Length: 5", b"hello", b"\r\n\r\nhello"),
        (CHUNKED, HELLO_CHUNK + b"0\r\n\r\n", b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED, b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (b"Content-Encoding: gzip\r\nContent-Length: 52", bomb, b"\r\n\r\n" + bomb),
    ):
        raw_cluster.ollama.requests.clear()
        heard = await at.send(start + lines + b"\r\n\r\n" + body)
        assert statuses(heard) == [b"200"], heard
        (raw,) = raw_cluster.ollama.requests
        assert raw.endswith(arrives), raw
        assert (b"Content-Encoding: gzip" in raw) == (b"gzip" in lines)


@pytest.mark.parametrize("door", ["cloud", "proxy", "endpoint"])
@ensureDeferred
async def test_heads_have_a_limit(raw_cluster: RawCluster, door: str) -> None:
    """431 with the limit in words: for many headers, one giant one, a giant target, no end."""
    at = raw_cluster.entry_points[door]
    start = b"GET /probe HTTP/1.1\r\nHost: localhost\r\n" + at.credential_header + b"\r\n"
    raw_cluster.ollama.requests.clear()
    for head in (
        start + b"A: b\r\n" * 20_000 + b"\r\n",
        start + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        start + b"A: " + b"b" * 100_000,
    ):
        heard = await at.send(head)
        assert statuses(heard) == [b"431"], heard[:300]
        assert b"exceed 65536 bytes" in heard
    assert raw_cluster.ollama.requests == []
    await raw_cluster.check_serves()


@ensureDeferred
async def test_management_takes_small_bodies_only(raw_cluster: RawCluster) -> None:
    """413 with the limit in words, whether the length is said or not."""
    at = raw_cluster.entry_points["cloud"]
    start = b"POST /ctllm/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for rest in (
        b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000,
        CHUNKED + b"\r\n\r\n" + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 20 + b"0\r\n\r\n",
    ):
        heard = await at.send(start + rest)
        assert statuses(heard) == [b"413"], heard[:300]
        assert b"exceeds 16384 bytes" in heard
    await raw_cluster.check_serves()

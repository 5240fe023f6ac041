"""Ambiguous or oversized requests are refused at every entry point.

The bytes that reach the raw Ollama are compared: exactly the intended request, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from tests.e2e.cluster import FRONT, Cluster
from tests.e2e.process_info import linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster

pytestmark = linux_only

#: A request that a server sees if it ends the one before it too early.
SMUGGLED = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
HELLO_CHUNK = b"5\r\nhello\r\n"

#: Header lines after a valid request line and Host, and the body: each is refused.
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
    "an empty length": (b"Content-Length: ", b"hello"),
    "a length in words": (b"Content-Length: five", b"hello"),
    "a length of 400 digits": (b"Content-Length: " + b"9" * 400, b"hello"),
    "a space before the colon": (b"Content-Length : 5", b"hello"),
    "a tab before the colon": (b"Transfer-Encoding\t: chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a space before a name": (b" Content-Length: 5", b"hello"),
    "a bare line feed": (b"A: b\nContent-Length: 5", b"hello"),
    "a bare carriage return": (b"A: b\rContent-Length: 5", b"hello"),
    "a NUL": (b"A: b\0c", b""),
    "a folded line": (b"A: b\r\n Content-Length: 5", b"hello"),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "another coding": (b"Transfer-Encoding: xchunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding after chunked": (b"Transfer-Encoding: chunked, identity", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding before chunked": (b"Transfer-Encoding: gzip, chunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding in quotes": (b'Transfer-Encoding: "chunked"', HELLO_CHUNK + b"0\r\n\r\n"),
    "a coding with a vertical tab": (b"Transfer-Encoding: \x0bchunked", HELLO_CHUNK + b"0\r\n\r\n"),
    "the coding twice": (CHUNKED + b"\r\n" + CHUNKED, HELLO_CHUNK + b"0\r\n\r\n"),
    "identity and chunked": (
        b"Transfer-Encoding: identity\r\n" + CHUNKED,
        HELLO_CHUNK + b"0\r\n\r\n",
    ),
    "two hosts": (b"Host: evil.example", b""),
    "a line without a colon": (b"nothing", b""),
    "an empty header name": (b": x", b""),
    "a name with a bracket": (b"Content-Length]: 5", b"hello"),
    "a chunk's size with 0x": (CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a negative chunk": (CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk's size with a sign": (CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": (CHUNKED, b"1" + b"0" * 30 + b"\r\nhello\r\n0\r\n\r\n"),
    "a chunk without its end": (CHUNKED, b"5\r\nhello0\r\n\r\n"),
    "a chunk longer than it says": (CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk lines of bare line feeds": (CHUNKED, b"5\nhello\n0\n\n"),
    "a chunk without a size": (CHUNKED, b"\r\nhello\r\n0\r\n\r\n"),
    "a bare line feed in an extension": (CHUNKED, b"5;\nx\r\nhello\r\n0\r\n\r\n"),
    "a giant extension": (CHUNKED, b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n"),
    "giant trailers": (CHUNKED, HELLO_CHUNK + b"0\r\n" + b"A: b\r\n" * 40_000 + b"\r\n"),
}

#: What nginx's parser accepts, ignores or leaves out. It writes the request anew, so all behind it
#: see the same one, with this body; what follows is another request, without credentials.
REWRITTEN_BY_NGINX = {
    "a bare line feed": b"hello",
    "a line without a colon": b"",
    "a name with a bracket": b"",
    "chunk lines of bare line feeds": b"hello",
    "a giant extension": HELLO_CHUNK + b"0\r\n\r\n",
    "giant trailers": HELLO_CHUNK + b"0\r\n\r\n",
}

REST = b"HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n"
#: Complete requests, and the target that reaches Ollama, or None if none may.
REQUEST_LINES: dict[str, tuple[bytes, bytes | None]] = {
    "a coding in HTTP/1.0": (
        b"POST /probe HTTP/1.0\r\nHost: localhost\r\n%b\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n",
        None,
    ),
    "no host": (b"GET /probe HTTP/1.1\r\n%b\r\n\r\n", None),
    "a later version": (b"GET /probe HTTP/2.0\r\nHost: localhost\r\n%b\r\n\r\n", None),
    "an authority as the target": (b"GET evil.example:80 " + REST, None),
    "a CONNECT to another host": (b"CONNECT evil.example:80 " + REST, None),
    "a space in the target": (b"GET /probe /x " + REST, None),
    "a line feed in the target": (b"GET /probe\n " + REST, None),
    "an absolute address": (b"GET http://localhost/probe " + REST, b"/probe"),
    "a query without a path": (b"GET http://localhost?/probe " + REST, b"/?/probe"),
    "bytes beyond ASCII": (b"GET /caf\xc3\xa9/\xff?\xfe " + REST, b"/caf\xc3\xa9/\xff?\xfe"),
    "user information in the target": (b"GET http://evil@localhost/probe " + REST, None),
    "an authority inside the target": (
        b"GET //evil.example/probe " + REST, b"//evil.example/probe",
    ),
    "blank lines before": (b"\r\n\r\nGET /probe " + REST, b"/probe"),
}  # fmt: skip


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("fort"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


#: nginx is in front of the cloud alone.
each_entry_point = pytest.mark.parametrize(
    "entry_point", ["cloud", "proxy", "endpoint"] if FRONT == "cloud" else ["cloud"]
)


def is_nginx(entry_point: str) -> bool:
    """Return whether nginx parses what is sent to an entry point."""
    return FRONT == "nginx" and entry_point == "cloud"


def statuses(received: bytes) -> list[bytes]:
    """Return the status of each response in the received bytes."""
    return [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]


@each_entry_point
@ensureDeferred
async def test_ambiguous_requests_are_refused(raw_cluster: RawCluster, entry_point: str) -> None:
    """The client gets one 4xx or 501, and no request reaches Ollama."""
    client = raw_cluster.entry_points[entry_point]
    rewritten = REWRITTEN_BY_NGINX if is_nginx(entry_point) else {}
    failures = {}
    for name, (lines, body) in REFUSED.items():
        raw_cluster.ollama.requests.clear()
        head = (
            b"POST /probe HTTP/1.1\r\nHost: localhost\r\n"
            + client.credential_header
            + b"\r\n"
            + lines
        )
        received = await client.send(head + b"\r\n\r\n" + body + SMUGGLED)
        status_codes = statuses(received)
        if name in rewritten:
            bodies = [raw.partition(b"\r\n\r\n")[2] for raw in raw_cluster.ollama.requests]
            if bodies != [rewritten[name]] or status_codes[1][:1] != b"4":
                failures[name] = b"%r reached Ollama: %r" % (bodies, received[:300])
        elif len(status_codes) != 1 or not (
            status_codes[0][:1] == b"4" or status_codes[0] == b"501"
        ):
            failures[name] = received[:300]
        elif raw_cluster.ollama.requests:
            failures[name] = b"reached Ollama: " + b"".join(raw_cluster.ollama.requests)[:300]
    assert b"/hidden" not in raw_cluster.ollama.received
    assert not failures, "\n".join(f"{name}: {received!r}" for name, received in failures.items())
    await raw_cluster.check_serves()


@each_entry_point
@ensureDeferred
async def test_request_targets_are_normalised_or_refused(
    raw_cluster: RawCluster, entry_point: str
) -> None:
    """Valid targets reach Ollama as a path, with Ollama's own Host."""
    client = raw_cluster.entry_points[entry_point]
    for name, (request, target) in REQUEST_LINES.items():
        raw_cluster.ollama.requests.clear()
        received = await client.send(request % client.credential_header)
        targets = [raw.split(b" ", 2)[1] for raw in raw_cluster.ollama.requests]
        if target is None:
            kinds = [status[:1] for status in statuses(received)]
            # nginx has 505 for a later version. It takes a line feed for the end of a request of
            # HTTP/0.9, whose response has no head.
            is_refused = kinds == [b"4"] or (kinds in ([b"5"], []) and is_nginx(entry_point))
            assert is_refused, (name, received)
            assert targets == [], name
        else:
            assert statuses(received) == [b"200"], (name, received)
            assert targets == [target], name
            hosts = [line for line in raw_cluster.ollama.requests[0].split(b"\r\n")
                     if line.lower().startswith(b"host:")]  # fmt: skip
            assert hosts == [b"Host: 127.0.0.1:%d" % raw_cluster.ollama.port], name
    assert b"/hidden" not in raw_cluster.ollama.received
    await raw_cluster.check_serves()


@ensureDeferred
async def test_the_host_of_an_absolute_target_overrides_the_host_header(
    raw_cluster: RawCluster,
) -> None:
    """A web page cannot reach the endpoint by another host name."""
    client = raw_cluster.entry_points["endpoint"]
    raw_cluster.ollama.requests.clear()
    for line in (b"GET http://evil.example/probe ", b"GET http://evil.example?x=/probe "):
        received = await client.send(line + REST % client.credential_header)
        assert statuses(received) == [b"403"], received
    assert raw_cluster.ollama.requests == []


@each_entry_point
@ensureDeferred
async def test_valid_bodies_reach_ollama_unchanged(
    raw_cluster: RawCluster, entry_point: str
) -> None:
    """With a length, in chunks with extensions and trailers, and compressed."""
    client = raw_cluster.entry_points[entry_point]
    start = b"POST /probe HTTP/1.1\r\nHost: localhost\r\n" + client.credential_header + b"\r\n"
    bomb = b"\x1f\x8b" + bytes(50)
    # nginx gives a body a length that has come with its head.
    chunked = b"\r\n\r\nhello" if is_nginx(entry_point) else b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for lines, body, expected in (
        (b"Content-Length: 5", b"hello", b"\r\n\r\nhello"),
        (CHUNKED, HELLO_CHUNK + b"0\r\n\r\n", chunked),
        (CHUNKED, b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", chunked),
        (b"Content-Encoding: gzip\r\nContent-Length: 52", bomb, b"\r\n\r\n" + bomb),
    ):
        raw_cluster.ollama.requests.clear()
        received = await client.send(start + lines + b"\r\n\r\n" + body)
        assert statuses(received) == [b"200"], received
        (raw,) = raw_cluster.ollama.requests
        assert raw.endswith(expected), raw
        assert (b"Content-Encoding: gzip" in raw) == (b"gzip" in lines)


@each_entry_point
@ensureDeferred
async def test_heads_over_the_limit_get_431(raw_cluster: RawCluster, entry_point: str) -> None:
    """Many headers, one large header, a large target, and a head without an end."""
    client = raw_cluster.entry_points[entry_point]
    start = b"GET /probe HTTP/1.1\r\nHost: localhost\r\n" + client.credential_header + b"\r\n"
    raw_cluster.ollama.requests.clear()
    for head in (
        start + b"A: b\r\n" * 20_000 + b"\r\n",
        start + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        start + b"A: " + b"b" * 100_000,
    ):
        received = await client.send(head)
        if is_nginx(entry_point):
            (status,) = statuses(received)  # its parser's own: it has smaller limits
            assert status in (b"400", b"414", b"431"), received[:300]
        else:
            assert statuses(received) == [b"431"], received[:300]
            assert b"exceed 65536 bytes" in received
    assert raw_cluster.ollama.requests == []
    await raw_cluster.check_serves()


@ensureDeferred
async def test_management_bodies_over_the_limit_get_413(raw_cluster: RawCluster) -> None:
    """With a Content-Length and chunked; the error states the limit."""
    client = raw_cluster.entry_points["cloud"]
    start = b"POST /ctllm/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for rest in (
        b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000,
        CHUNKED + b"\r\n\r\n" + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 20 + b"0\r\n\r\n",
    ):
        received = await client.send(start + rest)
        assert statuses(received) == [b"413"], received[:300]
        assert b"exceeds 16384 bytes" in received
    await raw_cluster.check_serves()

"""Streamed chunks are relayed as written: not delayed, merged, split or compressed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.e2e.chunk_upstream import (
    LAST_CHUNK,
    ChunkClient,
    ChunkRequest,
    ChunkUpstream,
    encode_chunk,
    open_client,
)
from tests.e2e.cluster import FRONT, Cluster, wait_until

#: Bytes of a line: around the sizes of reads, frames and buffers.
SIZES = (1, 2, 3, 17, 110, 2_047, 2_048, 2_049, 4_095, 4_096, 4_097, 16_383, 16_384, 16_385)
LARGE = (32_768, 60_000, 65_535, 65_536, 65_537, 100_000, 131_072, 200_000)
#: The longest line that is one chunk also when others are queued.
MAX_UNSPLIT_LINE = 64 * 1024
#: nginx reads 16 KiB of a response at a time, with its framing, and makes a chunk of each read.
MAX_NGINX_CHUNK = 16_370


@dataclass(frozen=True)
class Dialect:
    """A streaming format: its path, content type and the frame of a line."""

    path: str
    content_type: str
    prefix: bytes
    suffix: bytes

    def line(self, size: int) -> bytes:
        """Return a line of `size` bytes; filler if that is too short for the frame."""
        frame_size = len(self.prefix) + len(self.suffix)
        if size < frame_size:
            return b"x" * (size - 1) + b"\n"
        return self.prefix + b"x" * (size - frame_size) + self.suffix


DIALECTS = (
    Dialect("/api/chat", "application/x-ndjson", b'{"response":"', b'"}\n'),
    Dialect("/v1/chat/completions", "text/event-stream", b'data: {"id":"', b'"}\n\n'),
    Dialect("/v1/responses", "text/event-stream", b'event: delta\ndata: {"delta":"', b'"}\n\n'),
    Dialect("/v1/messages", "text/event-stream", b'event: message\ndata: {"type":"', b'"}\n\n'),
)
by_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkUpstream]:
    """The upstream of a cluster with one desktop."""
    cluster = Cluster(tmp_path_factory.mktemp("streams"))
    chunk_upstream = ChunkUpstream()
    cluster.ports.append(chunk_upstream)

    async def start() -> None:
        await cluster.start_cloud()
        await cluster.start_desktop("alice", chunk_upstream.port)
        chunk_upstream.cluster = cluster
        cluster.api_key = await cluster.create_token("alice")

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield chunk_upstream
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@asynccontextmanager
async def start_stream(
    upstream: ChunkUpstream, dialect: Dialect, *headers: str
) -> AsyncIterator[tuple[ChunkRequest, ChunkClient]]:
    """Start a streamed response; yield the upstream's request and the client."""
    client = await open_client(
        upstream.cluster.cloud_port, dialect.path, upstream.cluster.api_key, *headers
    )
    request = await upstream.next_request()
    request.start_response(dialect.content_type)
    await wait_until(lambda: client.head, "the head")
    assert client.chunks == []
    yield request, client
    await client.close()
    await wait_until(lambda: request.closed or client.complete, "the end of the request")


def is_kept_whole(size: int) -> bool:
    """Return whether a line of `size` bytes, with a pause before and after it, is one chunk."""
    return FRONT == "cloud" or size <= MAX_NGINX_CHUNK


async def wait_for_chunks(client: ChunkClient, count: int) -> None:
    await wait_until(lambda: len(client.chunks) >= count, f"chunk {count}")


@by_dialect
@ensureDeferred
async def test_each_line_is_relayed_as_one_chunk(upstream: ChunkUpstream, dialect: Dialect) -> None:
    """A line arrives before the next one is written, whatever its length."""
    async with start_stream(upstream, dialect, "Accept-Encoding: gzip, deflate, br") as (
        request,
        client,
    ):
        lines = [dialect.line(size) for size in SIZES + LARGE if is_kept_whole(size)]
        for number, line in enumerate(lines, 1):
            request.write(encode_chunk(line))
            await wait_for_chunks(client, number)
        assert [len(received) for received in client.chunks] == [len(line) for line in lines]
        assert client.chunks == lines
        assert not client.complete
        request.write(LAST_CHUNK)
        await wait_until(lambda: client.complete, "the end")
    assert "content-encoding" not in client.head.lower()
    assert f"content-type: {dialect.content_type}" in client.head.lower()


@by_dialect
@ensureDeferred
async def test_lines_without_a_pause_are_not_split(
    upstream: ChunkUpstream, dialect: Dialect
) -> None:
    """Lines are merged to larger chunks of complete lines, also for a client that stalls.

    nginx makes its own chunks of them.
    """
    rng = random.Random(dialect.path)
    lines = [dialect.line(rng.choice([rng.randint(60, 500), rng.randint(60, MAX_UNSPLIT_LINE)]))
             for _ in range(400)]  # fmt: skip
    ends = set()
    end = 0
    for line in lines:
        end += len(line)
        ends.add(end)
    async with start_stream(upstream, dialect) as (request, client):
        client.transport.pauseProducing()
        request.write(b"".join(map(encode_chunk, lines)) + LAST_CHUNK)
        for _ in range(20):
            await deferLater(reactor, 0.05)
            client.transport.resumeProducing()
            await deferLater(reactor, 0)
            client.transport.pauseProducing()
        client.transport.resumeProducing()
        await wait_until(lambda: client.complete, "the end")
        assert client.body == b"".join(lines)
        position = 0
        for received in client.chunks:
            position += len(received)
            assert position in ends or FRONT == "nginx", (
                f"A chunk of {len(received)} bytes ends within a line."
            )


def like_go(data: bytes) -> list[bytes]:
    """Split a chunk as Go's server writes it: through a buffer of 4 KiB, and the rest directly."""
    head = b"%x\r\n" % len(data)
    first = 4096 - len(head)
    return [part for part in (head + data[:first], data[first:], b"\r\n") if part]


def byte_by_byte(data: bytes) -> list[bytes]:
    """Split a chunk into single bytes."""
    framed = encode_chunk(data)
    return [framed[at : at + 1] for at in range(len(framed))]


def in_segments(data: bytes) -> list[bytes]:
    """Split a chunk into TCP segments."""
    framed = encode_chunk(data)
    return [framed[at : at + 1448] for at in range(0, len(framed), 1448)]


@pytest.mark.parametrize(
    ("split", "size"),
    [(like_go, 60_000), (like_go, 200_000), (byte_by_byte, 40), (in_segments, 60_000)],
)
@by_dialect
@ensureDeferred
async def test_a_chunk_received_in_parts_is_relayed_as_one(
    upstream: ChunkUpstream, dialect: Dialect, split: Callable[[bytes], list[bytes]], size: int
) -> None:
    line = dialect.line(size)
    async with start_stream(upstream, dialect) as (request, client):
        for number in (1, 2, 3):
            for part in split(line):
                request.write(part)
                await deferLater(reactor, 0)
            expected = line * number
            await wait_until(lambda expected=expected: client.body == expected, f"line {number}")
        chunk_sizes = [len(received) for received in client.chunks]
        assert chunk_sizes == [len(line)] * 3 or not is_kept_whole(size)


@by_dialect
@ensureDeferred
async def test_an_incomplete_chunk_is_relayed_after_a_moment(
    upstream: ChunkUpstream, dialect: Dialect
) -> None:
    """The upstream stops within a chunk: the first part is relayed, and later the rest."""
    line = dialect.line(1000)
    framed = encode_chunk(line)
    async with start_stream(upstream, dialect) as (request, client):
        request.write(framed[:500])
        await wait_for_chunks(client, 1)
        assert line.startswith(client.body)
        assert len(client.body) > 400
        request.write(framed[500:])
        await wait_until(lambda: len(client.body) == len(line), "the rest")
        assert client.body == line


@by_dialect
@ensureDeferred
async def test_lines_longer_than_windows_and_buffers_arrive_unchanged(
    upstream: ChunkUpstream, dialect: Dialect
) -> None:
    """Each one arrives before the next is written."""
    rng = random.Random(7)
    async with start_stream(upstream, dialect) as (request, client):
        sent = b""
        for size in (256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 300_000, 1_000_000, 5_000_000):
            line = dialect.prefix + rng.randbytes(size).replace(b"\n", b"_") + dialect.suffix
            request.write(encode_chunk(line))
            sent += line
            length = len(sent)
            await wait_until(lambda length=length: len(client.body) >= length, f"a line of {size}")
            assert client.body == sent
            assert not client.has_partial_chunk
        request.write(encode_chunk(dialect.line(50)))
        await wait_until(lambda: client.body.endswith(dialect.line(50)), "a short line after it")
        assert client.chunks[-1] == dialect.line(50)


@ensureDeferred
async def test_a_compressed_response_is_relayed_as_it_is(upstream: ChunkUpstream) -> None:
    """The client receives the encoded bytes and their Content-Encoding."""
    async with start_stream(upstream, DIALECTS[0]) as (request, client):
        await client.close()
    client = await open_client(upstream.cluster.cloud_port, "/api/chat", upstream.cluster.api_key,
                       "Accept-Encoding: gzip")  # fmt: skip
    request = await upstream.next_request()
    assert request.headers["accept-encoding"] == "gzip"
    request.start_response("application/x-ndjson", "Content-Encoding: gzip")
    encoded = bytes(range(256)) * 3
    request.write(encode_chunk(encoded))
    await wait_for_chunks(client, 1)
    assert client.chunks == [encoded]
    assert "content-encoding: gzip" in client.head.lower()
    await client.close()
    await wait_until(lambda: request.closed, "the end of the request")

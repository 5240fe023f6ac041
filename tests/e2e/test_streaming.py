"""Chunks come as they were written: none held back, merged across a pause, split or compressed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
from tests.e2e.cluster import Cluster, wait_until

#: Bytes of a line: around what reads, frames and buffers on the way may hold.
SIZES = (1, 2, 3, 17, 110, 2_047, 2_048, 2_049, 4_095, 4_096, 4_097, 16_383, 16_384, 16_385)
LARGE = (32_768, 60_000, 65_535, 65_536, 65_537, 100_000, 131_072, 200_000)
#: The longest line that is still one chunk, whatever else is under way.
WHOLE = 64 * 1024


@dataclass(frozen=True)
class Dialect:
    """A way to stream: where it is asked for, its content type, and what a line looks like."""

    path: str
    kind: str
    before: bytes
    after: bytes

    def line(self, size: int) -> bytes:
        """One write of so many bytes, if that is enough for the dialect's own."""
        least = len(self.before) + len(self.after)
        if size < least:
            return b"x" * (size - 1) + b"\n"
        return self.before + b"x" * (size - least) + self.after


DIALECTS = (
    Dialect("/api/chat", "application/x-ndjson", b'{"response":"', b'"}\n'),
    Dialect("/v1/chat/completions", "text/event-stream", b'data: {"id":"', b'"}\n\n'),
    Dialect("/v1/responses", "text/event-stream", b'event: delta\ndata: {"delta":"', b'"}\n\n'),
    Dialect("/v1/messages", "text/event-stream", b'event: message\ndata: {"type":"', b'"}\n\n'),
)
by_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A world whose one Ollama is made by hand."""
    cluster = Cluster(tmp_path_factory.mktemp("streams"))
    made = ChunkUpstream()
    cluster.ports.append(made)

    async def start() -> None:
        await cluster.start_cloud()
        await cluster.start_desktop("alice", made.port)
        made.cluster = cluster
        cluster.api_key = await cluster.create_token("alice")

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@asynccontextmanager
async def streaming(
    ollama: Any, dialect: Dialect, *headers: str
) -> AsyncIterator[tuple[ChunkRequest, ChunkClient]]:
    """A stream that has begun: where it is written and where it is read."""
    client = await open_client(
        ollama.cluster.cloud_port, dialect.path, ollama.cluster.api_key, *headers
    )
    asked = await ollama.next_request()
    asked.start_response(dialect.kind)
    await wait_until(lambda: client.head, "the head")
    assert client.chunks == []
    yield asked, client
    await client.close()
    await wait_until(lambda: asked.closed or client.complete, "the end of the request")


async def got(client: ChunkClient, chunks: int) -> None:
    await wait_until(lambda: len(client.chunks) >= chunks, f"chunk {chunks}")


@by_dialect
@ensureDeferred
async def test_each_line_is_a_chunk_of_its_own(ollama: Any, dialect: Dialect) -> None:
    """A line arrives before the next one is written, whole and alone, whatever its length."""
    async with streaming(ollama, dialect, "Accept-Encoding: gzip, deflate, br") as (asked, client):
        lines = [dialect.line(size) for size in SIZES + LARGE]
        for number, line in enumerate(lines, 1):
            asked.write(encode_chunk(line))
            await got(client, number)
        assert [len(found) for found in client.chunks] == [len(line) for line in lines]
        assert client.chunks == lines
        assert not client.complete
        asked.write(LAST_CHUNK)
        await wait_until(lambda: client.complete, "the end")
    assert "content-encoding" not in client.head.lower()
    assert f"content-type: {dialect.kind}" in client.head.lower()


@by_dialect
@ensureDeferred
async def test_lines_without_a_pause_are_never_split(ollama: Any, dialect: Dialect) -> None:
    """A flood is joined to larger chunks, each of whole lines, also for a reader that stalls."""
    rng = random.Random(dialect.path)
    lines = [dialect.line(rng.choice([rng.randint(60, 500), rng.randint(60, WHOLE)]))
             for _ in range(400)]  # fmt: skip
    ends = set()
    end = 0
    for line in lines:
        end += len(line)
        ends.add(end)
    async with streaming(ollama, dialect) as (asked, client):
        client.transport.pauseProducing()
        asked.write(b"".join(map(encode_chunk, lines)) + LAST_CHUNK)
        for _ in range(20):
            await deferLater(reactor, 0.05)
            client.transport.resumeProducing()
            await deferLater(reactor, 0)
            client.transport.pauseProducing()
        client.transport.resumeProducing()
        await wait_until(lambda: client.complete, "the end")
        assert client.body == b"".join(lines)
        reached = 0
        for found in client.chunks:
            reached += len(found)
            assert reached in ends, f"a chunk of {len(found)} bytes ends within a line"


def like_go(data: bytes) -> list[bytes]:
    """How Go's server writes one chunk: through 4 KiB of buffer, and the rest past it."""
    head = b"%x\r\n" % len(data)
    first = 4096 - len(head)
    return [piece for piece in (head + data[:first], data[first:], b"\r\n") if piece]


def byte_by_byte(data: bytes) -> list[bytes]:
    """As badly as it can be done."""
    framed = encode_chunk(data)
    return [framed[at : at + 1] for at in range(len(framed))]


def in_segments(data: bytes) -> list[bytes]:
    """As a network with small packets delivers it."""
    framed = encode_chunk(data)
    return [framed[at : at + 1448] for at in range(0, len(framed), 1448)]


@pytest.mark.parametrize(
    ("cut", "size"),
    [(like_go, 60_000), (like_go, 200_000), (byte_by_byte, 40), (in_segments, 60_000)],
)
@by_dialect
@ensureDeferred
async def test_a_line_that_comes_in_pieces_goes_on_whole(
    ollama: Any, dialect: Dialect, cut: Callable[[bytes], list[bytes]], size: int
) -> None:
    """What was written as one is passed on as one, though the network tore it apart."""
    line = dialect.line(size)
    async with streaming(ollama, dialect) as (asked, client):
        for number in (1, 2, 3):
            for piece in cut(line):
                asked.write(piece)
                await deferLater(reactor, 0)
            await got(client, number)
        assert [len(found) for found in client.chunks] == [len(line)] * 3
        assert client.body == line * 3


@by_dialect
@ensureDeferred
async def test_half_a_chunk_is_not_held_for_long(ollama: Any, dialect: Dialect) -> None:
    """A chunk that stops in its middle: what has come of it goes on, and so does the rest."""
    line = dialect.line(1000)
    framed = encode_chunk(line)
    async with streaming(ollama, dialect) as (asked, client):
        asked.write(framed[:500])
        await got(client, 1)
        assert line.startswith(client.body)
        assert len(client.body) > 400
        asked.write(framed[500:])
        await wait_until(lambda: len(client.body) == len(line), "the rest")
        assert client.body == line


@by_dialect
@ensureDeferred
async def test_lines_longer_than_everything(ollama: Any, dialect: Dialect) -> None:
    """Lines larger than frames, windows and buffers arrive byte for byte, before the next."""
    rng = random.Random(7)
    async with streaming(ollama, dialect) as (asked, client):
        sent = b""
        for size in (256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 300_000, 1_000_000, 5_000_000):
            line = dialect.before + rng.randbytes(size).replace(b"\n", b"_") + dialect.after
            asked.write(encode_chunk(line))
            sent += line
            length = len(sent)
            await wait_until(lambda length=length: len(client.body) >= length, f"a line of {size}")
            assert client.body == sent
            assert not client.has_partial_chunk
        asked.write(encode_chunk(dialect.line(50)))
        await wait_until(lambda: client.body.endswith(dialect.line(50)), "a short line after it")
        assert client.chunks[-1] == dialect.line(50)


@ensureDeferred
async def test_an_ollama_that_compresses_is_not_undone(ollama: Any) -> None:
    """What Ollama, or something beside it, encodes goes on as it is and says so."""
    async with streaming(ollama, DIALECTS[0]) as (asked, client):
        await client.close()
    client = await open_client(ollama.cluster.cloud_port, "/api/chat", ollama.cluster.api_key,
                       "Accept-Encoding: gzip")  # fmt: skip
    asked = await ollama.next_request()
    assert asked.headers["accept-encoding"] == "gzip"
    asked.start_response("application/x-ndjson", "Content-Encoding: gzip")
    packed = bytes(range(256)) * 3
    asked.write(encode_chunk(packed))
    await got(client, 1)
    assert client.chunks == [packed]
    assert "content-encoding: gzip" in client.head.lower()
    await client.close()
    await wait_until(lambda: asked.closed, "the end of the request")

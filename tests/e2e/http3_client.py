"""A client that speaks HTTP/3 with aioquic, whose event loop has a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

#: Seconds to wait for the next part of a response.
TIMEOUT = 60.0
T = TypeVar("T")


class Http3Error(Exception):
    """The server reset the stream, or the connection ended."""


class Http3Stream:
    """A request, and its response as it arrives. Its methods block."""

    def __init__(self, protocol: Http3Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol, self._loop = protocol, loop
        self.id = -1
        self._parts: queue.SimpleQueue[Mapping[str, str] | bytes | Exception | None] = (
            queue.SimpleQueue()
        )
        self._rest = b""
        self.headers: Mapping[str, str] = {}

    def receive(self, part: Mapping[str, str] | bytes | Exception | None) -> None:
        """Take what has arrived; None is the end. Called by the protocol."""
        self._parts.put(part)

    def _next(self) -> Mapping[str, str] | bytes | None:
        part = self._parts.get(timeout=TIMEOUT)
        if isinstance(part, Exception):
            raise part
        return part

    def read_head(self) -> int:
        """Wait for the head; return the status. `headers` has it then."""
        head = self._next()
        assert isinstance(head, dict), head
        self.headers = head
        return int(head[":status"])

    def read_line(self) -> bytes:
        """Return the next line; nothing at the end."""
        while b"\n" not in self._rest:
            part = self._next()
            if not isinstance(part, bytes):
                self._parts.put(None)
                line, self._rest = self._rest, b""
                return line
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    def read(self) -> bytes:
        """Return the rest of the body."""
        return b"".join(iter(self.read_line, b""))

    def cancel(self) -> None:
        """End the stream in both directions, as a browser does that aborts a request."""
        self._loop.call_soon_threadsafe(self._protocol.cancel, self.id)


class Http3Protocol(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._streams: dict[int, Http3Stream] = {}

    def send(self, stream: Http3Stream, headers: Mapping[str, str], body: bytes) -> None:
        """Send a complete request."""
        stream.id = self._quic.get_next_available_stream_id()
        self._streams[stream.id] = stream
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._http.send_headers(stream.id, fields, end_stream=not body)
        if body:
            self._http.send_data(stream.id, body, end_stream=True)
        self.transmit()

    def cancel(self, stream_id: int) -> None:
        """Tell the server that nobody reads the response any more."""
        self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Pass what has arrived to its stream."""
        if isinstance(event, StreamReset) and event.stream_id in self._streams:
            self._streams[event.stream_id].receive(Http3Error(f"reset: {event.error_code:#x}"))
        elif isinstance(event, ConnectionTerminated):
            for each in self._streams.values():
                each.receive(Http3Error(f"the connection ended: {event.reason_phrase}"))
        for part in self._http.handle_event(event):
            self._pass_on(part)

    def _pass_on(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            stream = self._streams[event.stream_id]
            stream.receive({name.decode(): value.decode() for name, value in event.headers})
        elif isinstance(event, DataReceived):
            stream = self._streams[event.stream_id]
            if event.data:
                stream.receive(event.data)
        else:
            return
        if event.stream_ended:
            stream.receive(None)


class Http3Client:
    """One connection to 127.0.0.1, for requests to the server `name`; trusts one certificate."""

    def __init__(self, port: int, name: str, authority: Path) -> None:
        self._port, self._name, self._authority = port, name, authority
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context: Any = None
        self._protocol: Http3Protocol = self._run(self._connect())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)

    async def _connect(self) -> Http3Protocol:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self._name
        )
        configuration.load_verify_locations(str(self._authority))
        self._context = connect(
            "127.0.0.1", self._port, configuration=configuration, create_protocol=Http3Protocol
        )
        protocol: Http3Protocol = await self._context.__aenter__()
        return protocol

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Http3Stream:
        """Send a request; return its stream."""
        stream = Http3Stream(self._protocol, self._loop)
        head = {":method": method, ":scheme": "https", ":authority": self._name, ":path": path}

        async def run() -> None:
            self._protocol.send(stream, {**head, **(headers or {})}, body)

        self._run(run())
        return stream

    def close(self) -> None:
        """Close the connection."""
        self._run(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

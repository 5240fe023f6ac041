"""The bridge's end of a tunnel: answers exchanges, and keeps them for those who come back."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import (
    BadGateway,
    ClientDisconnected,
    CtllmError,
    Gone,
    ProtocolViolation,
    ServiceUnavailable,
)
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import RequestHead, ResponseHead, decode_request, encode_response
from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    MAX_HEAD,
    VERSION,
    Desktop,
    FrameKind,
    Hello,
    Status,
    encode_frame,
    encode_json_frame,
    encode_offset_frame,
)
from ctllm.tunnel.peer import INTERNAL_ERROR_MESSAGE, TunnelPeer
from ctllm.tunnel.stream import Stream, StreamState

#: Given an stream (a Caller) and what it asks, starts the work and returns the Call.
RequestHandler = Callable[["ResponderStream", RequestHead], RequestSink]

#: How many resumable answers keep a long tail at once; more are granted no resumption.
MAX_RESUMABLE = 16


class ResponderStream(Stream):
    """The answerer's end of an stream; a `Caller` for whatever does the work."""

    request_sink: RequestSink

    def __init__(self, id: bytes, responder: Responder, resume_seconds: int) -> None:
        retain = responder.resume_buffer_bytes if resume_seconds else 0
        super().__init__(
            id,
            ReceiveWindow(responder.window),
            SendBuffer(responder.peer_window, retain),
            responder.schedule,
        )
        self.resume_seconds = resume_seconds
        self.error: CtllmError | None = None
        self._responder = responder
        self._head_frame = b""

    # -- Caller

    def write_head(self, head: ResponseHead) -> None:
        """Send the answer's status and headers."""
        payload = encode_response(head)
        if len(payload) > MAX_HEAD:  # the proxy would take the frame for a broken tunnel
            error = BadGateway("the answer's headers are too large for a tunnel")
            self.request_sink.cancel(error)
            self.fail(error)
            return
        self._head_frame = encode_frame(FrameKind.HEAD, self.id, payload)
        if self.state is StreamState.LIVE:
            self._preamble += self._head_frame
            self._schedule(self)

    def write(self, data: bytes) -> None:
        """Send a piece of the answer."""
        if self._buffer(data):
            self.request_sink.pause_response()

    def finish(self) -> None:
        """The answer is whole."""
        self.send_buffer.ended = True
        self._schedule(self)

    def fail(self, error: CtllmError) -> None:
        """There will be no more answer than what was given; told after that was sent."""
        self.error = error
        self._schedule(self)

    def pause_request_body(self) -> None:
        """Count nothing more of the request as consumed; the window then stops the opener."""
        self._pause_reader()

    def resume_request_body(self) -> None:
        """Whatever does the work reads again."""
        self._resume_reader()

    # -- what the tunnel does

    @property
    def is_finished(self) -> bool:
        """Whether `call` has nothing left to do."""
        return self.error is not None or (
            self.send_buffer.ended and self.receive_window.end_offset is not None
        )

    def collect_frames(self, max_data: int, frames: list[bytes | bytearray]) -> int:
        """Append what is to be sent now; after the last byte before a failure, the failure."""
        size = super().collect_frames(max_data, frames)
        if (
            self.error
            and self.state is StreamState.LIVE
            and self.send_buffer.sent == self.send_buffer.written
        ):
            self._responder.reset_stream(self, self.error)
        return size

    def attach(self, offset: int) -> None:
        """Go on from `offset`; raises Gone where that is not kept any more."""
        if offset > self.send_buffer.written:  # whoever has the end has nothing left to ask for
            raise Gone("the answer is not that long")
        self.send_buffer.rewind(offset)
        self._go_live()
        self._preamble = (
            encode_offset_frame(FrameKind.ATTACH, self.id, self.receive_window.next_offset)
            + self._head_frame
        )

    def receive_data(self, offset: int, data: bytes) -> None:
        """Take a piece of the request body."""
        self.receive_window.receive(offset, len(data))
        self.request_sink.write(data)
        self._mark_consumed()

    def receive_end(self, offset: int) -> None:
        """The request body is whole."""
        self.receive_window.receive_end(offset)
        self.request_sink.finish()
        self._mark_consumed()

    def receive_ack(self, offset: int) -> None:
        """Take how far the opener has consumed the answer."""
        if self._apply_ack(offset):
            self.request_sink.resume_response()


class Responder(TunnelPeer[ResponderStream]):
    """The end that answers. One lives as long as the desktop, over all connections and proxies."""

    def __init__(
        self,
        window: int,
        grace: float,
        max_streams: int,
        *,
        resume_buffer_bytes: int,
        desktop: Desktop,
    ) -> None:
        super().__init__(window, grace, max_streams)
        self.resume_buffer_bytes = resume_buffer_bytes
        self.desktop = desktop
        self.request_handler: RequestHandler | None = None
        self.on_greeted: Callable[[], None] = lambda: None
        self._status = b""
        self._now = 0.0

    @property
    def peer_window(self) -> int:
        """How far beyond its acknowledgements the proxy lets us send."""
        return self._peer_window

    def connection_made(self) -> None:
        """A new connection is open: say HELLO, then what is known of Ollama."""
        held = tuple(id.hex() for id in self.streams)
        hello = Hello(VERSION, self.window, self.desktop, ("resume",), held)
        self._control_frames[:] = [encode_json_frame(FrameKind.HELLO, CONNECTION_ID, hello)]
        self.wake()

    def send_status(self, status: Status) -> None:
        """Tell the proxy, now and after each connection, what is known of Ollama."""
        self._status = encode_json_frame(FrameKind.STATUS, CONNECTION_ID, status)
        self._send_control(self._status)

    def reset_stream(self, stream: ResponderStream, error: CtllmError) -> None:
        """End an stream from this side and tell the other."""
        if stream.id in self.streams:
            self._remove(stream)
            self._send_reset(stream.id, error)

    def remove_expired(self, now: float) -> None:
        """Give up what nobody came back for in time."""
        self._now = now
        for stream in list(self.streams.values()):
            if stream.expires_at is not None and stream.expires_at <= now:
                self._fail_stream(
                    stream, ClientDisconnected("nobody came back for the answer in time")
                )

    def _hello_received(self, hello: Hello) -> None:
        self.on_greeted()
        if self._status:
            self._send_control(self._status)
        held = frozenset(hello.streams)
        for stream in list(self.streams.values()):
            if stream.id.hex() not in held and not self._is_resumable(stream):
                gone = "the proxy does not hold this stream any more"
                self._fail_stream(stream, ClientDisconnected(gone))

    def _is_resumable(self, stream: ResponderStream) -> bool:
        """Whether an stream that this proxy does not hold may still be asked for."""
        return stream.resume_seconds > 0 and stream.receive_window.end_offset is not None

    def _retention(self, stream: ResponderStream) -> float:
        return max(self.grace, stream.resume_seconds)

    def _notify_failed(self, stream: ResponderStream, error: CtllmError) -> None:
        if not stream.is_finished:
            stream.request_sink.cancel(error)

    def _receive_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        if kind == FrameKind.OPEN:  # also of one that ended here, where its end was lost on the way
            self._open_stream(id, payload)
        elif kind == FrameKind.ATTACH:
            self._send_reset(id, Gone("the desktop does not hold this stream any more"))
        else:
            self._check_late_frame(kind, id)

    def _open_stream(self, id: bytes, payload: bytes) -> None:
        try:
            head, resume_seconds = decode_request(payload)
        except ValueError as error:
            raise ProtocolViolation(f"an OPEN frame that is not right: {error}") from None
        if len(self.streams) >= self.max_streams:
            self._remember_closed(id)
            self._send_reset(id, ServiceUnavailable("the desktop has too many requests under way"))
            return
        assert self.request_handler is not None
        stream = ResponderStream(id, self, self._grant_resumption(resume_seconds))
        self.streams[id] = stream
        try:
            stream.request_sink = self.request_handler(stream, head)
        except CtllmError as error:
            self.reset_stream(stream, error)
        except Exception as error:
            self.on_crash(error)
            self.reset_stream(stream, CtllmError(INTERNAL_ERROR_MESSAGE))

    def _grant_resumption(self, seconds: int) -> int:
        resumable = sum(1 for stream in self.streams.values() if stream.resume_seconds)
        return seconds if resumable < MAX_RESUMABLE else 0

    def _receive_data(self, stream: ResponderStream, offset: int, data: bytes) -> None:
        stream.receive_data(offset, data)

    def _receive_end(self, stream: ResponderStream, offset: int) -> None:
        stream.receive_end(offset)

    def _receive_ack(self, stream: ResponderStream, offset: int) -> None:
        stream.receive_ack(offset)
        if stream.send_buffer.end_acked:
            if self._is_resumable(stream):
                stream.expires_at = self._now + stream.resume_seconds
            else:
                self._close_stream(stream)

    def _close_stream(self, stream: ResponderStream) -> None:
        self._fail_stream(stream, ClientDisconnected("the answer was whole before the request was"))

    def _receive_attach(self, stream: ResponderStream, offset: int) -> None:
        try:
            stream.attach(offset)
        except Gone as gone:
            self.reset_stream(stream, gone)
            self._notify_failed(stream, gone)

"""The desktop's end of a tunnel: it responds to streams, and stores responses for resumption."""

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
    ALLOWED_MODELS_CAPABILITY,
    AUTHORIZE_CAPABILITY,
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

#: Starts the request of a stream, which is the ResponseSink, and returns its RequestSink.
RequestHandler = Callable[[RequestHead, "ResponderStream"], RequestSink]

#: Maximum number of resumable responses; each stores a long tail. More are not resumable.
MAX_RESUMABLE = 16


class ResponderStream(Stream):
    """The responder's end of a stream; a ResponseSink that sends the response to the proxy."""

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
        self.error: CtllmError | None = None  # to send after the data
        self._responder = responder
        self._head_frame = b""

    # -- ResponseSink

    def write_head(self, head: ResponseHead) -> None:
        """Send the status and headers of the response; fail the stream if they are too large."""
        payload = encode_response(head)
        if len(payload) > MAX_HEAD:
            error = BadGateway("The headers of the response are too large for a tunnel.")
            self.request_sink.cancel(error)
            self.fail(error)
            return
        self._head_frame = encode_frame(FrameKind.HEAD, self.id, payload)
        if self.state is StreamState.LIVE:
            self._preamble += self._head_frame
            self._schedule(self)

    def write(self, data: bytes) -> None:
        """Send data of the response."""
        if self._buffer(data):
            self.request_sink.pause_response()

    def finish(self) -> None:
        """End the response."""
        self.send_buffer.ended = True
        self._schedule(self)

    def fail(self, error: CtllmError) -> None:
        """End the stream with `error`, after the data that was written."""
        self.error = error
        self._schedule(self)

    def pause_request_body(self) -> None:
        """Stop counting data as consumed, so that the window stops the initiator."""
        self._pause_reader()

    def resume_request_body(self) -> None:
        """Count data as consumed again."""
        self._resume_reader()

    # -- the tunnel's side

    @property
    def is_finished(self) -> bool:
        """Whether the request sink has nothing left to do."""
        return self.error is not None or (
            self.send_buffer.ended and self.receive_window.end_offset is not None
        )

    def collect_frames(self, max_data: int, frames: list[bytes | bytearray]) -> int:
        """Append the frames to send now to `frames`; reset the stream after its last data."""
        size = super().collect_frames(max_data, frames)
        buffer = self.send_buffer
        if self.error and self.state is StreamState.LIVE and buffer.sent == buffer.written:
            self._responder.reset_stream(self, self.error)
        return size

    def attach(self, offset: int) -> None:
        """Continue the response from `offset`; raises Gone if it is no longer stored."""
        if offset > self.send_buffer.written:
            raise Gone("The offset is beyond the end of the response.")
        self.send_buffer.rewind(offset)
        self._go_live()
        self._preamble = self._head_frame

    def receive_data(self, offset: int, data: bytes) -> None:
        """Pass on data of the request body."""
        self.receive_window.receive(offset, len(data))
        self.request_sink.write(data)
        self._mark_consumed()

    def receive_end(self, offset: int) -> None:
        """End the request body."""
        self.receive_window.receive_end(offset)
        self.request_sink.finish()
        self._mark_consumed()

    def receive_ack(self, offset: int) -> None:
        """Apply an acknowledgement of the response."""
        if self._apply_ack(offset):
            self.request_sink.resume_response()


class Responder(TunnelPeer[ResponderStream]):
    """The end of a tunnel that responds.

    One lives as long as the desktop's program, over all connections and proxies. The last
    `resume_buffer_bytes` of each resumable response are stored. `capabilities` are those of HELLO:
    by default, `request_handler` enforces Ctllm-Allowed-Models.
    """

    def __init__(
        self,
        window: int,
        grace: float,
        max_streams: int,
        *,
        request_handler: RequestHandler,
        resume_buffer_bytes: int,
        desktop: Desktop,
        capabilities: tuple[str, ...] = ("resume", ALLOWED_MODELS_CAPABILITY),
    ) -> None:
        super().__init__(window, grace, max_streams)
        self._capabilities = capabilities
        self.resume_buffer_bytes = resume_buffer_bytes
        self.desktop = desktop
        self._request_handler = request_handler
        self._status_frame = b""
        self._now = 0.0

    def connection_made(self) -> None:
        """Send HELLO on a new connection."""
        ids = tuple(id.hex() for id in self.streams)
        hello = Hello(VERSION, self.window, self.desktop, self._capabilities, ids)
        self._control_frames[:] = [encode_json_frame(FrameKind.HELLO, CONNECTION_ID, hello)]
        self._schedule_flush()

    def send_status(self, status: Status) -> None:
        """Send the state of Ollama, now and on each new connection."""
        self._status_frame = encode_json_frame(FrameKind.STATUS, CONNECTION_ID, status)
        self._send_control(self._status_frame)

    @property
    def accepts_authorization(self) -> bool:
        """Whether the connected proxy accepts AUTHORIZE."""
        return AUTHORIZE_CAPABILITY in self.peer_capabilities

    def send_authorization(self, assertion: str) -> None:
        """Send a new session assertion, which extends the authorization of this connection."""
        if self.accepts_authorization:
            frame = encode_frame(FrameKind.AUTHORIZE, CONNECTION_ID, assertion.encode("ascii"))
            self._send_control(frame)

    def reset_stream(self, stream: ResponderStream, error: CtllmError) -> None:
        """End a stream on both ends without calling its request sink."""
        if stream.id in self.streams:
            self._remove(stream)
            self._send_reset(stream.id, error)

    def remove_expired(self, now: float) -> None:
        """Cancel the streams for which no proxy came in time."""
        self._now = now
        for stream in list(self.streams.values()):
            if stream.expires_at is not None and stream.expires_at <= now:
                error = ClientDisconnected("The response was not resumed in time.")
                self._fail_stream(stream, error)

    def _hello_received(self, hello: Hello) -> None:
        super()._hello_received(hello)
        if self._status_frame:
            self._send_control(self._status_frame)
        proxy_ids = frozenset(hello.streams)
        for stream in list(self.streams.values()):
            if stream.id.hex() not in proxy_ids and not self._is_resumable(stream):
                error = ClientDisconnected("The proxy no longer has this stream.")
                self._fail_stream(stream, error)

    def _is_resumable(self, stream: ResponderStream) -> bool:
        """Whether a proxy that does not have this stream may still request its response."""
        return stream.resume_seconds > 0 and stream.receive_window.end_offset is not None

    def _retention(self, stream: ResponderStream) -> float:
        return max(self.grace, stream.resume_seconds)

    def _notify_failed(self, stream: ResponderStream, error: CtllmError) -> None:
        if not stream.is_finished:
            stream.request_sink.cancel(error)

    def _receive_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        if kind == FrameKind.OPEN:  # also of a closed stream, if the proxy missed its end
            self._open_stream(id, payload)
        elif kind == FrameKind.ATTACH:
            self._send_reset(id, Gone("The desktop no longer has this stream."))
        else:
            self._check_late_frame(kind, id)

    def _open_stream(self, id: bytes, payload: bytes) -> None:
        try:
            head, resume_seconds = decode_request(payload)
        except ValueError as error:
            raise ProtocolViolation(f"The payload of OPEN is invalid: {error}") from None
        if len(self.streams) >= self.max_streams:
            self._remember_closed(id)
            self._send_reset(id, ServiceUnavailable("The desktop has too many active requests."))
            return
        stream = ResponderStream(id, self, self._grant_resumption(resume_seconds))
        self.streams[id] = stream
        try:
            stream.request_sink = self._request_handler(head, stream)
        except CtllmError as error:
            self.reset_stream(stream, error)
        except Exception as error:
            self._report_failure(id, error)
            self.reset_stream(stream, CtllmError(INTERNAL_ERROR_MESSAGE))

    def _grant_resumption(self, seconds: int) -> int:
        resumable = sum(1 for stream in self.streams.values() if stream.resume_seconds)
        return seconds if resumable < MAX_RESUMABLE else 0

    def _receive_end(self, stream: ResponderStream, offset: int) -> None:
        stream.receive_end(offset)

    def _receive_ack(self, stream: ResponderStream, offset: int) -> None:
        stream.receive_ack(offset)
        if stream.send_buffer.end_acked:
            if self._is_resumable(stream):
                stream.expires_at = self._now + stream.resume_seconds
            else:
                error = ClientDisconnected("The response ended before the request.")
                self._fail_stream(stream, error)

    def _receive_attach(self, stream: ResponderStream, offset: int) -> None:
        try:
            stream.attach(offset)
        except Gone as gone:
            self.reset_stream(stream, gone)
            self._notify_failed(stream, gone)
        else:
            # A control frame, which precedes what the stream sends. The proxy waits for one reply
            # to each ATTACH, and the stream may get several before its turn to send.
            own_offset = stream.receive_window.next_offset
            self._send_control(encode_offset_frame(FrameKind.ATTACH, stream.id, own_offset))

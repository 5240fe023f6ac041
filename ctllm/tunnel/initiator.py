"""The proxy's end of a tunnel: it opens streams, and attaches them to a new connection."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ctllm.common.memory_budget import MemoryBudget, unlimited_budget
from ctllm.errors import (
    ClientDisconnected,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    Gone,
    NotFound,
    ProtocolViolation,
    RequestHeaderFieldsTooLarge,
    ServiceUnavailable,
)
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead, decode_response, encode_request
from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import (
    AUTHORIZE_CAPABILITY,
    CONNECTION_ID,
    MAX_HEAD,
    VERSION,
    FrameKind,
    Hello,
    Status,
    decode_json_payload,
    encode_frame,
    encode_json_frame,
    encode_offset_frame,
)
from ctllm.tunnel.peer import TunnelPeer
from ctllm.tunnel.response_traffic import ResponseTraffic
from ctllm.tunnel.stream import Stream, StreamState


class InitiatorStream(Stream):
    """The initiator's end of a stream; a RequestSink that passes the response to `sink`.

    An empty `open_frame` means that another proxy sent the request.
    """

    def __init__(
        self, id: bytes, initiator: Initiator, sink: ResponseSink, open_frame: bytes
    ) -> None:
        super().__init__(
            id,
            ReceiveWindow(initiator.window),
            SendBuffer(initiator.peer_window),
            initiator.schedule,
        )
        self.sink = sink
        self.is_confirmed = False  # whether the responder is known to have this stream
        self.has_head = False
        self.resume_seconds = 0  # for which the client may disconnect
        self._initiator = initiator
        self._open_frame = open_frame
        self._preamble = open_frame
        self._pending_attaches = 0  # ATTACH frames that were sent and not replied to
        self._is_adopted = not open_frame  # another proxy sent its request

    # -- RequestSink

    def write(self, data: bytes) -> None:
        """Send data of the request body; discard it if the stream has ended."""
        if self.id not in self._initiator.streams:
            return
        self._initiator.budget.reserve(len(data))
        if self._buffer(data):
            self.sink.pause_request_body()

    def finish(self) -> None:
        """End the request body."""
        self.send_buffer.ended = True
        self._schedule(self)

    def cancel(self, error: CtllmError) -> None:
        """End the stream on both ends; its sink is not called any more."""
        self._initiator.cancel_stream(self, error)

    def pause_response(self) -> None:
        """Stop counting data as consumed, so that the window stops the responder."""
        self._pause_reader()

    def resume_response(self) -> None:
        """Count data as consumed again."""
        self._resume_reader()

    # -- attachment

    @property
    def is_awaiting_attach(self) -> bool:
        """Whether the responder has yet to reply to an ATTACH."""
        return self._pending_attaches > 0

    @property
    def is_unopened(self) -> bool:
        """Whether OPEN was not sent, so that the responder does not know the stream."""
        return bool(self._preamble) and self._preamble is self._open_frame

    def collect_frames(self, max_data: int, frames: list[bytes | bytearray]) -> int:
        """Append the frames to send now to `frames`; return their size in bytes."""
        if self.state is StreamState.ATTACHING and self._preamble:
            self._pending_attaches += 1
        return super().collect_frames(max_data, frames)

    def detach(self, expires_at: float) -> None:
        """Wait for another connection; no reply to an earlier ATTACH will come."""
        super().detach(expires_at)
        self._pending_attaches = 0

    def attach(self) -> None:
        """Ask the responder to continue from where the response is."""
        self.state = StreamState.ATTACHING
        self.expires_at = None
        offset = self.receive_window.next_offset
        self._preamble = encode_offset_frame(FrameKind.ATTACH, self.id, offset)
        self._schedule(self)

    def reopen(self) -> None:
        """Send OPEN and the request again, because the responder never received them.

        Nothing was acknowledged, so the send buffer still has the whole request.
        """
        self.send_buffer.rewind(0)
        self._preamble = self._open_frame
        self._go_live()
        self._is_ack_due = False  # nothing of the response was received

    def receive_attach(self, offset: int) -> None:
        """Continue with the request body from `offset`, which the responder's ATTACH requests.

        If several ATTACH frames were sent, the responder replies to each. Only the last reply
        counts: what follows an earlier one does not begin at the offset that was requested last.
        """
        self._pending_attaches -= 1
        if self._pending_attaches or self._preamble:
            return
        if not self._is_adopted:
            self.send_buffer.rewind(offset)
        self._go_live()

    def restart_response(self, sink: ResponseSink, offset: int) -> None:
        """Pass the response to `sink`, with its head and its body from `offset`."""
        self.sink = sink
        self.has_head = False
        self._is_reader_paused = False
        self.receive_window.restart(offset)
        self.attach()

    # -- frames

    def receive_head(self, payload: bytes) -> None:
        """Pass on the head of the response; ignore one that is repeated after an attachment."""
        if self.has_head or self.state is not StreamState.LIVE:
            return
        try:
            head = decode_response(payload)
        except ValueError as error:
            raise ProtocolViolation(f"The payload of HEAD is invalid: {error}") from None
        self.has_head = True
        self.sink.write_head(self._initiator.filter_response(head))

    def receive_data(self, offset: int, data: bytes) -> None:
        """Pass on data of the response."""
        if self.state is not StreamState.LIVE:
            return  # sent before the responder received ATTACH; it will be sent again
        if not self.has_head:
            raise ProtocolViolation("DATA of a response precedes its HEAD.")
        length = len(data)
        self.receive_window.receive(offset, length)
        traffic = self._initiator.traffic
        traffic.bytes += length
        traffic.chunks += 1
        self.sink.write(data)
        self._mark_consumed()

    def receive_ack(self, offset: int) -> None:
        """Apply an acknowledgement of the request body.

        Ignored if another proxy sent the request, or if it was sent before the ATTACH.
        """
        if self._is_adopted or self.state is not StreamState.LIVE:
            return
        buffered = self.send_buffer.buffered
        can_resume = self._apply_ack(offset)
        self._initiator.budget.release(buffered - self.send_buffer.buffered)
        if can_resume:
            self.sink.resume_request_body()


class Initiator(TunnelPeer[InitiatorStream]):
    """The end of a tunnel that opens streams.

    `filter_response` is applied to the head of each response. `budget` counts the bytes of request
    bodies in memory. `on_authorization` is called with the session assertion in each AUTHORIZE.
    `traffic` counts responses, of several tunnels if they share it.
    """

    def __init__(
        self,
        window: int,
        grace: float,
        max_streams: int,
        filter_response: Callable[[ResponseHead], ResponseHead] = lambda head: head,
        budget: MemoryBudget | None = None,
        on_authorization: Callable[[bytes], None] = lambda assertion: None,
        traffic: ResponseTraffic | None = None,
    ) -> None:
        super().__init__(window, grace, max_streams)
        self.traffic = ResponseTraffic() if traffic is None else traffic
        self.filter_response = filter_response
        self._on_authorization = on_authorization
        self.budget = unlimited_budget() if budget is None else budget
        self.status: Status | None = None

    def start_request(
        self,
        head: RequestHead,
        sink: ResponseSink,
        resume_seconds: int = 0,
        id: bytes | None = None,
    ) -> InitiatorStream:
        """Open a stream for a request. It has the `id`, unless that is or was another stream's.

        Raises DesktopOffline, ServiceUnavailable or RequestHeaderFieldsTooLarge.
        """
        if not self.is_established:
            raise DesktopOffline("The desktop is not connected. Try again in a moment.")
        if len(self.streams) >= self.max_streams:
            raise ServiceUnavailable(
                f"{self.max_streams} requests are in progress. Try again when some have ended."
            )
        payload = encode_request(head, resume_seconds)
        if len(payload) > MAX_HEAD:
            raise RequestHeaderFieldsTooLarge(
                "The request line and headers are too large for a tunnel."
            )
        if id is None or id == CONNECTION_ID or id in self.streams or id in self._closed_ids:
            id = secrets.token_bytes(16)
        open_frame = encode_frame(FrameKind.OPEN, id, payload)
        stream = InitiatorStream(id, self, sink, open_frame)
        stream.resume_seconds = resume_seconds
        self.streams[id] = stream
        self.schedule(stream)
        return stream

    def resume_stream(self, id: bytes, offset: int, sink: ResponseSink) -> InitiatorStream:
        """Request the response of the stream `id` again, from `offset`, for `sink`.

        Raises DesktopOffline or NotFound. If the desktop no longer stores the response, `sink`
        fails with Gone. A sink that received the response until now fails with
        ClientDisconnected.
        """
        if not self.is_established:
            raise DesktopOffline("The desktop that stores this response is not connected.")
        stream = self.streams.get(id)
        if stream is not None:
            if not stream.resume_seconds or not stream.send_buffer.ended:
                raise NotFound("This response cannot be resumed.")
            stream.sink.fail(ClientDisconnected("Another connection has resumed this response."))
        else:
            stream = InitiatorStream(id, self, sink, b"")
            stream.is_confirmed = True
            stream.send_buffer.ended = True
            stream.send_buffer.end_sent = stream.send_buffer.end_acked = True
            self.streams[id] = stream
            self._closed_ids.pop(id, None)
        stream.restart_response(sink, offset)
        return stream

    def cancel_stream(self, stream: InitiatorStream, error: CtllmError) -> None:
        """End a stream on both ends without calling its sink."""
        if stream.id in self.streams:
            self._remove(stream)
            if not stream.is_unopened:
                self._send_reset(stream.id, error)

    def _remove(self, stream: InitiatorStream) -> None:
        """Remove a stream and release the memory of its request."""
        if stream.id in self.streams:
            self.budget.release(stream.send_buffer.clear())
        super()._remove(stream)

    def remove_expired(self, now: float) -> None:
        """Fail the streams whose desktop did not reconnect within the grace time."""
        for stream in list(self.streams.values()):
            if stream.expires_at is not None and stream.expires_at <= now:
                error = DesktopLost("The desktop disconnected and did not reconnect in time.")
                self.cancel_stream(stream, error)
                self._fail_stream(stream, error)

    def _hello_received(self, hello: Hello) -> None:
        super()._hello_received(hello)
        desktop_ids = frozenset(hello.streams)
        own_ids = tuple(id.hex() for id in self.streams)
        self._control_frames.insert(
            0,
            encode_json_frame(
                FrameKind.HELLO,
                CONNECTION_ID,
                Hello(VERSION, self.window, capabilities=(AUTHORIZE_CAPABILITY,), streams=own_ids),
            ),
        )
        for stream in list(self.streams.values()):
            if stream.id.hex() in desktop_ids:
                stream.attach()
            elif not stream.is_confirmed:
                stream.reopen()
            else:
                self._fail_stream(stream, DesktopLost("The desktop restarted during the request."))

    def _notify_failed(self, stream: InitiatorStream, error: CtllmError) -> None:
        stream.sink.fail(error)

    def _receive_connection_frame(self, kind: int, payload: bytes) -> None:
        if self.is_established and kind == FrameKind.STATUS:
            self.status = decode_json_payload(payload, Status)
        elif self.is_established and kind == FrameKind.AUTHORIZE:
            self._on_authorization(payload)
        else:
            super()._receive_connection_frame(kind, payload)

    def _receive_head(self, stream: InitiatorStream, kind: int, payload: bytes) -> None:
        if kind != FrameKind.HEAD:
            super()._receive_head(stream, kind, payload)
        stream.is_confirmed = True
        stream.receive_head(payload)

    def _receive_end(self, stream: InitiatorStream, offset: int) -> None:
        if stream.state is not StreamState.LIVE:
            return
        if not stream.has_head:
            raise ProtocolViolation("END of a response precedes its HEAD.")
        window = stream.receive_window
        window.receive_end(offset)
        window.consume_all()  # even if the reader is paused: the sink has everything
        self._remove(stream)
        self._send_control(encode_offset_frame(FrameKind.ACK, stream.id, window.acknowledge()))
        if not stream.send_buffer.end_acked:
            self._send_reset(stream.id, CtllmError("The response ended before the request."))
        stream.sink.finish()

    def _receive_ack(self, stream: InitiatorStream, offset: int) -> None:
        stream.is_confirmed = True
        stream.receive_ack(offset)

    def _receive_attach(self, stream: InitiatorStream, offset: int) -> None:
        if not stream.is_awaiting_attach:
            raise ProtocolViolation("An ATTACH was received that was not requested.")
        stream.is_confirmed = True
        try:
            stream.receive_attach(offset)
        except Gone:
            raise ProtocolViolation("An ATTACH requests bytes that were acknowledged.") from None

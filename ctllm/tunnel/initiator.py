"""The proxy's end of a tunnel: opens exchanges and takes them up again on a new connection."""

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
from ctllm.tunnel.stream import Stream, StreamState


class InitiatorStream(Stream):
    """The opener's end of an stream; a `Call` for whoever asked through it."""

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
        self.is_confirmed = False  # whether the answerer is known to have this stream
        self.has_head = False
        self._initiator = initiator
        self._open_frame = open_frame
        self._preamble = open_frame
        self.resume_seconds = 0  # how long its client may stay away
        self._pending_attaches = 0  # ATTACH frames that were sent and not yet answered
        self._is_adopted = not open_frame  # its request went through a proxy before this one

    # -- Call

    def write(self, data: bytes) -> None:
        """Send a piece of the request body."""
        if self.id not in self._initiator.streams:
            return  # it is over, and what is left of the request goes nowhere
        self._initiator.budget.reserve(len(data))
        if self._buffer(data):
            self.sink.pause_request_body()

    def finish(self) -> None:
        """The request body is whole."""
        self.send_buffer.ended = True
        self._schedule(self)

    def cancel(self, error: CtllmError) -> None:
        """The caller left: so does the stream."""
        self._initiator.cancel_stream(self, error)

    def pause_response(self) -> None:
        """Count nothing more as consumed; the window then stops the answerer."""
        self._pause_reader()

    def resume_response(self) -> None:
        """The caller reads again."""
        self._resume_reader()

    # -- attachment

    @property
    def is_awaiting_attach(self) -> bool:
        """Whether an ATTACH of ours is still to be answered."""
        return self._pending_attaches > 0

    @property
    def is_unopened(self) -> bool:
        """Whether the answerer cannot know of it: its OPEN was not even sent."""
        return bool(self._preamble) and self._preamble is self._open_frame

    def collect_frames(self, max_data: int, frames: list[bytes | bytearray]) -> int:
        """Append what is to be sent now."""
        if self.state is StreamState.ATTACHING and self._preamble:
            self._pending_attaches += 1
        return super().collect_frames(max_data, frames)

    def detach(self, expires_at: float) -> None:
        """The connection was lost, and with it the answers to every ATTACH."""
        super().detach(expires_at)
        self._pending_attaches = 0

    def attach(self) -> None:
        """Ask to go on where we are: the answerer is back."""
        self.state = StreamState.ATTACHING
        self.expires_at = None
        self._preamble = encode_offset_frame(
            FrameKind.ATTACH, self.id, self.receive_window.next_offset
        )
        self._schedule(self)

    def reopen(self) -> None:
        """The answerer never heard of it: begin anew. Nothing was acknowledged, so all is held."""
        self.send_buffer.rewind(0)
        self._preamble = self._open_frame
        self._go_live()
        self._is_ack_forced = False  # there is nothing to tell of an answer that has not begun

    def receive_attach(self, offset: int) -> None:
        """The answerer goes on, and wants the request body from `offset`.

        Who is taken up again before the answerer replied hears it reply to the ATTACH before, too:
        what follows that one is not from where the last one asked.
        """
        self._pending_attaches -= 1
        if self._pending_attaches or self._preamble:
            return
        if not self._is_adopted:
            self.send_buffer.rewind(offset)
        self._go_live()

    def restart_response(self, sink: ResponseSink, offset: int) -> None:
        """Let `caller` have the answer from `offset` on, head included."""
        self.sink = sink
        self.has_head = False
        self._is_reader_paused = False
        self.receive_window.restart(offset)
        self.attach()

    # -- what the tunnel hears

    def receive_head(self, payload: bytes) -> None:
        """Take the answer's head; one that comes again after an attachment is not news."""
        if self.has_head or self.state is not StreamState.LIVE:
            return
        try:
            head = decode_response(payload)
        except ValueError as error:
            raise ProtocolViolation(f"a HEAD frame that is not right: {error}") from None
        self.has_head = True
        self.sink.write_head(self._initiator.filter_response(head))

    def receive_data(self, offset: int, data: bytes) -> None:
        """Take a piece of the answer."""
        if self.state is not StreamState.LIVE:
            return  # sent before the answerer saw our ATTACH; it comes again
        if not self.has_head:
            raise ProtocolViolation("an answer's bytes before its head")
        self.receive_window.receive(offset, len(data))
        self.sink.write(data)
        self._mark_consumed()

    def receive_ack(self, offset: int) -> None:
        """Take how far the answerer has consumed the request body."""
        if self._is_adopted or self.state is not StreamState.LIVE:
            return  # of a request that another proxy sent, or of before our ATTACH
        buffered = self.send_buffer.buffered
        can_resume = self._apply_ack(offset)
        self._initiator.budget.release(buffered - self.send_buffer.buffered)
        if can_resume:
            self.sink.resume_request_body()


class Initiator(TunnelPeer[InitiatorStream]):
    """The end that opens exchanges. `admit` makes of an answer's head what callers get of it."""

    def __init__(
        self,
        window: int,
        grace: float,
        max_streams: int,
        filter_response: Callable[[ResponseHead], ResponseHead] = lambda head: head,
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(window, grace, max_streams)
        self.filter_response = filter_response
        self.budget = unlimited_budget() if budget is None else budget
        self.status: Status | None = None

    @property
    def peer_window(self) -> int:
        """How far beyond its acknowledgements the bridge lets us send."""
        return self._peer_window

    def start_request(
        self, head: RequestHead, sink: ResponseSink, resume_seconds: int = 0
    ) -> InitiatorStream:
        """Begin an stream; raises DesktopOffline, Overloaded or HeadTooLarge."""
        if not self.is_established:
            raise DesktopOffline("the desktop is not connected; it may be back in a moment")
        if len(self.streams) >= self.max_streams:
            raise ServiceUnavailable(
                f"{self.max_streams} requests are under way; try again when some ended"
            )
        payload = encode_request(head, resume_seconds)
        if len(payload) > MAX_HEAD:  # the bridge would take the frame for a broken tunnel
            raise RequestHeaderFieldsTooLarge(
                "the request line and headers are too large for a tunnel"
            )
        id = secrets.token_bytes(16)
        open_frame = encode_frame(FrameKind.OPEN, id, payload)
        stream = InitiatorStream(id, self, sink, open_frame)
        stream.resume_seconds = resume_seconds
        self.streams[id] = stream
        self.schedule(stream)
        return stream

    def resume_stream(self, id: bytes, offset: int, sink: ResponseSink) -> InitiatorStream:
        """Ask for the answer of an stream again, from `offset`; raises DesktopOffline, NotFound.

        Whether the desktop still holds it shows later: `caller` hears Gone if not. Whoever had the
        answer until now hears that somebody else has taken it up.
        """
        if not self.is_established:
            raise DesktopOffline("the desktop that holds this answer is not connected")
        stream = self.streams.get(id)
        if stream is not None:
            if not stream.resume_seconds or not stream.send_buffer.ended:
                raise NotFound("that answer cannot be taken up")
            stream.sink.fail(ClientDisconnected("this answer was taken up by another connection"))
        else:
            stream = InitiatorStream(id, self, sink, b"")
            stream.is_confirmed = True
            stream.send_buffer.ended = stream.send_buffer.end_sent = (
                stream.send_buffer.end_acked
            ) = True
            self.streams[id] = stream
            self._closed_ids.pop(id, None)
        stream.restart_response(sink, offset)
        return stream

    def cancel_stream(self, stream: InitiatorStream, error: CtllmError) -> None:
        """End an stream from this side and tell the other."""
        if stream.id in self.streams:
            self._remove(stream)
            if not stream.is_unopened:
                self._send_reset(stream.id, error)

    def _remove(self, stream: InitiatorStream) -> None:
        """End an stream; what was kept of its request is free."""
        if stream.id in self.streams:
            self.budget.release(stream.send_buffer.clear())
        super()._remove(stream)

    def remove_expired(self, now: float) -> None:
        """Give up exchanges whose desktop did not come back within the grace time."""
        for stream in list(self.streams.values()):
            if stream.expires_at is not None and stream.expires_at <= now:
                self.cancel_stream(stream, DesktopLost("gave up"))
                lost = "the desktop went away in the middle of this and did not come back"
                self._fail_stream(stream, DesktopLost(lost))

    def _hello_received(self, hello: Hello) -> None:
        held = frozenset(hello.streams)
        known = tuple(id.hex() for id in self.streams)
        self._control_frames.insert(
            0,
            encode_json_frame(
                FrameKind.HELLO, CONNECTION_ID, Hello(VERSION, self.window, streams=known)
            ),
        )
        for stream in list(self.streams.values()):
            if stream.id.hex() in held:
                stream.attach()
            elif not stream.is_confirmed:
                stream.reopen()
            else:
                self._fail_stream(
                    stream, DesktopLost("the desktop was restarted in the middle of this")
                )

    def _notify_failed(self, stream: InitiatorStream, error: CtllmError) -> None:
        stream.sink.fail(error)

    def _receive_connection_frame(self, kind: int, payload: bytes) -> None:
        if kind != FrameKind.STATUS or not self.is_established:
            super()._receive_connection_frame(kind, payload)
        self.status = decode_json_payload(payload, Status)

    def _receive_head(self, stream: InitiatorStream, kind: int, payload: bytes) -> None:
        if kind != FrameKind.HEAD:
            super()._receive_head(stream, kind, payload)
        stream.is_confirmed = True
        stream.receive_head(payload)

    def _receive_data(self, stream: InitiatorStream, offset: int, data: bytes) -> None:
        stream.receive_data(offset, data)

    def _receive_end(self, stream: InitiatorStream, offset: int) -> None:
        if stream.state is not StreamState.LIVE:
            return
        if not stream.has_head:
            raise ProtocolViolation("an answer's end before its head")
        stream.receive_window.receive_end(offset)
        stream.receive_window.consume_all()  # the caller has it all; what its socket holds is its own affair
        self._remove(stream)
        self._send_control(
            encode_offset_frame(FrameKind.ACK, stream.id, stream.receive_window.acknowledge())
        )
        if not stream.send_buffer.end_acked:
            self._send_reset(stream.id, CtllmError("the answer was whole before the request was"))
        stream.sink.finish()

    def _receive_ack(self, stream: InitiatorStream, offset: int) -> None:
        stream.is_confirmed = True
        stream.receive_ack(offset)

    def _receive_attach(self, stream: InitiatorStream, offset: int) -> None:
        if not stream.is_awaiting_attach:
            raise ProtocolViolation("an ATTACH that nobody asked for")
        stream.is_confirmed = True
        try:
            stream.receive_attach(offset)
        except Gone:
            raise ProtocolViolation("an ATTACH for bytes that were acknowledged") from None

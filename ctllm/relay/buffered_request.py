"""A request whose body is buffered until its upstream is known.

The streaming proxy and the broker read the model's name from the body before they choose a desktop
or a route, and the tunnel's policy checks a whole body before Ollama gets any of it. All three
buffer the body in the same way: within limits of memory, and sent on no faster than the upstream
accepts it.
"""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.ollama.requested_model import ModelSniffer
from ctllm.relay.replay_buffer import ReplayBuffer

#: Starts a request for a model, or for None if the body names none; raises CtllmError.
StartRequest = Callable[[str | None, ResponseSink], RequestSink]


class BufferedRequest:
    """A `RequestSink` that buffers the request body until it has an upstream.

    `on_ready` is called once: when `sniffer` knows the model, when the body is complete, when the
    buffer is full, or by `mark_ready`. It calls `start`, `attach` (at once or later) or `fail`.
    The client, which is `sink`, is asked to pause while the upstream accepts no data.
    """

    def __init__(
        self,
        sink: ResponseSink,
        buffer: ReplayBuffer,
        sniffer: ModelSniffer | None,
        on_ready: Callable[[BufferedRequest], None],
    ) -> None:
        self._sink = sink
        self._buffer = buffer
        self._sniffer = sniffer
        self._on_ready = on_ready
        self._upstream_request: RequestSink | None = None
        self._reads_model = sniffer is not None
        self._is_ready = False
        self._is_closed = False
        self._end_sent = False
        self._response_paused = False
        self._upstream_paused = False  # the upstream accepts no more of the body now
        self._client_paused = False

    # -- RequestSink

    def write(self, data: bytes) -> None:
        """Send `data`, or buffer it."""
        if self._is_closed:
            return
        if self._reads_model:
            self._read_model(data)
        if self._upstream_request is not None and self._can_pass_through:
            self._upstream_request.write(data)
            return
        self._buffer.append(data)
        if self._is_ready:
            self._send_body()
        elif self._buffer.is_full or (self._sniffer is not None and not self._reads_model):
            self.mark_ready()

    def finish(self) -> None:
        """Mark the request body as complete."""
        if self._is_closed:
            return
        self._buffer.is_complete = True
        self.stop_reading_model()
        if self._is_ready:
            self._send_body()
        else:
            self.mark_ready()

    def pause_response(self) -> None:
        """Pause the upstream's response, now or as soon as there is an upstream."""
        self._response_paused = True
        if self._upstream_request is not None:
            self._upstream_request.pause_response()

    def resume_response(self) -> None:
        """Resume the upstream's response."""
        self._response_paused = False
        if self._upstream_request is not None:
            self._upstream_request.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """Free the buffer, and cancel the upstream's request if there is one."""
        self.close()
        if self._upstream_request is not None:
            self._upstream_request.cancel(error)

    # -- choosing the upstream

    @property
    def model(self) -> str | None:
        """The model's name, as far as the body has been read."""
        return None if self._sniffer is None else self._sniffer.name

    def mark_ready(self) -> None:
        """Choose the upstream with what is known of the body."""
        self._is_ready = True
        self._on_ready(self)

    def start(self, start_request: StartRequest) -> None:
        """Attach the request that `start_request` returns; fail if it raises CtllmError."""
        self.stop_reading_model()
        try:
            upstream_request = start_request(self.model, _PacedSink(self._sink, self))
        except CtllmError as error:
            self.fail(error)
            return
        self.attach(upstream_request)

    def attach(self, upstream_request: RequestSink) -> None:
        """Send the body to `upstream_request`."""
        if self._is_closed:
            return  # it responded, or failed, while it was started
        self._upstream_request = upstream_request
        if self._response_paused:
            upstream_request.pause_response()
        self._send_body()
        if self._upstream_request is upstream_request:
            self._resume_client()

    def detach(self) -> None:
        """Leave the upstream's request, if any; pause the client until `attach`."""
        self._upstream_request = None
        self._upstream_paused = False
        self._end_sent = False
        self._pause_client()

    def fail(self, error: CtllmError) -> None:
        """Free the buffer, and send `error` as the response."""
        self.close()
        self._sink.fail(error)

    def stop_reading_model(self) -> None:
        """Read no more of the body for the model's name."""
        self._reads_model = False
        if self._sniffer is not None:
            self._sniffer.close()

    def close(self) -> None:
        """Free the buffer; ignore the rest of the body."""
        self._is_closed = True
        self.stop_reading_model()
        self._buffer.close()

    def _read_model(self, data: bytes) -> None:
        assert self._sniffer is not None
        self._sniffer.feed(data)
        if self._sniffer.is_settled:
            self.stop_reading_model()

    # -- the upstream's flow control

    def pause_request_body(self) -> None:
        """Send no more of the body until `resume_request_body`."""
        self._upstream_paused = True
        self._pause_client()

    def resume_request_body(self) -> None:
        """Send what is buffered; then resume the client."""
        self._upstream_paused = False
        if self._upstream_request is not None:
            self._send_body()
            self._resume_client()

    @property
    def _can_pass_through(self) -> bool:
        """Whether data need not be buffered on its way to the upstream."""
        buffer = self._buffer
        return not (buffer.is_replayable or buffer.has_unsent or self._upstream_paused)

    def _pause_client(self) -> None:
        self._client_paused = True
        self._sink.pause_request_body()

    def _resume_client(self) -> None:
        if self._client_paused and not self._upstream_paused and not self._is_closed:
            self._client_paused = False
            self._sink.resume_request_body()

    def _send_body(self) -> None:
        """Send what is buffered, as far as the upstream accepts it."""
        upstream_request, buffer = self._upstream_request, self._buffer
        if upstream_request is None:
            return
        while buffer.has_unsent and not self._upstream_paused:
            upstream_request.write(buffer.next_chunk())
            if upstream_request is not self._upstream_request or self._is_closed:
                return  # writing failed
        if buffer.is_complete and not buffer.has_unsent and not self._end_sent:
            self._end_sent = True
            upstream_request.finish()


class _PacedSink:
    """The `ResponseSink` for the upstream: its pauses apply to the buffered body first."""

    def __init__(self, sink: ResponseSink, request: BufferedRequest) -> None:
        self.write_head = sink.write_head
        self.write = sink.write
        self.fail = request.fail
        self.pause_request_body = request.pause_request_body
        self.resume_request_body = request.resume_request_body
        self._sink = sink
        self._request = request

    def finish(self) -> None:
        """Finish the response, which may be complete before the request is."""
        self._request.close()
        self._sink.finish()

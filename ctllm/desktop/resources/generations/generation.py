"""One generation: a response that is retained, and the readers that follow it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from ctllm.desktop.resources.generations.reader_state import TABLE, ReaderEvent, ReaderState
from ctllm.errors import ClientDisconnected, ContentTooLarge, CtllmError, Gone, ServiceUnavailable
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead, without_headers

#: The bytes that a reader is sent at once, where it is behind.
PIECE = 64 * 1024
#: Headers of Ollama's response that do not hold for a part of it.
_SIZED = (b"content-length", b"content-range", b"etag", b"transfer-encoding")


class State(StrEnum):
    """How far a generation is. It leaves RUNNING once."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Generation:
    """A ResponseSink that retains Ollama's response and passes it to any number of readers.

    It fails when its response exceeds `limit` bytes, or when `reserve` returns False for the number
    of bytes to retain. `on_change` is called when it ends, and when a reader comes or leaves.
    """

    def __init__(
        self, limit: int, reserve: Callable[[int], bool], on_change: Callable[[], None]
    ) -> None:
        self.state = State.RUNNING
        self.error: CtllmError | None = None
        self.head: ResponseHead | None = None
        self._limit = limit
        self._reserve = reserve
        self._on_change = on_change
        self._data = bytearray()
        self._readers: list[Reader] = []
        self._request: RequestSender | None = None

    def start(
        self,
        start_request: Callable[[RequestHead, ResponseSink], RequestSink],
        head: RequestHead,
        body: bytes,
        on_body_released: Callable[[], None] = lambda: None,
    ) -> None:
        """Send the request; raises CtllmError if it is refused at once.

        `on_body_released` is called once, when `body` was sent or is not needed any more.
        """
        self._request = RequestSender(body, on_body_released)
        try:
            sink = start_request(head, self)
        except BaseException:
            self._request.discard()
            raise
        self._request.send_to(sink)

    @property
    def size(self) -> int:
        """The number of bytes of the response so far."""
        return len(self._data)

    @property
    def reader_count(self) -> int:
        """The number of readers."""
        return len(self._readers)

    def read(self, offset: int) -> bytes:
        """Return the next bytes after `offset`, at most PIECE."""
        return bytes(self._data[offset : offset + PIECE])

    def cancel(self) -> None:
        """Stop the generation: the connection to Ollama is closed."""
        self._stop(State.CANCELLED, ClientDisconnected("This response was stopped."))

    def add_reader(self, sink: ResponseSink, offset: int) -> Reader:
        """Send the response to `sink` from `offset` once its request is complete, and follow it."""
        reader = Reader(self, sink, offset)
        self._readers.append(reader)
        self._on_change()
        return reader

    def remove_reader(self, reader: Reader) -> None:
        """Stop sending to `reader`."""
        if reader in self._readers:
            self._readers.remove(reader)
            self._on_change()

    def release(self) -> None:
        """Forget the response; readers that have not received all of it fail."""
        for reader in list(self._readers):
            reader.fail(Gone("This response is no longer retained."))
        self._data.clear()

    # -- the response of Ollama

    def write_head(self, head: ResponseHead) -> None:
        """Receive status and headers."""
        self.head = ResponseHead(head.status, head.reason, without_headers(head.headers, _SIZED))
        for reader in list(self._readers):
            reader.receive_head(self.head)

    def write(self, data: bytes) -> None:
        """Receive data of the response."""
        if self.state is not State.RUNNING:
            return
        if len(self._data) + len(data) > self._limit:
            message = f"The response is longer than {self._limit:,} bytes, which is the limit."
            self._stop(State.FAILED, ContentTooLarge(message))
            return
        if not self._reserve(len(data)):
            message = "The responses in progress take all the memory that they may. Stop one."
            self._stop(State.FAILED, ServiceUnavailable(message))
            return
        start = len(self._data)
        self._data += data
        for reader in list(self._readers):
            reader.receive(start, data)

    def finish(self) -> None:
        """Receive the end of the response."""
        refused = self.head is not None and self.head.status >= 400
        self._end(State.FAILED if refused else State.COMPLETE, None)

    def fail(self, error: CtllmError) -> None:
        """Receive the error that takes the place of the rest of the response."""
        self._end(State.FAILED, error)

    def pause_request_body(self) -> None:
        """Stop sending the request."""
        if self._request is not None:
            self._request.pause()

    def resume_request_body(self) -> None:
        """Continue sending the request."""
        if self._request is not None:
            self._request.resume()

    def _stop(self, state: State, error: CtllmError) -> None:
        if self.state is State.RUNNING:
            if self._request is not None:
                self._request.cancel(error)
            self._end(state, error)

    def _end(self, state: State, error: CtllmError | None) -> None:
        if self.state is not State.RUNNING:
            return
        self.state, self.error = state, error
        if self._request is not None:
            self._request.discard()
            self._request = None
        for reader in list(self._readers):
            reader.receive_end()
        self._on_change()


class Reader:
    """A reader of a generation, at its own pace: the RequestSink of a request for the response.

    It follows the table of `reader_state`.
    """

    def __init__(self, generation: Generation, sink: ResponseSink, offset: int) -> None:
        self._state = ReaderState.REQUESTING
        self._generation = generation
        self._sink = sink
        self._offset = offset

    def receive_head(self, head: ResponseHead) -> None:
        """Receive status and headers; a reader whose request is not complete gets them then."""
        self._send(head)

    def receive(self, start: int, data: bytes) -> None:
        """Receive new data, which begins at `start`: at once if everything before it was sent."""
        if self._offset == start and self._state is ReaderState.FOLLOWING:
            self._offset += len(data)
            self._sink.write(data)
        else:
            self._send()

    def receive_end(self) -> None:
        """Receive the end of the response, which is sent after all of it."""
        self._send()

    def fail(self, error: CtllmError) -> None:
        """End the response with `error`."""
        self._leave()
        self._sink.fail(error)

    def _send(self, head: ResponseHead | None = None) -> None:
        """Send `head` if it is given, and what there is until the response is paused."""
        if not self._apply(ReaderEvent.SEND):
            return  # too early, too late, or from within the loop below
        try:
            if head is not None:
                self._sink.write_head(head)
            while self._state is ReaderState.SENDING and self._offset < self._generation.size:
                data = self._generation.read(self._offset)
                self._offset += len(data)
                self._sink.write(data)
        finally:
            self._apply(ReaderEvent.SENT)
        self._send_end()

    def _send_end(self) -> None:
        generation = self._generation
        if generation.state is State.RUNNING or self._state is ReaderState.LEFT:
            return
        if self._offset < generation.size:
            return
        if generation.error is not None:
            self.fail(generation.error)
        elif self._state is ReaderState.FOLLOWING:
            self._leave()
            self._sink.finish()

    def _leave(self) -> None:
        self._apply(ReaderEvent.LEAVE)
        self._generation.remove_reader(self)

    def _apply(self, event: ReaderEvent) -> bool:
        """Return whether `event` leads from the present state to another one."""
        to = TABLE[self._state].get(event)
        self._state = to or self._state
        return to is not None

    # -- the request of the reader

    def write(self, data: bytes) -> None:
        """Ignore the body: it was read, or there is none."""

    def finish(self) -> None:
        """Begin to send: the request is complete. Before, nobody could pause the response."""
        if self._apply(ReaderEvent.REQUEST_COMPLETED):
            self._send(self._generation.head)

    def cancel(self, error: CtllmError) -> None:
        """The reader has left."""
        self._leave()

    def pause_response(self) -> None:
        """Stop sending to this reader."""
        self._apply(ReaderEvent.PAUSE)

    def resume_response(self) -> None:
        """Continue sending to this reader."""
        if self._apply(ReaderEvent.RESUME):
            self._send()


class RequestSender:
    """Sends a complete body to a RequestSink, which may pause it.

    The body is held until it was sent, and no longer: a generation may last for hours after that.
    `on_released` is then called, once.
    """

    def __init__(self, body: bytes, on_released: Callable[[], None]) -> None:
        self._body: bytes | None = body
        self._on_released = on_released
        self._position = 0
        self._sink: RequestSink | None = None
        self._is_paused = False

    def send_to(self, sink: RequestSink) -> None:
        """Send the body to `sink`, which may have paused it already."""
        self._sink = sink
        self._send()

    def pause(self) -> None:
        """Stop sending."""
        self._is_paused = True

    def resume(self) -> None:
        """Continue sending."""
        self._is_paused = False
        self._send()

    def _send(self) -> None:
        while self._sink is not None and self._body is not None and not self._is_paused:
            piece = self._body[self._position : self._position + PIECE]
            self._position += len(piece)
            is_last = self._position >= len(self._body)
            if is_last:
                self._release()
            sink = self._sink
            sink.write(piece)
            if is_last and self._sink is not None:
                sink.finish()

    def cancel(self, error: CtllmError) -> None:
        """Cancel the request."""
        sink = self._sink
        self.discard()
        if sink is not None:
            sink.cancel(error)

    def discard(self) -> None:
        """Send nothing more: the response has ended."""
        self._sink = None
        self._release()

    def _release(self) -> None:
        if self._body is not None:
            self._body = None
            self._on_released()

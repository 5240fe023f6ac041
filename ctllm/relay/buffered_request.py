"""A request whose desktop depends on its body: what came of it waits until the model is known.

Little waits: the body is let through as soon as nothing more can be learned, or too much would be
held.
"""

from __future__ import annotations

from collections.abc import Callable

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.ollama.requested_model import ModelFinder
from ctllm.tunnel.flow_control import READ

#: Most bytes of one body that wait, plus one read: pictures often come before the model's name.
MOST = 16 * 1024 * 1024

#: Begins the exchange with a desktop that has the model, if one is named; raises CtllmError.
StartRequest = Callable[[str | None, ResponseSink], RequestSink]


class BufferedRequest:
    """A `Call` that first finds out where to go."""

    def __init__(
        self,
        finder: ModelFinder,
        start_request: StartRequest,
        sink: ResponseSink,
        budget: BufferBudget,
    ) -> None:
        self._name = finder
        self._begin = start_request
        self._caller = sink
        self._room = budget
        self._held = bytearray()
        self._call: RequestSink | None = None
        self._ended = False  # the end of the body is still to be told
        self._paused = False
        self._busy = False  # the desktop has asked to wait

    # -- Call

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self._call is not None and not self._held:
            self._call.write(piece)
            return
        self._held += piece
        self._room.reserve(len(piece))
        if self._call is None:
            self._name.feed(piece)
            if self._name.settled or len(self._held) >= MOST or self._room.is_full:
                self._decide()

    def finish(self) -> None:
        """The request body is whole."""
        self._ended = True
        if self._call is None:
            self._decide()
        else:
            self._pour()

    def pause_response(self) -> None:
        """Stop sending the answer."""
        self._paused = True
        if self._call is not None:
            self._call.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        self._paused = False
        if self._call is not None:
            self._call.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """Stop everything; where nothing has begun, that is all."""
        self.drop()
        if self._call is not None:
            self._call.cancel(error)

    # -- the body that waits

    def _decide(self) -> None:
        self._name.close()
        try:
            self._call = self._begin(self._name.name, _Paced(self._caller, self))
        except CtllmError as error:
            self.drop()
            self._caller.fail(error)
            return
        if self._paused:
            self._call.pause_response()
        self._pour()

    def _pour(self) -> None:
        """Let what waits go on, as far as the desktop takes it."""
        assert self._call is not None
        while self._held and not self._busy:
            piece = bytes(self._held[:READ])
            del self._held[:READ]
            self._room.release(len(piece))
            self._call.write(piece)
        if self._held or not self._ended:
            return
        self._ended = False
        self._call.finish()

    def drop(self) -> None:
        """Nobody will want what waits."""
        self._name.close()
        self._room.release(len(self._held))
        self._held.clear()

    def wait(self) -> None:
        """The desktop is busy."""
        self._busy = True
        self._caller.pause_request_body()

    def go_on(self) -> None:
        """The desktop has room: first for what waits."""
        self._busy = False
        self._pour()
        if not self._busy:
            self._caller.resume_request_body()


class _Paced:
    """A `Caller` for the desktop: its pauses are the waiting body's first. The answer passes."""

    def __init__(self, caller: ResponseSink, undecided: BufferedRequest) -> None:
        self.write_head = caller.write_head
        self.write = caller.write
        self.pause_request_body = undecided.wait
        self.resume_request_body = undecided.go_on
        self._caller = caller
        self._undecided = undecided

    def finish(self) -> None:
        """The answer is whole, perhaps before the request."""
        self._undecided.drop()
        self._caller.finish()

    def fail(self, error: CtllmError) -> None:
        """There will be no answer."""
        self._undecided.drop()
        self._caller.fail(error)

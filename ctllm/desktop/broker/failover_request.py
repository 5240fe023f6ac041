"""One request of an app: it goes to a side, and to the other one if that fails before it answers.

Until the answer's first byte has come the request body is kept, so that it can be sent once more.
From then on the side that answers is the only one: when it breaks off, so does the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ctllm.desktop.broker.interfaces import RequestRoutes
from ctllm.desktop.broker.routing_policy import Route
from ctllm.errors import BadGateway, ClientDisconnected, CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.ollama.requested_model import ModelFinder
from ctllm.relay.replay_buffer import ReplayBuffer

#: How a server in the middle, or a busy Ollama, says that it is no use now.
_NO_USE = frozenset((502, 503, 504))
_REFUSED = "the cloud does not accept this desktop's sign-in; sign in again: ctllm login"
_MOVED = ClientDisconnected("this request is being answered elsewhere")


class _Trial:
    """A `Caller` for one side; what it hears is the request's, and the answer's body the app's."""

    def __init__(self, of: FailoverRequest, side: Route, data: Callable[[bytes], None]) -> None:
        self.side = side
        self.call: RequestSink | None = None
        self.write = data
        self.beginning: Deferred[None] | None = None
        self.told_end = False  # of the request body
        self._of = of

    def write_head(self, head: ResponseHead) -> None:
        self._of.headed(self, head)

    def finish(self) -> None:
        self._of.ended(self)

    def fail(self, error: CtllmError) -> None:
        self._of.failed(self, error)

    def pause_request_body(self) -> None:
        self._of.busy(self, True)

    def resume_request_body(self) -> None:
        self._of.busy(self, False)


class FailoverRequest:
    """A `Call`. `name` finds the model in the body, and is waited for until `decide` is called."""

    _log = Logger()

    def __init__(
        self,
        routes: RequestRoutes,
        head: RequestHead,
        sink: ResponseSink,
        finder: ModelFinder | None,
        buffer: ReplayBuffer,
    ) -> None:
        self._ways = routes
        self._head = head
        self._app = sink
        self._name = finder
        self._body = buffer
        self._trial: _Trial | None = None
        self._failure: CtllmError | None = None  # of the side that was asked first
        self._answered = False
        self._over = False
        self._paused = False
        self._busy = False

    # -- Call

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self._over:
            return
        if self._name is not None and not self._name.settled:
            self._name.feed(piece)
        self._body.append(piece)
        if self._trial is not None:
            self._pour()
        elif self._name is None or self._name.settled or self._body.is_full:
            self.choose_route()

    def finish(self) -> None:
        """The request body is whole."""
        if self._over:
            return
        self._body.is_complete = True
        self._name_read()
        if self._trial is None:
            self.choose_route()
        else:
            self._pour()

    def pause_response(self) -> None:
        """Stop sending the answer."""
        self._paused = True
        if self._trial is not None and self._trial.call is not None:
            self._trial.call.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        self._paused = False
        if self._trial is not None and self._trial.call is not None:
            self._trial.call.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """The app left."""
        self._close()
        self._drop(error)

    # -- to a side

    @property
    def pending_route(self) -> Route | None:
        """The side that is being asked and has not answered yet."""
        return None if self._trial is None or self._answered else self._trial.side

    def choose_route(self) -> None:
        """Choose a side with what is known of the body by now."""
        self._ask(self._ways.choose_route(self._head, self._model))

    @property
    def _model(self) -> str | None:
        return None if self._name is None else self._name.name

    def _name_read(self) -> None:
        """The body is not read for the model's name any more."""
        if self._name is not None:
            self._name.close()

    def _ask(self, side: Route) -> None:
        self._busy = False
        self._app.pause_request_body()  # until there is somewhere to go
        trial = self._trial = _Trial(self, side, self._app.write)
        trial.beginning = Deferred.fromCoroutine(self._begin(trial))
        trial.beginning.addErrback(self._broken)

    async def _begin(self, trial: _Trial) -> None:
        try:
            call = await self._ways.start_request(trial.side, self._head, trial)
        except CtllmError as error:
            self.failed(trial, error)
            return
        if trial is not self._trial or self._over:
            return  # it failed at once
        trial.call = call
        if self._paused:
            call.pause_response()
        self._pour()
        if not self._busy and not self._over:
            self._app.resume_request_body()

    def _broken(self, reason: Any) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("a request could not be begun", reason)
            self._end(BadGateway("something in ctllm broke; its log says what"))

    def _pour(self) -> None:
        """Send what there is of the body, as far as the side takes it."""
        trial = self._trial
        if trial is None or trial.call is None:
            return
        while self._body.has_unsent and not self._busy:
            trial.call.write(self._body.next_chunk())
            if trial is not self._trial or self._over:
                return  # writing showed that it failed
        if self._body.is_complete and not self._body.has_unsent and not trial.told_end:
            trial.told_end = True
            trial.call.finish()

    # -- what a side says

    def busy(self, trial: _Trial, busy: bool) -> None:
        """It reads the body slowly, or goes on."""
        if trial is not self._trial or self._over:
            return
        self._busy = busy
        if busy:
            self._app.pause_request_body()
        else:
            self._pour()
            if not self._busy and not self._over:
                self._app.resume_request_body()

    def headed(self, trial: _Trial, head: ResponseHead) -> None:
        """It answers; or it says that it cannot, which is no answer while another can."""
        if trial is not self._trial:
            return
        if trial.side is Route.CLOUD and head.status == 401:  # not what the app has shown
            self._give_up(trial, BadGateway(_REFUSED))
            return
        if head.status in _NO_USE and self._next(trial.side) is not None:
            said = f"the {trial.side} side answered with status {head.status}"
            self._give_up(trial, BadGateway(said))
            return
        self._answered = True
        self._name_read()
        self._body.discard_sent()
        headers = (*head.headers, *self._ways.response_headers(trial.side, self._model))
        self._app.write_head(ResponseHead(head.status, head.reason, headers))

    def failed(self, trial: _Trial, error: CtllmError) -> None:
        """It broke: before its answer another is asked, after its beginning the answer breaks."""
        if trial is not self._trial or self._over:
            return
        if self._answered:
            self._end(error)
        else:
            self._pass_on(trial.side, error)

    def _give_up(self, trial: _Trial, error: CtllmError) -> None:
        self._drop(_MOVED)
        self._pass_on(trial.side, error)

    def _pass_on(self, tried: Route, error: CtllmError) -> None:
        self._ways.route_failed(tried)
        after = self._next(tried)
        if after is None:
            self._end(self._ways.explain_error(self._head, self._told(error)))
            return
        self._failure = error
        self._body.rewind()
        self._ask(after)

    def ended(self, trial: _Trial) -> None:
        """The answer is whole."""
        if trial is self._trial and not self._over:
            self._close()
            self._app.finish()

    def route_went_down(self) -> None:
        """The side that is asked is gone though the connection stands: ask the other one."""
        trial = self._trial
        if trial is not None and not self._answered and self._next(trial.side) is not None:
            said = f"the {trial.side} side does not answer any more"
            self._give_up(trial, BadGateway(said))

    def abort(self, error: CtllmError) -> None:
        """Whatever it is doing, it ends with `error`."""
        self._drop(error)
        self._end(error)

    # -- the end

    def _next(self, tried: Route) -> Route | None:
        if self._failure is not None or not self._body.is_replayable:
            return None
        return self._ways.failover_route(tried)

    def _told(self, error: CtllmError) -> CtllmError:
        """The last error; what went wrong first is said in front."""
        first = self._failure
        if first is None or error.status < 500:
            return error
        kind = type(first if first.status >= 500 else error)
        return kind(f"{first.message}; and then: {error.message}")

    def _drop(self, error: CtllmError) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            return
        if trial.beginning is not None:
            trial.beginning.cancel()
        if trial.call is not None:
            trial.call.cancel(error)

    def _end(self, error: CtllmError) -> None:
        if not self._over:
            self._close()
            self._app.fail(error)

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self._body.close()
            self._name_read()
            self._ways.request_finished(self)

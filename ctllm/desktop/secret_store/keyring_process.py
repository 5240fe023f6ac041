"""A child process that asks the system's keyring once, and is killed at a deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.keyring_main import Request, Response
from ctllm.reactor.interfaces import Clock

#: The most bytes of a response.
MAX_RESPONSE = 256 * 1024


class ProcessReactor(Clock, Protocol):
    """The reactor, as far as it is needed to start a process."""

    def spawnProcess(
        self, protocol: ProcessProtocol, program: str, argv: list[str], /, *, env: dict[str, str]
    ) -> object:
        """Start `program`; raises OSError."""


class KeyringProcess(ProcessProtocol):
    """The process of one request. `response` fires once: with an error, if it gave none."""

    transport: IProcessTransport

    def __init__(self, request: Request) -> None:
        self.response: Deferred[Response] = Deferred(lambda _: self.kill())
        self._request = request
        self._output = bytearray()

    def connectionMade(self) -> None:
        """Send the request. The input stays open: at its end, the process exits."""
        self.transport.write(msgspec.json.encode(self._request) + b"\n")

    def outReceived(self, data: bytes) -> None:
        """Collect the response."""
        self._output += data
        if len(self._output) > MAX_RESPONSE:
            self._fire(Response(error="failed", detail="its response is too long"))

    def errReceived(self, data: bytes) -> None:
        """Ignore what libraries write: they may quote what they are given."""

    def processExited(self, reason: Failure) -> None:
        """Handle a process that ended without a response, such as one that was killed."""

    def processEnded(self, reason: Failure) -> None:
        """Decode the response, which is complete now."""
        try:
            self._fire(decode_json(bytes(self._output), Response, MAX_RESPONSE))
        except InvalidJson:
            self._fire(Response(error="failed", detail="it gave no response"))

    def give_up(self) -> None:
        """End the process at its deadline."""
        self._fire(Response(error="locked", detail="nobody answered"))

    def kill(self) -> None:
        """End the process at once."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")
        self.transport.loseConnection()

    def _fire(self, response: Response) -> None:
        self._output.clear()
        if not self.response.called:
            self.kill()
            self.response.callback(response)


async def ask_keyring(
    reactor: ProcessReactor,
    command: Sequence[str],
    environ: Mapping[str, str],
    request: Request,
    deadline: float,
) -> Response:
    """Start `command`, and return its response to `request` within `deadline` seconds.

    After the deadline the response is that the keyring is locked. Never raises but when cancelled.
    """
    process = KeyringProcess(request)
    argv = list(command)
    try:
        reactor.spawnProcess(process, argv[0], argv, env=dict(environ))
    except OSError as error:
        return Response(error="failed", detail=error.strerror or type(error).__name__)
    timer = reactor.callLater(deadline, process.give_up)
    try:
        return await process.response
    finally:
        if timer.active():
            timer.cancel()

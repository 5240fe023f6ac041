"""What makes an `HttpServer` for each connection of a listener."""

from __future__ import annotations

from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from ctllm.http.server.connection import App, Enter, HttpServer
from ctllm.http.server.connection_limits import Crowd
from ctllm.http.server.memory_limiter import MemoryLimiter
from ctllm.http.server.request_throttle import Begin, Turnstile
from ctllm.reactor.interfaces import Clock

#: Connections at once where nothing else is said.
MOST = 4096


@implementer(IProtocolNegotiationFactory)
class HttpServerFactory(Factory):
    """Makes an `HttpServer` for each connection. `max_head` is in bytes.

    Requests begin as the `turnstile` lets them; without one, each at once. The connections are
    those of the `crowd`, and hold what the `limiter` allows.
    """

    noisy = False

    def __init__(
        self,
        app: App,
        clock: Clock,
        max_head: int = 64 * 1024,
        turnstile: Turnstile | None = None,
        crowd: Crowd | None = None,
        limiter: MemoryLimiter | None = None,
    ) -> None:
        enter: Enter = turnstile.enter if turnstile is not None else _at_once
        crowd = Crowd(MOST) if crowd is None else crowd
        self._made = (app, clock, max_head, enter, crowd, limiter)

    def acceptableProtocols(self) -> list[bytes]:
        """For TLS: without an answer, clients that offer HTTP/2 too would be turned away."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: object) -> HttpServer:
        """A connection's protocol."""
        return HttpServer(*self._made)


def _at_once(begin: Begin) -> None:
    begin()

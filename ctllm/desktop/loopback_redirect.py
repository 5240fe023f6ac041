"""The listener for the redirect at the end of a login in the browser (RFC 8252, section 7.3)."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from ctllm.desktop.oauth.authorization_code import REDIRECT_PATH, AuthorizationCodeGrant
from ctllm.errors import BadConfiguration, CtllmError, Gone, RequestTimeout
from ctllm.http.message.head import Headers, get_header
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.endpoints import server_from_string
from ctllm.reactor.timeout import Timeout

#: Seconds in which the user must have signed in.
LOGIN_TIMEOUT = 600.0
#: Connections at a time: a browser needs a few, and any program of this machine can make some.
MAX_CONNECTIONS = 16

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>ctllm</title>
<h1>{0}</h1><p>{1}</p></html>
"""
_HEADERS: Headers = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
)


class LoopbackRedirect:
    """Listens on a free port of 127.0.0.1 for the redirect of one login.

    One request is accepted: the first that the grant accepts. All others are refused, and the login
    goes on.
    """

    def __init__(self, reactor: Any, *, timeout: float = LOGIN_TIMEOUT) -> None:
        self._reactor = reactor
        self._grant: AuthorizationCodeGrant | None = None
        self._port: Any = None
        self._timeout_seconds = timeout
        self._timeout = Timeout(reactor, self._timed_out)
        self._code: Deferred[str] = Deferred()
        self._is_done = False

    async def listen(
        self, make_grant: Callable[[str], AuthorizationCodeGrant]
    ) -> AuthorizationCodeGrant:
        """Listen, and return the grant that `make_grant` makes of the redirect's URI.

        Raises BadConfiguration if no port can be listened on.
        """
        factory = HttpServerFactory(
            self._handle, self._reactor, connection_limiter=ConnectionLimiter(MAX_CONNECTIONS)
        )
        endpoint = server_from_string(self._reactor, "tcp:0:interface=127.0.0.1")
        try:
            self._port = await endpoint.listen(factory)
        except CannotListenError as error:
            raise BadConfiguration(
                f"Cannot listen on 127.0.0.1 for the browser: {error.socketError}. "
                "Use: ctllm login --device"
            ) from error
        number = self._port.getHost().port
        self._grant = make_grant(f"http://127.0.0.1:{number}{REDIRECT_PATH}")
        self._timeout.start(self._timeout_seconds)
        return self._grant

    async def wait(self) -> str:
        """Return the code; raises CtllmError if the login was refused or took too long."""
        return await self._code

    async def close(self) -> None:
        """Stop listening; a response that is being sent is completed."""
        self._is_done = True
        self._timeout.cancel()
        self._code.addErrback(lambda _: "")  # nobody may have waited for it
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()

    async def _handle(self, request: ServerRequest) -> None:
        head = request.head
        if self._is_done or self._grant is None:
            raise Gone("This login has ended.")
        host = get_header(head.headers, b"host") or b""
        found = self._grant.receive(
            head.method.decode("latin-1"), host.decode("latin-1"), head.target.decode("latin-1")
        )
        self._is_done = True
        request.mark_authenticated()
        if isinstance(found, CtllmError):
            request.respond(400, _page("The login was not completed.", found.message), _HEADERS)
            self._code.errback(found)
        else:
            request.respond(200, _page("Back to ctllm.", "You can close this window."), _HEADERS)
            self._code.callback(found)

    def _timed_out(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._code.errback(
                RequestTimeout("Nobody signed in in the browser in time. Run `ctllm login` again.")
            )


def _page(title: str, text: str) -> bytes:
    return _PAGE.format(html.escape(title), html.escape(text)).encode()

"""Timeouts of HTTP connections, in seconds."""

from __future__ import annotations

from typing import NamedTuple

#: For each step of a handshake: TLS, Upgrade, the first frames of a tunnel.
HANDSHAKE_TIMEOUT = 30.0

#: For the response to a desktop that opens its tunnel: the cloud may have to start the user's
#: streaming proxy, and those of other users before it.
TUNNEL_TIMEOUT = 75.0


class ServerTimeouts(NamedTuple):
    """The timeouts of a server's connections."""

    #: For a request's head to arrive.
    head: float = 30.0
    #: Between two requests. Longer than common clients keep a connection (Go 90 s, Firefox 115 s,
    #: curl 118 s, nginx 60 s): the client closes first, so no request crosses a close.
    keep_alive: float = 180.0
    #: For the client to send more of a request body.
    body_idle: float = 300.0
    #: For the client to read what its write buffer still holds.
    flush: float = 300.0
    #: For the client to read the response before the connection is aborted.
    linger: float = 10.0
    #: For the error at the end of a broken response: browsers drop what they have not read when
    #: the connection closes.
    error_flush: float = 0.1


DEFAULT_TIMEOUTS = ServerTimeouts()

#: A lingering client that sends fewer bytes than this within the timeout is not waited for again.
MIN_LINGER_BYTES = 1024
#: How often a lingering client that still sends is waited for again.
MAX_LINGER_EXTENSIONS = 11
#: For a small body that is read completely before it is used.
SMALL_BODY_TIMEOUT = 30.0

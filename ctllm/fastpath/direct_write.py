"""Writes that reach the socket in the same turn of the reactor.

Twisted's `write` buffers data until the reactor finds the socket writable: two changes of the epoll
set and one more poll for every line of every stream. A socket nearly always has room, so this
calls send(2) first; the transport buffers the rest, with its backpressure.
"""

from __future__ import annotations

from typing import Any


def write_now(transport: Any, data: bytes) -> None:
    """Send as much of `data` as the socket takes, and write the rest to `transport`.

    For TLS, for transports without a socket, and where Twisted's transports lack the private
    attribute that says whether data is buffered, this is `transport.write`.
    """
    # Buffered data goes first. The lookup is in vars() because a TLS transport passes on attributes
    # of the transport beneath, whose socket must not get data that is not encrypted.
    if vars(transport).get("_tempDataBuffer", True) or transport.dataBuffer:
        transport.write(data)
        return
    if transport.disconnecting or not transport.connected:
        transport.write(data)
        return
    try:
        sent = transport.socket.send(data)
    except OSError:  # full or broken: the transport's own attempt decides
        sent = 0
    if sent < len(data):
        transport.write(data[sent:])

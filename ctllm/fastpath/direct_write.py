"""Writes that leave at once.

Twisted's `write` keeps the bytes until the next turn of the reactor finds the socket writable: two
changes of its epoll set and one more poll for every line of every stream. A socket nearly always
has room, so it is asked first; what it does not take goes the usual way, with its backpressure.
"""

from __future__ import annotations

from typing import Any


def write_now(transport: Any, data: bytes) -> None:
    """Send `data` as far as the socket takes it, and leave the rest to `transport`.

    For TLS and for transports without a socket this is `transport.write`.
    """
    # Whatever waits in Twisted's buffers goes first; transports that lack them are of another kind.
    # Asked for its own: TLS hands out all that the transport beneath has, whose socket must not
    # get what was not encrypted.
    if vars(transport).get("_tempDataBuffer", True) or transport.dataBuffer:
        transport.write(data)
        return
    if transport.disconnecting or not transport.connected:
        transport.write(data)
        return
    try:
        sent = transport.socket.send(data)
    except OSError:  # full, or broken: then the transport's own attempt tells its protocol
        sent = 0
    if sent < len(data):
        transport.write(data[sent:])

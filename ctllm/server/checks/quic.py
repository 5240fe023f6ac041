"""Whether a server speaks QUIC: a question that needs no cryptography.

A server responds to a packet of a version that it does not know with a list of those that it knows
(RFC 9000, section 6). The versions 0x?a?a?a?a are reserved for this.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct

from ctllm.server.checks.connection import Deadline, ProbeError

#: The value of Alt-Svc (RFC 7838) that names HTTP/3 at another port of the same host.
_HTTP3 = re.compile(r'(?:^|,)\s*h3=":([0-9]{1,5})"')
_RESERVED_VERSION = 0x1A2A3A4A
_LONG_HEADER, _ID_SIZE = 0xC0, 8
#: Servers ignore shorter datagrams.
_DATAGRAM = 1200
#: Seconds until a datagram counts as lost. A second one is sent then, and so on.
_INTERVAL = 0.5


def parse_http3_port(alt_svc: str) -> int | None:
    """Return the port of HTTP/3 that a header Alt-Svc names; None if it names none."""
    found = _HTTP3.search(alt_svc)
    port = int(found[1]) if found else 0
    return port if 0 < port < 65536 else None


def speaks_quic(address: str, port: int, deadline: Deadline) -> bool:
    """Return whether a server of QUIC responds at a UDP port, before the deadline."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    own_id, server_id = secrets.token_bytes(_ID_SIZE), secrets.token_bytes(_ID_SIZE)
    question = _pack(_RESERVED_VERSION, server_id, own_id).ljust(_DATAGRAM, b"\0")
    expected = _pack(0, own_id, server_id)[1:]  # the first byte has random bits
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            connection.connect((address, port))
            while True:
                connection.settimeout(min(_INTERVAL, deadline.remaining()))
                connection.send(question)
                if _receive(connection)[1:].startswith(expected):
                    return True
    except (ProbeError, OSError):  # the deadline; nothing listens, or a firewall says so
        return False


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_DATAGRAM)
    except TimeoutError:
        return b""


def _pack(version: int, destination: bytes, source: bytes) -> bytes:
    return (
        struct.pack("!BIB", _LONG_HEADER, version, len(destination))
        + destination
        + bytes([len(source)])
        + source
    )

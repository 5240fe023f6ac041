"""Sans-IO: bytes to values and back; no reactor, no sockets, no clock."""

"""HTTP/1.1 messages, sans-IO: heads, bodies and their parsers (RFC 9112)."""

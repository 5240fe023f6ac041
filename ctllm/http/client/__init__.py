"""The client of HTTP/1.1."""

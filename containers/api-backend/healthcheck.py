"""Exits with 0 if the backend responds to GET /health on its socket."""

import http.client
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the UNIX socket whose path is its host."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(4)
        self.sock.connect(self.host)


connection = UnixConnection(Path("/tmp/socket").read_text().strip())  # noqa: S108
connection.request("GET", "/health", headers={"Host": "localhost"})
raise SystemExit(connection.getresponse().status != 200)

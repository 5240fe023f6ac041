"""Authentication of IPC clients: only the user who runs the daemon, and root, may connect.

On a UNIX socket the operating system identifies the peer. On TCP the client proves that it can read
the secret in the address file.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys

from ctllm.errors import Forbidden, Unauthorized
from ctllm.ipc.protocol import Auth, compute_proof
from ctllm.system.unix_sockets import peer_credentials


def peer_uid(transport: object) -> int | None:
    """Return the user id of the peer of a UNIX socket, or None where it is not known."""
    connection = getattr(transport, "socket", None)
    if connection is None or connection.family != getattr(socket, "AF_UNIX", None):
        return None
    peer = peer_credentials(connection)
    return None if peer is None else peer.uid


class Authenticator:
    """The authentication of one connection."""

    def __init__(self, secret: str) -> None:
        self.challenge = ""
        self.is_authenticated = False
        self._secret = secret

    def check_peer(self, transport: object) -> None:
        """Authenticate by the peer's user id, or issue a challenge; raises Forbidden."""
        uid = peer_uid(transport)
        if sys.platform == "win32" or uid is None:
            self.challenge = secrets.token_hex(32)
        elif uid not in (os.geteuid(), 0):
            raise Forbidden("This desktop daemon belongs to another user of this machine.")
        else:
            self.is_authenticated = True

    def verify(self, auth: Auth) -> str:
        """Verify the client's proof and return the daemon's; raises Unauthorized.

        A challenge can be used once.
        """
        challenge, self.challenge = self.challenge, ""
        expected = compute_proof(self._secret, "client", challenge, auth.nonce)
        if not challenge or not hmac.compare_digest(expected, auth.proof):
            raise Unauthorized("The proof does not match. Read the secret from its file again.")
        self.is_authenticated = True
        return compute_proof(self._secret, "daemon", challenge, auth.nonce)

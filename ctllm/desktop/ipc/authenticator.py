"""Who may ask: the user whose daemon this is.

On a UNIX socket the system says who it is; by TCP it is whoever can read the secret file.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from typing import Any

from ctllm.errors import Forbidden, Unauthorized
from ctllm.ipc.protocol import Auth, compute_proof
from ctllm.system.unix_sockets import peer_credentials


def peer_uid(transport: Any) -> int | None:
    """The user at the other end of a UNIX socket, or None where the system does not say."""
    found = getattr(transport, "socket", None)
    if found is None or found.family != getattr(socket, "AF_UNIX", None):
        return None
    peer = peer_credentials(found)
    return None if peer is None else peer.uid


class Authenticator:
    """One visitor's way in."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self.challenge = ""
        self.is_authenticated = False

    def check_peer(self, transport: Any) -> None:
        """See who comes; raises Forbidden for another user of this machine."""
        uid = peer_uid(transport)
        if sys.platform == "win32" or uid is None:
            self.challenge = secrets.token_hex(32)
        elif uid not in (os.geteuid(), 0):
            raise Forbidden("this is the desktop of another user of this machine")
        else:
            self.is_authenticated = True

    def verify(self, auth: Auth) -> str:
        """Take what shows that the client knows the secret, and give the daemon's own proof.

        Raises Unauthenticated. A challenge is good for one attempt.
        """
        challenge, self.challenge = self.challenge, ""
        right = compute_proof(self._secret, "client", challenge, auth.nonce)
        if not challenge or not hmac.compare_digest(right, auth.proof):
            raise Unauthorized("that is not the secret of this desktop; read it anew from its file")
        self.is_authenticated = True
        return compute_proof(self._secret, "daemon", challenge, auth.nonce)

"""`ctllm.desktop.ipc.authenticator`: the peer of a UNIX socket, and proofs of the secret."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc.authenticator import Authenticator, peer_uid
from ctllm.errors import Unauthorized
from ctllm.ipc import protocol

SECRET = "5e" * 32
NONCE = "ab" * 32


def peer_socket(uid: int, family: int = socket.AF_UNIX) -> Any:
    """Return a socket whose peer is a process of the user `uid`."""
    credentials = struct.pack("3i", 1, uid, 1)
    return SimpleNamespace(family=family, getsockopt=lambda *_: credentials)


class PeerUidTests(SynchronousTestCase):
    def test_uid_of_a_unix_socket(self) -> None:
        self.assertEqual(peer_uid(SimpleNamespace(socket=peer_socket(7))), 7)

    def test_other_transports_have_no_uid(self) -> None:
        self.assertIsNone(peer_uid(SimpleNamespace(socket=peer_socket(7, socket.AF_INET))))
        self.assertIsNone(peer_uid(SimpleNamespace()))


class AuthenticatorTests(SynchronousTestCase):
    def test_challenge_can_be_used_once(self) -> None:
        authenticator = Authenticator(SECRET)
        authenticator.check_peer(object())
        challenge = authenticator.challenge
        auth = protocol.Auth(1, NONCE, protocol.compute_proof(SECRET, "client", challenge, NONCE))
        authenticator.verify(auth)
        self.assertRaises(Unauthorized, authenticator.verify, auth)

    def test_proof_without_a_challenge_is_rejected(self) -> None:
        auth = protocol.Auth(1, NONCE, protocol.compute_proof(SECRET, "client", "", NONCE))
        self.assertRaises(Unauthorized, Authenticator(SECRET).verify, auth)

"""Sockets in another user's directory, to which commands of root connect."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.admin.api import is_listening
from ctllm.ipc import client
from ctllm.system.unix_sockets import NotASocket, PeerCredentials


class ConnectUnixTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ctllm-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "ipc.sock"
        self.link = self.directory / "link"
        self.link.symlink_to(self.path)
        self.server = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.server.close)
        self.server.bind(str(self.path))
        self.server.listen()

    def set_listener(self, uid: int) -> None:
        self.patch(client, "peer_credentials", lambda connected: PeerCredentials(1, uid, 0))

    def test_accepts_only_the_owner_and_root_as_listeners(self) -> None:
        for uid in (7, 0):
            self.set_listener(uid)
            client.connect_unix(str(self.path), 7, 5).close()
        self.set_listener(8)
        self.assertRaises(PermissionError, client.connect_unix, str(self.path), 7, 5)

    def test_does_not_follow_a_symbolic_link(self) -> None:
        self.set_listener(7)
        self.assertRaises(NotASocket, client.connect_unix, str(self.link), 7, 5)

    def test_a_symbolic_link_is_not_a_listening_admin_socket(self) -> None:
        self.assertTrue(is_listening(self.path))
        self.assertFalse(is_listening(self.link))

"""`ctllm.system.unix_sockets`: paths that are pinned while a connection is made."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.system.unix_sockets import NotASocket, pinned_path


class PinnedPathTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ctllm-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "proxy.sock"

    def listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(str(self.path))
        server.listen()
        server.setblocking(False)
        return server

    def test_connects_to_the_socket_that_was_found_even_if_it_is_replaced(self) -> None:
        first = self.listen()
        with pinned_path(str(self.path)) as pinned:
            self.path.unlink()
            self.listen()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(pinned)
                first.accept()[0].close()

    def test_refuses_a_file_and_a_directory(self) -> None:
        self.path.touch()
        for path in (self.path, self.directory):
            with self.assertRaises(NotASocket), pinned_path(str(path)):
                pass

    def test_does_not_follow_a_symbolic_link_to_the_directory(self) -> None:
        self.listen()
        link = self.directory / "link"
        link.symlink_to(self.directory)
        with self.assertRaises(OSError), pinned_path(str(link / "proxy.sock")):
            pass

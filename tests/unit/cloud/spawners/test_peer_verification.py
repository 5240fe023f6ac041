"""`ctllm.cloud.spawners.peer_verification`: control groups, and connections to real sockets."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ctllm.cloud.spawners.interfaces import ProxyInstance, ProxySocket
from ctllm.cloud.spawners.peer_verification import is_expected_peer, is_in_container, proxy_endpoint
from ctllm.http.client.unix_endpoint import UnexpectedPeer
from ctllm.system.unix_sockets import PeerCredentials

ID, OTHER = "c0ffee" + "0" * 58, "decade" + "1" * 58
FIRST = f"""\
11:memory:/docker/{ID}
3:cpuset:/docker/{ID}
1:name=systemd:/docker/{ID}
0::/system.slice/containerd.service
"""
SYSTEMD = f"0::/system.slice/docker-{ID}.scope\n"
NESTED = f"0::/ctllm.slice/docker-{ID}.scope/init\n"
NEIGHBOUR = f"4:memory:/docker/{OTHER}\n0::/\n"


class IsInContainerTests(SynchronousTestCase):
    def test_recognises_the_control_groups_of_the_container(self) -> None:
        for groups in (FIRST, SYSTEMD, NESTED, f"0::/docker/{ID}\n", f"0::/../{ID}\n"):
            self.assertTrue(is_in_container(groups, ID), groups)

    def test_rejects_other_control_groups(self) -> None:
        looks = (f"0::/docker/{ID}0\n", f"0::/x{ID}\n", f"0::/user.slice/{ID}.service\n", ID, "")
        for groups in (NEIGHBOUR, "0::/init.scope\n", *looks):
            self.assertFalse(is_in_container(groups, ID), groups)


class IsExpectedPeerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = Path(self.mktemp())

    def add_process(self, pid: int, groups: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True)
        (self.proc / str(pid) / "cgroup").write_text(groups)

    def test_accepts_processes_of_the_container_with_its_user(self) -> None:
        expected = ProxySocket("", 1001, 70, ID)
        self.add_process(70, FIRST)
        self.add_process(71, SYSTEMD)
        self.add_process(72, NEIGHBOUR)
        for pid, uid, is_expected in (
            (70, 1001, True),
            (71, 1001, True),
            (72, 1001, False),  # another user's container
            (70, 0, False),  # dockerd
            (0, 1001, False),  # of a PID namespace that we cannot see
            (99, 1001, False),  # no such process
        ):
            accepted = is_expected_peer(expected, PeerCredentials(pid, uid, 0), self.proc)
            self.assertEqual(accepted, is_expected, (pid, uid))

    def test_falls_back_to_the_first_process_without_control_groups(self) -> None:
        peer = PeerCredentials(70, 1001, 0)
        self.assertTrue(is_expected_peer(ProxySocket("", 1001, 70, ID), peer, self.proc))
        self.assertFalse(is_expected_peer(ProxySocket("", 1001, 0, ID), peer, self.proc))
        self.add_process(70, NEIGHBOUR)  # the pid was reused
        self.assertFalse(is_expected_peer(ProxySocket("", 1001, 70, ID), peer, self.proc))

    def test_accepts_only_the_process_that_was_started(self) -> None:
        expected = ProxySocket("", 0, 70)
        self.assertTrue(is_expected_peer(expected, PeerCredentials(70, 0, 0)))
        self.assertFalse(is_expected_peer(expected, PeerCredentials(71, 0, 0)))
        self.assertFalse(is_expected_peer(expected, PeerCredentials(70, 5, 0)))


class Sender(Protocol):
    """Sends data at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"secret")


class ProxyEndpointTests(TestCase):
    """Connections to sockets of this process."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "proxy.sock"
        self.wrong_peer: Deferred[tuple[str, str]] = Deferred()
        self.expected = ProxySocket(str(self.path), os.geteuid(), os.getpid())

    def listen(self, path: Path) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        self.addCleanup(made.close)
        made.bind(str(path))
        made.listen()
        return made

    def connect(self, expected: ProxySocket, protocol: type[Protocol] = Sender) -> Deferred[Any]:
        def on_wrong_peer(proxy_id: str, reason: str) -> None:
            self.wrong_peer.callback((proxy_id, reason))

        endpoint = proxy_endpoint(
            reactor, ProxyInstance("p", "unix:/x", 0.0, socket=expected), on_wrong_peer
        )
        return endpoint.connect(Factory.forProtocol(protocol))

    async def receive(self, accepted: socket.socket) -> bytes:
        """Return what arrives. No descriptor of the socket's name may be open."""
        accepted.setblocking(False)
        while True:
            try:
                data = accepted.recv(9)
                break
            except BlockingIOError:
                await deferLater(reactor, 0.01)
        files = Path("/proc/self/fd")
        links = [os.readlink(each) for each in files.iterdir() if each.is_symlink()]
        self.assertNotIn(str(self.path), links)
        return data

    async def _connect_to_expected(self) -> None:
        server = self.listen(self.path)
        made = await self.connect(self.expected)
        accepted, _ = server.accept()
        with accepted:
            self.assertEqual(await self.receive(accepted), b"secret")
            lost: Deferred[Any] = Deferred()
            made.connectionLost = lambda reason: lost.callback(None)
        await lost
        self.assertFalse(self.wrong_peer.called)

    def test_connects_to_the_expected_process(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._connect_to_expected())

    async def _connect_to_wrong(self, expected: ProxySocket, text: str) -> None:
        server = self.listen(self.path)
        with self.assertRaises(UnexpectedPeer):
            await self.connect(expected)
        proxy_id, reason = await self.wrong_peer
        accepted, _ = server.accept()
        with accepted:
            self.assertEqual(await self.receive(accepted), b"")
        self.assertEqual(proxy_id, "p")
        self.assertIn(text, reason)

    def test_sends_nothing_to_another_process(self) -> Deferred[None]:
        expected = ProxySocket(str(self.path), os.geteuid(), os.getppid())
        return Deferred.fromCoroutine(
            self._connect_to_wrong(expected, f"process {os.getpid()} of user")
        )

    def test_sends_nothing_to_another_user(self) -> Deferred[None]:
        expected = ProxySocket(str(self.path), os.geteuid() + 1, os.getpid())
        return Deferred.fromCoroutine(
            self._connect_to_wrong(expected, f"user {os.geteuid()} listens")
        )

    def test_sends_nothing_to_a_process_outside_the_container(self) -> Deferred[None]:
        expected = ProxySocket(str(self.path), os.geteuid(), os.getpid(), ID)
        return Deferred.fromCoroutine(self._connect_to_wrong(expected, "listens at"))

    async def _link(self, link: Path, target: Path) -> None:
        link.symlink_to(target)
        with self.assertRaises(UnexpectedPeer):
            await self.connect(self.expected)
        self.assertIn("is not a socket", (await self.wrong_peer)[1])

    def test_does_not_follow_a_symbolic_link(self) -> Deferred[None]:
        server = self.listen(self.folder / "other")
        server.setblocking(False)
        done = Deferred.fromCoroutine(self._link(self.path, self.folder / "other"))
        return done.addCallback(lambda _: self.assertRaises(BlockingIOError, server.accept))

    async def _absent(self) -> None:
        with self.assertRaises(FileNotFoundError):
            await self.connect(self.expected)
        self.listen(self.path).close()
        with self.assertRaises(ConnectError):
            await self.connect(self.expected)
        self.assertFalse(self.wrong_peer.called)

    def test_a_missing_socket_is_not_a_wrong_peer(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._absent())

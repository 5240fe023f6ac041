"""Who listens at a proxy's socket: real sockets, and what the kernel says of them."""

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

from ctllm.cloud.admin.api import is_listening
from ctllm.cloud.spawners.interfaces import ProxyInstance, ProxySocket
from ctllm.cloud.spawners.peer_verification import is_expected_peer, is_in_container, proxy_endpoint
from ctllm.http.client.unix_endpoint import UnexpectedPeer
from ctllm.ipc import client
from ctllm.system.unix_sockets import NotASocket, PeerCredentials, pinned_path

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


class GroupTests(SynchronousTestCase):
    """Names of control groups."""

    def test_its_own(self) -> None:
        """Version 1, version 2, a manager of systemd's, and below."""
        for groups in (FIRST, SYSTEMD, NESTED, f"0::/docker/{ID}\n", f"0::/../{ID}\n"):
            self.assertTrue(is_in_container(groups, ID), groups)

    def test_others(self) -> None:
        """Another container, this machine, what only looks like it, and what makes no sense."""
        looks = (f"0::/docker/{ID}0\n", f"0::/x{ID}\n", f"0::/user.slice/{ID}.service\n", ID, "")
        for groups in (NEIGHBOUR, "0::/init.scope\n", *looks):
            self.assertFalse(is_in_container(groups, ID), groups)


class ProxyTests(SynchronousTestCase):
    """A process that listens, and the proxy that should."""

    def setUp(self) -> None:
        self.proc = Path(self.mktemp())

    def runs(self, pid: int, groups: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True)
        (self.proc / str(pid) / "cgroup").write_text(groups)

    def test_in_a_container(self) -> None:
        """Any process of the container with its user, and nobody else."""
        expected = ProxySocket("", 1001, 70, ID)
        self.runs(70, FIRST)
        self.runs(71, SYSTEMD)
        self.runs(72, NEIGHBOUR)
        for pid, uid, right in (
            (70, 1001, True),
            (71, 1001, True),
            (72, 1001, False),  # another user's container
            (70, 0, False),  # the engine
            (0, 1001, False),  # of a PID namespace that we cannot see
            (99, 1001, False),  # gone
        ):
            said = is_expected_peer(expected, PeerCredentials(pid, uid, 0), self.proc)
            self.assertEqual(said, right, (pid, uid))

    def test_first_process(self) -> None:
        """Where groups cannot be read, the engine's word for it counts, if there is one."""
        peer = PeerCredentials(70, 1001, 0)
        self.assertTrue(is_expected_peer(ProxySocket("", 1001, 70, ID), peer, self.proc))
        self.assertFalse(is_expected_peer(ProxySocket("", 1001, 0, ID), peer, self.proc))
        self.runs(70, NEIGHBOUR)  # its number is another's by now
        self.assertFalse(is_expected_peer(ProxySocket("", 1001, 70, ID), peer, self.proc))

    def test_a_process(self) -> None:
        """The child itself."""
        expected = ProxySocket("", 0, 70)
        self.assertTrue(is_expected_peer(expected, PeerCredentials(70, 0, 0)))
        self.assertFalse(is_expected_peer(expected, PeerCredentials(71, 0, 0)))
        self.assertFalse(is_expected_peer(expected, PeerCredentials(70, 5, 0)))


class OwnerTests(SynchronousTestCase):
    """Sockets below another user's folder, which root's commands connect to."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.server = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.server.close)
        self.server.bind(str(self.folder / "ipc.sock"))
        self.server.listen()

    def listened_at_by(self, uid: int) -> None:
        self.patch(client, "peer_credentials", lambda connected: PeerCredentials(1, uid, 0))

    def test_the_desktops(self) -> None:
        """Its owner may listen there, or root; nobody else, and not by a link."""
        path = str(self.folder / "ipc.sock")
        for uid in (7, 0):
            self.listened_at_by(uid)
            client.connect_unix(path, 7, 5).close()
        self.listened_at_by(8)
        self.assertRaises(PermissionError, client.connect_unix, path, 7, 5)
        self.listened_at_by(7)
        (self.folder / "link").symlink_to(path)
        self.assertRaises(NotASocket, client.connect_unix, str(self.folder / "link"), 7, 5)

    def test_the_operators(self) -> None:
        """A link in its place is nobody who answers."""
        self.assertTrue(is_listening(self.folder / "ipc.sock"))
        (self.folder / "link").symlink_to(self.folder / "ipc.sock")
        self.assertFalse(is_listening(self.folder / "link"))


class Talker(Protocol):
    """Speaks at once."""

    def connectionMade(self) -> None:
        self.transport.write(b"secret")


class EndpointTests(TestCase):
    """Real connections, to sockets of this very process."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "proxy.sock"
        self.told: Deferred[tuple[str, str]] = Deferred()
        self.right = ProxySocket(str(self.path), os.geteuid(), os.getpid())

    def listen(self, path: Path) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        self.addCleanup(made.close)
        made.bind(str(path))
        made.listen()
        return made

    def connect(self, expected: ProxySocket, protocol: type[Protocol] = Talker) -> Deferred[Any]:
        def told(proxy_id: str, why: str) -> None:
            self.told.callback((proxy_id, why))

        endpoint = proxy_endpoint(
            reactor, ProxyInstance("p", "unix:/x", 0.0, socket=expected), told
        )
        return endpoint.connect(Factory.forProtocol(protocol))

    async def heard(self, taken: socket.socket) -> bytes:
        """What came, or nothing at the end; also, nothing keeps the socket open by its name."""
        taken.setblocking(False)
        while True:
            try:
                heard = taken.recv(9)
                break
            except BlockingIOError:
                await deferLater(reactor, 0.01)
        files = Path("/proc/self/fd")
        links = [os.readlink(each) for each in files.iterdir() if each.is_symlink()]
        self.assertNotIn(str(self.path), links)
        return heard

    async def _right(self) -> None:
        server = self.listen(self.path)
        made = await self.connect(self.right)
        taken, _ = server.accept()
        with taken:
            self.assertEqual(await self.heard(taken), b"secret")
            lost: Deferred[Any] = Deferred()
            made.connectionLost = lambda reason: lost.callback(None)
        await lost
        self.assertFalse(self.told.called)

    def test_right(self) -> Deferred[None]:
        """The protocol speaks to who listens, and hears of the end."""
        return Deferred.fromCoroutine(self._right())

    async def _wrong(self, expected: ProxySocket, says: str) -> None:
        server = self.listen(self.path)
        with self.assertRaises(UnexpectedPeer):
            await self.connect(expected)
        proxy_id, why = await self.told
        taken, _ = server.accept()
        with taken:
            self.assertEqual(await self.heard(taken), b"")
        self.assertEqual(proxy_id, "p")
        self.assertIn(says, why)

    def test_another_process(self) -> Deferred[None]:
        """Not a byte is sent to it, and its owner hears of it."""
        expected = ProxySocket(str(self.path), os.geteuid(), os.getppid())
        return Deferred.fromCoroutine(self._wrong(expected, f"process {os.getpid()} of user"))

    def test_another_user(self) -> Deferred[None]:
        """Not a byte either."""
        expected = ProxySocket(str(self.path), os.geteuid() + 1, os.getpid())
        return Deferred.fromCoroutine(self._wrong(expected, f"user {os.geteuid()} listens"))

    def test_another_container(self) -> Deferred[None]:
        """Nor to a process that is in none."""
        expected = ProxySocket(str(self.path), os.geteuid(), os.getpid(), ID)
        return Deferred.fromCoroutine(self._wrong(expected, "listens at"))

    async def _link(self, link: Path, target: Path) -> None:
        link.symlink_to(target)
        with self.assertRaises(UnexpectedPeer):
            await self.connect(self.right)
        self.assertIn("is not a socket", (await self.told)[1])

    def test_a_link(self) -> Deferred[None]:
        """Is not followed, though it leads to the right process: nobody is connected to."""
        server = self.listen(self.folder / "other")
        server.setblocking(False)
        done = Deferred.fromCoroutine(self._link(self.path, self.folder / "other"))
        return done.addCallback(lambda _: self.assertRaises(BlockingIOError, server.accept))

    def test_a_link_to_the_folder(self) -> None:
        """Is not followed either."""
        self.listen(self.path)
        (self.folder / "link").symlink_to(self.folder)
        with self.assertRaises(OSError), pinned_path(str(self.folder / "link" / "proxy.sock")):
            pass

    async def _absent(self) -> None:
        with self.assertRaises(FileNotFoundError):
            await self.connect(self.right)
        self.listen(self.path).close()
        with self.assertRaises(ConnectError):
            await self.connect(self.right)
        self.assertFalse(self.told.called)

    def test_absent(self) -> Deferred[None]:
        """Nothing there yet, or nobody who listens, is no wrong peer."""
        return Deferred.fromCoroutine(self._absent())

    def test_replaced_in_between(self) -> None:
        """What was found stays what is connected to, whatever takes its name."""
        first = self.listen(self.path)
        with pinned_path(str(self.path)) as there:
            self.path.unlink()
            self.listen(self.path).setblocking(False)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(there)
                first.setblocking(False)
                first.accept()[0].close()

    def test_other_things(self) -> None:
        """A file and a folder are no sockets."""
        self.path.touch()
        with self.assertRaises(NotASocket), pinned_path(str(self.path)):
            pass
        with self.assertRaises(NotASocket), pinned_path(str(self.folder)):
            pass

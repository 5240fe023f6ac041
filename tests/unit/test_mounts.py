"""The folder that a container without a network shares with the cloud, on a real file system."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners import socket_mount as module
from ctllm.cloud.spawners.connectivity import CONTAINER_USER
from ctllm.cloud.spawners.socket_mount import SocketMount
from ctllm.errors import BadConfiguration, ProxyUnavailable
from tests.unit.proxies_case import A

SOMEBODY = 60123
ROOT = os.geteuid() == 0


def at(**networks: int) -> Any:
    """A container, as an engine lists it, in these networks."""
    return SimpleNamespace(id="c0ffee", network_settings=SimpleNamespace(networks=networks))


class Case(SynchronousTestCase):
    """One proxy. The cloud is not root: to root it would not matter what is closed."""

    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="ctllm-"))  # sockets need short paths
        self.addCleanup(shutil.rmtree, self.state)
        self.become(SOMEBODY)
        self.clock = Clock()
        self.mounts = SocketMount(self.state, self.clock)
        self.mounts.check_host()
        if not ROOT:  # what the container makes is, to us, another user's
            self.patch(os, "geteuid", lambda: SOMEBODY)
            self.patch(module, "CONTAINER_USER", self.state.stat().st_uid)

    def become(self, user: int) -> None:
        """Be a cloud of this user's, if we may; until the end of the test."""
        if ROOT:
            os.chown(self.state, user, user)
            self.addCleanup(os.setegid, 0)
            self.addCleanup(os.seteuid, 0)  # before the group, which only root may change
            os.setegid(user)
            os.seteuid(user)

    def folder(self) -> Path:
        (found,) = (self.state / "sockets").iterdir()
        return found

    def make(self) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.mounts.provision(A)))

    def ready(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.mounts.container_started(A))

    def clear(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.mounts.deprovision(A)))

    def listen(self, name: str = "proxy.sock") -> Path:
        """Do as the proxy does."""
        path = self.folder() / name
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Have it be the container's."""
        if ROOT:
            os.seteuid(0)
            os.chown(path, CONTAINER_USER, os.getegid(), follow_symlinks=False)
            os.seteuid(SOMEBODY)

    def mode(self) -> int:
        return stat.S_IMODE(self.folder().stat().st_mode)

    def seal(self) -> None:
        self.make()
        self.listen()
        self.successResultOf(self.ready())


class MountTests(Case):
    """A container that does what it should."""

    def test_sealed_once_it_listens(self) -> None:
        """Its group may make the socket, and then nothing more; all of it can be removed."""
        attached = self.make()
        self.assertEqual((attached.group, self.mode()), (os.getegid(), 0o770))
        self.assertEqual(attached.host_config["NetworkMode"], "none")
        ready = self.ready()
        self.clock.pump([1, 1])
        self.assertNoResult(ready)
        self.listen()
        self.clock.advance(1)
        self.successResultOf(ready)
        self.assertEqual(self.mode(), 0o550)
        self.clear()
        self.assertEqual(list((self.state / "sockets").iterdir()), [])

    def test_nobody_waits_for_one_that_is_given_up(self) -> None:
        """Cancelling leaves no timer, and no open folder."""
        self.make()
        before = len(os.listdir("/proc/self/fd"))
        ready = self.ready()
        ready.addErrback(lambda _: None)
        ready.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_endpoint(self) -> None:
        """Its socket, if the folder is sealed and the container has no network; else none."""
        self.make()
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), "")
        self.listen()
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), "", "the folder is open")
        self.successResultOf(self.ready())
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), f"unix:{self.folder()}/proxy.sock")
        self.assertEqual(self.mounts.endpoint(A, at(x=1)), "")

    def test_whose_socket(self) -> None:
        """The container's user's, and a process of this container."""
        self.make()
        found = self.mounts.proxy_socket(A, at(none=1))
        self.assertEqual(found.path, f"{self.folder()}/proxy.sock")
        self.assertEqual(
            (found.uid, found.pid, found.container_id), (module.CONTAINER_USER, 0, "c0ffee")
        )

    def test_a_path_that_is_too_long(self) -> None:
        """Is said at the start, with what to do."""
        error = self.assertRaises(
            BadConfiguration, SocketMount(self.state / ("x" * 60), self.clock).check_host
        )
        self.assertIn("--state-dir", error.message)

    def test_a_cloud_of_the_containers_user(self) -> None:
        """Does not start: containers would own the folders."""
        self.patch(os, "geteuid", lambda: module.CONTAINER_USER)
        error = self.assertRaises(BadConfiguration, SocketMount(self.state, self.clock).check_host)
        self.assertIn(f"user {module.CONTAINER_USER}", error.message)
        self.assertIn("docker_network = bridge", error.message)


class SealTests(Case):
    """A container that does something else, before the folder is sealed or because it is not."""

    def refused(self) -> None:
        """It is not ready, and never reached; what is there goes."""
        self.failureResultOf(self.ready(), ProxyUnavailable)
        self.assertEqual(self.mode(), 0o550, "nothing more can be made, whatever is there")
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), "")
        self.clear()
        self.assertEqual(list((self.state / "sockets").iterdir()), [])

    def test_a_link(self) -> None:
        """Even one to a socket is none."""
        self.make()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(self.state / "other"))
        self.give(self.state / "other")
        link = self.folder() / "proxy.sock"
        link.symlink_to(self.state / "other")
        self.assertTrue(link.is_socket(), "so that this can fail")
        self.give(link)
        self.refused()
        self.assertTrue((self.state / "other").is_socket())

    def test_something_beside_it(self) -> None:
        """That could take its place later."""
        self.make()
        self.listen()
        self.listen("x")
        self.refused()

    def test_somebody_elses(self) -> None:
        """A socket that the cloud's own user made, or a file."""
        self.make()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(self.folder() / "proxy.sock"))
        if not ROOT:
            self.patch(module, "CONTAINER_USER", SOMEBODY)
        self.refused()
        self.make()
        (self.folder() / "proxy.sock").touch()
        self.give(self.folder() / "proxy.sock")
        self.refused()

    def test_opened_again(self) -> None:
        """What was sealed is looked at each time."""
        self.seal()
        for mode in (0o770, 0o750, 0o551, 0o1550):
            self.folder().chmod(mode)
            self.assertEqual(self.mounts.endpoint(A, at(none=1)), "", oct(mode))
        self.folder().chmod(0o550)
        self.assertNotEqual(self.mounts.endpoint(A, at(none=1)), "")

    def test_the_containers_folder(self) -> None:
        """Made by a cloud that ran as the containers' user: they may open it again."""
        self.seal()
        base = self.state / "sockets"
        if not ROOT:
            self.patch(module, "CONTAINER_USER", base.stat().st_uid)
        else:
            os.seteuid(0)
            os.chown(self.folder(), CONTAINER_USER, -1)
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), "")

    def test_a_link_to_a_folder(self) -> None:
        """Is neither opened, nor is what it leads to changed or removed."""
        self.make()
        folder, other = self.folder(), self.state / "other"
        other.mkdir(mode=0o750)
        (other / "precious").touch()
        folder.rmdir()
        folder.symlink_to(other)
        self.assertEqual(self.mounts.endpoint(A, at(none=1)), "")
        clearing = Deferred.fromCoroutine(self.mounts.deprovision(A))
        self.failureResultOf(clearing, OSError)
        self.assertEqual(stat.S_IMODE(other.stat().st_mode), 0o750)
        self.assertTrue((other / "precious").exists())

    def test_what_cannot_be_removed(self) -> None:
        """A folder of the container's own, with something in it: it is put aside, and said."""
        self.make()
        inner = self.folder() / "inner"
        inner.mkdir()
        (inner / "x").touch()
        self.give(inner)
        if not ROOT:
            inner.chmod(0o500)
            self.addCleanup(inner.chmod, 0o700)
        with capturedLogs() as events:
            self.clear()
        (aside,) = (self.state / "sockets").iterdir()
        self.assertTrue(aside.name.startswith("left-"))
        if not ROOT:
            (aside / "inner").chmod(0o700)
        self.assertEqual([event["path"] for event in events if "path" in event], [str(aside)])
        self.make()

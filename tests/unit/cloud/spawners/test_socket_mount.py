"""`ctllm.cloud.spawners.socket_mount`: directories on a real file system.

Most tests need two users, the cloud's and the container's, and so root to begin with.
"""

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
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.cloud.spawners.connectivity import CONTAINER_USER, ContainerConnectivity
from ctllm.cloud.spawners.socket_mount import SocketMount
from ctllm.errors import BadConfiguration, ProxyUnavailable
from tests.unit.cloud.proxies.manager_case import A

CLOUD_USER = 60123


def container_in(**networks: int) -> Any:
    """A container in these networks, as Docker lists it."""
    return SimpleNamespace(id="c0ffee", network_settings=SimpleNamespace(networks=networks))


class SocketMountCase(SynchronousTestCase):
    """The directory of one proxy of a cloud that is not root, to which modes would not matter."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("needs two users")
        self.state = Path(tempfile.mkdtemp(prefix="ctllm-"))  # sockets need short paths
        self.addCleanup(shutil.rmtree, self.state)
        self.switch_user(CLOUD_USER)
        self.clock = Clock()
        self.mount = SocketMount(self.state, self.clock)
        self.mount.check_host()

    def switch_user(self, user: int) -> None:
        """Switch to a user until the end of the test."""
        os.chown(self.state, user, user)
        self.addCleanup(os.setegid, 0)
        self.addCleanup(os.seteuid, 0)  # before the group, which only root may change
        os.setegid(user)
        os.seteuid(user)

    def directory(self) -> Path:
        (found,) = (self.state / "sockets").iterdir()
        return found

    def prepare(self) -> ContainerConnectivity:
        return self.successResultOf(Deferred.fromCoroutine(self.mount.prepare(A)))

    def container_started(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.mount.container_started(A))

    def provision_again(self, container: Any) -> bool:
        return self.successResultOf(
            Deferred.fromCoroutine(self.mount.provision_again(A, container))
        )

    def deprovision(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.mount.deprovision(A)))

    def listen(self, name: str = "proxy.sock") -> Path:
        """Create a socket, as the proxy does."""
        path = self.directory() / name
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        self.give_to_container(path)
        return path

    def give_to_container(self, path: Path) -> None:
        """Make the container's user the owner of a file."""
        os.seteuid(0)
        os.chown(path, CONTAINER_USER, os.getegid(), follow_symlinks=False)
        os.seteuid(CLOUD_USER)

    def mode(self) -> int:
        return stat.S_IMODE(self.directory().stat().st_mode)

    def seal(self) -> None:
        self.prepare()
        self.listen()
        self.successResultOf(self.container_started())


class SocketMountTests(SocketMountCase):
    def test_seals_the_directory_once_the_socket_exists(self) -> None:
        connectivity = self.prepare()
        self.assertEqual((connectivity.group, self.mode()), (os.getegid(), 0o770))
        self.assertEqual(connectivity.host_config["NetworkMode"], "none")
        sealing = self.container_started()
        self.clock.pump([1, 1])
        self.assertNoResult(sealing)
        self.listen()
        self.clock.advance(1)
        self.successResultOf(sealing)
        self.assertEqual(self.mode(), 0o550)
        self.deprovision()
        self.assertEqual(list((self.state / "sockets").iterdir()), [])

    def test_a_container_that_starts_again_gets_an_empty_directory_at_the_same_place(self) -> None:
        self.seal()
        directory = self.directory()
        container = container_in(none=1)
        container.networks, container.mounted_directories = {"none": 1}, [str(directory)]
        self.assertTrue(self.provision_again(container))
        self.assertEqual((self.directory(), self.mode()), (directory, 0o770))
        self.assertEqual(list(directory.iterdir()), [])

    def test_a_container_with_another_mount_or_a_network_does_not_start_again(self) -> None:
        self.seal()
        own = str(self.directory())
        for networks, mounted in (
            (["none"], []), (["none"], [own, "/"]), (["none"], ["/elsewhere"]), (["bridge"], [own]),
        ):  # fmt: skip
            container = container_in()
            container.networks = dict.fromkeys(networks, 1)
            container.mounted_directories = mounted
            self.assertFalse(self.provision_again(container), (networks, mounted))
        self.assertEqual(self.mode(), 0o550)

    def test_cancelling_leaves_no_timer_and_no_descriptor(self) -> None:
        self.prepare()
        before = len(os.listdir("/proc/self/fd"))
        sealing = self.container_started()
        sealing.addErrback(lambda _: None)
        sealing.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_endpoint_requires_a_sealed_directory_and_no_network(self) -> None:
        self.prepare()
        self.assertEqual(self.mount.endpoint(A, container_in(none=1)), "")
        self.listen()
        self.assertEqual(
            self.mount.endpoint(A, container_in(none=1)), "", "the directory is not sealed"
        )
        self.successResultOf(self.container_started())
        self.assertEqual(
            self.mount.endpoint(A, container_in(none=1)), f"unix:{self.directory()}/proxy.sock"
        )
        self.assertEqual(self.mount.endpoint(A, container_in(x=1)), "")

    def test_proxy_socket_requires_a_process_of_the_container(self) -> None:
        self.prepare()
        found = self.mount.proxy_socket(A, container_in(none=1))
        self.assertEqual(found.path, f"{self.directory()}/proxy.sock")
        self.assertEqual((found.uid, found.pid, found.container_id), (CONTAINER_USER, 0, "c0ffee"))


class CheckHostTests(SynchronousTestCase):
    def check_host(self, state_dir: Path, container_uid: int = CONTAINER_USER) -> str:
        mount = SocketMount(state_dir, Clock(), container_uid)
        return self.assertRaises(BadConfiguration, mount.check_host).message

    def test_refuses_a_path_that_is_too_long(self) -> None:
        self.assertIn("--state-dir", self.check_host(Path("/tmp", "x" * 100)))

    def test_refuses_to_run_as_the_containers_user(self) -> None:
        message = self.check_host(Path("/nonexistent"), container_uid=os.geteuid())
        self.assertIn(f"user {os.geteuid()}", message)
        self.assertIn("network = bridge", message)


class SharedDirectoryTests(SocketMountCase):
    """A directory that the cloud shares with a reverse proxy of its group."""

    def shared_mount(self, mode: int) -> SocketMount:
        directory = self.state / "shared"
        directory.mkdir()
        directory.chmod(mode)
        return SocketMount(self.state, self.clock, shared_dir=directory)

    def test_directories_are_in_it_and_its_mode_remains(self) -> None:
        mount = self.shared_mount(0o710)
        mount.check_host()
        provisioning = Deferred.fromCoroutine(mount.prepare(A))
        self.assertEqual(self.successResultOf(provisioning).group, CLOUD_USER)
        (found,) = (self.state / "shared").iterdir()
        self.assertEqual(found.stat().st_gid, CLOUD_USER)
        self.assertEqual(stat.S_IMODE((self.state / "shared").stat().st_mode), 0o710)

    def test_refuses_one_that_others_can_enter_or_its_group_change(self) -> None:
        mount = self.shared_mount(0o710)
        for mode in (0o711, 0o730, 0o750, 0o704):
            (self.state / "shared").chmod(mode)
            message = self.assertRaises(BadConfiguration, mount.check_host).message
            self.assertIn("sockets_dir", message)
            self.assertIn("chmod 0710", message)

    def test_refuses_one_of_another_user_a_link_and_a_missing_one(self) -> None:
        mount = self.shared_mount(0o710)
        os.seteuid(0)
        os.chown(self.state / "shared", 0, CLOUD_USER)
        os.seteuid(CLOUD_USER)
        message = self.assertRaises(BadConfiguration, mount.check_host).message
        self.assertIn(f"chown {CLOUD_USER}", message)
        (self.state / "link").symlink_to(self.state / "sockets")
        for name, expected in (("link", "chmod"), ("missing", "install -d")):
            mount = SocketMount(self.state, self.clock, shared_dir=self.state / name)
            message = self.assertRaises(BadConfiguration, mount.check_host).message
            self.assertIn(expected, message)


class MaliciousContainerTests(SocketMountCase):
    """Containers that create something else, or whose directory is not sealed."""

    def assert_refused(self) -> None:
        """Sealing fails, there is no endpoint, and the directory can be removed."""
        self.failureResultOf(self.container_started(), ProxyUnavailable)
        self.assertEqual(self.mode(), 0o550, "the directory is still writable")
        self.assertEqual(self.mount.endpoint(A, container_in(none=1)), "")
        self.deprovision()
        self.assertEqual(list((self.state / "sockets").iterdir()), [])

    def test_refuses_a_symbolic_link_to_a_socket(self) -> None:
        self.prepare()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self.state / "other"))
        self.give_to_container(self.state / "other")
        link = self.directory() / "proxy.sock"
        link.symlink_to(self.state / "other")
        self.assertTrue(link.is_socket(), "the test needs a link that looks like a socket")
        self.give_to_container(link)
        self.assert_refused()
        self.assertTrue((self.state / "other").is_socket())

    def test_refuses_a_second_file(self) -> None:
        self.prepare()
        self.listen()
        self.listen("x")
        self.assert_refused()

    def test_refuses_a_socket_of_another_user_and_a_file(self) -> None:
        self.prepare()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self.directory() / "proxy.sock"))
        self.assert_refused()
        self.prepare()
        (self.directory() / "proxy.sock").touch()
        self.give_to_container(self.directory() / "proxy.sock")
        self.assert_refused()

    def test_checks_the_seal_each_time(self) -> None:
        self.seal()
        for mode in (0o770, 0o750, 0o551, 0o1550):
            self.directory().chmod(mode)
            self.assertEqual(self.mount.endpoint(A, container_in(none=1)), "", oct(mode))
        self.directory().chmod(0o550)
        self.assertNotEqual(self.mount.endpoint(A, container_in(none=1)), "")

    def test_refuses_a_directory_of_the_containers_user(self) -> None:
        self.seal()
        os.seteuid(0)
        os.chown(self.directory(), CONTAINER_USER, -1)
        self.assertEqual(self.mount.endpoint(A, container_in(none=1)), "")

    def test_does_not_follow_a_symbolic_link_to_a_directory(self) -> None:
        self.prepare()
        directory, other = self.directory(), self.state / "other"
        other.mkdir(mode=0o750)
        (other / "precious").touch()
        directory.rmdir()
        directory.symlink_to(other)
        self.assertEqual(self.mount.endpoint(A, container_in(none=1)), "")
        deprovisioning = Deferred.fromCoroutine(self.mount.deprovision(A))
        self.failureResultOf(deprovisioning, OSError)
        self.assertEqual(stat.S_IMODE(other.stat().st_mode), 0o750)
        self.assertTrue((other / "precious").exists())

    def test_renames_a_directory_that_it_cannot_remove(self) -> None:
        self.prepare()
        inner = self.directory() / "inner"
        inner.mkdir()
        (inner / "x").touch()
        self.give_to_container(inner)
        with capturedLogs() as events:
            self.deprovision()
        (renamed,) = (self.state / "sockets").iterdir()
        self.assertTrue(renamed.name.startswith("left-"))
        self.assertEqual([event["path"] for event in events if "path" in event], [str(renamed)])
        self.prepare()

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
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.runtimes.mounts import Mounts
from ctllm.errors import BadConfiguration
from tests.unit.proxies_case import A

SOMEBODY = 60123


class MountTests(SynchronousTestCase):
    """One proxy. The cloud is not root: to root it would not matter what is closed."""

    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="ctllm-"))  # sockets need short paths
        self.addCleanup(shutil.rmtree, self.state)
        if os.geteuid() == 0:
            os.chown(self.state, SOMEBODY, SOMEBODY)
            self.addCleanup(os.setegid, 0)
            self.addCleanup(os.seteuid, 0)  # before the group, which only root may change
            os.setegid(SOMEBODY)
            os.seteuid(SOMEBODY)
        self.clock = Clock()
        self.mounts = Mounts(self.state, self.clock)
        self.mounts.open()

    def folder(self) -> Path:
        (found,) = (self.state / "sockets").iterdir()
        return found

    def listen(self) -> None:
        """Do as the proxy does."""
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(self.folder() / "proxy.sock"))

    def mode(self) -> int:
        return stat.S_IMODE(self.folder().stat().st_mode)

    def test_sealed_once_it_listens(self) -> None:
        """Its group may make the socket, and then nothing more; all of it can be removed."""
        attached = self.successResultOf(Deferred.fromCoroutine(self.mounts.make(A)))
        self.assertEqual((attached.group, self.mode()), (os.getegid(), 0o770))
        self.assertEqual(attached.host["NetworkMode"], "none")
        ready = Deferred.fromCoroutine(self.mounts.ready(A))
        self.clock.pump([1, 1])
        self.assertNoResult(ready)
        self.listen()
        self.clock.advance(1)
        self.successResultOf(ready)
        self.assertEqual(self.mode(), 0o550)
        self.successResultOf(Deferred.fromCoroutine(self.mounts.clear(A)))
        self.assertEqual(list((self.state / "sockets").iterdir()), [])

    def test_nobody_waits_for_one_that_is_given_up(self) -> None:
        """Cancelling leaves no timer."""
        self.successResultOf(Deferred.fromCoroutine(self.mounts.make(A)))
        ready = Deferred.fromCoroutine(self.mounts.ready(A))
        ready.addErrback(lambda _: None)
        ready.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endpoint(self) -> None:
        """Its socket, if it is there and the container has no network; else it is not reached."""
        without: Any = SimpleNamespace(network_settings=SimpleNamespace(networks={"none": 1}))
        within: Any = SimpleNamespace(network_settings=SimpleNamespace(networks={"x": 1}))
        self.successResultOf(Deferred.fromCoroutine(self.mounts.make(A)))
        self.assertEqual(self.mounts.endpoint(A, without), "")
        self.listen()
        self.assertEqual(self.mounts.endpoint(A, without), f"unix:{self.folder()}/proxy.sock")
        self.assertEqual(self.mounts.endpoint(A, within), "")

    def test_a_path_that_is_too_long(self) -> None:
        """Is said at the start, with what to do."""
        error = self.assertRaises(
            BadConfiguration, Mounts(self.state / ("x" * 60), self.clock).open
        )
        self.assertIn("--state", error.message)

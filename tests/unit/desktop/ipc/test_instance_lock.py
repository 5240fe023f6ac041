"""`ctllm.desktop.ipc.instance_lock`: one daemon for each state folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.errors import BadConfiguration, CtllmError
from ctllm.ipc import protocol

SECRET = "5e" * 32


class InstanceLockTests(SynchronousTestCase):
    def test_second_daemon_is_refused_until_the_lock_is_released(self) -> None:
        state = Path(self.mktemp())
        first, second = InstanceLock(state), InstanceLock(state)
        first.check()
        self.assertFalse(state.exists())
        first.acquire()
        address = protocol.DaemonAddress(4711, SECRET, 1234)
        state.joinpath(*protocol.ADDRESS_FILE).write_bytes(msgspec.json.encode(address))
        for attempt in (second.acquire, second.check):
            message = self.assertRaises(BadConfiguration, attempt).message
            self.assertIn("process 1234, IPC at 127.0.0.1:4711", message)
            self.assertNotIn(SECRET, message)
        first.release()
        second.check()
        second.acquire()
        self.assertRaises(BadConfiguration, first.acquire)
        second.release()

    def test_error_for_an_unusable_folder_names_the_option(self) -> None:
        file = Path(self.mktemp())
        file.write_text("")
        error: CtllmError = self.assertRaises(BadConfiguration, InstanceLock(file).acquire)
        self.assertIn("--state-dir", error.message)

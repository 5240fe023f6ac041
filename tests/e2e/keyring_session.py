"""A session bus with GNOME Keyring, as a login to a desktop session starts them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import open_dbus_connection
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ChildProcess, Cluster, wait_until

PASSWORD = b"correct horse"
SECRETS = "org.freedesktop.secrets"
LOGIN_COLLECTION = "/org/freedesktop/secrets/collection/login"


def program(name: str) -> str:
    """Return the path of a program of the system."""
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed: make system"
    return path


class KeyringSession:
    """The bus, and the keyring on it. The cluster stops their processes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._home = cluster.directory / "keyring-home"
        self._bus: ChildProcess
        self.keyring: ChildProcess
        self._prompter: ChildProcess | None = None

    @property
    def address(self) -> str:
        """The address of the bus."""
        return next(line for line in self._bus.output.splitlines() if line.startswith("unix:"))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program in this session. It has no screen."""
        return {
            "DBUS_SESSION_BUS_ADDRESS": self.address, "HOME": str(self._home),
            "XDG_RUNTIME_DIR": str(self._home / "run"), "XDG_DATA_HOME": str(self._home / "data"),
        }  # fmt: skip

    async def start_bus(self) -> None:
        """Start the bus. Nothing on it is activated but by the test."""
        (self._home / "run").mkdir(parents=True, mode=0o700)
        config = self._home / "bus.conf"
        config.write_text(_BUS.format(self._home / "run"))
        argv = [program("dbus-daemon"), f"--config-file={config}", "--nofork", "--print-address"]
        self._bus = self._start("dbus-daemon", argv, {"PATH": "/usr/bin:/bin"})
        await wait_until(lambda: "guid=" in self._bus.output, "the session bus")

    async def start_keyring(self) -> None:
        """Start the keyring, unlocked with the password of the user's login."""
        argv = [
            program("gnome-keyring-daemon"), "--foreground", "--unlock", "--components=secrets",
        ]  # fmt: skip
        self.keyring = self._start("gnome-keyring", argv, {"PATH": "/bin", **self.environment})
        self.keyring.transport.write(PASSWORD)
        self.keyring.transport.closeStdin()
        await wait_until(self._is_unlocked, f"the keyring:\n{self.keyring.output}")

    async def lock(self) -> None:
        """Lock the keyring, as the user can in its program."""
        service = DBusAddress("/org/freedesktop/secrets", SECRETS, "org.freedesktop.Secret.Service")
        await self._call(new_method_call(service, "Lock", "ao", ([LOGIN_COLLECTION],)))
        assert not await self._is_unlocked()

    async def start_prompter(self, answer: str) -> ChildProcess:
        """Let every dialog get this answer: silent or dismiss."""
        if self._prompter is not None:
            await self._prompter.stop()
        self._prompter = process = self._cluster.start_process(
            "prompter", "python", "-m", "tests.e2e.keyring_prompter", self.address, answer
        )
        await wait_until(lambda: "ready" in process.output, "the prompter")
        return process

    async def _is_unlocked(self) -> bool:
        properties = DBusAddress(LOGIN_COLLECTION, SECRETS, "org.freedesktop.DBus.Properties")
        arguments = ("org.freedesktop.Secret.Collection", "Locked")
        body = await self._call(new_method_call(properties, "Get", "ss", arguments))
        return body[0] == ("b", False)

    async def _call(self, message: Any) -> Any:
        def call() -> Any:
            connection = open_dbus_connection(bus=self.address)
            try:
                return connection.send_and_get_reply(message, timeout=10).body
            finally:
                connection.close()

        return await deferToThread(call)

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> ChildProcess:
        process = ChildProcess(name, argv, env)
        self._cluster.processes.append(process)
        return process

    def files(self) -> list[Path]:
        """Return the files of the keyring."""
        return [path for path in (self._home / "data").rglob("*") if path.is_file()]


_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:dir={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""

"""A Docker Engine for the tests, with a socket, data and containers of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctllm import __version__
from tests.e2e.certificates import CertificateAuthority
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
#: The client of the engine's package, which can build; PATH may have another one first.
DOCKER = "/usr/bin/docker"
#: The tags of the tests' base image and of the streaming proxy's image.
BASE, IMAGE = "local-python:3.11", f"ctllm-streaming-proxy:{__version__}"
START_TIMEOUT, STOP_TIMEOUT = 60.0, 30.0  # seconds


class Dockerd:
    """An engine in `folder`, which can be started and stopped repeatedly.

    With `namespace` it runs in the network namespace of this name, as if on another machine.
    """

    def __init__(self, folder: Path, namespace: str = "") -> None:
        self.folder = folder
        self._prefix: list[str] = []
        self._options: list[str] = []
        if namespace:
            self._prefix = ["nsenter", f"--net=/run/netns/{namespace}"]
            # Of its own: two engines remove each other's containers from a common one.
            self._options = [f"--cgroup-parent=/{namespace}"]
        self.socket = folder / "docker.sock"
        self.address = f"unix://{self.socket}"
        self.tls_address = f"tcp://127.0.0.1:{free_port()}"
        authority = CertificateAuthority("the tests'")
        server = authority.issue(folder / "engine")
        self.certificates = authority.issue(folder / "client")
        self.tls = ["--tlsverify", f"--tlscacert={server}/ca.pem", f"--tlscert={server}/cert.pem",
                    f"--tlskey={server}/key.pem", "-H", self.tls_address]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it with additional options; return when it responds, fail if it cannot run."""
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin")
        assert program, "These tests need a Docker Engine: install docker.io."
        assert os.geteuid() == 0, "These tests start a Docker Engine, which needs root."
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        folders = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec",
                   f"--pidfile={self.folder}/pid"]  # fmt: skip
        addresses = ["-H", self.address, *self.tls]
        argv = [*self._prefix, program, *folders, *addresses, *self._options, *options]
        self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        log.close()
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_responding():
            assert self._process.poll() is None, f"dockerd exited:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"dockerd does not respond:\n{self.log_tail()}"
            time.sleep(0.1)

    def is_responding(self) -> bool:
        """Return whether it responds to a ping."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(4096)
        except OSError:
            return False

    def log_tail(self) -> str:
        """Return the end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Terminate it and wait until it has exited."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def send_signal(self, number: int) -> None:
        """Send it a signal, for example to freeze it."""
        assert self._process is not None
        self._process.send_signal(number)

    def docker(self, *arguments: str, data: bytes | None = None) -> str:
        """Run the docker command against it; return its output, fail if the command fails."""
        result = subprocess.run(
            [DOCKER, *arguments],
            input=data,
            capture_output=True,
            env={**os.environ, "DOCKER_HOST": self.address},
            check=False,
        )
        assert result.returncode == 0, f"docker {' '.join(arguments)}: {result.stderr.decode()}"
        return result.stdout.decode().strip()

    def build(self) -> None:
        """Build a base image, since no registry is used, and the streaming proxy's image on it."""
        variables = {"DOCKER": DOCKER, "DOCKER_HOST": self.address, "PYTHON": sys.executable}
        for argv in (["tests/base-image", BASE], ["containers/build", BASE]):
            result = subprocess.run(
                argv, cwd=ROOT, capture_output=True, env={**os.environ, **variables}, check=False
            )
            assert result.returncode == 0, (
                f"{argv}:\n{result.stdout.decode()}\n{result.stderr.decode()}"
            )


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points below a folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [each for each in mounts if each.startswith(f"{folder}/")]


@contextmanager
def dockerd(*options: str, namespace: str = "") -> Iterator[Dockerd]:
    """Start an engine with additional options; remove what it has afterwards."""
    # Not below pytest's directories: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
    engine = Dockerd(folder, namespace)
    try:
        engine.start(*options)
        yield engine
    finally:
        try:
            if engine.is_responding():
                if containers := engine.docker("ps", "-aq").split():
                    engine.docker("rm", "-f", "-v", *containers)
                label = "label=ctllm.instance"
                if networks := engine.docker("network", "ls", "-q", "-f", label).split():
                    engine.docker("network", "rm", *networks)
            engine.stop()
        finally:
            for each in reversed(mounts_below(folder)):
                subprocess.run(["umount", "-l", each], check=False)
            shutil.rmtree(folder, ignore_errors=True)

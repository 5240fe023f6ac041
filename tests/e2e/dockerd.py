"""A Docker engine of the tests' own: its socket, its data and its containers are nobody else's."""

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
#: The one that comes with the engine, which builds; another may be first on the path.
DOCKER = "/usr/bin/docker"
#: What the tests call the base image, and what its build names the proxy's.
BASE, IMAGE = "local-python:3.11", f"ctllm-streaming-proxy:{__version__}"
STARTS, ENDS = 60.0, 30.0  # seconds that it may take


class Dockerd:
    """An engine in `folder`; `start` and `stop` may be called again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.address = f"unix://{self.socket}"
        self.tls_address = f"tcp://127.0.0.1:{free_port()}"
        authority = CertificateAuthority("the tests'")
        own = authority.issue(folder / "engine")
        self.certificates = authority.issue(folder / "client")
        self.tls = ["--tlsverify", f"--tlscacert={own}/ca.pem", f"--tlscert={own}/cert.pem",
                    f"--tlskey={own}/key.pem", "-H", self.tls_address]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, with more options, and wait until it answers; fails where it cannot run."""
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin")
        assert program, "these tests need a Docker engine: install docker.io"
        assert os.geteuid() == 0, "these tests start a Docker engine, which only root can"
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        folders = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec",
                   f"--pidfile={self.folder}/pid"]  # fmt: skip
        argv = [program, *folders, "-H", self.address, *self.tls, *options]
        self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        log.close()
        end = time.monotonic() + STARTS
        while not self.answers():
            assert self._process.poll() is None, f"dockerd ended:\n{self.printed()}"
            assert time.monotonic() < end, f"dockerd does not answer:\n{self.printed()}"
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it answers a ping."""
        try:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(5)
                wire.connect(str(self.socket))
                wire.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in wire.recv(4096)
        except OSError:
            return False

    def printed(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End it by its own id, and wait."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(ENDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def send(self, number: int) -> None:
        """Send it a signal, as to freeze it."""
        assert self._process is not None
        self._process.send_signal(number)

    def docker(self, *arguments: str, data: bytes | None = None) -> str:
        """Run the docker command against it; gives what it printed, fails if it failed."""
        ran = subprocess.run(
            [DOCKER, *arguments],
            input=data,
            capture_output=True,
            env={**os.environ, "DOCKER_HOST": self.address},
            check=False,
        )
        assert ran.returncode == 0, f"docker {' '.join(arguments)}: {ran.stderr.decode()}"
        return ran.stdout.decode().strip()

    def build(self) -> None:
        """Make a base image, for there is no registry to ask, and the streaming proxy's on it."""
        programs = {"DOCKER": DOCKER, "DOCKER_HOST": self.address, "PYTHON": sys.executable}
        for argv in (["tests/base-image", BASE], ["containers/build", BASE]):
            ran = subprocess.run(
                argv, cwd=ROOT, capture_output=True, env={**os.environ, **programs}, check=False
            )
            assert ran.returncode == 0, f"{argv}:\n{ran.stdout.decode()}\n{ran.stderr.decode()}"


@contextmanager
def dockerd() -> Iterator[Dockerd]:
    """An engine that runs; afterwards no container, mount or file of it is left."""
    # Not below pytest's folders: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
    engine = Dockerd(folder)
    try:
        engine.start()
        yield engine
    finally:
        try:
            if engine.answers():
                for each in engine.docker("ps", "-aq").split():
                    engine.docker("rm", "-f", "-v", each)
                for each in engine.docker(
                    "network", "ls", "-q", "-f", "label=ctllm.instance"
                ).split():
                    engine.docker("network", "rm", each)
            engine.stop()
        finally:
            with open("/proc/mounts") as mounts:
                below = [
                    line.split()[1] for line in mounts if line.split()[1].startswith(f"{folder}/")
                ]
            for each in reversed(below):
                subprocess.run(["umount", "-l", each], check=False)
            shutil.rmtree(folder, ignore_errors=True)

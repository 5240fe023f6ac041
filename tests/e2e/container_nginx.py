"""nginx as the entry point of its container starts it, in a Debian whose nginx has HTTP/3."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.e2e.debian_system import DebianSystem
from tests.e2e.nginx import START_TIMEOUT, sockets_of
from tests.e2e.test_tls import create_certificate
from tests.ports import free_port

CONTAINER = Path(__file__).parents[2] / "containers/nginx-proxy"
DOMAIN, APP = "ctllm.test", "app.ctllm.test"
#: What the container has in its image, or as a volume.
PROGRAMS, TEMPLATES = "/usr/local/bin", "/etc/ctllm/nginx"
CERTIFICATES = "/etc/ctllm/certificates"
#: The ports of nginx that only its container reaches.
INSIDE_PORTS = ("8081", "8082", "8444")


class ContainerNginx:
    """The entry point and the templates of containers/nginx-proxy, for one cloud.

    Its ports are free ones. It has a certificate for `APP`, which clients trust: `authority`.
    """

    def __init__(self, system: DebianSystem, backend: str) -> None:
        self._system, self._backend = system, backend
        # Short, as the paths of sockets have to be.
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-nginx-"))
        self.authorizer = self.folder / "authorize.sock"
        self.port, self.plain_port = free_port(), free_port()
        self.authority = self.folder / "certificate.pem"
        self._certificates = 0
        self._process: subprocess.Popen[bytes] | None = None

    def renew_certificate(self) -> None:
        """Issue another certificate, and switch to it as certbot's container does."""
        self._certificates += 1
        current = self._system.file(CERTIFICATES) / "current"
        target = current.with_name(str(self._certificates))
        target.mkdir(parents=True)
        key, certificate = create_certificate(self.folder, APP)
        shutil.copy(key, target / "privkey.pem")
        shutil.copy(certificate, target / "fullchain.pem")
        link = current.with_name("next")
        link.symlink_to(target.name)
        link.rename(current)

    def start(self, state_dir: Path, **environ: object) -> None:
        """Start it for the cloud with this state; it listens when this returns."""
        self._install()
        self.renew_certificate()
        sockets = self.folder / "sockets"
        sockets.symlink_to(sockets_of(state_dir))
        values = {
            "DOMAIN": DOMAIN, "BACKEND": self._backend, "AUTHORIZER": f"unix:{self.authorizer}",
            "SOCKETS": sockets, "STATIC_SITE": "127.0.0.1:1", "WEB_APP": "127.0.0.1:1",
            "RESOLVER": "127.0.0.1", "HTTPS_PORT": f"127.0.0.1:{self.port}", **environ,
        }  # fmt: skip
        argv = self._system.command(
            "sh", f"{PROGRAMS}/entrypoint",
            env=[f"{name}={value}" for name, value in values.items()], shared=tempfile.gettempdir(),
        )  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_listening():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _install(self) -> None:
        """Put the files of the image in place, with the ports of this nginx."""
        ports = {"8443": self.port, "8080": self.plain_port}
        ports |= {each: free_port() for each in INSIDE_PORTS}
        for each in (PROGRAMS, TEMPLATES, CERTIFICATES, "/run/nginx"):
            shutil.rmtree(self._system.file(each), ignore_errors=True)
            self._system.file(each).mkdir(parents=True)
        files = [(CONTAINER / name, PROGRAMS) for name in ("entrypoint", "watch-certificate")]
        for file, folder in (
            *files,
            *((each, TEMPLATES) for each in CONTAINER.glob("templates/*")),
        ):
            text = file.read_text()
            for port, replacement in ports.items():
                text = text.replace(port, str(replacement))
            if file.name == "nginx.conf.template":  # the image has a user; this one is root
                text = f"user root;\n{text}"
            (self._system.file(folder) / file.name).write_text(text)

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        """Return what it has printed: errors, and a line for each request."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """End it, with its workers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        shutil.rmtree(self.folder)

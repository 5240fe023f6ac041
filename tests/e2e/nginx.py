"""nginx in front of a cloud, with the templates of containers/nginx-proxy, as plain HTTP."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.ports import free_port

TEMPLATES = Path(__file__).parents[2] / "containers/nginx-proxy/templates"
#: As in the container: a folder that the templates name.
INSTALLED = "/run/nginx"
START_TIMEOUT = 10.0
SERVERS = """
server {{
    listen {host}:{port} backlog=4096;
    listen {host}:{http2_port} http2;
    include {folder}/headers.conf;
    include {folder}/refusal_locations.conf;
    location / {{ error_page 418 = @ctllm; return 418; }}
    include {folder}/direct_routes.conf;
}}
"""


class Nginx:
    """Sends requests to the streaming proxies itself, for a cloud on `backend`.

    `folder` is short, as the paths of sockets have to be. `values` are for the templates.
    """

    def __init__(self, backend: str, **values: str) -> None:
        self.port, self.http2_port = free_port(), free_port()
        #: Where it listens, and the command that runs it in another network namespace.
        self.host = "127.0.0.1"
        self.command: tuple[str, ...] = ()
        self.backend, self._values = backend, values
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-nginx-"))
        self.authorizer = self.folder / "authorize.sock"
        self.access_log, self.logs_requests = self.folder / "access.log", False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the master."""
        assert self._process is not None
        return self._process.pid

    def start(self, state_dir: Path) -> None:
        """Start it, unless it runs; it listens when this returns.

        `state_dir` is that of the cloud, which has the sockets of streaming proxies.
        """
        if self._process is not None:
            return
        sockets = self.folder / "sockets"
        sockets.symlink_to(sockets_of(state_dir))
        values = {
            "ROUTES": "direct", "BACKEND": self.backend, "AUTHORIZER": f"unix:{self.authorizer}",
            "SOCKETS": str(sockets), "FILES": "8192", "CONNECTIONS": "8192", "WORKERS": "auto",
            "CLIENT_REQUESTS_PER_SECOND": "100000", "BURST": "200000", "RESOLVER": "127.0.0.1",
            "CLIENT_CONNECTIONS": "60000", "ALT_SVC": "", "DOMAIN": "ctllm.test",
            "STATIC_SITE": "127.0.0.1:1", "WEB_APP": "127.0.0.1:1", **self._values,
        }  # fmt: skip
        for template in TEMPLATES.glob("*.template"):
            text = template.read_text().replace(INSTALLED, str(self.folder))
            for name, value in values.items():
                text = text.replace(f"${{{name}}}", value)
            (self.folder / template.stem).write_text(text)
        servers = SERVERS.format(
            host=self.host, port=self.port, http2_port=self.http2_port, folder=self.folder
        )
        (self.folder / "servers.conf").write_text(servers)
        (self.folder / "tls.conf").write_text("")
        (self.folder / "stream.conf").write_text("")  # as where nginx cannot do it
        (self.folder / "headers.conf").write_text("")  # for TLS only
        if self.logs_requests:
            log = self.folder / "log.conf"
            log.write_text(log.read_text().replace("/dev/stdout", str(self.access_log)))
        else:
            (self.folder / "log.conf").write_text("access_log off;")
        main = self.folder / "nginx.conf"
        text = main.read_text().replace("error_log stderr", f"error_log {self.folder}/errors")
        main.write_text("user root;\n" + text)
        self._run()

    def _run(self) -> None:
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert nginx, "These tests need nginx: install nginx-light."
        argv = [*self.command, nginx, "-q", "-c", str(self.folder / "nginx.conf"), "-e", "stderr"]
        checked = subprocess.run([*argv, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        self._process = subprocess.Popen(argv)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_listening():
            assert time.monotonic() < deadline, "nginx does not listen."
            time.sleep(0.02)

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it, with its workers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        shutil.rmtree(self.folder)


def sockets_of(state_dir: Path) -> Path:
    """Return the folder of a cloud's sockets, by a path that is the same after its next start."""
    of_containers = state_dir / "sockets"
    if of_containers.exists():
        return of_containers
    # Where its paths would be too long, each start has a new folder, to which it sets this link.
    elsewhere = state_dir / "run" / "elsewhere"
    return elsewhere if elsewhere.is_symlink() else elsewhere.parent

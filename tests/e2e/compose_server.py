"""The whole server of containers/compose.yaml, with pebble as the certificate authority.

Its names are ctllm.test and app.ctllm.test, at a loopback address of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from ctllm import __version__
from ctllm.server.env_file import fill_template
from tests.e2e.cluster import Cluster
from tests.e2e.dockerd import BASE, DOCKER, ROOT, Dockerd
from tests.e2e.test_tls import create_certificate

DOMAIN, APP = "ctllm.test", "app.ctllm.test"
#: The base image of all containers but api-backend's, and Debian's packages in it.
SERVER_BASE = "local-server:1"
PACKAGES = (
    "nginx nginx-common libcrypt1 libpcre2-8-0 certbot python3-certbot python3-acme tzdata "
    "python3-josepy python3-openssl python3-cryptography python3-cffi-backend python3-requests "
    "python3-urllib3 python3-idna python3-chardet python3-certifi python3-configargparse "
    "python3-configobj python3-distro python3-parsedatetime python3-pkg-resources python3-rfc3339 "
    "python3-tz python3-six python3-distutils ca-certificates"
).split()
IMAGES = ("api-backend", "web-app", "nginx-proxy", "certbot")
SERVICES = ("api-backend", "nginx-proxy", "static-site", "web-app", "certbot")
#: What one address may do in a second; a burst of twice as many is allowed.
REQUESTS_PER_SECOND = 50
#: The command of another version.
CTLLM = """
import sys
import ctllm
ctllm.__version__ = "{version}"
from ctllm.cli import main
sys.argv[0] = "ctllm"
sys.exit(main())
"""
#: What makes an image that of another version.
NEXT_BACKEND = """
FROM ctllm-api-backend:{old}
USER root
RUN sed -i 's/^__version__ = .*/__version__ = "{new}"/' /opt/ctllm/ctllm/__init__.py
USER 10001:10001
"""
OVERRIDE = """
services:
  pebble:
    image: "{base}"
    entrypoint: [/usr/bin/pebble, -config, /pebble/config.json, -strict]
    environment: {{PEBBLE_VA_NOSLEEP: "1", PEBBLE_WFE_NONCEREJECT: "0"}}
    volumes: ["/usr/bin/pebble:/usr/bin/pebble:ro", "{pebble}:/pebble:ro"]
    networks: {{inbound: {{}}, outbound: {{}}}}
    ports: ["{address}:15000:15000"]
  nginx-proxy:
    networks: {{inbound: {{aliases: [{domain}, app.{domain}]}}, pages: {{}}}}
  certbot:
    environment: {{REQUESTS_CA_BUNDLE: /pebble/certificate.pem}}
    volumes: ["{pebble}:/pebble:ro"]
"""


@dataclass(frozen=True)
class Response:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes


class ComposeServer:
    """The server in `folder`, on an engine that has the images."""

    def __init__(self, docker: Dockerd, folder: Path, address: str) -> None:
        self.docker, self.folder, self.address = docker, folder, address
        self.sockets = folder / "sockets"
        self.root = folder / "root.pem"  # of pebble, once it has begun
        self._write_files()

    def _write_files(self) -> None:
        self.docker.docker("version")  # it answers
        done = self.ctllm("init", f"--domain={DOMAIN}", f"--email=me@{DOMAIN}", "--timeout=2")
        # 2 if no test has built the images yet, which it reports.
        assert done.returncode in (0, 2), done.stdout + done.stderr
        pebble = self.folder / "pebble"
        pebble.mkdir()
        create_certificate(pebble, "pebble")
        (pebble / "config.json").write_text(json.dumps({"pebble": {
            "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/pebble/certificate.pem", "privateKey": "/pebble/key.pem",
            "httpPort": 8080, "tlsPort": 8443, "ocspResponderURL": "",
        }}))  # fmt: skip
        (self.folder / "override.yaml").write_text(
            OVERRIDE.format(base=SERVER_BASE, pebble=pebble, address=self.address, domain=DOMAIN)
        )
        values = {
            "COMPOSE_PROJECT_NAME": "ctllmtest", "ACME_SERVER": "https://pebble:14000/dir",
            "SOCKETS_DIR": self.sockets, "HTTP_PORT": f"{self.address}:80",
            "HTTPS_PORT": f"{self.address}:443", "CLIENT_REQUESTS_PER_SECOND": REQUESTS_PER_SECOND,
            "ROUTES": "direct",
        }  # fmt: skip
        env = self.folder / ".env"
        text = fill_template(env.read_text(), {key: str(value) for key, value in values.items()})
        env.write_text(text)

    def ctllm(
        self, *arguments: str, version: str = __version__, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `ctllm server` of a version for the folder, where the server's names lead to it."""
        argv = [sys.executable, "-c", CTLLM.format(version=version), "server", *arguments]
        if not arguments[-1].startswith("https://"):
            argv.append(f"--folder={self.folder}")
        env = {**os.environ, "DOCKER_HOST": self.docker.address, **environ}
        return subprocess.run(
            self.with_names(*argv), capture_output=True, text=True, env=env, check=False
        )

    def build(self) -> None:
        """Build the images, with a site of one page."""
        site = self.folder / "static-site"
        shutil.copytree(ROOT / "containers/static-site", site)
        (site / "build/site").mkdir(parents=True)
        (site / "build/site/index.html").write_text("<!doctype html><h1>A site</h1>")
        environment = {**os.environ, "DOCKER": DOCKER, "DOCKER_HOST": self.docker.address,
                       "PYTHON": sys.executable, "IMAGES": " ".join(IMAGES)}  # fmt: skip
        tag, argument = f"ctllm-static-site:{__version__}", f"BASE_IMAGE={SERVER_BASE}"
        for argv in (
            ["tests/base-image", SERVER_BASE, *PACKAGES],
            ["containers/build-server", BASE, SERVER_BASE, SERVER_BASE],
            [
                DOCKER,
                "build",
                "-q",
                "--network=none",
                "--build-arg",
                argument,
                "-t",
                tag,
                str(site),
            ],
        ):
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, env=environment, check=False)
            assert done.returncode == 0, f"{argv}:\n{done.stdout!r}\n{done.stderr!r}"

    def make_next_images(self, version: str) -> None:
        """Make the images of another version, which differ in their labels and their version."""
        for name in (*SERVICES, "streaming-proxy"):
            lines = f"FROM ctllm-{name}:{__version__}\n"
            if name == "api-backend":
                lines = NEXT_BACKEND.format(old=__version__, new=version)
            lines += f"LABEL org.opencontainers.image.version={version}\n"
            tag = f"ctllm-{name}:{version}"
            self.docker.docker("build", "-q", "-t", tag, "-", data=lines.encode())

    def remove(self) -> None:
        """Remove its containers, volumes and folder."""
        self.compose("down", "--volumes", "--timeout", "2")
        for each in self.docker.docker("ps", "-aq", "--filter=label=ctllm.instance").split():
            self.docker.docker("rm", "-f", each)
        shutil.rmtree(self.folder)
        self.folder.with_suffix(".hosts").unlink(missing_ok=True)

    def compose(self, *arguments: str) -> str:
        """Run docker-compose; return its output."""
        return self.run_compose(*arguments).decode()

    def run_compose(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run docker-compose with `data` as its standard input; return its output."""
        argv = ["docker-compose", "-f", "compose.yaml", "-f", "override.yaml", *arguments]
        environment = {**os.environ, "DOCKER_HOST": self.docker.address}
        done = subprocess.run(
            argv, cwd=self.folder, capture_output=True, input=data, env=environment, check=False
        )
        assert done.returncode == 0, f"{argv}:\n{done.stdout!r}\n{done.stderr.decode()}"
        return done.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "-a", "-q", service).strip()

    def inspect(self, service: str) -> Any:
        """Return what the engine says of a service's container."""
        return json.loads(self.docker.docker("inspect", self.container(service)))[0]

    def logs(self, service: str) -> list[str]:
        """Return the lines that a service has printed."""
        lines = self.docker.docker("logs", self.container(service))
        return lines.splitlines()

    def unhealthy(self) -> list[str]:
        """Return the services that are not healthy yet."""
        states = {service: self.inspect(service)["State"] for service in SERVICES}
        return [name for name, it in states.items() if it["Health"]["Status"] != "healthy"]

    # -- TLS

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts pebble's root alone."""
        return ssl.create_default_context(cafile=str(self.root))

    def fetch_root(self) -> None:
        """Store the root certificate that pebble has made at its start."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.address, 15000, timeout=5, context=context)
        connection.request("GET", "/roots/0")
        self.root.write_bytes(connection.getresponse().read())
        connection.close()

    def certificate(self, host: str = APP) -> x509.Certificate:
        """Return the certificate of a new connection, whoever issued it."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.handshake(context, host) as connection:
            found = connection.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found)

    def handshake(self, context: ssl.SSLContext, host: str, port: int = 443) -> ssl.SSLSocket:
        """Connect to nginx with TLS; raises ssl.SSLError."""
        plain = socket.create_connection((self.address, port), 10)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise

    def connect(
        self, host: str = APP, tls: bool = True, port: int = 443
    ) -> http.client.HTTPConnection:
        """Return an HTTP connection to nginx whose certificate is verified."""
        connection = http.client.HTTPConnection(host, 443 if tls else 80, timeout=60)
        connection.sock = (
            self.handshake(self.context(), host, port)
            if tls
            else socket.create_connection((self.address, 80), 10)
        )
        return connection

    def request(
        self,
        path: str,
        host: str = APP,
        method: str = "GET",
        body: Any = None,
        tls: bool = True,
        **headers: str,
    ) -> Response:
        """Send a request on a connection of its own; return the response."""
        connection = self.connect(host, tls)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        result = Response(response.status, found, response.read())
        connection.close()
        return result

    # -- people

    def invite(self, name: str) -> str:
        """Return an invite link, made by the command in the container."""
        return self.compose("exec", "-T", "api-backend", "ctllm", "invite", name).strip()

    def users(self) -> list[tuple[str, int]]:
        """Return the name of each user, and the number of sessions."""
        users = self.compose("exec", "-T", "api-backend", "ctllm", "users", "--json")
        return [(each["name"], each["sessions"]) for each in json.loads(users)]

    def desktop_environment(self, cluster: Cluster) -> dict[str, str]:
        """Return the environment of a desktop that trusts pebble's root."""
        return {**cluster.environment(), "SSL_CERT_FILE": str(self.root)}

    def with_names(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` where the server's names lead to it."""
        hosts = self.folder.with_suffix(".hosts")
        hosts.write_text(f"127.0.0.1 localhost\n{self.address} {DOMAIN} {APP}\n")
        script = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
        return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *argv]


@contextmanager
def compose_server(docker: Dockerd) -> Iterator[ComposeServer]:
    """Build the images and make the folder of a server; remove all of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ctllm-"))  # the path of a socket has 107 bytes at most
    folder.chmod(0o711)
    process = os.getpid()
    server = ComposeServer(docker, folder, f"127.{66 + process % 100}.{process // 100 % 250}.2")
    try:
        server.build()
        yield server
    finally:
        server.remove()

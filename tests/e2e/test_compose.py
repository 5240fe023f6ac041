"""The whole server in containers, from the first start to `docker-compose down`.

The tests are in the order of a server's life, because a start takes time: a self-signed
certificate, an issued one, people who use it, a renewal, and the end.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.x509.oid import NameOID
from playwright.sync_api import Page
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm import __version__
from ctllm.web_ui.security_headers import SECURITY_HEADERS
from tests.e2e.chromium import CHROMIUM_ARGS, Chromium
from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.compose_server import (
    APP,
    DOMAIN,
    REQUESTS_PER_SECOND,
    SERVICES,
    ComposeServer,
    Response,
    compose_server,
)
from tests.e2e.dockerd import Dockerd
from tests.fake_ollama import Script
from tests.ports import free_port

MEGABYTE = 1_000_000
MARK = "a-sentence-that-no-log-may-have"
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": MARK}]}
HTML = "text/html,*/*;q=0.8"


@dataclass
class Reading:
    """A response that a thread reads: its lines so far. `ended` fires when it has ended."""

    lines: list[bytes]
    ended: Deferred[None]


@dataclass
class World:
    """The server, and alice with her desktop, once `connect_desktop` has started it."""

    server: ComposeServer
    cluster: Cluster
    key: str = ""

    async def connect_desktop(self) -> None:
        """Log a real desktop in and connect it, by wss:// and with pebble's root alone."""
        server, cluster = self.server, self.cluster
        cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
        env = server.desktop_environment(cluster)
        state = f"--state-dir={cluster.state_dir('alice')}"
        login = server.with_names(str(BIN / "ctllm"), state, "login", "-")
        link = await deferToThread(server.invite, "alice")
        assert link.startswith(f"https://{APP}/#invite="), link
        done = await deferToThread(
            subprocess.run, login, input=link, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        options = (f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off")
        command = ("-n", "--pidfile=", "ctllm", "desktop", state, *options)
        argv = server.with_names(str(BIN / "twistd"), *command)
        desktop = cluster.start_process("desktop", *argv, env=env)
        await wait_until(
            lambda: "Cloud connection: connected" in desktop.output, "the bridge to connect"
        )
        self.key = await cluster.run_ctllm("alice", "keys", "add", "--scope=manage", "tests")
        await wait_until(self.is_key_accepted, "the API key")

    async def is_key_accepted(self) -> bool:
        return (await self.request("/api/tags")).status == 200

    async def is_served(self) -> bool:
        """Return whether the key is accepted, also while nginx may be replaced."""
        try:
            return await self.is_key_accepted()
        except OSError:
            return False

    async def request(self, path: str, **options: Any) -> Response:
        """Send a request with alice's key."""
        options.setdefault("Authorization", f"Bearer {self.key}")
        return await deferToThread(self.server.request, path, **options)

    async def start_stream(self, script: Script) -> Reading:
        """Have Ollama respond by `script` to alice; return when a line has arrived."""
        self.cluster.ollama.script("/api/chat", script)
        lines: list[bytes] = []
        has_begun = threading.Event()

        def read_lines() -> None:
            connection = self.server.connect()
            headers = {"Authorization": f"Bearer {self.key}"}
            connection.request("POST", "/api/chat", json.dumps(CHAT), headers)
            response = connection.getresponse()
            while line := response.readline():
                lines.append(line)
                has_begun.set()
            connection.close()

        reading = Reading(lines, deferToThread(read_lines))
        assert await deferToThread(has_begun.wait, 30), "No line has arrived."
        return reading


@pytest.fixture(scope="module")
def world(docker: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that has started without an authority."""
    cluster = Cluster(tmp_path_factory.mktemp("compose"))
    with compose_server(docker) as server:
        server.compose("up", "-d", *SERVICES)
        yield World(server, cluster)
        pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@pytest_twisted.async_yield_fixture()
async def alice(world: World) -> AsyncIterator[World]:
    """The server with a certificate, and alice's desktop."""
    if not world.key:
        await world.connect_desktop()
    world.cluster.ollama.reset()
    yield world


def common_name(certificate: x509.Certificate) -> str:
    """Return the name of the certificate's issuer."""
    return str(certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


async def wait_for_new_certificate(world: World, old: x509.Certificate) -> x509.Certificate:
    """Wait for another certificate than `old`, for at most 30 seconds."""

    async def find() -> x509.Certificate | None:
        found = await deferToThread(world.server.certificate)
        return found if found.serial_number != old.serial_number else None

    certificate: x509.Certificate = await wait_until(find, "another certificate", 30)
    return certificate


@ensureDeferred
async def test_all_containers_are_healthy_without_an_authority(world: World) -> None:
    """Until there is a certificate, there is a self-signed one. A check waits for their start."""
    _, findings = await deferToThread(check_server, world.server)
    assert {findings[service]["state"] for service in SERVICES} == {"ok"}, findings
    assert not await deferToThread(world.server.unhealthy)
    certificate = await deferToThread(world.server.certificate)
    assert common_name(certificate) == "ctllm: no certificate yet"
    assert certificate.issuer == certificate.subject
    done = await deferToThread(world.server.ctllm, "check", f"https://{APP}")
    assert done.returncode == 2 and "fault\tcertificate\tcertbot has got none yet" in done.stdout


@ensureDeferred
async def test_certbot_gets_a_certificate_within_30_seconds(world: World) -> None:
    """By HTTP-01 from the authority, for both names; nginx takes it up by itself."""
    old = await deferToThread(world.server.certificate)
    await deferToThread(world.server.compose, "up", "-d", "pebble")

    async def is_running() -> bool:
        try:
            await deferToThread(world.server.fetch_root)
        except OSError:
            return False
        return True

    await wait_until(is_running, "pebble")
    await deferToThread(world.server.compose, "kill", "-s", "USR1", "certbot")
    certificate = await wait_for_new_certificate(world, old)
    assert common_name(certificate).startswith("Pebble Intermediate")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {DOMAIN, APP}
    for host in (DOMAIN, APP):
        response = await deferToThread(world.server.request, "/health", host)
        assert response.status == 200, "The chain is not verified by pebble's root."
    (status,) = [line for line in await deferToThread(world.server.logs, "certbot")
                 if line.startswith("certbot: nginx may take")]  # fmt: skip
    assert f"{certificate.serial_number:x}" in status


def test_containers_have_no_privileges(world: World) -> None:
    """They run as users without capabilities, on a root that is read-only."""
    users = set()
    for service in SERVICES:
        found = world.server.inspect(service)
        host = found["HostConfig"]
        users.add(found["Config"]["User"].split(":")[0])
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"] and not host["Privileged"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}, service
        assert host["PidsLimit"] == 256 and host["Memory"] > 0, service
        docker_sockets = [each for each in host["Binds"] or [] if "docker.sock" in each]
        assert bool(docker_sockets) is (service == "api-backend"), service
        status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status, service
    assert len(users) == len(SERVICES) and not users & {"", "0", "root"}
    assert world.server.inspect("prepare")["State"]["ExitCode"] == 0


@pytest.mark.parametrize("service", ["web-app", "static-site"])
def test_pages_have_no_way_out(world: World, service: str) -> None:
    """They are in one network, which is internal."""
    (name,) = world.server.inspect(service)["NetworkSettings"]["Networks"]
    network = json.loads(world.server.docker.docker("network", "inspect", name))[0]
    assert network["Internal"] is True


def test_http_leads_to_https_except_for_challenges(world: World) -> None:
    """The method and the query remain. A host that is not ours gets no response."""
    for host in (DOMAIN, APP):
        response = world.server.request("/api/tags?a=1", host, tls=False)
        assert response.status == 308
        assert response.headers["location"] == f"https://{host}/api/tags?a=1"
    path = "/.well-known/acme-challenge/nothing"
    assert world.server.request(path, tls=False).status == 404
    assert world.server.request(path, tls=False, method="POST").status == 403
    with pytest.raises(ConnectionError):
        world.server.request("/", "evil.example", tls=False)


def test_tls_is_of_today(world: World) -> None:
    """TLS 1.2 and 1.3 with HTTP/2, no older one, and no certificate for another name."""
    server = world.server
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = server.context()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with server.handshake(context, APP) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            assert (
                connection.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
            )
    context = server.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        server.handshake(context, APP)
    context = server.context()
    context.check_hostname = False
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized name"):
        server.handshake(context, "evil.example")


@pytest.mark.parametrize("path", ["/", "/theme.js", "/service-worker.js", "/manifest.webmanifest"])
def test_the_page_has_the_headers_of_the_cloud(world: World, path: str) -> None:
    """Of a file, the cloud itself and web-app send the same headers, and HSTS beside them."""
    response = world.server.request(path, Accept=HTML, Accept_Encoding="gzip")
    assert response.status == 200
    for name, value in SECURITY_HEADERS:
        assert response.headers[name.decode().lower()] == value.decode()
    assert response.headers["cache-control"] == "no-cache" and response.headers["etag"]
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["strict-transport-security"] == "max-age=63072000"
    again = world.server.request(
        path, Accept=HTML, Accept_Encoding="gzip", If_None_Match=response.headers["etag"]
    )
    assert again.status == 304 and again.body == b""


def test_assets_are_cached_for_ever_and_missing_ones_not(world: World) -> None:
    """Their names change with their content."""
    page = world.server.request("/", Accept=HTML).body.decode()
    asset = page.split('src="/assets/')[1].split('"')[0]
    assert "immutable" in world.server.request(f"/assets/{asset}").headers["cache-control"]
    missing = world.server.request("/assets/missing.js")
    assert missing.status == 404 and "cache-control" not in missing.headers


@pytest.mark.parametrize("accept", ["", "*/*", "text/html;q=0", "application/json"])
def test_a_client_that_does_not_accept_html_gets_the_api_at_the_root(
    world: World, accept: str
) -> None:
    """A client of Ollama without a key gets an error, and no page."""
    response = world.server.request("/", Accept=accept)
    assert response.status == 401 and response.headers["content-type"] == "application/json"
    assert world.server.request("/", method="HEAD").status == 200


def test_the_site_is_at_the_domain(world: World) -> None:
    """It has HSTS, too, and no API."""
    response = world.server.request("/", DOMAIN)
    assert response.status == 200 and b"A site" in response.body
    assert response.headers["strict-transport-security"]
    assert world.server.request("/api/tags", DOMAIN).status == 404


@ensureDeferred
async def test_a_desktop_serves_through_the_whole_server(alice: World) -> None:
    """The first line arrives while the model still speaks: nothing buffers."""
    ollama = alice.cluster.ollama
    ollama.script("/api/chat", Script(lines=3, pause_after=(1, 300.0)))

    def read_first_line() -> bytes:
        connection = alice.server.connect()
        headers = {"Authorization": f"Bearer {alice.key}"}
        connection.request("POST", "/api/chat", json.dumps(CHAT), headers)
        line = connection.getresponse().readline()
        connection.close()
        return line

    line = json.loads(await deferToThread(read_first_line))
    assert line["done"] is False and line["message"]["content"]
    await ollama.wait_for(lambda record: record.closed_by is not None)
    assert alice.server.docker.docker("ps", "-q", "--filter=label=ctllm.instance")


def check_server(server: ComposeServer, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code of `ctllm server check`, and its findings by what was checked."""
    done = server.ctllm("check", "--json", *arguments, SSL_CERT_FILE=str(server.root))
    assert done.returncode in (0, 2), done.stdout + done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["findings"]}


@ensureDeferred
async def test_a_check_finds_nothing_wrong(alice: World) -> None:
    """From inside and outside; only the address is not of the internet, as the test has it."""
    code, findings = await deferToThread(check_server, alice.server)
    states = {name: each["state"] for name, each in findings.items()}
    assert states.pop("name") == "warning"
    assert states.pop("NTP") in ("ok", "unknown", "warning")
    assert code == 0 and set(states.values()) == {"ok"}, findings
    assert {*SERVICES, "prepare", "certificate", "TLS", "HTTP", "health", "site"} < set(states)
    assert findings["firewall"]["found"].startswith("none of 1 streaming proxies has a network")
    assert findings["streaming"]["found"].startswith("lines arrive as they are sent")


@ensureDeferred
async def test_the_folder_of_a_running_server_is_upgraded(alice: World) -> None:
    """Nothing is new, so nothing changes; its ports are its own."""
    env = alice.server.folder / ".env"
    before = env.read_text()
    done = await deferToThread(alice.server.ctllm, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("unchanged") == 3 and env.read_text() == before
    assert "ok\tport\t443 is the server's, which runs" in done.stdout
    assert "ok\timages\t" in done.stdout and "ok\tgroup\t" in done.stdout


@ensureDeferred
async def test_nginx_can_connect_to_the_sockets_and_others_cannot(alice: World) -> None:
    """Its group may enter the folder, which is read-only for it."""
    connect = (
        "import glob, socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]);"
        "open('/run/ctllm/new', 'w')"
    )
    (folder,) = [each for each in alice.server.sockets.iterdir() if each.is_dir()]
    path = f"/run/ctllm/{folder.name}/proxy.sock"
    container = alice.server.container("nginx-proxy")

    def attempt(*identity: str) -> str:
        argv = ["docker", "exec", *identity, container, "python3", "-c", connect, path]
        environment = {**os.environ, "DOCKER_HOST": alice.server.docker.address}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
        return done.stderr.splitlines()[-1]

    assert "Read-only file system" in await deferToThread(attempt)  # it connected before
    program = (
        "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); exit(!connect(S, sockaddr_un($ARGV[0])))"
    )
    for path in (str(folder / "proxy.sock"), str(alice.server.sockets / "backend.sock")):
        for groups, expected in (("--groups=10001", 0), ("--clear-groups", 1)):
            argv = [
                "setpriv",
                "--reuid=10002",
                "--regid=10002",
                groups,
                "perl",
                "-e",
                program,
                path,
            ]
            done = await deferToThread(subprocess.run, argv, check=False)
            assert done.returncode == expected, (path, groups)


@ensureDeferred
async def test_a_renewal_cuts_no_stream(alice: World) -> None:
    """Nginx takes the new certificate up while NDJSON passes; every line arrives."""
    server = alice.server
    old = await deferToThread(server.certificate)
    reading = await alice.start_stream(Script(lines=80, line_interval=0.25))
    await deferToThread(server.compose, "kill", "-s", "USR1", "certbot")
    await wait_for_new_certificate(alice, old)
    assert not reading.ended.called, "The stream ended before the renewal."
    print(f"\nrenewed after {len(reading.lines)} lines")
    await reading.ended
    answers = [json.loads(line) for line in reading.lines]
    assert [each["done"] for each in answers] == [False] * 80 + [True]
    assert alice.server.inspect("nginx-proxy")["RestartCount"] == 0


@ensureDeferred
async def test_chromium_chats_over_tls_with_the_root(alice: World, tmp_path: Path) -> None:
    """No certificate error is ignored: the browser has pebble's root in its own store."""
    store = tmp_path / ".pki/nssdb"
    store.mkdir(parents=True)
    root = ("-n", "pebble", "-t", "C,,", "-i", str(alice.server.root))
    for arguments in (("-N", "--empty-password"), ("-A", *root)):
        argv = ["certutil", "-d", f"sql:{store}", *arguments]
        await deferToThread(subprocess.run, argv, check=True)
    names = ", ".join(f"MAP {name} {alice.server.address}" for name in (DOMAIN, APP))
    rule = f"--host-resolver-rules={names}"
    browser = Chromium(args=[*CHROMIUM_ARGS, rule], env={**os.environ, "HOME": str(tmp_path)})
    await browser.start()
    try:
        tab = await browser.tab()
        await tab.open(await deferToThread(alice.server.invite, "alice"))
        await tab.click("Log in as alice")
        await tab.expect("#send", lambda it: it.to_be_enabled())
        await tab.use("#message", lambda box: box.fill("Hello"))
        await tab.use("#message", lambda box: box.press("Enter"))
        await tab.expect(".response:last-child .text", lambda it: it.not_to_be_empty())

        def protocol(page: Page) -> Any:
            return page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")

        assert await tab.do(protocol) == "h2"
        await tab.close()
    finally:
        await browser.close()


def memory_of_nginx(server: ComposeServer, container: str = "") -> float:
    """Return the megabytes that the processes of nginx use, and those in its tmpfs."""
    text = server.docker.docker(
        "exec", container or server.container("nginx-proxy"), "sh", "-c",
        "cat /proc/[0-9]*/status | grep ^RssAnon; du -sk /run/nginx",
    )  # fmt: skip
    return sum(int(word) for word in text.split() if word.isdigit()) / 1000


@pytest.mark.parametrize("megabytes", [30, 300])
@ensureDeferred
async def test_a_large_body_streams_through_without_a_file(alice: World, megabytes: int) -> None:
    """It is many times larger than all that nginx could write to, and its memory is bounded."""
    size, found = megabytes * MEGABYTE, [0.0]
    digest = "0" * 64

    def upload() -> Response:
        def chunks() -> Iterator[bytes]:
            for number in range(megabytes):
                if number % 10 == 5:
                    found.append(memory_of_nginx(alice.server))
                yield b"x" * MEGABYTE

        return alice.server.request(
            f"/api/blobs/sha256:{digest}", method="POST", body=chunks(),
            Authorization=f"Bearer {alice.key}", Content_Length=str(size),
        )  # fmt: skip

    response = await deferToThread(upload)
    assert response.status in (200, 201, 400), response.body  # 400: the digest is another
    (record,) = [
        each for each in alice.cluster.ollama.requests if each.path.startswith("/api/blobs")
    ]
    assert record.body_length == size
    print(f"\n{megabytes} MB: nginx had at most {max(found):.0f} MB")
    assert max(found) < 60
    assert alice.server.inspect("nginx-proxy")["HostConfig"]["Tmpfs"]["/run/nginx"].startswith(
        "size=2m"
    )


class HostileUpstream(socketserver.StreamRequestHandler):
    """A compromised proxy, which asks nginx to treat its response as nginx otherwise would."""

    size = 40 * MEGABYTE

    def handle(self) -> None:
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Accel-Buffering: yes\r\n"
            b"X-Accel-Redirect: /theme.js\r\nX-Accel-Limit-Rate: 99999\r\nX-Accel-Expires: 600\r\n"
            b"Content-Length: %d\r\n\r\n" % self.size
        )
        with suppress(OSError):
            for _ in range(self.size // MEGABYTE):
                self.wfile.write(b" " * MEGABYTE)


@pytest.fixture
def hostile_port(world: World) -> Iterator[tuple[int, str]]:
    """The port and container of another nginx-proxy, whose backend is a `HostileUpstream`."""
    docker, server = world.server.docker.docker, world.server
    path, port = server.sockets / "hostile.sock", free_port()
    image = server.inspect("nginx-proxy")["Image"]
    with socketserver.ThreadingUnixStreamServer(str(path), HostileUpstream) as upstream:
        os.chown(path, 10001, 10001)
        path.chmod(0o660)
        thread = threading.Thread(target=upstream.serve_forever)
        thread.start()
        volumes = (f"{server.sockets}:/run/ctllm:ro", "ctllmtest_challenges:/srv/challenges:ro",
                   "ctllmtest_certificates:/etc/ctllm/certificates:ro")  # fmt: skip
        container = docker(
            "run", "-d", "--read-only", "--tmpfs=/run/nginx:size=2m,mode=1777", "--cap-drop=ALL",
            "--group-add=10001", "--group-add=10003", f"--publish={server.address}:{port}:8443",
            f"--env=DOMAIN={DOMAIN}", "--env=BACKEND=unix:/run/ctllm/hostile.sock",
            *(f"--volume={each}" for each in volumes), image,
        )  # fmt: skip
        yield port, container
        docker("rm", "-f", container)
        upstream.shutdown()
        thread.join()
        path.unlink()


@ensureDeferred
async def test_nginx_ignores_what_the_headers_of_a_response_ask_for(
    world: World, hostile_port: tuple[int, str]
) -> None:
    """It neither buffers nor redirects nor throttles; a slow client costs no memory and no file."""
    port, container = hostile_port
    found = [0.0]

    def download() -> int:
        connection = world.server.connect(port=port)
        connection.request("GET", "/api/version")
        response = connection.getresponse()
        received, deadline = 0, time.monotonic() + 60
        while time.monotonic() < deadline and (chunk := response.read1(4 * MEGABYTE)):
            received += len(chunk)
            if received // (4 * MEGABYTE) >= len(found):
                found.append(memory_of_nginx(world.server, container))
        connection.close()
        return received

    async def is_listening() -> bool:
        try:
            await deferToThread(lambda: world.server.connect(port=port).close())
        except OSError:
            return False
        return True

    await wait_until(is_listening, "nginx")
    assert await deferToThread(download) == HostileUpstream.size
    print(f"\nnginx had at most {max(found):.0f} MB")
    assert max(found) < 60


@ensureDeferred
async def test_a_killed_backend_cuts_no_stream_and_returns_on_its_old_sockets(
    alice: World,
) -> None:
    """Meanwhile requests for models wait; those for the cloud get 503 with Retry-After."""
    alice.cluster.ollama.script("/api/chat", Script(lines=40, line_interval=0.2))
    connection = await deferToThread(alice.server.connect)

    def start() -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {alice.key}", "Content-Type": "application/json"}
        connection.request("POST", "/api/chat", json.dumps(CHAT), headers)
        return connection.getresponse()

    stream = await deferToThread(start)
    await deferToThread(stream.readline)
    container = alice.server.container("api-backend")
    alice.server.docker.docker("kill", "-s", "KILL", container)
    response = await alice.request("/ctllm/session")
    assert response.status == 503 and json.loads(response.body)["error"]
    assert response.headers["retry-after"] == "2" and response.headers["ctllm-request-id"]
    bearer: dict[str, Any] = {"Authorization": f"Bearer {alice.key}"}
    waiting = [
        deferToThread(partial(alice.server.request, path, **bearer))
        for path in ("/api/tags", "/v1/models")
    ]
    alice.server.compose("up", "-d", "api-backend")
    for each in waiting:
        assert (await each).status == 200
    lines = (await deferToThread(stream.read)).splitlines()
    assert len(lines) == 40 and json.loads(lines[-1])["done"] is True
    connection.close()


@ensureDeferred
async def test_too_many_requests_of_an_address_get_429(alice: World) -> None:
    """In the dialect of the path; the proxies, and a moment later the same client, are served."""

    def flood(path: str) -> list[Response]:
        connection, responses = alice.server.connect(), []
        for _ in range(REQUESTS_PER_SECOND * 6):
            connection.request("GET", path)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            responses.append(Response(response.status, found, response.read()))
            if response.will_close:
                connection.close()
                connection = alice.server.connect()
        connection.close()
        return responses

    for path, read in (
        ("/api/version", lambda it: it["error"]),
        ("/v1/models", lambda it: it["error"]["message"]),
        ("/v1/messages", lambda it: it["type"] == "error" and it["error"]["message"]),
    ):  # type: tuple[str, Callable[[Any], str]]
        responses = await deferToThread(flood, path)
        refused = [each for each in responses if each.status == 429]
        assert refused and len(refused) < len(responses), [each.status for each in responses]
        assert read(json.loads(refused[0].body)).startswith("Too many requests at once")
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].headers["content-type"] == "application/json"
    await wait_until(alice.is_key_accepted, "the address to be served again")


@ensureDeferred
async def test_the_log_is_json_without_content_or_credentials(alice: World) -> None:
    """Each request has its id, which the client got too, and no query, token or prompt."""
    token = "token-that-no-log-may-have"
    response = await alice.request(
        f"/api/chat?key={token}", method="POST", body=json.dumps({**CHAT, "stream": False})
    )
    assert response.status == 200
    await alice.request(f"/{MARK}", Authorization=f"Bearer {token}", Cookie=f"a={token}")
    await alice.request(f"/v1/models/{MARK}")
    id = response.headers["ctllm-request-id"]

    async def find() -> dict[str, Any] | None:
        lines = await deferToThread(alice.server.logs, "nginx-proxy")
        found = [json.loads(line) for line in lines if id in line]
        return found[0] if found else None

    record = await wait_until(find, "the line of the request")
    assert (record["method"], record["route"], record["status"]) == ("POST", "/api/chat", 200)
    assert record["host"] == "app" and record["tls"].startswith("TLSv1.")
    for service in SERVICES:
        argv = ["docker", "logs", alice.server.container(service)]
        env = {**os.environ, "DOCKER_HOST": alice.server.docker.address}
        done = await deferToThread(subprocess.run, argv, capture_output=True, text=True, env=env)
        for secret in (MARK, token, alice.key):
            assert secret not in done.stdout + done.stderr, service
    for line in await deferToThread(alice.server.logs, "nginx-proxy"):
        json.loads(line)


@pytest.fixture
def small_port(world: World) -> Iterator[tuple[int, str]]:
    """The port and container of another nginx-proxy, with little memory and no backend."""
    docker, server, port = world.server.docker.docker, world.server, free_port()
    volumes = ("ctllmtest_challenges:/srv/challenges:ro",
               "ctllmtest_certificates:/etc/ctllm/certificates:ro")  # fmt: skip
    container = docker(
        "run", "-d", "--memory=96m", "--memory-swap=96m", "--read-only", "--cap-drop=ALL",
        "--tmpfs=/run/nginx:size=2m,mode=1777", "--group-add=10003", f"--env=DOMAIN={DOMAIN}",
        f"--publish={server.address}:{port}:8443", *(f"--volume={each}" for each in volumes),
        server.inspect("nginx-proxy")["Image"],
    )  # fmt: skip
    yield port, container
    docker("rm", "-f", container)


@ensureDeferred
async def test_connections_of_outsiders_do_not_end_nginx(
    alice: World, small_port: tuple[int, str]
) -> None:
    """Each has sent a large part of a head. Over the limit they are refused; no worker ends."""
    port, container = small_port
    head = f"GET /ctllm/session HTTP/1.1\r\nHost: {APP}\r\nA: ".encode()

    def attack() -> int:
        first = alice.server.connect(port=port)
        others: list[ssl.SSLSocket] = []
        first.sock.sendall(head)
        with suppress(OSError):
            while len(others) < 3000:
                others.append(alice.server.handshake(alice.server.context(), APP, port))
                others[-1].sendall(head + b"x" * 30_000)
        first.sock.sendall(b"x\r\n\r\n")
        # 503 without a backend, 500 if its worker has no connection left to ask one.
        assert first.sock.recv(12) in (b"HTTP/1.1 503", b"HTTP/1.1 500")
        first.close()
        for each in others:
            each.close()
        return len(others)

    async def is_listening() -> bool:
        try:
            await deferToThread(lambda: alice.server.connect(port=port).close())
        except OSError:
            return False
        return True

    def workers() -> list[str]:
        lines = alice.server.docker.docker("top", container, "-o", "pid,args").splitlines()
        return [line for line in lines if "worker process" in line]

    await wait_until(is_listening, "nginx")
    before = await deferToThread(workers)
    assert 200 < await deferToThread(attack) < 3000
    assert before and await deferToThread(workers) == before
    await wait_until(is_listening, "nginx to accept connections again")


NEXT_VERSION = "99.0.0"


async def upgrade(server: ComposeServer, version: str, *services: str) -> None:
    """Do what operations.md says of an upgrade to a version, and of a rollback."""
    done = await deferToThread(partial(server.ctllm, "init", version=version))
    assert done.returncode == 0, done.stdout + done.stderr
    await deferToThread(server.compose, "up", "-d", *services)


@ensureDeferred
async def test_an_upgrade_cuts_no_stream_until_nginx_is_replaced(alice: World) -> None:
    """The backend comes first; streaming proxies follow when idle. A rollback does the same."""
    server, docker = alice.server, alice.server.docker.docker
    await deferToThread(server.make_next_images, NEXT_VERSION)

    def proxy_version() -> str:
        template = '{{.Label "org.opencontainers.image.version"}}'
        return docker("ps", "--filter=label=ctllm.instance", f"--format={template}")

    async def is_new(version: str) -> bool:
        try:
            response = await alice.request("/health")
        except OSError:  # nginx is being replaced
            return False
        return response.status == 200 and json.loads(response.body)["version"] == version

    reading = await alice.start_stream(Script(lines=100, line_interval=0.25))
    await upgrade(server, NEXT_VERSION, "api-backend")
    await wait_until(lambda: is_new(NEXT_VERSION), "the new backend", 60)
    assert not reading.ended.called and proxy_version() == __version__
    await reading.ended
    assert [json.loads(each)["done"] for each in reading.lines] == [False] * 100 + [True]

    await deferToThread(server.compose, "up", "-d", *SERVICES)
    await wait_until(alice.is_served, "the desktop to return by the new nginx", 120)
    await wait_until(lambda: proxy_version() == NEXT_VERSION, "the new streaming proxy", 180)
    await wait_until(alice.is_served, "the desktop to return to it", 60)

    await upgrade(server, __version__, *SERVICES)
    await wait_until(lambda: is_new(__version__), "the rollback", 120)
    await wait_until(lambda: proxy_version() == __version__, "the old streaming proxy", 180)
    await wait_until(alice.is_served, "the desktop to return", 60)


@ensureDeferred
async def test_a_backup_is_restored_in_two_commands(alice: World) -> None:
    """As operations.md says, into a new volume: alice is still a user, with desktop and key."""
    server, service = alice.server, "api-backend"

    def lose_the_state() -> None:
        server.compose("rm", "-f", "-s", service)
        server.docker.docker("volume", "rm", "ctllmtest_state")

    def restore(archive: bytes) -> None:
        run = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "ctllm", service)
        server.run_compose(*run, "server", "restore", "-", data=archive)
        server.compose("up", "-d", service)

    backup = ("exec", "-T", service, "ctllm", "server", "backup", "-")
    archive = await deferToThread(partial(server.run_compose, *backup))
    before = await deferToThread(server.users)
    await deferToThread(lose_the_state)
    await deferToThread(restore, archive)
    await wait_until(alice.is_key_accepted, "the API key", 60)
    assert before and await deferToThread(server.users) == before


def delete_rules_of_docker(server: ComposeServer) -> int:
    """Delete those that Docker has set for this server in the table nat; return their number.

    A firewall that is loaded again deletes all. Other engines may run on this machine.
    """
    settings = server.inspect("api-backend")["NetworkSettings"]["Networks"]["ctllmtest_outbound"]
    subnet = ip_interface(f"{settings['IPAddress']}/{settings['IPPrefixLen']}").network
    marks = (f"-s {subnet} ", f"-d {server.address}/32 ")
    iptables = ("/usr/sbin/iptables", "-w", "-t", "nat")
    listed = subprocess.run([*iptables, "-S"], capture_output=True, text=True, check=True).stdout
    rules = [each for each in listed.splitlines() if any(mark in each for mark in marks)]
    for each in rules:
        subprocess.run([*iptables, "-D", *each.split()[1:]], check=True)
    return len(rules)


@ensureDeferred
async def test_a_check_names_rules_of_docker_that_are_missing(alice: World) -> None:
    """With what to do about it, which is what the next test does."""
    _, findings = await deferToThread(check_server, alice.server)
    assert findings["Docker rules"]["state"] == "ok", findings
    assert await deferToThread(delete_rules_of_docker, alice.server) >= 4  # pebble has one, too
    code, findings = await deferToThread(check_server, alice.server)
    found = findings["Docker rules"]
    assert code == 2 and found["state"] == "fault"
    for name in ("port 443/tcp", "port 443/udp", "port 80/tcp", "the way out of "):
        assert name in found["found"], found
    assert "systemctl restart docker" in found["advice"]


@ensureDeferred
async def test_the_server_returns_after_a_restart_of_docker(alice: World) -> None:
    """Without live-restore all containers end with it. No proxy has a network to be guarded."""
    server = alice.server
    await deferToThread(server.docker.stop)
    await deferToThread(server.docker.start)

    await wait_until(alice.is_served, "the key to be accepted again", 120)
    _, findings = await deferToThread(check_server, server)
    assert findings["Docker rules"]["state"] == findings["firewall"]["state"] == "ok"
    assert findings["firewall"]["found"].startswith("none of 1 streaming proxies has a network")


@ensureDeferred
async def test_down_leaves_nothing(alice: World) -> None:
    """Not even the containers of streaming proxies, once their cloud is told to remove them."""
    for process in alice.cluster.processes:
        await process.stop(signal.SIGTERM)
    drain = ("ctllm", "proxies", "drain", "--seconds", "1")
    await deferToThread(alice.server.compose, "exec", "-T", "api-backend", *drain)
    await deferToThread(alice.server.compose, "down", "--volumes", "--timeout", "5")
    docker = alice.server.docker.docker
    assert docker("ps", "-aq") == ""
    assert docker("volume", "ls", "-q") == ""
    assert docker("network", "ls", "--filter=label=com.docker.compose.project", "-q") == ""

"""`ctllm server`: what sysadmins do with a real cloud."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from ctllm.server.checks.findings import Finding, State
from ctllm.server.checks.outside import OutsideChecks, Target
from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.lifecycle_cases import is_reachable, start_stream, start_with_desktop
from tests.e2e.test_tls import create_certificate
from tests.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "etc" / "nginx.conf.example"
HOST = "app.ctllm.test"


async def run_server(
    cluster: Cluster, state: str, *arguments: str, stdin: bytes | None = None
) -> tuple[int, str]:
    """Run `ctllm server` with this state directory; return its exit code and output."""
    argv = [str(BIN / "ctllm"), f"--state-dir={cluster.state_dir(state)}", "server", *arguments]
    done = await deferToThread(
        subprocess.run, argv, capture_output=True, env=cluster.environment(), input=stdin
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


class Browser:
    """The session of a browser: its cookie, which it renews like the page."""

    def __init__(self, cluster: Cluster, link: str) -> None:
        self._cluster = cluster
        self._secret = link.partition("#invite=")[2]
        self._cookie = ""

    async def sign_in(self) -> None:
        body = json.dumps({"invite": self._secret, "client": "browser"})
        status, headers, _ = await deferToThread(self._post, "/ctllm/session", body)
        assert status == 201
        self._cookie = headers["Set-Cookie"].partition(";")[0]

    async def renew(self) -> tuple[int, str]:
        """Return the status of a renewal, and the access token."""
        status, _, body = await deferToThread(self._post, "/ctllm/session/token", "{}")
        return status, json.loads(body).get("token", "")

    def _post(self, path: str, body: str) -> tuple[int, Any, bytes]:
        port = self._cluster.cloud_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {
            "Content-Type": "application/json",
            "Origin": self._cluster.url,
            "Sec-Fetch-Site": "same-origin",
        }
        if self._cookie:
            headers["Cookie"] = self._cookie
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()


@ensureDeferred
async def test_a_restored_cloud_knows_its_desktops_browsers_and_revocations(
    cluster: Cluster,
) -> None:
    """The backup is written while a response streams; the old state directory is gone after."""
    cloud = await start_with_desktop(cluster)
    browser = Browser(cluster, await cluster.create_invite("alice"))
    await browser.sign_in()
    revoked = Browser(cluster, await cluster.create_invite("mallory"))
    await revoked.sign_in()
    await cluster.run_ctllm("cloud", "revoke", "mallory")
    api_key = await cluster.run_ctllm("alice", "keys", "add", "tests")

    streaming = await start_stream(cluster, cluster.alice_token)
    backup = cluster.directory / "backup.tar"
    code, output = await run_server(cluster, "cloud", "backup", str(backup))
    assert code == 0 and "files" in output, output
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert not streaming.called  # the cloud ran all the time
    code, output = await run_server(cluster, "cloud", "restore", str(backup))
    assert code == 1 and "A cloud runs with the state directory" in output, output

    await cloud.stop()
    streaming.addErrback(lambda _: None)
    code, output = await run_server(cluster, "cloud", "restore", str(backup))
    assert code == 1 and "is not empty" in output, output
    cluster.state_dir("cloud").rename(cluster.directory / "lost")
    code, output = await run_server(cluster, "cloud", "restore", str(backup))
    assert code == 0 and "Restored" in output, output
    await cluster.start_cloud()
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to connect again", 60
    )
    assert (await revoked.renew())[0] == 401
    status, token = await browser.renew()
    assert status == 200
    assert (await cluster.request("GET", "/api/version", token=token))[0] == 200

    async def key_works() -> bool:
        return (await cluster.request("GET", "/api/version", token=api_key))[0] == 200

    await wait_until(key_works, "the API key to be leased again", 60)


@ensureDeferred
async def test_a_backup_passes_through_pipes(cluster: Cluster) -> None:
    """As in a container; what is not a backup restores nothing."""
    await (await cluster.start_cloud()).stop()
    await cluster.create_invite("alice")
    state = f"--state-dir={cluster.state_dir('cloud')}"
    argv = [str(BIN / "ctllm"), state, "server", "backup", "-"]
    done = await deferToThread(subprocess.run, argv, capture_output=True, env=cluster.environment())
    assert done.returncode == 0, done.stderr
    cut = done.stdout[: done.stdout.index(b"ctllm-checksums")]
    code, output = await run_server(cluster, "new", "restore", "-", stdin=cut)
    assert code == 1 and "damaged" in output and "Traceback" not in output, output
    code, output = await run_server(cluster, "new", "restore", "-", stdin=b"hello" * 1000)
    assert code == 1 and "not a backup" in output and "Traceback" not in output, output
    code, output = await run_server(cluster, "new", "restore", "-", stdin=done.stdout)
    assert code == 0, output
    for name in ("signing-key", "instance-secret"):
        old, new = (cluster.state_dir(each) / "cloud" / name for each in ("cloud", "new"))
        assert old.read_bytes() == new.read_bytes()
        assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(old.stat().st_mode)


@contextmanager
def run_nginx(cluster: Cluster, server: str) -> Iterator[int]:
    """Give the port of an nginx with the server of nginx.conf.example, in front of the cloud."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None:
        pytest.fail('This test needs Debian\'s package "nginx-light".', pytrace=False)
    folder, port = cluster.directory / f"nginx-{free_port()}", free_port()
    folder.mkdir()
    key, certificate = create_certificate(cluster.directory, HOST)
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("127.0.0.1:8434", f"127.0.0.1:{cluster.cloud_port}"),
        ("/etc/letsencrypt/live/ctllm.example.org/fullchain.pem", str(certificate)),
        ("/etc/letsencrypt/live/ctllm.example.org/privkey.pem", str(key)),
        ("ctllm.example.org", HOST),
    ):
        assert old in server
        server = server.replace(old, new)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {paths}\n{server}\n}}"
    )
    argv = [nginx, "-e", str(folder / "log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(argv) as process:
        try:
            yield port
        finally:
            process.terminate()


@ensureDeferred
async def test_a_check_finds_whether_nginx_buffers(cluster: Cluster) -> None:
    """With nginx.conf.example all is well, and with the default of nginx streams are not."""
    await cluster.start_cloud(f"--public-url=https://{HOST}")
    trusted = {"SSL_CERT_FILE": str(cluster.directory / "certificate.pem")}

    async def check(server: str) -> dict[str, Finding]:
        with (
            run_nginx(cluster, server) as port,
            mock.patch("ctllm.server.checks.outside.resolve", return_value=("127.0.0.1",)),
            mock.patch.dict(os.environ, trusted),
        ):

            async def is_checked() -> dict[str, Finding] | None:
                checks = OutsideChecks(Target(HOST, port, None), 30.0)
                found = await deferToThread(lambda: list(checks.run()))
                by_check = {each.check: each for each in found}
                return by_check if "streaming" in by_check else None

            found: dict[str, Finding] = await wait_until(is_checked, "nginx", 60)
            return found

    findings = await check(EXAMPLE.read_text())
    states = {name: each.state for name, each in findings.items()}
    assert states.pop("name") is State.WARNING and states.pop("HTTP") is State.UNKNOWN
    assert set(states.values()) == {State.OK}, findings
    findings = await check(EXAMPLE.read_text().replace("proxy_buffering off", "proxy_buffering on"))
    assert findings["streaming"].state is State.FAULT
    assert findings["streaming"].found.startswith("something buffers"), findings

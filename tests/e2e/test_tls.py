"""A cloud that serves TLS itself."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ChildProcess, Cluster, wait_until


def create_certificate(folder: Path, host: str = "") -> tuple[Path, Path]:
    """Create a key and a self-signed certificate for `host`, by default 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host or "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address: x509.GeneralName = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    if host:
        address = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    certificate_file.write_bytes(certificate.public_bytes(pem))
    return key_file, certificate_file


def generate_over_tls(url: str, trusted: Path, key: str) -> dict[str, str]:
    """Send a request as a client that also offers HTTP/2."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.set_alpn_protocols(["h2", "http/1.1"])
    request = urllib.request.Request(
        f"{url}/api/generate",
        json.dumps({"model": "llama3.2", "prompt": "hello", "stream": False}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20, context=context) as response:
        generated: dict[str, str] = json.load(response)
        return generated


class TlsCloud:
    """A cloud with a self-signed certificate."""

    def __init__(self, cluster: Cluster, host: str = "") -> None:
        self.cluster = cluster
        self.key, self.certificate = create_certificate(cluster.directory, host)
        self.url = f"https://{host or '127.0.0.1'}:{cluster.cloud_port}"
        self.trusting_environment = {
            **cluster.environment(),
            "SSL_CERT_FILE": str(self.certificate),
        }

    async def start_and_invite(self) -> str:
        """Start the cloud; return an invite link for alice."""
        listen = (
            f"ssl:{self.cluster.cloud_port}:privateKey={self.key}"
            f":certKey={self.certificate}:interface=127.0.0.1"
        )
        options = (f"--listen={listen}", f"--public-url={self.url}", "--metrics-listen=off")
        self.cluster.run_role("cloud", "cloud", *options)
        address = self.cluster.state_dir("cloud") / "cloud" / "url"
        await wait_until(address.exists, "the cloud to start")
        link = await self.cluster.create_invite("alice")
        assert link.startswith(self.url)
        return link

    async def log_in(self, link: str, env: dict[str, str]) -> ChildProcess:
        state = f"--state-dir={self.cluster.state_dir('alice')}"
        program = self.cluster.start_process("login", "ctllm", state, "login", link, env=env)
        await program.exited
        return program


@ensureDeferred
async def test_login_tunnel_and_requests_work_over_tls(cluster: Cluster) -> None:
    """Each client verifies the certificate."""
    tls_cloud = TlsCloud(cluster)
    logged_in = await tls_cloud.log_in(
        await tls_cloud.start_and_invite(), tls_cloud.trusting_environment
    )
    assert logged_in.exit_code == 0, logged_in.output
    _, port = cluster.start_fake_ollama("llama3.2")
    options = (
        f"--state-dir={cluster.state_dir('alice')}",
        f"--ollama-host=127.0.0.1:{port}",
        "--desktop-listen=off",
    )
    desktop = cluster.start_process(
        "desktop",
        "twistd",
        "-n",
        "--pidfile=",
        "ctllm",
        "desktop",
        *options,
        env=tls_cloud.trusting_environment,
    )
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")
    key = await cluster.run_ctllm("alice", "keys", "add", "tests")

    async def generate() -> dict[str, str] | None:
        try:
            return await deferToThread(generate_over_tls, tls_cloud.url, tls_cloud.certificate, key)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            return None  # the key is not leased yet

    assert "hello" in (await wait_until(generate, "the key to work"))["response"]


@ensureDeferred
async def test_an_untrusted_certificate_stops_the_login(cluster: Cluster) -> None:
    """The error names the certificate, and the invite is not used up."""
    tls_cloud = TlsCloud(cluster)
    link = await tls_cloud.start_and_invite()
    refused = await tls_cloud.log_in(link, cluster.environment())
    assert refused.exit_code == 1
    assert tls_cloud.url in refused.output
    assert "The certificate of 127.0.0.1 is not trusted" in refused.output
    assert "SSL_CERT_FILE" in refused.output
    assert "Traceback" not in refused.output
    assert (await tls_cloud.log_in(link, tls_cloud.trusting_environment)).exit_code == 0

"""Keeps a certificate for nginx-proxy: a self-signed one at first, then those that certbot gets.

    certificates.py          runs until SIGTERM; SIGUSR1 renews at once, even if nothing is due
    certificates.py check    exits with 0 if the certificate for nginx is valid now

nginx reads `current/fullchain.pem` and `current/privkey.pem`. `current` is a link that moves to a
new folder, so nginx never sees the certificate of one and the key of another.

It needs certbot's Python alone: the standard library and cryptography.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ACME, CHALLENGES = Path("/var/lib/acme"), Path("/srv/challenges")
CERTIFICATES = Path("/etc/ctllm/certificates")
#: Authorities besides the system's: CA_FILE in .env, or nothing.
AUTHORITIES = Path("/etc/ctllm/ca.pem")
#: A tmpfs of this container alone.
TEMPORARY = "/tmp"  # noqa: S108
#: Seconds between two looks at whether a certificate is due. certbot decides; short-lived ones may
#: be due after two days.
INTERVAL = 6 * 3600.0
#: Seconds after each failure in a row. An authority allows a few failures an hour.
RETRIES = (15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
#: The name of the certificate in certbot's folder.
NAME = "ctllm"
_END = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_END, signal.SIGUSR1)


@dataclass(frozen=True)
class Settings:
    """What certbot asks for: the names, the address for warnings and the authority."""

    domain: str
    email: str
    server: str

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings; exits with a message if DOMAIN or ACME_SERVER is missing."""
        missing = [name for name in ("DOMAIN", "ACME_SERVER") if not environ.get(name)]
        if missing:
            sys.exit(f"certbot: Set {' and '.join(missing)} in .env.")
        return cls(environ["DOMAIN"], environ.get("EMAIL", ""), environ["ACME_SERVER"])

    @property
    def names(self) -> tuple[str, str]:
        """The names in the certificate."""
        return self.domain, f"app.{self.domain}"

    def certbot(self, force: bool) -> list[str]:
        """Return the command that gets a certificate, or renews it if it is due or `force`."""
        contact = ["--email", self.email] if self.email else ["--register-unsafely-without-email"]
        return [
            "certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", *contact,
            "--server", self.server, "--cert-name", NAME, "--expand",
            *(argument for name in self.names for argument in ("--domain", name)),
            "--webroot", "--webroot-path", str(CHALLENGES), "--key-type", "ecdsa",
            "--force-renewal" if force else "--keep-until-expiring",
            "--config-dir", str(ACME), "--work-dir", f"{TEMPORARY}/work",
            "--logs-dir", f"{TEMPORARY}/logs",
            "--max-log-backups", "1",
        ]  # fmt: skip


def install(folder: Path, chain: bytes, key: bytes, version: str) -> None:
    """Make this certificate and key the current ones in `folder`, and remove older ones."""
    target = folder / version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o750)
    for name, content in (("fullchain.pem", chain), ("privkey.pem", key)):
        descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    link = folder / "new"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    link.replace(folder / "current")
    # The last one remains: nginx may be about to read it.
    for old in sorted(_versions(folder), key=lambda each: each.stat().st_mtime)[:-2]:
        shutil.rmtree(old)


def _versions(folder: Path) -> Iterable[Path]:
    return (each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())


def self_signed(names: tuple[str, ...], now: datetime) -> tuple[bytes, bytes]:
    """Return a certificate that no client trusts, and its key, so that nginx can start."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ctllm: no certificate yet")])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def install_self_signed(settings: Settings, folder: Path, now: datetime) -> None:
    """Install a self-signed certificate, unless there is one."""
    if not (folder / "current" / "fullchain.pem").exists():
        install(folder, *self_signed(settings.names, now), "self-signed")
        print("certbot: nginx begins with a self-signed certificate", flush=True)


def install_issued(acme: Path, folder: Path) -> bool:
    """Install the certificate that certbot has, if it is another one than the current."""
    live = acme / "live" / NAME
    if not (live / "fullchain.pem").exists():
        return False
    chain, current = (live / "fullchain.pem").read_bytes(), folder / "current" / "fullchain.pem"
    if current.exists() and current.read_bytes() == chain:
        return False
    serial = x509.load_pem_x509_certificate(chain).serial_number
    install(folder, chain, (live / "privkey.pem").read_bytes(), f"{serial:x}")
    print(f"certbot: nginx may take the certificate {serial:x}", flush=True)
    return True


def is_valid(folder: Path, now: datetime) -> bool:
    """Return whether the current certificate is valid; prints until when."""
    content = (folder / "current" / "fullchain.pem").read_bytes()
    end = x509.load_pem_x509_certificate(content).not_valid_after.replace(tzinfo=UTC)
    print(f"valid until {end:%Y-%m-%d %H:%M} UTC, {(end - now).days} days")
    return now < end


def wait_for_signal(seconds: float, signals: Iterable[signal.Signals] = _SIGNALS) -> int:
    """Wait for one of the signals, and no longer than `seconds`; return its number or 0."""
    received = signal.sigtimedwait(signals, seconds)
    return 0 if received is None else received.si_signo


def trust_authorities(authorities: Path, folder: Path, environ: MutableMapping[str, str]) -> None:
    """Have certbot trust these authorities, too; exits with a message if they are a folder."""
    if authorities.is_dir():  # Docker makes one where there is nothing
        sys.exit("certbot: CA_FILE in .env is not a file. Correct it, and remove that folder.")
    added = authorities.read_bytes() if authorities.exists() else b""
    if added:
        from certifi import where  # what certbot trusts

        system, bundle = Path(where()), folder / "ca.pem"
        bundle.write_bytes((system.read_bytes() if system.exists() else b"") + b"\n" + added)
        environ["REQUESTS_CA_BUNDLE"] = str(bundle)


def run_certbot(settings: Settings, force: bool) -> tuple[bool, bool]:
    """Run certbot. Return whether it succeeded, and whether this program shall end."""
    # This program has one thread.
    process = subprocess.Popen(  # noqa: S603
        settings.certbot(force),
        preexec_fn=_unblock_signals,  # noqa: PLW1509
    )
    while process.poll() is None:
        if wait_for_signal(0.5, _END):  # SIGUSR1 waits until this run has ended
            process.terminate()
            process.wait()
            return False, True
    return process.returncode == 0, False


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def run(settings: Settings) -> None:
    """Keep the certificate until a signal ends the program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    trust_authorities(AUTHORITIES, Path(TEMPORARY), os.environ)
    install_self_signed(settings, CERTIFICATES, datetime.now(UTC))
    install_issued(ACME, CERTIFICATES)  # if the volume of certificates is new
    failures, received = 0, wait_for_signal(2)  # nginx needs a moment
    while received not in _END:
        succeeded, is_over = run_certbot(settings, received == signal.SIGUSR1)
        if is_over:
            return
        if succeeded:
            install_issued(ACME, CERTIFICATES)
        failures = 0 if succeeded else failures + 1
        received = wait_for_signal(_pause(failures))


def _pause(failures: int) -> float:
    """Return how many seconds to wait. Not all servers may ask at the same minute."""
    if failures:
        return RETRIES[min(failures, len(RETRIES)) - 1]
    return INTERVAL * random.uniform(0.8, 1.0)  # noqa: S311


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        sys.exit(not is_valid(CERTIFICATES, datetime.now(UTC)))
    run(Settings.of_environment(os.environ))

"""Checks of a server from outside: with nothing but its URL, from any machine."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ctllm import __version__
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest
from ctllm.server.checks.certificate import judge_certificate
from ctllm.server.checks.connection import (
    Deadline,
    ProbeError,
    Response,
    connect_tcp,
    exchange,
    resolve,
    start_tls,
)
from ctllm.server.checks.findings import Finding, fault, ok, unknown, warning
from ctllm.server.checks.quic import parse_http3_port, speaks_quic
from ctllm.server.checks.stream import (
    STREAM_PATH,
    is_streamed,
    measure_delay,
    parse_arrivals,
)
from ctllm.server.setup_folder import parse_domain
from ctllm.web_ui.security_headers import SECURITY_HEADERS

#: Seconds between two clocks: signatures of machines are valid for 60, tokens of providers for 30.
_CLOCK_WARNING, _CLOCK_FAULT = 5, 30
#: How often the stream is requested before it counts as buffered.
_STREAM_ATTEMPTS = 3
#: Seconds until a UDP port counts as closed.
_UDP_TIMEOUT = 3.0
_COMPOSE_LOGS = "See: docker compose ps; docker compose logs nginx-proxy"


@dataclass(frozen=True, slots=True)
class Target:
    """The server: a host name and the port of HTTPS. `http_port` is None if it is not known."""

    host: str
    port: int = 443
    http_port: int | None = 80

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """Return the target of a URL or a host name; raises BadRequest."""
    try:
        parts = urlsplit(text if "//" in text else f"https://{text}")
        port = parts.port or 443
    except ValueError as error:
        raise BadRequest(f"{text!r} is not a URL: {error}.") from error
    if parts.scheme != "https" or parts.path.strip("/") or parts.query or parts.fragment:
        raise BadRequest(f"{text!r} is not a URL of a server, like https://app.example.org")
    if parts.username is not None:
        raise BadRequest("The URL of a server has no user.")
    return Target(parse_domain(parts.hostname or ""), port, 80 if port == 443 else None)


class Health(msgspec.Struct, frozen=True):
    """What `GET /health` says."""

    status: Annotated[str, Meta(max_length=100)]
    version: Annotated[str, Meta(max_length=100)]
    error: Annotated[str, Meta(max_length=1000)] | None = None


@dataclass(slots=True)
class OutsideChecks:
    """The checks of one server. `timeout` is for each step, in seconds.

    `addresses` are those to connect to; empty until its name was resolved.
    """

    target: Target
    timeout: float = 10.0
    version: str = __version__
    addresses: list[str] = field(default_factory=list)
    _is_trusted: bool = False

    def run(self) -> Iterator[Finding]:
        """Yield the findings, each as soon as it is known."""
        yield self._check_name()
        if not self.addresses:
            return
        yield self._check_connection()
        if not self.addresses:
            return
        yield self._attempt("certificate", self._check_certificate)
        if not self._is_trusted:
            advice = "Repair the certificate first: without it nothing of the server is trusted."
            yield unknown("HTTPS", "not checked, because of the certificate", advice)
            return
        for check, run in (
            ("TLS", self._check_tls),
            ("HTTP/3", self._check_http3),
            ("HTTP", self._check_redirect),
            ("health", self._check_health),
            ("clock", self._check_clock),
            ("headers", self._check_headers),
            ("streaming", self._check_streaming),
        ):
            yield self._attempt(check, run)

    def check_site(self) -> Finding:
        """Return whether the site is there, with a certificate of its name."""

        def run() -> Finding:
            self.addresses = list(resolve(self.target.host, Deadline(self.timeout)))
            status, url = self._get("/").status, f"https://{self.target.authority}/"
            if status != 200:
                return fault("site", f"{url} has the status {status}", _COMPOSE_LOGS)
            return ok("site", f"{url} is there")

        return self._attempt("site", run)

    def _attempt(self, check: str, run: Callable[[], Finding]) -> Finding:
        try:
            return run()
        except ssl.SSLCertVerificationError as error:
            found = f"the certificate of {self.target.host} is refused: {error.verify_message}"
            return fault(check, found, "See: docker compose logs certbot")
        except ProbeError as error:
            return fault(check, str(error), _COMPOSE_LOGS)

    # -- the way to the server

    def _check_name(self) -> Finding:
        host = self.target.host
        try:
            self.addresses = list(resolve(host, Deadline(self.timeout)))
        except ProbeError as error:
            return fault("name", f"{host}: {error}", f"Create an A record of {host} in DNS.")
        found = f"{host} is {', '.join(self.addresses)}"
        if private := [each for each in self.addresses if not ip_address(each).is_global]:
            advice = "Correct the records of the name in DNS, unless this is a private network."
            return warning(
                "name", f"{found}: not reachable from the internet: {private[0]}", advice
            )
        return ok("name", found)

    def _check_connection(self) -> Finding:
        """Connect to each address, and keep those that accept."""
        failures = {}
        for address in self.addresses:
            try:
                with connect_tcp(address, self.target.port, Deadline(self.timeout)):
                    pass
            except ProbeError as error:
                failures[address] = f"{address} port {self.target.port}: {error}"
        self.addresses = [each for each in self.addresses if each not in failures]
        if not failures:
            return ok("connection", f"port {self.target.port} is open on each address")
        advice = "Open the port in the firewall, or correct the records of the name in DNS."
        return fault("connection", "; ".join(failures.values()), advice)

    # -- TLS

    @contextmanager
    def _connect(self, context: ssl.SSLContext, deadline: Deadline) -> Iterator[ssl.SSLSocket]:
        with (
            connect_tcp(self.addresses[0], self.target.port, deadline) as plain,
            start_tls(plain, context, self.target.host, deadline) as connection,
        ):
            yield connection

    def _check_certificate(self) -> Finding:
        """Judge the certificate that the first address presents."""
        verify_error = ""
        try:
            with self._connect(ssl.create_default_context(), Deadline(self.timeout)) as connection:
                der = connection.getpeercert(binary_form=True)
            self._is_trusted = True
        except ssl.SSLCertVerificationError as error:
            verify_error = error.verify_message or str(error)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # to see what it is
            with self._connect(context, Deadline(self.timeout)) as connection:
                der = connection.getpeercert(binary_form=True)
        return judge_certificate(der or b"", verify_error, datetime.now(UTC))

    def _check_tls(self) -> Finding:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with self._connect(context, Deadline(self.timeout)) as connection:
            version, protocol = connection.version() or "", connection.selected_alpn_protocol()
        http = "HTTP/2" if protocol == "h2" else "HTTP/1.1"
        if protocol != "h2":
            return warning("TLS", f"{version}, {http}", "Enable HTTP/2 in the reverse proxy.")
        return ok("TLS", f"{version}, {http}")

    # -- HTTP

    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        deadline = Deadline(self.timeout)
        with self._connect(ssl.create_default_context(), deadline) as connection:
            return exchange(connection, self.target.authority, path, deadline, headers)

    def _check_http3(self) -> Finding:
        """Ask the port that the server names by UDP, if it names one."""
        alt_svc = self._get("/health").headers.get("alt-svc", "")
        if (port := parse_http3_port(alt_svc)) is None:
            return ok("HTTP/3", "not offered")
        deaf = [
            each for each in self.addresses
            if not speaks_quic(each, port, Deadline(min(self.timeout, _UDP_TIMEOUT)))
        ]  # fmt: skip
        if not deaf:
            return ok("HTTP/3", f"UDP port {port} answers on each address")
        found = f"offered, but UDP port {port} does not answer: {', '.join(deaf)}"
        advice = f"Open UDP port {port} in the firewall. Until then browsers use HTTP/2."
        return warning("HTTP/3", found, advice)

    def _check_redirect(self) -> Finding:
        if self.target.http_port is None:
            return unknown("HTTP", "its port is not known, because HTTPS has one of its own")
        deadline, host = Deadline(self.timeout), self.target.host
        with connect_tcp(self.addresses[0], self.target.http_port, deadline) as connection:
            response = exchange(connection, host, "/health", deadline)
        location = response.headers.get("location", "")
        if response.status in (301, 308) and location.startswith(f"https://{host}/"):
            return ok("HTTP", f"leads to https://{host}/")
        found = f"port {self.target.http_port} does not lead to HTTPS (status {response.status})"
        return fault("HTTP", found, "Redirect each request to HTTPS in the reverse proxy.")

    def _check_health(self) -> Finding:
        response = self._get("/health")
        if response.status != 200:
            return fault("health", f"/health has the status {response.status}", _COMPOSE_LOGS)
        try:
            health = decode_json(response.body, Health, 10_000)
        except InvalidJson as error:
            raise ProbeError(f"/health is not that of ctllm: {error}") from error
        return judge_health(health, self.version)

    def _check_clock(self) -> Finding:
        """Read the time of a response with a file: those of the cloud itself have no Date."""
        sent = time.time()
        response = self._get("/", {"Accept": "text/html"})
        return judge_clock(response.headers.get("date", ""), sent, time.time())

    def _check_headers(self) -> Finding:
        response = self._get("/", {"Accept": "text/html"})
        if response.status != 200:
            return fault("headers", f"the page has the status {response.status}", _COMPOSE_LOGS)
        return judge_headers(response.headers)

    def _check_streaming(self) -> Finding:
        for _ in range(_STREAM_ATTEMPTS):
            response = self._get(STREAM_PATH)
            if response.status != 200:
                why = f"{STREAM_PATH} has the status {response.status}"
                return unknown("streaming", why, "Try again, or update the server.")
            sent, arrived = measure_delay(parse_arrivals(response.pieces))
            if is_streamed(sent, arrived):
                return ok("streaming", f"lines arrive as they are sent ({arrived:.1f} seconds)")
        found = f"something buffers: lines of {sent:.1f} seconds arrived in {arrived:.1f}"
        advice = "In nginx, set `proxy_buffering off;`; see etc/nginx.conf.example."
        return fault("streaming", found, advice)


def judge_health(health: Health, version: str) -> Finding:
    """Return the finding for what a server says of itself."""
    found = f"{health.status}, version {health.version}"
    if health.status == "degraded":
        return fault("health", f"{found}: {health.error}", "See: docker compose logs api-backend")
    if health.status != "ok":
        return warning("health", found, "After a drain: ctllm proxies resume")
    if health.version != version:
        advice = "Update the older one of both."
        return warning("health", f"{found}, while this ctllm is {version}", advice)
    return ok("health", found)


def judge_clock(date: str, sent: float, received: float) -> Finding:
    """Return the finding for the header Date of a response, between two times of this machine."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return unknown("clock", "the response has no valid Date")
    # Date has whole seconds, so it may be one second before the time at which it was sent.
    off = max(sent - 1 - theirs, theirs - received, 0.0)
    if off <= _CLOCK_WARNING:
        return ok("clock", "that of the server agrees with that of this machine")
    found = f"the clocks of the server and of this machine differ by {off:.0f} seconds"
    advice = "See on both machines which one is wrong: timedatectl"
    return (fault if off > _CLOCK_FAULT else warning)("clock", found, advice)


def judge_headers(headers: Mapping[str, str]) -> Finding:
    """Return the finding for the headers of the page."""
    expected = {name.decode().lower(): value.decode() for name, value in SECURITY_HEADERS}
    missing = sorted({*expected, "strict-transport-security"} - set(headers))
    if missing:
        advice = "The reverse proxy must pass them on, and add Strict-Transport-Security."
        return fault("headers", f"missing on the page: {', '.join(missing)}", advice)
    if changed := sorted(name for name, value in expected.items() if headers[name] != value):
        advice = "Something on the way has changed them, or the server has another version."
        return warning("headers", f"not those of this ctllm: {', '.join(changed)}", advice)
    return ok("headers", f"the page has all {len(expected) + 1} security headers")

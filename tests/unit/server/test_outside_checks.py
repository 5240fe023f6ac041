"""`ctllm server check URL`, against servers that are broken, slow or hostile."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__
from ctllm.cli.findings_view import format_fields, format_finding
from ctllm.cli.status_view import Style
from ctllm.errors import BadRequest
from ctllm.server.checks.certificate import judge_certificate
from ctllm.server.checks.connection import Deadline, ProbeError, resolve
from ctllm.server.checks.findings import Finding, State
from ctllm.server.checks.outside import (
    OutsideChecks,
    Target,
    judge_clock,
    judge_headers,
    parse_target,
)
from ctllm.server.checks.quic import parse_http3_port
from ctllm.server.checks.stream import STREAM_PATH, Line, is_streamed, parse_arrivals
from ctllm.web_ui.security_headers import SECURITY_HEADERS
from tests.unit.server.hostile_server import (
    DAY,
    HOST,
    Answer,
    make_certificate,
    read_head,
    respond,
    run_server,
    run_udp_server,
)

HEALTH = {"status": "ok", "version": __version__, "proxies": 1, "error": None}
PAGE_HEADERS = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
PAGE_HEADERS["Strict-Transport-Security"] = "max-age=1"
#: Seconds of a stream of two lines; and the time-out of each step where a server is slow.
PAUSE, TIMEOUT = 0.4, 0.5


def as_lines(*seconds: float) -> list[bytes]:
    """Return the lines of a stream that were sent at these times."""
    return [
        json.dumps({"line": at + 1, "lines": len(seconds), "seconds": each}).encode() + b"\n"
        for at, each in enumerate(seconds)
    ]


class Site:
    """The answers of a server that is as it should be, of which a test changes some."""

    def __init__(self) -> None:
        self.date = ""  # the time
        self.health: Any = HEALTH
        self.alt_svc = ""
        self.page_headers: Mapping[str, str] = PAGE_HEADERS
        self.is_buffered = False
        self.lines = as_lines(0, PAUSE)

    def __call__(self, connection: socket.socket, ended: threading.Event) -> None:
        target = read_head(connection).decode()
        if target == "/health":
            body = self.health if isinstance(self.health, bytes) else json.dumps(self.health)
            data = body if isinstance(body, bytes) else body.encode()
            respond(connection, data, head=self.alt_svc and f"Alt-Svc: {self.alt_svc}\r\n")
        elif target == STREAM_PATH:
            self._stream(connection, ended)
        else:
            date = self.date or format_datetime(datetime.now(UTC), usegmt=True)
            headers = {"Date": date, **self.page_headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            respond(connection, b"page", head=head)

    def _stream(self, connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        if self.is_buffered:
            connection.sendall(b"".join(self.lines))
            return
        for line in self.lines[:-1]:
            connection.sendall(line)
            ended.wait(PAUSE)
        connection.sendall(self.lines[-1])


class OutsideCase(SynchronousTestCase):
    """A server with a certificate that is trusted."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.certificate = make_certificate(self.folder)
        self.site = Site()
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.resolve = stack.enter_context(
            mock.patch("ctllm.server.checks.outside.resolve", return_value=("127.0.0.1",))
        )

    def check(
        self,
        answer: Answer | None = None,
        timeout: float = 20.0,
        certificate: Path | None = None,
        trusted_certificate: Path | None = None,
    ) -> dict[str, Finding]:
        """Return the findings of a server, by what was checked."""
        trusted = {"SSL_CERT_FILE": str(trusted_certificate or certificate or self.certificate)}
        with (
            run_server(answer or self.site, certificate or self.certificate) as port,
            mock.patch.dict(os.environ, trusted),
        ):
            checks = OutsideChecks(Target(HOST, port, None), timeout)
            return {each.check: each for each in checks.run()}

    def assert_state(
        self, findings: Mapping[str, Finding], check: str, state: State, text: str = ""
    ) -> None:
        self.assertEqual(findings[check].state, state, findings[check])
        self.assertIn(text, findings[check].found)


class GoodServerTests(OutsideCase):
    """A server that is as it should be, or almost."""

    def test_all_is_well(self) -> None:
        findings = self.check()
        states = {check: each.state for check, each in findings.items()}
        self.assertEqual(
            states,
            {
                "name": State.WARNING, "connection": State.OK, "certificate": State.OK,
                "TLS": State.OK, "HTTP/3": State.OK, "HTTP": State.UNKNOWN, "health": State.OK,
                "clock": State.OK, "headers": State.OK, "streaming": State.OK,
            },
            findings,
        )  # fmt: skip
        self.assert_state(findings, "name", State.WARNING, "not reachable from the internet")
        self.assert_state(findings, "TLS", State.OK, "TLSv1.3, HTTP/2")

    def test_the_site_must_answer_with_a_certificate_of_its_name(self) -> None:
        def missing(connection: socket.socket, ended: threading.Event) -> None:
            read_head(connection)
            respond(connection, b"", "404 Not Found")

        for answer, name, state, text in (
            (self.site, HOST, State.OK, "is there"),
            (missing, HOST, State.FAULT, "status 404"),
            (self.site, "other.test", State.FAULT, "refused: Hostname mismatch"),
        ):
            with (
                run_server(answer, self.certificate) as port,
                mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self.certificate)}),
            ):
                found = OutsideChecks(Target(name, port)).check_site()
            self.assertEqual((found.state, text in found.found), (state, True), found)

    def test_a_server_that_buffers_is_found(self) -> None:
        self.site.is_buffered = True
        self.assert_state(self.check(), "streaming", State.FAULT, "something buffers")

    def test_a_wrong_clock_is_found(self) -> None:
        self.site.date = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
        self.assert_state(self.check(), "clock", State.FAULT, "differ by 3")
        self.site.date = "yesterday"
        self.assert_state(self.check(), "clock", State.UNKNOWN, "no valid Date")

    def test_missing_and_other_headers_are_found(self) -> None:
        self.site.page_headers = {k: v for k, v in PAGE_HEADERS.items() if "Transport" not in k}
        self.assert_state(self.check(), "headers", State.FAULT, "strict-transport-security")
        self.site.page_headers = {**PAGE_HEADERS, "X-Frame-Options": "SAMEORIGIN"}
        self.assert_state(self.check(), "headers", State.WARNING, "x-frame-options")

    def test_degraded_and_other_versions_are_found(self) -> None:
        self.site.health = {**HEALTH, "status": "degraded", "error": "no engine"}
        self.assert_state(self.check(), "health", State.FAULT, "no engine")
        self.site.health = {**HEALTH, "version": "0.0.1"}
        self.assert_state(self.check(), "health", State.WARNING, "version 0.0.1")

    def test_http_must_lead_to_https(self) -> None:
        def redirect(connection: socket.socket, ended: threading.Event) -> None:
            read_head(connection)
            respond(connection, b"", "308 Permanent Redirect", f"Location: {location}\r\n")

        for location, state in (
            (f"https://{HOST}/health", State.OK),
            ("https://evil.example/", State.FAULT),
            (f"https://{HOST}.evil.example/", State.FAULT),
            (f"http://{HOST}/", State.FAULT),
        ):
            with run_server(redirect) as port:
                checks = OutsideChecks(Target(HOST, 1, port), addresses=["127.0.0.1"])
                self.assertEqual(checks._check_redirect().state, state, location)


def negotiate_version(datagram: bytes) -> bytes:
    """Return the versions that a server of QUIC knows, for a packet of another version."""
    server_id, own_id = datagram[6:14], datagram[15:23]
    is_question = len(datagram) == 1200 and datagram[1:5] == bytes.fromhex("1a2a3a4a")
    versions = bytes.fromhex("00000001")
    return b"\xca\0\0\0\0\x08" + own_id + b"\x08" + server_id + versions if is_question else b""


def as_answer(answer: bytes, _: bytes) -> bytes:
    """Return `answer`, whatever was asked."""
    return answer


class Http3Tests(OutsideCase):
    """A server that says that it speaks HTTP/3."""

    def test_its_udp_port_must_answer(self) -> None:
        with run_udp_server(negotiate_version) as port:
            self.site.alt_svc = f'h3=":{port}"; ma=86400'
            findings = self.check()
        found = f"UDP port {port} answers on each address"
        self.assert_state(findings, "HTTP/3", State.OK, found)

    def test_a_port_that_a_firewall_closes_is_found(self) -> None:
        """A firewall answers nothing; another program answers something else."""
        for answer in (b"", b"hello", negotiate_version(b"\0" * 1200)):
            with run_udp_server(partial(as_answer, answer)) as port:
                self.site.alt_svc = f'h2="a:1", h3=":{port}"'
                findings = self.check(timeout=TIMEOUT)
            self.assert_state(findings, "HTTP/3", State.WARNING, "does not answer: 127.0.0.1")
            self.assertIn(f"Open UDP port {port}", findings["HTTP/3"].advice)

    def test_a_port_where_nothing_listens_is_found_at_once(self) -> None:
        with run_udp_server(negotiate_version) as port:
            pass
        self.site.alt_svc = f'h3=":{port}"'
        self.assert_state(self.check(), "HTTP/3", State.WARNING, "does not answer")

    def test_what_offers_no_http_3(self) -> None:
        for value in ("", "clear", 'h3="evil.example:443"', 'h3=":0"', 'h3=":65536"', 'ah3=":1"'):
            self.assertIsNone(parse_http3_port(value), value)
        self.assertEqual(parse_http3_port('h2=":1", h3=":443"; ma=1'), 443)


class CertificateTests(OutsideCase):
    """Certificates that are wrong. Nothing is asked of a server that is not trusted."""

    def assert_refused(
        self, certificate: Path, text: str, trusted_certificate: Path | None = None
    ) -> None:
        asked: list[bytes] = []

        def answer(connection: socket.socket, ended: threading.Event) -> None:
            asked.append(connection.recv(100))

        findings = self.check(
            answer, certificate=certificate, trusted_certificate=trusted_certificate
        )
        self.assert_state(findings, "certificate", State.FAULT, text)
        self.assertEqual(set(findings), {"name", "connection", "certificate", "HTTPS"})
        self.assertEqual([each for each in asked if each], [])

    def test_expired(self) -> None:
        certificate = make_certificate(self.folder, begin=-90 * DAY, end=-3 * DAY)
        self.assert_refused(certificate, "it expired 3 days ago")

    def test_not_valid_yet(self) -> None:
        self.assert_refused(make_certificate(self.folder, begin=DAY), "not valid before")

    def test_of_another_name(self) -> None:
        certificate = make_certificate(self.folder, name="other.ctllm.test")
        self.assert_refused(certificate, "Hostname mismatch")

    def test_of_an_unknown_authority_with_escapes_in_its_name(self) -> None:
        hostile = make_certificate(self.folder, issuer="\x1b[2J\tok\thealth\nok")
        found = self.check(certificate=hostile, trusted_certificate=self.certificate)
        findings = list(found.values())
        self.assertIn("self-signed", findings[2].found)
        self.assertIn("[2J", findings[2].found)
        self.assert_harmless(findings)

    def assert_harmless(self, findings: list[Finding]) -> None:
        style = Style(mock.Mock(isatty=lambda: False, encoding="utf-8"))
        for each in findings:
            self.assertLessEqual(format_finding(each, style).count("\n"), 1)
            self.assertTrue(format_finding(each, style).replace("\n", "").isprintable())
            self.assertTrue(format_fields(each).replace("\t", "").isprintable())
            self.assertLessEqual(format_fields(each).count("\t"), 3)

    def test_the_one_that_certbot_replaces(self) -> None:
        certificate = make_certificate(self.folder, issuer="ctllm: no certificate yet")
        self.assert_refused(certificate, "certbot has got none yet", self.certificate)

    def test_its_time_is_judged_as_part_of_its_lifetime(self) -> None:
        now = datetime.now(UTC)
        for days, left, state in (
            (90, 30, State.OK), (90, 20, State.WARNING), (90, 5, State.FAULT),
            (6, 3, State.OK), (6, 1.2, State.WARNING), (6, 0.3, State.FAULT),
        ):  # fmt: skip
            path = make_certificate(self.folder, begin=(left - days) * DAY, end=left * DAY)
            der = ssl.PEM_cert_to_DER_cert(path.read_text().partition("-----BEGIN PRIV")[0])
            self.assertEqual(judge_certificate(der, "", now).state, state, (days, left))
        self.assertEqual(judge_certificate(b"0", "", now).state, State.FAULT)


class HostileServerTests(OutsideCase):
    """Servers that hang, send rubbish, or want to reach the terminal."""

    def assert_faults(self, answer: Answer, *checks: str, text: str = "") -> None:
        """Assert that these checks fail. Without its time-outs, this does not end."""
        findings = self.check(answer, TIMEOUT)
        for check in checks:
            self.assert_state(findings, check, State.FAULT, text)

    def test_one_that_never_answers(self) -> None:
        def hang(connection: socket.socket, ended: threading.Event) -> None:
            ended.wait(120)

        self.assert_faults(hang, "health", "headers", "streaming", text="within 0.5 seconds")

    def test_one_that_never_ends_the_handshake(self) -> None:
        def hang(connection: socket.socket, ended: threading.Event) -> None:
            ended.wait(120)

        with run_server(hang) as port:  # without TLS
            checks = OutsideChecks(Target(HOST, port, None), TIMEOUT)
            findings = {each.check: each for each in checks.run()}
        self.assert_state(findings, "certificate", State.FAULT, "within 0.5 seconds")
        self.assertIn("HTTPS", findings)

    def test_one_that_sends_a_byte_now_and_then(self) -> None:
        """Each read succeeds in time, and the whole never ends."""

        def trickle(connection: socket.socket, ended: threading.Event) -> None:
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not ended.wait(0.05):
                connection.sendall(b"x")

        self.assert_faults(trickle, "health", "streaming", text="within 0.5 seconds")

    def test_one_that_sends_without_end(self) -> None:
        def flood(connection: socket.socket, ended: threading.Event) -> None:
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not ended.is_set():
                connection.sendall(b"x" * 1_000_000)

        findings = self.check(flood, 20.0)
        self.assert_state(findings, "health", State.FAULT, "more than 4 MiB")

    def test_one_that_speaks_something_else(self) -> None:
        def send(data: bytes) -> Answer:
            def answer(connection: socket.socket, ended: threading.Event) -> None:
                read_head(connection)
                connection.sendall(data)

            return answer

        for data, text in (
            (b"SSH-2.0-OpenSSH\r\n\r\n", "not valid HTTP"),
            (b"", "the connection"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "not valid HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "not valid HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not that of ctllm"),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"[" * 9000, "not that of ctllm"),
        ):
            with self.subTest(data[:40]):
                self.assert_state(self.check(send(data)), "health", State.FAULT, text)

    def test_escapes_do_not_reach_the_terminal(self) -> None:
        escape = "\x1b]0;owned\x07\x1b[2J\n\tok\r\x9b31m\u202e"
        self.site.health = {"status": f"ok{escape}", "version": escape, "error": escape}
        self.site.date = "\u202e\x1b[31m".encode().decode("latin-1")
        findings = self.check()
        self.assertIn("\x1b", findings["health"].found)  # and it is sanitized where it is printed
        text = format_fields(findings["health"])
        self.assertTrue(text.replace("\t", "").isprintable(), repr(text))
        self.assertEqual(text.count("\t"), 3)

    def test_a_stream_with_rubbish_is_no_stream(self) -> None:
        for lines, text in (
            ([b"{}\n", b"{}\n"], "not as expected"),
            (as_lines(0, 1e300), "not as expected"),
            ([*as_lines(0, PAUSE, 1)[:2]], "not complete"),
            (as_lines(0, 0.001), "without pauses"),
            ([b'{"line":1,"lines":2,"seconds":0}\n', b"\x1b[31m"], "not complete"),
        ):
            self.site.lines = lines
            self.assert_state(self.check(), "streaming", State.FAULT, text)

    def test_closed_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        findings = {each.check: each for each in OutsideChecks(Target(HOST, port)).run()}
        self.assert_state(findings, "connection", State.FAULT, "connection refused")
        self.assertEqual(set(findings), {"name", "connection"})


class NameTests(SynchronousTestCase):
    """Names and their addresses."""

    def test_a_resolver_that_hangs_ends_in_time(self) -> None:
        ended = threading.Event()
        self.addCleanup(ended.set)
        with self.assertRaisesRegex(ProbeError, "did not answer in time"):
            resolve("a.example", Deadline(0.2), lambda *_, **__: ended.wait(120))

    def test_errors_of_a_resolver_are_told(self) -> None:
        for error in (socket.gaierror(-2, "Name or service not known"), UnicodeError("label")):
            with self.assertRaisesRegex(ProbeError, "it has no address"):
                resolve("a.example", Deadline(20), mock.Mock(side_effect=error))

    def test_many_addresses_are_few(self) -> None:
        found = [(0, 0, 0, "", (f"10.0.0.{each}", 0)) for each in range(100)]
        v6 = [(0, 0, 0, "", ("fe80::1%eth0", 0, 0, 0))]
        self.assertEqual(len(resolve("a.example", Deadline(20), lambda *_, **__: found * 2)), 8)
        self.assertEqual(resolve("a.example", Deadline(20), lambda *_, **__: v6), ("fe80::1",))

    def test_urls(self) -> None:
        self.assertEqual(parse_target("https://App.example.org/"), Target("app.example.org"))
        self.assertEqual(parse_target("app.example.org"), Target("app.example.org"))
        self.assertEqual(parse_target("https://a.b.org:8443"), Target("a.b.org", 8443, None))
        for text in (
            "http://a.org", "https://a.org/x", "https://me:pw@a.org", "https://a.org:x",
            "https://127.0.0.1", "file:///etc/passwd", "", "https://a.org?x", "-x",
        ):  # fmt: skip
            self.assertRaises(BadRequest, parse_target, text)


class JudgementTests(SynchronousTestCase):
    """What is decided without a server."""

    def test_clocks(self) -> None:
        date = "Thu, 01 Jan 1970 00:16:40 GMT"  # 1000
        for now, state in (
            (1000.0, State.OK), (1005.9, State.OK), (995.0, State.OK), (1010.0, State.WARNING),
            (990.0, State.WARNING), (1040.0, State.FAULT), (960.0, State.FAULT),
        ):  # fmt: skip
            self.assertEqual(judge_clock(date, now, now).state, state, now)
        self.assertEqual(judge_clock(date, 990.0, 1010.0).state, State.OK)  # a slow answer
        self.assertEqual(judge_clock("Mon, 99 Foo 0 99:99", 0, 0).state, State.UNKNOWN)

    def test_lines_that_arrive_in_pieces_count_when_they_end(self) -> None:
        lines = as_lines(0, 0.8)
        pieces = [(1.0, lines[0][:5]), (1.5, lines[0][5:] + lines[1][:3]), (2.0, lines[1][3:])]
        arrivals = parse_arrivals(pieces)
        self.assertEqual(arrivals, [(1.5, Line(1, 2, 0)), (2.0, Line(2, 2, 0.8))])
        self.assertTrue(is_streamed(0.8, 0.5))
        self.assertFalse(is_streamed(0.8, 0.3))

    def test_headers_that_are_as_they_should_be(self) -> None:
        headers = {name.lower(): value for name, value in PAGE_HEADERS.items()}
        self.assertEqual(judge_headers(headers).state, State.OK)

"""`ctllm.cloud.spawners.host_isolation`: answers of the firewall, and the routes of this host."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Network
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.host_isolation import (
    ANSWER_TIMEOUT,
    HostIsolation,
    firewall_endpoint,
)
from ctllm.errors import ProxyUnavailable
from ctllm.http.client.unix_endpoint import UnexpectedPeer
from ctllm.reactor.interfaces import Endpoint
from tests.unit.fakes import FakeEndpoint

ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
BLACKHOLE = "*\t0000800A\t00000000\t0001\t0\t0\t9999\t0000F0FF\t0\t0\t0\n"  # 10.128.0.0/12
GOOD = b'{"problem":""}\n'


class HostIsolationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.endpoint = Clock(), FakeEndpoint()
        self.table = Path(self.mktemp())
        self.table.write_text(ROUTES + BLACKHOLE)
        self.isolation = self.make(self.endpoint)

    def make(self, endpoint: Endpoint | None, pool: str = "10.128.0.0/12") -> HostIsolation:
        return HostIsolation(endpoint, self.clock, IPv4Network(pool), self.table)

    def verify(self, isolation: HostIsolation | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine((isolation or self.isolation).verify())

    def answer(self, data: bytes) -> None:
        transport = self.endpoint.accept()
        transport.protocol.dataReceived(data)
        transport.protocol.connectionLost(Failure(ConnectionDone()))

    def message(self, verifying: Deferred[None]) -> str:
        return self.failureResultOf(verifying, ProxyUnavailable).value.message

    def test_succeeds_after_an_answer_without_a_problem(self) -> None:
        verifying = self.verify()
        self.assertNoResult(verifying)
        self.answer(GOOD)
        self.successResultOf(verifying)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_start_asks_again(self) -> None:
        for _ in range(2):
            verifying = self.verify()
            self.answer(GOOD)
            self.successResultOf(verifying)

    def test_reports_the_problem_of_the_firewall(self) -> None:
        verifying = self.verify()
        self.answer(b'{"problem":"iptables: \\u001b[31mno"}\n')
        message = self.message(verifying)
        self.assertIn("firewall --watch: iptables: \ufffd[31mno", message)
        self.assertIn("none is started", message)

    def test_refuses_whatever_else_it_answers(self) -> None:
        for data in (b"", b"ok\n", b"{}", b'{"problem":null}', b"[" * 100_000, b"x" * 10_000):
            verifying = self.verify()
            self.answer(data)
            self.assertIn("invalid", self.message(verifying), data)

    def test_closes_the_connection_of_an_answer_that_is_too_long(self) -> None:
        verifying = self.verify()
        transport = self.endpoint.accept()
        transport.protocol.dataReceived(b" " * 2000)
        self.assertEqual(transport.closed, "abort")
        transport.deliver_abort()
        self.message(verifying)

    def test_reports_why_it_cannot_connect(self) -> None:
        for error, text in (
            (ConnectError(errno.ECONNREFUSED), "Connection refused"),
            (FileNotFoundError(errno.ENOENT, "no"), "No such file"),
            (PermissionError(errno.EACCES, "no"), "Permission denied"),
            (UnexpectedPeer("process 5 of user 1000 listens at /x"), "user 1000 listens"),
        ):
            verifying = self.verify()
            self.endpoint.refuse(error)
            self.assertIn(text, self.message(verifying))

    def test_gives_up_after_the_timeout(self) -> None:
        for is_connected in (False, True):
            endpoint = FakeEndpoint()
            verifying = self.verify(self.make(endpoint))
            transport = endpoint.accept() if is_connected else None
            self.clock.advance(ANSWER_TIMEOUT)
            self.assertIn("did not answer", self.message(verifying))
            self.assertTrue(transport.closed == "abort" if transport else endpoint.cancelled)

    def test_gives_up_after_the_timeout_on_a_real_endpoint(self) -> None:
        """Its error for an attempt that was cancelled is not the one of other Deferreds."""
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            endpoint = firewall_endpoint(MemoryReactorClock(), path)
            verifying = self.verify(self.make(endpoint))
            self.clock.advance(ANSWER_TIMEOUT)
        self.assertIn("did not answer", self.message(verifying))

    def test_refuses_a_firewall_for_another_pool(self) -> None:
        verifying = self.verify(self.make(self.endpoint, "10.144.0.0/16"))
        self.answer(GOOD)
        self.assertIn("another cloud.docker_network_pool", self.message(verifying))

    def test_asks_nobody_without_a_socket_but_warns_at_the_start(self) -> None:
        unchecked = self.make(None)
        with capturedLogs() as events:
            unchecked.warn_if_unchecked()
            self.isolation.warn_if_unchecked()
            self.assertEqual(events, [])
            self.table.write_text(ROUTES)
            self.isolation.warn_if_unchecked()
            self.assertEqual(events, [])
            unchecked.warn_if_unchecked()
        self.assertIn("can reach services of this host", events[0]["log_format"])
        self.successResultOf(self.verify(unchecked))

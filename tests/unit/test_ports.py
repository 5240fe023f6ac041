"""Tests of `tests.ports`."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.ports import COUNT, LOWEST, free_port


class FreePortTests(SynchronousTestCase):
    def test_returns_no_port_twice(self) -> None:
        """Even if no server listens on the first one yet."""
        ports = [free_port() for _ in range(500)]
        self.assertEqual(len(set(ports)), 500)
        self.assertTrue(all(LOWEST <= port < LOWEST + COUNT for port in ports))

    def test_returns_no_port_that_is_in_use(self) -> None:
        first = free_port()
        used = LOWEST + (first + 1 - LOWEST) % COUNT
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", used))
            listener.listen()
            self.assertNotEqual(free_port(), used)

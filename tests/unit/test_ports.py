"""Ports that tests get are theirs."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.ports import COUNT, LOWEST, free_port


class FreePort(SynchronousTestCase):
    def test_no_port_is_given_twice(self) -> None:
        """Two servers of one test never get the same, though neither listens yet."""
        ports = [free_port() for _ in range(500)]
        self.assertEqual(len(set(ports)), 500)
        self.assertTrue(all(LOWEST <= port < LOWEST + COUNT for port in ports))

    def test_a_port_that_is_taken_is_not_given(self) -> None:
        """What listens already is passed over."""
        first = free_port()
        taken = LOWEST + (first + 1 - LOWEST) % COUNT
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", taken))
            listener.listen()
            self.assertNotEqual(free_port(), taken)

"""A short run of each part of `make fuzz`."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import http, tunnel, websocket


class FuzzTests(SynchronousTestCase):
    """There is no exception and no remaining timer, and memory stays within the windows."""

    def test_both_ends_of_a_tunnel_survive_random_frames(self) -> None:
        self.assertGreater(tunnel.fuzz_tunnel(Random(7), 60_000), 1000)

    def test_both_ends_of_a_tunnel_survive_random_websocket_data(self) -> None:
        self.assertGreater(websocket.fuzz_websocket(Random(7), 20_000), 1000)

    def test_the_server_survives_random_requests(self) -> None:
        self.assertGreater(http.fuzz_server(Random(7), 6_000), 1000)

    def test_the_response_parser_survives_random_responses(self) -> None:
        self.assertGreater(http.fuzz_response_parser(Random(7), 30_000), 1000)

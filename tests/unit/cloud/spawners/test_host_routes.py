"""`ctllm.cloud.spawners.host_routes`: routes in a table of Linux."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.cloud.spawners.host_routes import ROUTE_TABLE, is_blackholed, list_routes

#: From an x86 machine: a default route, a blackhole, docker0, the bridge of a proxy, a network.
TEXT = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
*\t0000800A\t00000000\t0001\t0\t0\t9999\t0000F0FF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
ctl29b450a4084f\t00008E0A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


class HostRoutesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table = Path(self.mktemp())
        self.table.write_text(TEXT)

    def test_lists_routes_except_default_and_blackholes(self) -> None:
        wanted = ["172.17.0.0/16", "10.142.0.0/28", "192.0.2.0/24"]
        self.assertEqual(list_routes(self.table), wanted)

    def test_recognises_a_blackhole_of_exactly_that_network(self) -> None:
        self.assertTrue(is_blackholed(IPv4Network("10.128.0.0/12"), self.table))
        for other in ("10.128.0.0/13", "10.0.0.0/8", "172.17.0.0/16"):
            self.assertFalse(is_blackholed(IPv4Network(other), self.table), other)

    def test_a_missing_table_has_no_routes(self) -> None:
        self.assertEqual(list_routes(Path("/nonexistent")), [])
        self.assertFalse(is_blackholed(IPv4Network("10.0.0.0/8"), Path("/nonexistent")))

    def test_parses_the_table_of_this_machine(self) -> None:
        if not ROUTE_TABLE.exists():
            raise SkipTest("not Linux")
        for each in list_routes(ROUTE_TABLE):
            IPv4Network(each)

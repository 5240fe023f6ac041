"""What the host has routes to, from a table as Linux has it."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.cloud.spawners.host_routes import ROUTE_TABLE, is_blackholed, list_routes

#: From a machine of x86: a default route, a blackhole, docker0, a bridge of a proxy's, a network.
TEXT = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
*\t0000800A\t00000000\t0001\t0\t0\t9999\t0000F0FF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
ctl29b450a4084f\t00008E0A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


class RouteTests(SynchronousTestCase):
    """A table of the test's own, and this machine's."""

    def setUp(self) -> None:
        self.table = Path(self.mktemp())
        self.table.write_text(TEXT)

    def test_taken(self) -> None:
        """All but the default and what leads nowhere."""
        wanted = ["172.17.0.0/16", "10.142.0.0/28", "192.0.2.0/24"]
        self.assertEqual(list_routes(self.table), wanted)

    def test_leads_nowhere(self) -> None:
        """That network, and no larger or smaller one."""
        self.assertTrue(is_blackholed(IPv4Network("10.128.0.0/12"), self.table))
        for other in ("10.128.0.0/13", "10.0.0.0/8", "172.17.0.0/16"):
            self.assertFalse(is_blackholed(IPv4Network(other), self.table), other)

    def test_no_table(self) -> None:
        """A system without one: nothing is known."""
        self.assertEqual(list_routes(Path("/nonexistent")), [])
        self.assertFalse(is_blackholed(IPv4Network("10.0.0.0/8"), Path("/nonexistent")))

    def test_this_machine(self) -> None:
        """Its own table can be read."""
        if not ROUTE_TABLE.exists():
            raise SkipTest("not Linux")
        for each in list_routes(ROUTE_TABLE):
            IPv4Network(each)

"""`ctllm.cloud.spawners.bridge_network`: the addresses of containers."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.bridge_network import BridgeNetwork
from ctllm.cloud.spawners.interfaces import ProxyInstance

POOL = IPv4Network("10.142.0.0/24")
ROOT = Path(__file__).parents[4]
#: The variables of nginx, which choose where a request goes.
MAPS = ROOT / "containers/nginx-proxy/templates/direct_maps.conf.template"


class AddressTests(SynchronousTestCase):
    """The address of a container that has one in its network."""

    def setUp(self) -> None:
        container = cast(Any, SimpleNamespace(address=lambda network: "10.128.0.18"))
        network = BridgeNetwork(cast(Any, None), cast(Any, None), POOL)
        self.endpoint = network.endpoint("ctllm-proxy-1", container)

    def test_the_cloud_connects_to_it(self) -> None:
        """The endpoint is one of Twisted."""
        self.assertIsInstance(clientFromString(reactor, self.endpoint), TCP4ClientEndpoint)

    def test_nginx_connects_to_it(self) -> None:
        """The address for a reverse proxy is one that nginx accepts; any other means 503."""
        address = ProxyInstance("ctllm-proxy-1", self.endpoint, 0.0).address
        self.assertEqual(address, "10.128.0.18:8080")
        (pattern,) = re.findall(r'"~(\S*ctllm_address\S*)"', MAPS.read_text())
        self.assertRegex(address, pattern.replace("(?<", "(?P<"))

    def test_a_container_without_an_address_has_no_endpoint(self) -> None:
        """It has lost its network."""
        container = cast(Any, SimpleNamespace(address=lambda network: ""))
        network = BridgeNetwork(cast(Any, None), cast(Any, None), POOL)
        self.assertEqual(network.endpoint("ctllm-proxy-1", container), "")

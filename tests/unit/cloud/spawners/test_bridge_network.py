"""`ctllm.cloud.spawners.bridge_network`: the addresses of containers."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.docker_api import Container, DockerNotFound, Network, SubnetOverlap
from ctllm.cloud.docker_api.models import decode_response
from ctllm.cloud.spawners.bridge_network import BridgeNetwork
from ctllm.cloud.spawners.container_spec import CloudLabels, network_config
from ctllm.cloud.spawners.host_isolation import HostIsolation
from ctllm.cloud.spawners.interfaces import ProxyInstance
from ctllm.errors import ProxyUnavailable
from tests.unit.cloud.proxies.manager_case import A, B

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


LABELS = CloudLabels(b"secret", "key")
ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
ctlaaaaaaaaa {} 00000000 0001 0 0 0 F0FFFFFF 0 0 0
""".format(int.to_bytes(int(POOL[0]), 4, "little").hex().upper())


class FakeNetworks:
    """Docker's networks, as it reports them, by name."""

    def __init__(self) -> None:
        self.networks: dict[str, dict[str, Any]] = {}
        self.list_calls = 0

    async def create_network(self, config: dict[str, Any]) -> str:
        subnets = [each["IPAM"]["Config"] for each in self.networks.values()]
        if config["IPAM"]["Config"] in subnets:
            raise SubnetOverlap("it overlaps")
        self.networks[config["Name"]] = {**config, "Id": config["Name"] + "-id", "Containers": {}}
        return config["Name"] + "-id"

    async def inspect_network(self, name: str) -> Network:
        if name not in self.networks:
            raise DockerNotFound("no such network")
        return decode_response(msgspec.json.encode(self.networks[name]), Network)

    async def list_networks(self) -> list[Network]:
        self.list_calls += 1
        return [await self.inspect_network(name) for name in self.networks]


class BridgeNetworkCase(SynchronousTestCase):
    """A firewall that isolates containers, unless `problem` is set."""

    problem = ""

    def setUp(self) -> None:
        self.docker = FakeNetworks()
        self.routes = Path(self.mktemp())
        self.routes.write_text(ROUTES)
        self.network = BridgeNetwork(
            cast(Any, self.docker), LABELS, POOL, cast(HostIsolation, self), self.routes
        )

    async def verify(self) -> None:
        if self.problem:
            raise ProxyUnavailable(self.problem)

    def provision(self, proxy_id: str = A) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.network.provision(proxy_id)))


class SubnetTests(BridgeNetworkCase):
    def subnets(self) -> list[str]:
        configs = [each["IPAM"]["Config"] for each in self.docker.networks.values()]
        return [each["Subnet"] for (each,) in configs]

    def test_the_routes_of_the_host_say_what_is_in_use(self) -> None:
        self.provision()
        self.assertEqual((self.subnets(), self.docker.list_calls), (["10.142.0.16/28"], 0))

    def test_docker_is_asked_for_networks_that_have_no_route_here(self) -> None:
        """They are those of other drivers, or the cloud has a network namespace of its own."""
        others = [f"10.142.0.{16 * number}/28" for number in range(1, 10)]
        for number, subnet in enumerate(others):
            config = network_config(LABELS, f"other{number}", IPv4Network(subnet))
            self.successResultOf(Deferred.fromCoroutine(self.docker.create_network(config)))
        self.provision()
        self.assertEqual((self.subnets()[-1], self.docker.list_calls), ("10.142.0.160/28", 1))

    def test_docker_on_another_host_is_asked(self) -> None:
        self.network = BridgeNetwork(cast(Any, self.docker), LABELS, POOL)
        self.provision()
        self.assertEqual((self.subnets(), self.docker.list_calls), (["10.142.0.0/28"], 1))

    def test_a_start_fails_without_isolation(self) -> None:
        self.problem = "no rules"
        provisioning = Deferred.fromCoroutine(self.network.provision(A))
        self.failureResultOf(provisioning, ProxyUnavailable)


class ProvisionAgainTests(BridgeNetworkCase):
    """A container that exited, in its network or in another one."""

    def setUp(self) -> None:
        super().setUp()
        self.provision()
        ((self.name, self.found),) = self.docker.networks.items()
        self.attached = {self.name: self.found["Id"]}

    def is_provisioned(self) -> Deferred[bool]:
        networks = {name: {"IPAddress": "", "NetworkID": id} for name, id in self.attached.items()}
        state = {"Status": "exited", "Running": False, "Paused": False}
        inspected = {"Id": "c", "Name": "/c", "Image": "i", "State": state, "Config": {},
                     "NetworkSettings": {"Networks": networks}}  # fmt: skip
        container = decode_response(msgspec.json.encode(inspected), Container)
        return Deferred.fromCoroutine(self.network.provision_again(A, container))

    def test_a_network_that_is_as_it_was_created_is_used_again(self) -> None:
        self.assertTrue(self.successResultOf(self.is_provisioned()))

    def test_a_network_that_is_not_is_not(self) -> None:
        """It has another name, id, owner or kind, or somebody else is in it."""
        options = self.found["Options"]
        changes: tuple[dict[str, Any], ...] = (
            {"Internal": False},
            {"Options": {**options, "com.docker.network.bridge.enable_icc": "true"}},
            {"Options": {**options, "com.docker.network.bridge.name": "docker7"}},
            {"Labels": LABELS.labels_for(B)},
            {"Labels": CloudLabels(b"another", "key").labels_for(A)},
            {"Containers": {"other": {}}},
            {"Id": "another"},
        )
        for change in changes:
            self.docker.networks[self.name] = {**self.found, **change}
            self.assertFalse(self.successResultOf(self.is_provisioned()), change)

    def test_a_container_in_other_networks_is_not_started_again(self) -> None:
        for attached in ({}, {"bridge": "b"}, {**self.attached, "bridge": "b"}):
            self.attached = attached
            self.assertFalse(self.successResultOf(self.is_provisioned()), attached)

    def test_a_network_that_was_removed_is_not_used(self) -> None:
        self.docker.networks.clear()
        self.assertFalse(self.successResultOf(self.is_provisioned()))

    def test_nothing_starts_again_without_isolation(self) -> None:
        self.problem = "no rules"
        self.failureResultOf(self.is_provisioned(), ProxyUnavailable)

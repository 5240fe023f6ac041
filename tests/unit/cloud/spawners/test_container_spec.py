"""`ctllm.cloud.spawners.container_spec`: the configurations of networks and containers."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.connectivity import ContainerConnectivity
from ctllm.cloud.spawners.container_spec import (
    BRIDGE_PREFIX,
    CloudLabels,
    container_config,
    network_config,
)
from ctllm.config import Proxy

LABELS = CloudLabels(b"instance's secret", "k" * 43)
ids = st.text("0123456789abcdef", min_size=32, max_size=32).map(lambda each: f"ctllm-proxy-{each}")


class ContainerSpecTests(SynchronousTestCase):
    @given(ids)
    def test_network_is_internal_and_its_bridge_has_the_firewalls_prefix(
        self, proxy_id: str
    ) -> None:
        config = network_config(LABELS, proxy_id, IPv4Network("10.128.0.0/28"))
        name = config["Options"]["com.docker.network.bridge.name"]
        self.assertTrue(name.startswith(BRIDGE_PREFIX) and len(name) == 15)
        self.assertEqual(name[3:], proxy_id[12:24])
        self.assertTrue(config["Internal"] and not config["EnableIPv6"])

    def test_container_config_has_no_secret_and_drops_privileges(self) -> None:
        connectivity = ContainerConnectivity(
            ("--port", "1"), {"NetworkMode": "x", "Dns": ["192.0.2.1"]}, 7
        )
        config = container_config("image", LABELS, "ctllm-proxy-1", Proxy(), connectivity)
        self.assertNotIn("secret", str(config))
        host = config["HostConfig"]
        self.assertEqual((host["NetworkMode"], host["Dns"]), ("x", ["192.0.2.1"]))
        self.assertEqual(config["User"], "1001:7")
        self.assertEqual((host["CapDrop"], host["IpcMode"], host["ReadonlyRootfs"]),
                         (["ALL"], "none", True))  # fmt: skip

"""What a streaming proxy is to Docker, whatever its user's hash."""

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

MARKS = CloudLabels(b"instance's secret", "k" * 43)
ids = st.text("0123456789abcdef", min_size=32, max_size=32).map(lambda each: f"ctllm-proxy-{each}")


class ContainerTests(SynchronousTestCase):
    """The bodies of two calls."""

    @given(ids)
    def test_bridge(self, proxy_id: str) -> None:
        """The firewall knows it by its first letters, Linux takes it, and it is this user's own."""
        body = network_config(MARKS, proxy_id, IPv4Network("10.128.0.0/28"))
        name = body["Options"]["com.docker.network.bridge.name"]
        self.assertTrue(name.startswith(BRIDGE_PREFIX) and len(name) == 15)
        self.assertEqual(name[3:], proxy_id[12:24])
        self.assertTrue(body["Internal"] and not body["EnableIPv6"])

    def test_nothing_secret(self) -> None:
        """The instance's secret is in no label and no argument; what an attachment wants is in."""
        attached = ContainerConnectivity(
            ("--port", "1"), {"NetworkMode": "x", "Dns": ["192.0.2.1"]}, 7
        )
        body = container_config("image", MARKS, "ctllm-proxy-1", Proxy(), attached)
        self.assertNotIn("secret", str(body))
        host = body["HostConfig"]
        self.assertEqual((host["NetworkMode"], host["Dns"]), ("x", ["192.0.2.1"]))
        self.assertEqual(body["User"], "1001:7")
        self.assertEqual((host["CapDrop"], host["IpcMode"], host["ReadonlyRootfs"]),
                         (["ALL"], "none", True))  # fmt: skip

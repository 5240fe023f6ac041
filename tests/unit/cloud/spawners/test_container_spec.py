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
    created_as,
    network_config,
)
from ctllm.cloud.spawners.interfaces import new_waiting_id
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

    def test_a_container_that_waits_is_told_so_and_keeps_its_network_when_it_is_renamed(
        self,
    ) -> None:
        waiting, users = new_waiting_id(), "ctllm-proxy-" + "a" * 32
        connectivity = ContainerConnectivity((), {})
        config = container_config("image", LABELS, waiting, Proxy(), connectivity)
        self.assertIn("--waiting", config["Cmd"])
        self.assertEqual(created_as(config["Labels"], users), waiting)
        config = container_config("image", LABELS, users, Proxy(), connectivity)
        self.assertNotIn("--waiting", config["Cmd"])
        self.assertEqual(created_as(config["Labels"], users), users)
        self.assertEqual(created_as({"ctllm.proxy": "ctllm-proxy-" + "b" * 32}, users), users)

    def test_settings_and_image_are_in_a_label(self) -> None:
        """So a container that waits with others is not used."""

        def label(image: str = "i", proxy_id: str = "p", **settings: int) -> str:
            proxy = Proxy(**settings)  # type: ignore[arg-type]
            config = container_config(image, LABELS, proxy_id, proxy, ContainerConnectivity((), {}))
            return str(config["Labels"]["ctllm.settings"])

        self.assertEqual(label(), label(proxy_id="q"))
        different = {label(), label("j"), label(max_streams=9), label(max_memory_bytes=1 << 28)}
        self.assertEqual(len(different), 4)

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

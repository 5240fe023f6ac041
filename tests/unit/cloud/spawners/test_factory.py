"""`ctllm.cloud.spawners.factory`: the limits of the kernel."""

from __future__ import annotations

import sys
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.cloud.spawners.factory import find_low_kernel_limits
from ctllm.config import Cloud, Tier

#: More containers than any Linux allows: 4,194,304 threads are the most (proc(5)).
TOO_MANY = 1_000_000


class KernelLimitTests(SynchronousTestCase):
    """Which clouds are told of the limits of this machine."""

    def names(self, **settings: Any) -> list[str]:
        if sys.platform != "linux":
            raise SkipTest("reads /proc")
        return [each.name for each in find_low_kernel_limits(Cloud(**settings))]

    def test_a_cloud_with_containers_here(self) -> None:
        """Also if only a tier has containers."""
        self.assertIn("kernel.pid_max", self.names(spawner="docker", max_proxies=TOO_MANY))
        tiers = {"guests": Tier(groups=("guests",), spawner="docker")}
        self.assertIn("kernel.pid_max", self.names(tiers=tiers, max_proxies=TOO_MANY))

    def test_a_cloud_without_containers_here(self) -> None:
        """Processes have limits of their own, and another machine cannot be read."""
        self.assertEqual(self.names(spawner="process", max_proxies=TOO_MANY), [])
        remote = "tcp://docker.example:2376"
        self.assertEqual(self.names(spawner="docker", docker_url=remote, max_proxies=TOO_MANY), [])

    def test_few_containers_need_nothing(self) -> None:
        """A test machine allows them."""
        self.assertEqual(self.names(spawner="docker", max_proxies=1), [])

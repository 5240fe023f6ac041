"""`ctllm.cloud.spawners.subnet_allocator`: which subnets are reserved, in which order."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.subnet_allocator import SubnetAllocator
from ctllm.errors import ServiceUnavailable

SMALL = IPv4Network("10.128.0.0/24")  # 16 subnets

networks = st.builds(
    lambda at, prefix: str(IPv4Network((0x0A7FFF00 + at, prefix), strict=False)),
    st.integers(0, 1023),
    st.integers(22, 32),
)


class SubnetAllocatorTests(SynchronousTestCase):
    @given(st.lists(networks, max_size=6))
    def test_reserves_every_free_subnet_once(self, in_use: list[str]) -> None:
        subnets, found = SubnetAllocator(SMALL), []
        others = [IPv4Network(each) for each in in_use]
        try:
            while True:
                found.append(subnets.reserve(in_use))
        except ServiceUnavailable as error:
            self.assertIn("16 subnets of 10.128.0.0/24", error.message)
        for each in found:
            self.assertTrue(each.subnet_of(SMALL) and each.prefixlen == 28)
            self.assertFalse(any(each.overlaps(other) for other in others))
        self.assertEqual(len(set(found)), len(found))
        free = [each for each in SMALL.subnets(new_prefix=28)
                if not any(each.overlaps(other) for other in others)]  # fmt: skip
        self.assertEqual(sorted(found), free)

    def test_reuses_a_released_subnet_last(self) -> None:
        subnets = SubnetAllocator(SMALL)
        first = subnets.reserve([])
        subnets.release(first)
        others = [subnets.reserve([]) for _ in range(15)]
        self.assertNotIn(first, others)
        self.assertEqual(subnets.reserve([]), first)

    def test_ignores_ipv6_and_other_networks(self) -> None:
        subnets = SubnetAllocator(SMALL)
        self.assertEqual(str(subnets.reserve(["fd00::/64", "192.168.0.0/16"])), "10.128.0.0/28")
        self.assertRaises(ServiceUnavailable, subnets.reserve, ["10.0.0.0/8"])

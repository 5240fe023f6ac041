"""Subnets for the networks of proxies."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.subnet_allocator import SubnetAllocator
from ctllm.errors import ServiceUnavailable

SMALL = IPv4Network("10.128.0.0/24")  # 16 of them

networks = st.builds(
    lambda at, prefix: str(IPv4Network((0x0A7FFF00 + at, prefix), strict=False)),
    st.integers(0, 1023),
    st.integers(22, 32),
)


class SubnetTests(SynchronousTestCase):
    """Taking and giving back."""

    @given(st.lists(networks, max_size=6))
    def test_none_overlaps(self, taken: list[str]) -> None:
        """Neither what there is nor each other, until there is none; and none is left over."""
        subnets, found = SubnetAllocator(SMALL), []
        others = [IPv4Network(each) for each in taken]
        try:
            while True:
                found.append(subnets.reserve(taken))
        except ServiceUnavailable as error:
            self.assertIn("16 subnets of 10.128.0.0/24", error.message)
        for each in found:
            self.assertTrue(each.subnet_of(SMALL) and each.prefixlen == 28)
            self.assertFalse(any(each.overlaps(other) for other in others))
        self.assertEqual(len(set(found)), len(found))
        free = [each for each in SMALL.subnets(new_prefix=28)
                if not any(each.overlaps(other) for other in others)]  # fmt: skip
        self.assertEqual(sorted(found), free)

    def test_given_back_is_given_last(self) -> None:
        """Whoever still knows the address finds nobody there for as long as can be."""
        subnets = SubnetAllocator(SMALL)
        first = subnets.reserve([])
        subnets.release(first)
        others = [subnets.reserve([]) for _ in range(15)]
        self.assertNotIn(first, others)
        self.assertEqual(subnets.reserve([]), first)

    def test_what_others_have(self) -> None:
        """IPv6, and what is elsewhere, takes nothing; what holds all of it takes all."""
        subnets = SubnetAllocator(SMALL)
        self.assertEqual(str(subnets.reserve(["fd00::/64", "192.168.0.0/16"])), "10.128.0.0/28")
        self.assertRaises(ServiceUnavailable, subnets.reserve, ["10.0.0.0/8"])

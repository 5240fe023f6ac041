"""An allocator of subnets for the networks of proxies."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network

from ctllm.errors import ServiceUnavailable

#: A network needs an address for its bridge and one for the proxy. /28 is the smallest subnet that
#: every Docker version accepts without an explicit gateway.
PREFIX_LENGTH = 28


class SubnetAllocator:
    """Allocates subnets of `pool` round-robin.

    A released subnet is reused as late as possible, so that a stale connection attempt does not
    reach another user's proxy.
    """

    def __init__(self, pool: IPv4Network) -> None:
        self._first = int(pool.network_address)
        self._step = 1 << (32 - PREFIX_LENGTH)
        self._count = pool.num_addresses // self._step
        self._next = 0
        self._reserved: set[int] = set()
        self._pool = pool

    def reserve(self, in_use: Iterable[str]) -> IPv4Network:
        """Reserve a subnet that overlaps none of `in_use`, such as ``10.0.0.0/8``.

        Raises ServiceUnavailable if none is free.
        """
        unavailable = self._reserved | self._overlapping_indices(in_use)
        for offset in range(self._count):
            index = (self._next + offset) % self._count
            if index not in unavailable:
                self._next = index + 1
                self._reserved.add(index)
                return IPv4Network((self._first + index * self._step, PREFIX_LENGTH))
        raise ServiceUnavailable(
            f"All {self._count} subnets of {self._pool} are in use. Choose a larger "
            "cloud.docker_network_pool.",
            retry_after=60,
        )

    def release(self, subnet: IPv4Network) -> None:
        """Release a reserved subnet: a network uses it now, or none will."""
        self._reserved.discard((int(subnet.network_address) - self._first) // self._step)

    def _overlapping_indices(self, in_use: Iterable[str]) -> set[int]:
        indices: set[int] = set()
        for text in in_use:
            with suppress(ValueError):  # IPv6
                other = IPv4Network(text, strict=False)
                if other.overlaps(self._pool):
                    low = int(other.network_address) - self._first
                    high = low + other.num_addresses - 1
                    first, last = max(0, low // self._step), high // self._step
                    indices.update(range(first, min(last, self._count - 1) + 1))
        return indices

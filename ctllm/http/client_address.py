"""The address of the client of a request, which reverse proxies report in X-Forwarded-For.

A header is believed only as far as trusted proxies wrote it: each appends the address of its own
peer at the right, and a client may have sent anything to the left of that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from ctllm.http.message.head import RequestHead

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The entry of `cloud.trusted_proxies` for peers that connect to a UNIX socket.
UNIX = "unix"
#: Prefix lengths of what is recorded of an address, and of IPv6 networks that count as one client.
IPV4_TRUNCATION, IPV6_TRUNCATION, IPV6_CLIENT = 24, 48, 64
#: More proxies than any request passes. Addresses further left are not examined.
MAX_PROXIES = 16
#: Addresses whose parsed form is remembered: a client sends many requests.
MAX_PARSED = 1024

_FORWARDED_FOR = b"x-forwarded-for"
_MAX_ADDRESS_LENGTH = 64


class TrustedProxies:
    """The reverse proxies whose X-Forwarded-For is believed: networks in CIDR, and "unix".

    Raises ValueError for a network that is none.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        entries = tuple(networks)
        self._trusts_unix = UNIX in entries
        self._networks = tuple(ipaddress.ip_network(each) for each in entries if each != UNIX)

    def client_address(self, peer: str, head: RequestHead) -> str:
        """Return the address of the client that sent `head`.

        `peer` is the address of the connection's other end, or empty for a UNIX socket. The result
        is the rightmost address of X-Forwarded-For that is no trusted proxy, else the leftmost
        valid one, else `peer`. It is empty if that is not known.
        """
        nearest = parse_address(peer.partition("%")[0])
        if not (self._trusts(nearest) if peer else self._trusts_unix):
            return _text(nearest)
        for text in reversed(_forwarded_for(head)):
            address = parse_forwarded(text)
            if address is None:
                break  # whoever wrote this is not trusted to have written the rest
            nearest = address
            if not self._trusts(address):
                break
        return _text(nearest)

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """Return an IP address, or None; an IPv4 address that is mapped to IPv6 becomes IPv4 again."""
    if len(text) > _MAX_ADDRESS_LENGTH or "%" in text:
        return None
    return _parse(text)


@lru_cache(MAX_PARSED)
def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_forwarded(text: str) -> Address | None:
    """Return the address of an entry of X-Forwarded-For, without its port if it has one."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return parse_address(host) if bracket and (not port or _is_port(port)) else None
    if text.count(":") == 1:
        host, colon, port = text.partition(":")
        return parse_address(host) if _is_port(colon + port) else None
    return parse_address(text)


def truncate_address(address: str) -> str:
    """Return the network of an address that is recorded: 203.0.113.0/24, or an IPv6 /48.

    An address that is not valid, or not known, becomes an empty string.
    """
    parsed = parse_address(address)
    return "" if parsed is None else _truncate(parsed)


@lru_cache(MAX_PARSED)
def _truncate(address: Address) -> str:
    prefix = IPV4_TRUNCATION if address.version == 4 else IPV6_TRUNCATION
    return str(ipaddress.ip_network((address, prefix), strict=False))


def client_network(address: str) -> str:
    """Return what counts as one client in limits: an IPv4 address, or an IPv6 /64."""
    parsed = parse_address(address)
    if parsed is None or parsed.version == 4:
        return _text(parsed)
    return str(ipaddress.ip_network((parsed, IPV6_CLIENT), strict=False))


def _forwarded_for(head: RequestHead) -> list[str]:
    """Return the last entries of all X-Forwarded-For headers, in their order."""
    entries: list[bytes] = []
    for name, value in head.headers:
        if name.lower() == _FORWARDED_FOR:
            entries += value.rsplit(b",", MAX_PROXIES)[-MAX_PROXIES:]
    return [entry.strip().decode("latin-1") for entry in entries[-MAX_PROXIES:]]


def _is_port(text: str) -> bool:
    digits = text[1:]
    return text[0] == ":" and len(digits) <= 5 and digits.isascii() and digits.isdigit()


@lru_cache(MAX_PARSED)
def _text(address: Address | None) -> str:
    return "" if address is None else str(address)

"""Origins of web pages and hosts of requests, as Ollama's server judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

#: What Ollama lets in without being told: pages of this machine, and apps of it.
OLLAMA_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for scheme in ("http", "https")
        for host in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
        for port in ("", ":*")
    ),
    "app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*",
)  # fmt: skip

#: RFC 1918 and RFC 4193: what Go, and so Ollama, calls private.
_PRIVATE = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)  # fmt: skip
#: Domains that no public name is in.
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")


def origin_matcher(patterns: Iterable[str]) -> Callable[[bytes], bool]:
    """Give what says whether an Origin header's value is one of `patterns`.

    A pattern is an origin; `:*` at its end stands for any port, `//*` for all of its scheme.
    """
    exact, ports, schemes = set(), [], []
    for pattern in patterns:
        text = pattern.encode()
        if text.endswith(b"://*"):
            schemes.append(text.removesuffix(b"*"))
        elif text.endswith(b":*"):
            ports.append(text.removesuffix(b"*"))
        else:
            exact.add(text)

    def matches(origin: bytes) -> bool:
        return (
            origin in exact
            or origin.startswith(tuple(schemes))
            or any(origin.startswith(each) and origin[len(each) :].isdigit() for each in ports)
        )

    return matches


def parse_host(authority: str) -> str:
    """Give the host of an authority (host, perhaps a port) in lower case; nothing if it has none.

    Raises ValueError for what is no authority, or has a user in front.
    """
    if "@" in authority or "/" in authority:
        raise ValueError("not a host")
    return urlsplit(f"//{authority}").hostname or ""


def is_local_host(name: str, hostname: str) -> bool:
    """Whether `name` is of this machine, called `machine`, or of its network.

    No name that a page of the internet could have is, so none can be made to point here.
    """
    if name in ("localhost", hostname.lower()) or name.endswith(_LOCAL_DOMAINS):
        return bool(name)
    address = _address(name)
    if address is None:
        return False
    private = any(address in network for network in _PRIVATE if network.version == address.version)
    return private or address.is_loopback or address.is_unspecified


def is_loopback_host(name: str) -> bool:
    """Whether `name` is this machine and no other."""
    address = _address(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address

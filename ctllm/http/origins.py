"""Origins of web pages and Hosts of requests, matched as Ollama's server does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

#: The origins that Ollama allows by default: pages and apps of this machine.
OLLAMA_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for scheme in ("http", "https")
        for host in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
        for port in ("", ":*")
    ),
    "app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*",
)  # fmt: skip

#: RFC 1918 and RFC 4193: the addresses that Go, and so Ollama, calls private.
_PRIVATE = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)  # fmt: skip
#: Domains without public names.
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")


def origin_matcher(patterns: Iterable[str]) -> Callable[[bytes], bool]:
    """Return a function that says whether an Origin matches one of `patterns`.

    A pattern is an origin, in which a final `:*` is any port, and a final `//*` any host.
    """
    exact, any_port, any_host = set(), [], []
    for pattern in patterns:
        text = pattern.encode()
        if text.endswith(b"://*"):
            any_host.append(text.removesuffix(b"*"))
        elif text.endswith(b":*"):
            any_port.append(text.removesuffix(b"*"))
        else:
            exact.add(text)

    def matches(origin: bytes) -> bool:
        return (
            origin in exact
            or origin.startswith(tuple(any_host))
            or any(
                origin.startswith(prefix) and origin[len(prefix) :].isdigit() for prefix in any_port
            )
        )

    return matches


def parse_host(authority: str) -> str:
    """Return the host of an authority in lower case, or nothing if it has none.

    Raises ValueError for an invalid authority, and for one with a user name.
    """
    if "@" in authority or "/" in authority:
        raise ValueError("not a host")
    return urlsplit(f"//{authority}").hostname or ""


def is_local_host(name: str, hostname: str) -> bool:
    """Whether `name` is a name or address of this machine (`hostname`) or its local network.

    No public name is: so a public page cannot reach this machine by DNS rebinding.
    """
    if name in ("localhost", hostname.lower()) or name.endswith(_LOCAL_DOMAINS):
        return bool(name)
    address = _address(name)
    if address is None:
        return False
    private = any(address in network for network in _PRIVATE if network.version == address.version)
    return private or address.is_loopback or address.is_unspecified


def is_loopback_host(name: str) -> bool:
    """Whether `name` is a name or address of the loopback interface."""
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

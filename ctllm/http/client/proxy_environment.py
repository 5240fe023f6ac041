"""The HTTP proxy of the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

They are interpreted as by curl and requests. The name in lower case has precedence. SOCKS proxies
and proxy auto-configuration are not supported.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class HttpProxy:
    """A proxy for CONNECT requests; `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    is_tls: bool = False
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        """Return the proxy's URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def proxy_for(url: str, environ: Mapping[str, str]) -> HttpProxy | None:
    """Return the proxy for the host of `url` (http or https), or None.

    Raises ValueError, with a message for people, if the variable's value cannot be used.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    name, value = _find_variable(environ, f"{parts.scheme}_proxy", "all_proxy")
    if not value or is_loopback(host) or _is_excluded(host, port, environ):
        return None
    return _parse_proxy(name, value)


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _find_variable(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    for name in names:
        for variable in (name, name.upper()):
            if value := environ.get(variable, "").strip():
                return variable, value
    return "", ""


def _parse_proxy(name: str, value: str) -> HttpProxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in _DEFAULT_PORTS or not host or not host.isprintable():
        # The value itself may contain a password.
        raise ValueError(
            f"Cannot use the proxy in {name}. Its format is http://user:password@proxy.example:3128"
        )
    authorization = b""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = b"Basic " + b64encode(pair)
    return HttpProxy(
        host, port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "https", authorization
    )


def _is_excluded(host: str, port: int, environ: Mapping[str, str]) -> bool:
    _, value = _find_variable(environ, "no_proxy")
    return any(_matches(entry, host, port) for entry in re.split(r"[\s,]+", value) if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY (`*`, a network, or a domain) matches the host."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    domain = entry.strip("[]").lower().removeprefix("*").strip(".")
    return bool(domain) and (host.lower() == domain or host.lower().endswith(f".{domain}"))

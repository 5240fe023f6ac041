"""The HTTP proxy that the environment names: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

Read as curl and requests read them. A lower-case name goes before the same in capitals.
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
    """A proxy that is asked to CONNECT; `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    is_tls: bool = False
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        """Where it is, for people; never who we are there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def proxy_for(url: str, environ: Mapping[str, str]) -> HttpProxy | None:
    """The proxy by which to reach the host of `url` (http or https), or None for none.

    Raises ValueError, with a sentence, where the one that is named cannot be used.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    name, value = _find_variable(environ, f"{parts.scheme}_proxy", "all_proxy")
    if not value or is_loopback(host) or _is_excluded(host, port, environ):
        return None
    return _parse_proxy(name, value)


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's own."""
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
        # Not the value itself: there may be a password in it.
        raise ValueError(
            f"{name} does not name a proxy that ctllm can use; "
            "one looks like http://user:password@proxy.example:3128"
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
    """Whether an entry of NO_PROXY is about the host: `*`, a network, or a domain's end."""
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

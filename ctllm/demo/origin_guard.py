"""The hosts and origins that Ollama accepts, against foreign web pages and DNS rebinding."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

_APPS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_LOCAL = (".localhost", ".local", ".internal")


def host_allowed(host: str) -> bool:
    """Return whether a Host header, or the host of an origin, is of this machine or its network."""
    name = _without_port(host).lower()
    return name in ("", "localhost") or name.endswith(_LOCAL) or _is_address(name)


def origin_allowed(origin: str) -> bool:
    """Return whether an Origin is that of a local page or of a desktop app."""
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in _APPS or (
        parts.scheme in ("http", "https") and bool(host) and host_allowed(f"[{host}]")
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

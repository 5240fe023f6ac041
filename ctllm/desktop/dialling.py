"""How the desktop dials its cloud."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS

#: Seconds that making a connection may take.
PATIENCE = 10


def dialler(url: str, reactor: Any) -> Any:
    """An endpoint for the host of `url` (http or https), whose certificate must be good."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    endpoint: Any = HostnameEndpoint(
        reactor, host, parts.port or (443 if secure else 80), timeout=PATIENCE
    )
    return wrapClientTLS(optionsForClientTLS(host), endpoint) if secure else endpoint

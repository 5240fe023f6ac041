"""The check that containers are isolated from Docker's host, before any is started.

Only root can read the firewall's rules, and the cloud is not root. `ctllm firewall --watch` reads
them whenever the cloud connects to its socket.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.spawners.firewall_status import MAX_STATUS_BYTES, FirewallStatus
from ctllm.cloud.spawners.host_routes import is_blackholed
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.errors import ProxyUnavailable
from ctllm.http.client.unix_endpoint import UnexpectedPeer, VerifiedUNIXEndpoint
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds. The answer follows a check of the rules, which other programs can delay.
ANSWER_TIMEOUT = 10.0


class HostIsolation:
    """The isolation of containers in `pool` from this host.

    `firewall` is the endpoint of `ctllm firewall --watch`, or None if nothing is to be checked.
    """

    _log = Logger()

    def __init__(
        self, firewall: Endpoint | None, clock: Clock, pool: IPv4Network, route_table: Path
    ) -> None:
        self._firewall, self._clock = firewall, clock
        self._pool, self._route_table = pool, route_table

    def warn_if_unchecked(self) -> None:
        """Log a warning if nothing checks the rules and this host lacks the firewall's route."""
        if self._firewall is None and not is_blackholed(self._pool, self._route_table):
            self._log.warn(
                "Containers of streaming proxies can reach services of this host: run, as root, "
                "ctllm firewall --watch, and set cloud.firewall_socket"
            )

    async def verify(self) -> None:
        """Raise ProxyUnavailable unless the rules are in force, or nothing is to be checked."""
        if self._firewall is None:
            return
        problem = await self._ask(self._firewall)
        if not problem and not is_blackholed(self._pool, self._route_table):
            problem = (
                f"it has another cloud.docker_network_pool than the cloud, which has {self._pool}"
            )
        if problem:
            raise ProxyUnavailable(
                "Containers might reach services of this server, so none is started. "
                f"ctllm firewall --watch: {problem}"
            )

    async def _ask(self, firewall: Endpoint) -> str:
        """Return the problem that the firewall has, or that the connection to it has."""
        try:
            line = await run_with_timeout(self._clock, ANSWER_TIMEOUT, _receive(firewall))
            status = decode_json(line, FirewallStatus)
        except (ConnectError, OSError) as error:
            return f"it does not run, or not for the cloud's user ({_describe(error)})"
        except UnexpectedPeer as error:
            return str(error)
        except TimeoutError:
            return f"it did not answer within {ANSWER_TIMEOUT:g} s"
        except InvalidJson:
            return "its answer is invalid"
        return sanitize_line(status.problem, MAX_LOGGED_CHARS)


def firewall_endpoint(reactor: Clock, path: str) -> Endpoint | None:
    """Return the endpoint of the socket at `path`, on which only root may listen; "" is none."""
    if not path:
        return None
    path = str(Path(path).expanduser())
    return VerifiedUNIXEndpoint(reactor, path, lambda peer: peer.uid == 0)


def _describe(error: ConnectError | OSError) -> str:
    """Return the system's sentence for a failed connection."""
    number = error.osError if isinstance(error, ConnectError) else error.errno
    return os.strerror(number) if isinstance(number, int) else str(error)


async def _receive(firewall: Endpoint) -> bytes:
    """Return what the firewall sends until it closes the connection. Cancelling closes it, too."""
    protocol: _Collector = await firewall.connect(Factory.forProtocol(_Collector))
    return await protocol.received


class _Collector(Protocol):
    """Fires `received` with all data. Too much of it is cut."""

    def __init__(self) -> None:
        self._data = b""
        self.received: Deferred[bytes] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_STATUS_BYTES:
            self._abort()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self.received.called:
            self.received.callback(self._data)

    def _abort(self) -> None:
        cast(ITCPTransport, self.transport).abortConnection()

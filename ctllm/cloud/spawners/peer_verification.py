"""Connections to streaming proxies: only to the process, or the container, that was started.

What is sent has a session assertion and what a user says. A proxy, or what took it over, may
control names next to its socket, and could lead the cloud to any other socket of this machine,
where the cloud's own rights would count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ctllm.cloud.spawners.interfaces import ProxyInstance, ProxySocket
from ctllm.http.client.unix_endpoint import VerifiedUNIXEndpoint
from ctllm.reactor.endpoints import client_from_string
from ctllm.reactor.interfaces import Endpoint
from ctllm.system.unix_sockets import PeerCredentials

PROC = Path("/proc")


def proxy_endpoint(
    reactor: Any, instance: ProxyInstance, on_wrong_peer: Callable[[str, str], None]
) -> Endpoint:
    """Give the endpoint of a proxy.

    `on_wrong_peer` is called with its id and why, in a later turn of the reactor, when a connection
    was refused because it would not have been the proxy's.
    """
    if instance.socket is None:
        return client_from_string(reactor, instance.endpoint)

    def refused(reason: str) -> None:
        reactor.callLater(0, on_wrong_peer, instance.id, reason)

    accepts = partial(is_expected_peer, instance.socket)
    return VerifiedUNIXEndpoint(reactor, instance.socket.path, accepts, refused)


def is_expected_peer(expected: ProxySocket, peer: PeerCredentials, proc: Path = PROC) -> bool:
    """Whether `peer` is the process of the proxy, or one in its container.

    The container of a process is in the names of its control groups. Where they cannot be read
    (hidepid) the first process of the container is known from the engine.
    """
    if peer.uid != expected.uid or peer.pid <= 0:
        return False
    if not expected.container_id:
        return peer.pid == expected.pid
    with suppress(OSError):
        control_groups = (proc / str(peer.pid) / "cgroup").read_text(errors="replace")
        return is_in_container(control_groups, expected.container_id)
    return peer.pid == expected.pid


def is_in_container(control_groups: str, container_id: str) -> bool:
    """Whether a process with these control groups (/proc/PID/cgroup) is in that container.

    Engines name the group for the container's id (`/docker/ID`), or a scope of systemd's
    (`docker-ID.scope`), in both versions of control groups; what is below is the container's, too.
    """
    part = re.compile(rf"(?:\w+-)?{re.escape(container_id)}(?:\.scope)?")
    paths = [line.split(":", 2)[2] for line in control_groups.splitlines() if line.count(":") >= 2]
    return any(part.fullmatch(each) for path in paths for each in path.split("/"))

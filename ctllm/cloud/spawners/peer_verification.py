"""Connections to streaming proxies that verify which process listens.

Requests carry a session assertion and the user's data. A compromised proxy may control names next
to its socket and replace it by a link to any other socket of this machine, to which the cloud
would connect with its own permissions.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

from ctllm.cloud.spawners.interfaces import ExitObserver, ProxyInstance, ProxySocket
from ctllm.http.client.unix_endpoint import VerifiedUNIXEndpoint
from ctllm.reactor.endpoints import client_from_string
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.system.unix_sockets import PeerCredentials

PROC = Path("/proc")


def proxy_endpoint(
    reactor: Clock, instance: ProxyInstance, on_wrong_peer: ExitObserver
) -> Endpoint:
    """Return the endpoint of a proxy.

    `on_wrong_peer` is called with the proxy's id and a reason, in a later turn of the reactor, if
    another process listens on the proxy's socket. The connection is then refused.
    """
    if instance.socket is None:
        return client_from_string(reactor, instance.endpoint)

    def on_refused(reason: str) -> None:
        reactor.callLater(0, on_wrong_peer, instance.id, reason)

    accepts_peer = partial(is_expected_peer, instance.socket)
    return VerifiedUNIXEndpoint(reactor, instance.socket.path, accepts_peer, on_refused)


def is_expected_peer(expected: ProxySocket, peer: PeerCredentials, proc: Path = PROC) -> bool:
    """Return whether `peer` is the proxy's process, or a process in its container.

    The names of a process's control groups contain its container. Where they cannot be read
    (hidepid), Docker reports the process id of the container's first process.
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
    """Return whether a process with these control groups (/proc/PID/cgroup) is in a container.

    Docker names the group after the container's id (`/docker/ID`) or uses a scope of systemd
    (`docker-ID.scope`), in both versions of control groups. Groups below belong to the container.
    """
    part = re.compile(rf"(?:\w+-)?{re.escape(container_id)}(?:\.scope)?")
    paths = [line.split(":", 2)[2] for line in control_groups.splitlines() if line.count(":") >= 2]
    return any(part.fullmatch(each) for path in paths for each in path.split("/"))

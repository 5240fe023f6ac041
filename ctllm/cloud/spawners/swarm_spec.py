"""The configurations of proxies' services and overlay networks in a swarm.

What they contain is defined by the Docker Engine API: https://docs.docker.com/engine/api/v1.41/.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from ctllm.cloud.spawners.bridge_network import UNREACHABLE_RESOLVER
from ctllm.cloud.spawners.connectivity import CONTAINER_GROUP, CONTAINER_USER
from ctllm.cloud.spawners.container_spec import (
    LOG_DRIVER,
    LOG_OPTIONS,
    MAX_PIDS,
    NANO_CPUS,
    PROXY_PORT,
    SETTINGS_LABEL,
    CloudLabels,
    JsonObject,
    network_name,
    proxy_command,
    resource_limits,
    settings_id,
)
from ctllm.config import Proxy

#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 5
#: Bytes that a node sets aside for a proxy. The swarm places no proxy on a node without them.
RESERVED_MEMORY = 32 << 20
#: All addresses: of a network in which there is only this proxy beside the server's containers.
_LISTEN_ARGUMENTS = ("--port", str(PROXY_PORT), "--host", "0.0.0.0")  # noqa: S104


def overlay_config(
    labels: CloudLabels, proxy_id: str, subnet: IPv4Network, is_encrypted: bool
) -> JsonObject:
    """Return the body of the request that creates a proxy's network.

    It is internal, and containers of the server can be attached to it.
    """
    return {
        "Name": network_name(proxy_id),
        "CheckDuplicate": True,
        "Driver": "overlay",
        "Internal": True,
        "Attachable": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet)}]},
        "Options": {"encrypted": ""} if is_encrypted else {},
        "Labels": labels.labels_for(proxy_id),
    }


def service_config(
    image: str,
    labels: CloudLabels,
    proxy_id: str,
    settings: Proxy,
    constraints: Sequence[str],
) -> JsonObject:
    """Return the body of the request that creates a proxy's service.

    `constraints` select nodes, such as ``node.labels.ctllm==proxies``. Everyone who may use the
    swarm can read the service, so it contains no secret.
    """
    return {
        "Name": proxy_id,
        "Labels": service_labels(image, labels, proxy_id, settings),
        "Mode": {"Replicated": {"Replicas": 1}},
        # The cloud looks the address up. Virtual addresses need IPVS, which not every kernel has.
        "EndpointSpec": {"Mode": "dnsrr"},
        "TaskTemplate": {
            "ContainerSpec": _container_spec(image, labels, proxy_id, settings),
            "Resources": {
                "Limits": {
                    "NanoCPUs": NANO_CPUS,
                    "MemoryBytes": settings.max_memory_bytes,
                    "Pids": MAX_PIDS,
                },
                "Reservations": {"MemoryBytes": min(RESERVED_MEMORY, settings.max_memory_bytes)},
            },
            "RestartPolicy": {"Condition": "none"},  # the cloud restarts it, with a backoff
            "Placement": {"Constraints": list(constraints)},
            "Networks": [{"Target": network_name(proxy_id)}],
            "LogDriver": {"Name": LOG_DRIVER, "Options": LOG_OPTIONS},
        },
    }


def service_labels(
    image: str, labels: CloudLabels, proxy_id: str, settings: Proxy
) -> dict[str, str]:
    """Return the labels of a proxy's service."""
    return {**labels.labels_for(proxy_id), SETTINGS_LABEL: settings_id(image, settings)}


def _container_spec(image: str, labels: CloudLabels, proxy_id: str, settings: Proxy) -> JsonObject:
    tmpfs = {"SizeBytes": 1 << 20, "Mode": 0o1777}
    return {
        "Image": image,
        "Args": proxy_command(labels, proxy_id, settings, _LISTEN_ARGUMENTS),
        "Labels": labels.labels_for(proxy_id),  # those by which tasks are listed
        "User": f"{CONTAINER_USER}:{CONTAINER_GROUP}",
        "ReadOnly": True,
        "CapabilityDrop": ["ALL"],
        "Mounts": [{"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": tmpfs}],  # noqa: S108
        "DNSConfig": {"Nameservers": [UNREACHABLE_RESOLVER]},
        "StopGracePeriod": STOP_TIMEOUT * 1_000_000_000,
        "Ulimits": resource_limits(settings),
    }

"""What a streaming proxy is to Docker: its names, its labels, and a container within limits."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Any

from ctllm import __version__
from ctllm.cloud.spawners.connectivity import CONTAINER_USER, ContainerConnectivity
from ctllm.config import Proxy, to_options

#: What every name begins with; the rest is the user's hash.
CONTAINER_PREFIX, NETWORK_PREFIX, BRIDGE_PREFIX = "ctllm-proxy-", "ctllm-net-", "ctl"
INSTANCE_LABEL, PROXY_LABEL, KEY_LABEL, VERSION_LABEL = (
    "ctllm.instance",
    "ctllm.proxy",
    "ctllm.key",
    "ctllm.version",
)
#: Where a proxy listens, on every address of a network that only it and the host are on.
PROXY_PORT = 8080
#: A proxy has one thread, and Python's starts none; the rest is for what the image's start needs.
MAX_PIDS = 32
#: Billionths of a processor.
NANO_CPUS = 500_000_000
#: What a proxy says is a line for each tunnel that comes or goes.
_LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}
_TMPFS = {"/tmp": "rw,noexec,nosuid,nodev,size=1m,mode=1777"}  # noqa: S108


@dataclass(frozen=True, slots=True)
class CloudLabels:
    """The labels by which a cloud knows its own: `instance` is its secret, `key` its public key.

    Labels can be read by whoever may ask Docker, so the secret is in none of them.
    """

    instance_secret: bytes = field(repr=False)
    public_key: str

    @property
    def selector(self) -> str:
        """The label that every container and network of this cloud has, as `name=value`."""
        return f"{INSTANCE_LABEL}={self._instance_id()}"

    def labels_for(self, proxy_id: str) -> dict[str, str]:
        """What is put on the container and the network of this proxy."""
        return {
            INSTANCE_LABEL: self._instance_id(),
            PROXY_LABEL: proxy_id,
            KEY_LABEL: self._public_key_id(),
            VERSION_LABEL: __version__,
        }

    def is_owned(self, labels: Mapping[str, str]) -> bool:
        """Whether that is what this cloud, or an earlier run of it, has put there."""
        return labels.get(INSTANCE_LABEL) == self._instance_id()

    def is_current(self, labels: Mapping[str, str]) -> bool:
        """Whether that proxy believes the assertions that this cloud signs."""
        return self.is_owned(labels) and labels.get(KEY_LABEL) == self._public_key_id()

    def _instance_id(self) -> str:
        return hmac.digest(self.instance_secret, b"ctllm.instance", "sha256").hex()[:16]

    def _public_key_id(self) -> str:
        return sha256(self.public_key.encode()).hexdigest()[:16]


def network_name(proxy_id: str) -> str:
    """The network of this proxy's container."""
    return NETWORK_PREFIX + proxy_id.removeprefix(CONTAINER_PREFIX)


def network_config(labels: CloudLabels, proxy_id: str, subnet: IPv4Network) -> dict[str, Any]:
    """The body of a call that creates the network of a proxy: no way out, and none to others."""
    name = network_name(proxy_id)
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet)}]},
        "Options": {
            # Names of interfaces have 15 characters; rules of a firewall know ours by the first.
            "com.docker.network.bridge.name": BRIDGE_PREFIX
            + name.removeprefix(NETWORK_PREFIX)[:12],
            "com.docker.network.bridge.enable_icc": "false",
        },
        "Labels": labels.labels_for(proxy_id),
    }


def container_config(
    image: str,
    labels: CloudLabels,
    proxy_id: str,
    settings: Proxy,
    connectivity: ContainerConnectivity,
) -> dict[str, Any]:
    """The body of a call that creates the container of a proxy.

    Nothing in here is secret: the key is the public half, and whoever may ask Docker can read the
    rest.
    """
    command = [
        "--id",
        proxy_id,
        "--cloud-key",
        labels.public_key,
        *connectivity.listen_arguments,
        *to_options(settings),
    ]
    return {
        "Image": image,
        "Cmd": command,
        "User": f"{CONTAINER_USER}:{connectivity.group}",
        "Labels": labels.labels_for(proxy_id),
        "OpenStdin": False,
        "HostConfig": {**_host_config(settings), **connectivity.host_config},
    }


def _host_config(settings: Proxy) -> dict[str, Any]:
    return {
        "Memory": settings.max_memory_bytes,
        "MemorySwap": settings.max_memory_bytes,  # both together: no swap
        "NanoCpus": NANO_CPUS,
        "PidsLimit": MAX_PIDS,
        "ReadonlyRootfs": True,
        "IpcMode": "none",
        "Tmpfs": _TMPFS,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "RestartPolicy": {"Name": "no"},  # the cloud decides, and backs off
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0},
                    {"Name": "nofile", "Soft": settings.max_open_files,
                     "Hard": settings.max_open_files}],
        "LogConfig": _LOG_CONFIG,
        "AutoRemove": False,  # else nobody could tell what an end was
    }  # fmt: skip

"""The names, labels and configurations of proxies' containers and networks."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Any, TypeAlias

from ctllm import __version__
from ctllm.cloud.spawners.connectivity import CONTAINER_USER, ContainerConnectivity
from ctllm.cloud.spawners.interfaces import ID_PREFIX, is_waiting_id
from ctllm.config import Proxy, to_options

JsonObject: TypeAlias = dict[str, Any]

#: Prefixes of the names of a proxy's network and of its bridge; a container is named as the proxy.
NETWORK_PREFIX, BRIDGE_PREFIX = "ctllm-net-", "ctl"
INSTANCE_LABEL, PROXY_LABEL, KEY_LABEL, VERSION_LABEL, SETTINGS_LABEL = (
    "ctllm.instance",
    "ctllm.proxy",
    "ctllm.key",
    "ctllm.version",
    "ctllm.settings",
)
#: The port of a proxy in a network of its own.
PROXY_PORT = 8080
#: A proxy has one thread; the rest is for the start of the container.
MAX_PIDS = 32
#: Half a processor, in units of 1e-9: the limit of a proxy that has started. Its start has none,
#: because it would take twice as long.
NANO_CPUS = 500_000_000
#: One processor: the limit while a container starts again, which had that of a started one. Docker
#: removes no limit, and accepts none above the processors of its host.
RESTART_NANO_CPUS = 1_000_000_000
#: A proxy logs a line when a tunnel connects or disconnects.
LOG_DRIVER, LOG_OPTIONS = "json-file", {"max-size": "1m", "max-file": "1"}
_TMPFS = {"/tmp": "rw,noexec,nosuid,nodev,size=1m,mode=1777"}  # noqa: S108


@dataclass(frozen=True, slots=True)
class CloudLabels:
    """The labels by which a cloud recognises its containers and networks.

    Every client of Docker can read labels. They contain hashes of `instance_secret`, which
    identifies the cloud across restarts, and of `public_key`, which verifies its assertions.
    """

    instance_secret: bytes = field(repr=False)
    public_key: str

    @property
    def selector(self) -> str:
        """The label of every container and network of this cloud, as `name=value`."""
        return f"{INSTANCE_LABEL}={self._instance_id()}"

    def labels_for(self, proxy_id: str) -> dict[str, str]:
        """Return the labels of a proxy's container and network."""
        return {
            INSTANCE_LABEL: self._instance_id(),
            PROXY_LABEL: proxy_id,
            KEY_LABEL: self._public_key_id(),
            VERSION_LABEL: __version__,
        }

    def is_owned(self, labels: Mapping[str, str]) -> bool:
        """Return whether this cloud, or an earlier run of it, set `labels`."""
        return labels.get(INSTANCE_LABEL) == self._instance_id()

    def is_current(self, labels: Mapping[str, str]) -> bool:
        """Return whether a proxy with `labels` accepts the assertions that this cloud signs."""
        return self.is_owned(labels) and labels.get(KEY_LABEL) == self._public_key_id()

    def _instance_id(self) -> str:
        return hmac.digest(self.instance_secret, b"ctllm.instance", "sha256").hex()[:16]

    def _public_key_id(self) -> str:
        return sha256(self.public_key.encode()).hexdigest()[:16]


def created_as(labels: Mapping[str, str], name: str) -> str:
    """Return the id with which the container `name` was created, which its network has, too.

    Docker renames a container that waited for a user, but not its labels.
    """
    label = labels.get(PROXY_LABEL, "")
    return label if is_waiting_id(label) else name


def network_name(proxy_id: str) -> str:
    """Return the name of a proxy's network."""
    return NETWORK_PREFIX + proxy_id.removeprefix(ID_PREFIX)


def network_options(proxy_id: str) -> dict[str, str]:
    """Return the options of the driver of a proxy's network."""
    suffix = network_name(proxy_id).removeprefix(NETWORK_PREFIX)
    return {
        # Linux allows 15 characters. The firewall's rules match the prefix.
        "com.docker.network.bridge.name": BRIDGE_PREFIX + suffix[:12],
        "com.docker.network.bridge.enable_icc": "false",
    }


def network_config(labels: CloudLabels, proxy_id: str, subnet: IPv4Network) -> JsonObject:
    """Return the body of the request that creates a proxy's network, which is internal."""
    return {
        "Name": network_name(proxy_id),
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet)}]},
        "Options": network_options(proxy_id),
        "Labels": labels.labels_for(proxy_id),
    }


def container_config(
    image: str,
    labels: CloudLabels,
    proxy_id: str,
    settings: Proxy,
    connectivity: ContainerConnectivity,
) -> JsonObject:
    """Return the body of the request that creates a proxy's container.

    Every client of Docker can read it, so it contains no secret.
    """
    return {
        "Image": image,
        "Cmd": proxy_command(labels, proxy_id, settings, connectivity.listen_arguments),
        "User": f"{CONTAINER_USER}:{connectivity.group}",
        "Labels": {
            **labels.labels_for(proxy_id),
            SETTINGS_LABEL: settings_id(image, settings),
        },
        "OpenStdin": False,
        "HostConfig": {**_host_config(settings), **connectivity.host_config},
    }


def proxy_command(
    labels: CloudLabels, proxy_id: str, settings: Proxy, listen_arguments: Sequence[str]
) -> list[str]:
    """Return the arguments of a proxy's command line, which contain no secret."""
    return [
        "--id",
        proxy_id,
        "--cloud-key",
        labels.public_key,
        *(["--waiting"] if is_waiting_id(proxy_id) else []),
        *listen_arguments,
        *to_options(settings),
    ]


def settings_id(image: str, settings: Proxy) -> str:
    """Return a hash of what containers are created with, apart from their ids."""
    text = repr((image, to_options(settings), _host_config(settings)))
    return sha256(text.encode()).hexdigest()[:16]


def resource_limits(settings: Proxy) -> list[JsonObject]:
    """Return the limits of setrlimit(2), as Docker's `Ulimits`."""
    files = settings.max_open_files
    return [
        {"Name": "core", "Soft": 0, "Hard": 0},
        {"Name": "nofile", "Soft": files, "Hard": files},
    ]


def _host_config(settings: Proxy) -> JsonObject:
    return {
        "Memory": settings.max_memory_bytes,
        "MemorySwap": settings.max_memory_bytes,  # memory and swap together, so no swap
        "PidsLimit": MAX_PIDS,
        "ReadonlyRootfs": True,
        "IpcMode": "none",
        "Tmpfs": _TMPFS,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "RestartPolicy": {"Name": "no"},  # the cloud restarts it, with a backoff
        "Ulimits": resource_limits(settings),
        "LogConfig": {"Type": LOG_DRIVER, "Config": LOG_OPTIONS},
        "AutoRemove": False,  # the exit code would be lost
    }  # fmt: skip

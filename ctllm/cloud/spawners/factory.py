"""The runtime that the configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctllm import __version__
from ctllm.cloud.docker_api import DockerClient, way_to
from ctllm.cloud.identity import SigningKeys
from ctllm.cloud.spawners.bridge_network import Bridges
from ctllm.cloud.spawners.connectivity import Attachment
from ctllm.cloud.spawners.container_spec import Marks
from ctllm.cloud.spawners.docker import DockerSpawner
from ctllm.cloud.spawners.host_routes import TABLE
from ctllm.cloud.spawners.interfaces import Spawner
from ctllm.cloud.spawners.process import ProcessSpawner
from ctllm.cloud.spawners.socket_mount import Mounts
from ctllm.config import Cloud, Proxy, network_pool, uid_range
from ctllm.errors import BadConfiguration


def runtime_for(
    reactor: Any, settings: Cloud, limits: Proxy, state: Path, keys: SigningKeys
) -> Spawner:
    """What runs the proxies of the cloud with this state folder; may raise BadConfiguration."""
    if settings.spawner == "process":
        uids = uid_range(settings.proxy_uids)
        return ProcessSpawner(reactor, state, limits, keys.public_key_text, uids=uids)
    is_here = settings.docker_url.startswith("unix:")
    if settings.docker_network == "none" and not is_here:
        raise BadConfiguration(
            f"cloud.docker_network = none needs an engine on this machine; cloud.docker_url is "
            f"{settings.docker_url}"
        )
    engine = DockerClient(way_to(reactor, settings.docker_url, settings.docker_certs_dir), reactor)
    marks = Marks(keys.instance_secret, keys.public_key_text)
    pool = network_pool(settings.docker_network_pool)
    bridges = Bridges(engine, marks, pool, TABLE if is_here else None)
    mounts = Mounts(state, reactor)
    attachments: list[Attachment] = [bridges, mounts]
    if settings.docker_network == "none":
        attachments.reverse()
    image = settings.docker_image or f"ctllm-streaming-proxy:{__version__}"
    return DockerSpawner(engine, reactor, image, marks, limits, attachments)

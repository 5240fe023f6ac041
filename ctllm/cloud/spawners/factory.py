"""The selection of a spawner by the configuration."""

from __future__ import annotations

from pathlib import Path

from ctllm import __version__
from ctllm.cloud.docker_api import DockerClient, SwarmClient, create_transport
from ctllm.cloud.identity import SigningKeys
from ctllm.cloud.spawners.bridge_network import BridgeNetwork
from ctllm.cloud.spawners.composite import CompositeSpawner
from ctllm.cloud.spawners.connectivity import Connectivity
from ctllm.cloud.spawners.container_spec import CloudLabels
from ctllm.cloud.spawners.docker import DockerSpawner
from ctllm.cloud.spawners.host_isolation import HostIsolation, firewall_endpoint
from ctllm.cloud.spawners.host_routes import ROUTE_TABLE
from ctllm.cloud.spawners.interfaces import Spawner
from ctllm.cloud.spawners.process import ProcessReactor, ProcessSpawner
from ctllm.cloud.spawners.socket_mount import SocketMount
from ctllm.cloud.spawners.swarm import SwarmSpawner
from ctllm.cloud.spawners.swarm_networks import SwarmNetworks
from ctllm.config import Cloud, Proxy, parse_network_pool, parse_uid_range
from ctllm.errors import BadConfiguration
from ctllm.system.kernel_limits import LowLimit, find_low_limits


def create_spawner(
    reactor: ProcessReactor,
    settings: Cloud,
    proxy_settings: Proxy,
    state_dir: Path,
    keys: SigningKeys,
) -> Spawner:
    """Return the spawner that `settings` name, or one for all that they and their tiers name.

    Raises BadConfiguration if the settings contradict each other.
    """

    def create(name: str) -> Spawner:
        if name == "docker":
            return _create_docker_spawner(reactor, settings, proxy_settings, state_dir, keys)
        if name == "swarm":
            return _create_swarm_spawner(reactor, settings, proxy_settings, keys)
        uids = parse_uid_range(settings.proxy_uids)
        return ProcessSpawner(reactor, state_dir, proxy_settings, keys.public_key_text, uids=uids)

    names = {settings.spawner, *(tier.spawner for tier in settings.tiers.values() if tier.spawner)}
    if len(names) == 1:
        return create(settings.spawner)
    return CompositeSpawner({name: create(name) for name in sorted(names)}, settings.spawner)


def find_low_kernel_limits(settings: Cloud) -> list[LowLimit]:
    """Return the limits of this machine that `max_proxies` containers reach, if they run here."""
    spawners = {settings.spawner, *(tier.spawner for tier in settings.tiers.values())}
    if "docker" not in spawners or not settings.docker_url.startswith("unix:"):
        return []
    return find_low_limits(settings.max_proxies, settings.docker_network == "bridge")


def _create_docker_spawner(
    reactor: ProcessReactor,
    settings: Cloud,
    proxy_settings: Proxy,
    state_dir: Path,
    keys: SigningKeys,
) -> DockerSpawner:
    is_local = settings.docker_url.startswith("unix:")
    if settings.docker_network == "none" and not is_local:
        raise BadConfiguration(
            "cloud.docker_network = none requires Docker on this machine, but cloud.docker_url is "
            f"{settings.docker_url}."
        )
    docker = DockerClient(
        create_transport(reactor, settings.docker_url, settings.docker_certs_dir), reactor
    )
    labels = CloudLabels(keys.instance_secret, keys.public_key_text)
    pool = parse_network_pool(settings.docker_network_pool)
    bridge = BridgeNetwork(docker, labels, pool)
    if is_local:
        firewall = firewall_endpoint(reactor, settings.firewall_socket)
        isolation = HostIsolation(firewall, reactor, pool, ROUTE_TABLE)
        bridge = BridgeNetwork(docker, labels, pool, isolation, ROUTE_TABLE)
    sockets_dir = Path(settings.sockets_dir).expanduser() if settings.sockets_dir else None
    mount = SocketMount(state_dir, reactor, shared_dir=sockets_dir)
    connectivities: list[Connectivity] = [bridge, mount]
    if settings.docker_network == "none":
        connectivities.reverse()
    image = _image(settings)
    return DockerSpawner(docker, reactor, image, labels, proxy_settings, connectivities)


def _create_swarm_spawner(
    reactor: ProcessReactor, settings: Cloud, proxy_settings: Proxy, keys: SigningKeys
) -> SwarmSpawner:
    if settings.proxy_warm and settings.spawner == "swarm":
        raise BadConfiguration(
            "cloud.proxy_warm requires the spawner docker: a swarm cannot rename a service. Set it "
            "to 0."
        )
    transport = create_transport(reactor, settings.docker_url, settings.docker_certs_dir)
    docker = SwarmClient(transport, reactor)
    labels = CloudLabels(keys.instance_secret, keys.public_key_text)
    pool = parse_network_pool(settings.docker_network_pool)
    networks = SwarmNetworks(
        docker, labels, pool, settings.swarm_containers, settings.swarm_encrypted
    )
    constraints = settings.swarm_constraints
    return SwarmSpawner(
        docker, reactor, _image(settings), labels, proxy_settings, networks, constraints
    )


def _image(settings: Cloud) -> str:
    return settings.docker_image or f"ctllm-streaming-proxy:{__version__}"

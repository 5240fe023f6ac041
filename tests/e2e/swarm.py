"""A swarm of two nodes: the tests' engine manages it, one in a network namespace is a worker."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory

from tests.e2e.cluster import Cluster
from tests.e2e.containers import POOL
from tests.e2e.dockerd import BASE, DOCKER, IMAGE, Dockerd, dockerd
from tests.e2e.network_namespace import NetworkNamespace

#: The container whose network namespace the cloud is in: proxies' networks are attached to it.
ENTRANCE = "ctllm-entrance"
#: Seconds between two signs of life of a node. It is down after three are missing.
HEARTBEAT = "1s"
#: The constraint of nodes that `Swarm.allow_proxies` labels.
PROXIES_ALLOWED = "node.labels.ctllm==True"


class Swarm:
    """The engines of a swarm, and what it runs."""

    def __init__(self, manager: Dockerd, worker: Dockerd, namespace: NetworkNamespace) -> None:
        self.manager, self.worker, self.namespace = manager, worker, namespace
        self.manager_id = manager.docker("node", "ls", "-q", "-f", "role=manager")
        self.worker_id = manager.docker("node", "ls", "-q", "-f", "role=worker")

    def options(self, *constraints: str) -> tuple[str, ...]:
        """Return the options of a cloud that runs proxies on nodes with these constraints."""
        return (
            "--spawner=swarm",
            f"--docker-url={self.manager.address}",
            f"--docker-network-pool={POOL}",
            f"--swarm-containers={ENTRANCE}",
            f"--swarm-constraints={','.join(constraints)}",
            "--swarm-encrypted=false",  # not every kernel has ESP
        )

    def services(self) -> list[str]:
        """Return the names of the services."""
        return self.manager.docker("service", "ls", "--format={{.Name}}").split()

    def networks(self) -> list[str]:
        """Return the names of the proxies' networks."""
        names = self.manager.docker("network", "ls", "--format={{.Name}}").split()
        return [each for each in names if each.startswith("ctllm-net-")]

    def inspect(self, name: str) -> Any:
        """Return what the manager says of a service, a task or a network."""
        return json.loads(self.manager.docker("inspect", name))[0]

    def containers(self, engine: Dockerd) -> list[str]:
        """Return the ids of the containers of proxies that run on a node."""
        return engine.docker("ps", "-q", "--filter=label=ctllm.instance").split()

    def set_availability(self, node: str, availability: str) -> None:
        """Make a node `active` or drain it (`drain`)."""
        self.manager.docker("node", "update", f"--availability={availability}", node)

    def allow_proxies(self, node: str, is_allowed: bool = True) -> None:
        """Label a node as one that `PROXIES_ALLOWED` selects, or not."""
        self.manager.docker("node", "update", f"--label-add=ctllm={is_allowed}", node)

    def remove_all(self) -> None:
        """Remove the services and networks of proxies; the manager forgets them a moment later."""
        attached = self.inspect(ENTRANCE)["NetworkSettings"]["Networks"]
        for name in self.services():
            self.manager.docker("service", "rm", name)
        for name in self.networks():
            if name in attached:
                self.manager.docker("network", "disconnect", "-f", name, ENTRANCE)
            self.manager.docker("network", "rm", name)
        deadline = time.monotonic() + 30
        while self.networks():
            assert time.monotonic() < deadline, self.networks()
            time.sleep(0.1)

    def enter(self, cluster: Cluster) -> None:
        """Have the cloud of `cluster`, and its nginx, run in the entrance; forward their ports."""
        inspected = self.inspect(ENTRANCE)
        address = inspected["NetworkSettings"]["IPAddress"]
        command = ("/usr/bin/nsenter", f"--net=/proc/{inspected['State']['Pid']}/ns/net")
        cluster.cloud_host, cluster.cloud_command = address, command
        ports = {cluster.backend_port, cluster.metrics_port}
        if cluster.nginx is not None:
            cluster.nginx.host, cluster.nginx.command = address, command
            cluster.nginx.backend = f"{address}:{cluster.backend_port}"
            ports.add(cluster.nginx.port)
        for port in ports:
            listening: Any = reactor
            forward = ProxyFactory(address, port)
            cluster.ports.append(listening.listenTCP(port, forward, interface="127.0.0.1"))


@contextmanager
def two_nodes(manager: Dockerd) -> Iterator[Swarm]:
    """Make a swarm of `manager` and another engine; leave it afterwards."""
    namespace = NetworkNamespace()
    namespace.create()
    address, worker_address = namespace.host_address, f"{namespace.prefix}.2"
    try:
        with dockerd(namespace=namespace.name) as worker:
            _copy_image(manager, worker)
            manager.docker(
                "swarm", "init", f"--advertise-addr={address}", f"--listen-addr={address}:2377",
                f"--data-path-addr={address}", f"--dispatcher-heartbeat={HEARTBEAT}",
            )  # fmt: skip
            try:
                token = manager.docker("swarm", "join-token", "-q", "worker")
                worker.docker(
                    "swarm", "join", f"--token={token}", f"--advertise-addr={worker_address}",
                    f"--listen-addr={worker_address}:2377", f"--data-path-addr={worker_address}",
                    f"{address}:2377",
                )  # fmt: skip
                manager.docker("run", "-d", f"--name={ENTRANCE}", BASE, "sleep", "100000")
                yield Swarm(manager, worker, namespace)
                manager.docker("rm", "-f", ENTRANCE)
                worker.docker("swarm", "leave")
            finally:
                manager.docker("swarm", "leave", "--force")
                manager.docker("network", "rm", "docker_gwbridge")
    finally:
        namespace.remove()


def _copy_image(source: Dockerd, target: Dockerd) -> None:
    """Copy the streaming proxy's image from one engine to another."""
    save = subprocess.Popen(
        [DOCKER, "save", IMAGE],
        stdout=subprocess.PIPE,
        env={**os.environ, "DOCKER_HOST": source.address},
    )
    assert save.stdout is not None
    image = save.stdout.read()
    assert save.wait() == 0
    target.docker("load", data=image)

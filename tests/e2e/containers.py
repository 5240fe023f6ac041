"""Inspection of ctllm's containers and networks, and programs run inside a container."""

from __future__ import annotations

import json
import time
from ipaddress import IPv4Network
from typing import Any

from ctllm.cloud.spawners.host_routes import ROUTE_TABLE, list_routes
from tests.e2e.dockerd import Dockerd


def _free_pool() -> IPv4Network:
    """Return a network to which this machine has no route: other engines may have left bridges."""
    routes = [IPv4Network(each) for each in list_routes(ROUTE_TABLE)]
    candidates = IPv4Network("10.142.0.0/16").subnets(new_prefix=24)
    return next(each for each in candidates if not any(map(each.overlaps, routes)))


#: The subnets of proxies' networks.
POOL = _free_pool()
SUBNETS = list(POOL.subnets(new_prefix=28))


class ContainerInspector:
    """The containers and networks of ctllm in an engine, read with the docker command."""

    def __init__(self, docker: Dockerd) -> None:
        self.docker = docker
        self.options = (
            "--spawner=docker",
            f"--docker-url={docker.address}",
            f"--docker-network-pool={POOL}",
            "--firewall-socket=",  # most tests start containers without rules on this machine
        )

    def run(self, *arguments: str) -> str:
        """Run the docker command; return its output."""
        return self.docker.docker(*arguments)

    def containers(self) -> list[str]:
        """Return the ids of the running containers."""
        return self.run("ps", "-q", "--no-trunc", "--filter=label=ctllm.instance").split()

    def all(self) -> list[str]:
        """Return the names of all containers and networks of any ctllm instance."""
        label = "--filter=label=ctllm.instance"
        names = self.run("ps", "-a", label, "--format={{.Names}}").split()
        return sorted(names + self.run("network", "ls", label, "--format={{.Name}}").split())

    def exit_codes(self, since: float) -> list[str]:
        """Return the exit codes of ctllm's containers that exited after `since`."""
        times = (f"--since={since:.3f}", f"--until={time.time():.3f}")
        filters = ("--filter=event=die", "--filter=label=ctllm.instance")
        return self.run(
            "events", *times, *filters, "--format={{.Actor.Attributes.exitCode}}"
        ).split()

    def inspect(self, name: str) -> Any:
        """Return the parsed output of `docker inspect`."""
        return json.loads(self.run("inspect", name))[0]

    def run_python(self, container: str, program: str, *arguments: str) -> Any:
        """Run a Python program in the container as its user; return the JSON that it prints."""
        command = ("python3", "-OO", "-P", "-c", program)
        return json.loads(self.run("exec", container, *command, *arguments))

    def start_python(self, container: str, program: str) -> None:
        """Start a Python program in the container without waiting for it."""
        self.run("exec", "-d", container, "python3", "-OO", "-P", "-c", program)

    def address(self, container: str) -> str:
        """Return the address of the container on its network."""
        (network,) = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def gateway(self, container: str) -> str:
        """Return the address of the host on the container's network."""
        (name,) = self.inspect(container)["NetworkSettings"]["Networks"]
        return str(IPv4Network(self.inspect(name)["IPAM"]["Config"][0]["Subnet"])[1])

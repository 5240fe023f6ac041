"""What an engine has of ctllm, and what can be done from within a user's container."""

from __future__ import annotations

import json
import time
from ipaddress import IPv4Network
from typing import Any

from tests.e2e.dockerd import Dockerd

POOL = "10.142.0.0/24"


class ContainerInspector:
    """What the engine has of ctllm, by the docker command."""

    def __init__(self, docker: Dockerd) -> None:
        self.docker = docker
        self.options = (
            "--spawner=docker",
            f"--docker-url={docker.address}",
            f"--docker-network-pool={POOL}",
        )

    def run(self, *arguments: str) -> str:
        return self.docker.docker(*arguments)

    def containers(self) -> list[str]:
        """Ids of those that run."""
        return self.run("ps", "-q", "--no-trunc", "--filter=label=ctllm.instance").split()

    def all(self) -> list[str]:
        """Names of all containers and networks of any ctllm."""
        label = "--filter=label=ctllm.instance"
        names = self.run("ps", "-a", label, "--format={{.Names}}").split()
        return sorted(names + self.run("network", "ls", label, "--format={{.Name}}").split())

    def ends(self, since: float) -> list[str]:
        """With what containers of ctllm's exited since then."""
        times = (f"--since={since:.3f}", f"--until={time.time():.3f}")
        which = ("--filter=event=die", "--filter=label=ctllm.instance")
        return self.run("events", *times, *which, "--format={{.Actor.Attributes.exitCode}}").split()

    def inspect(self, name: str) -> Any:
        return json.loads(self.run("inspect", name))[0]

    def within(self, container: str, program: str, *arguments: str) -> Any:
        """Run a Python program in that container as its user would; gives the JSON it prints."""
        python = ("python3", "-OO", "-P", "-c", program)
        return json.loads(self.run("exec", container, *python, *arguments))

    def begin(self, container: str, program: str) -> None:
        """The same for one that goes on and prints nothing."""
        self.run("exec", "-d", container, "python3", "-OO", "-P", "-c", program)

    def address(self, container: str) -> str:
        """Its one address."""
        (network,) = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def gateway(self, container: str) -> str:
        """The address that the host has on its network."""
        (name,) = self.inspect(container)["NetworkSettings"]["Networks"]
        return str(IPv4Network(self.inspect(name)["IPAM"]["Config"][0]["Subnet"])[1])

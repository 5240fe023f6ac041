"""Network namespaces, which stand in for other machines."""

from __future__ import annotations

import secrets
import subprocess


class NetworkNamespace:
    """A network namespace, with a veth pair to this machine's."""

    def __init__(self) -> None:
        self.name = f"ctl{secrets.token_hex(3)}"
        self.prefix = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}"
        self.host_address = f"{self.prefix}.1"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def ip_inside(self, *words: str) -> None:
        self.ip("-n", self.name, *words)

    def create(self) -> None:
        self.ip("netns", "add", self.name)
        self.ip("link", "add", self.name, "type", "veth", "peer", "eth0", "netns", self.name)
        self.ip("addr", "add", f"{self.host_address}/24", "dev", self.name)
        self.ip("link", "set", self.name, "up")
        self.ip_inside("link", "set", "lo", "up")
        self.ip_inside("link", "set", "eth0", "up")
        self.ip_inside("addr", "add", f"{self.prefix}.2/24", "dev", "eth0")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        subprocess.run(["ip", "link", "del", self.name], check=False, capture_output=True)

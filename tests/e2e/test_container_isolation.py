"""Attacks from within a user's container: nothing answers or can be written, nobody is hurt."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.containers import POOL, ContainerInspector
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    audit_records,
    is_reachable,
    start_proxy,
    start_stream,
    start_with_desktop,
)
from tests.fake_ollama import Script

#: Prints which addresses answer, if only to refuse; and which names can be looked up, if any.
REACH = """
import errno, json, os, select, socket, struct, sys, time
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
answered, waiting = [], {}
def begin(name, kind, host, port, data=b""):
    s = socket.socket(socket.AF_INET, kind)
    s.setblocking(False)
    code = s.connect_ex((host, port))
    if code == errno.ECONNREFUSED:
        answered.append(name)
    elif code in (0, errno.EINPROGRESS):
        waiting[s] = name
        if data:
            s.send(data)
for host, port in json.loads(sys.argv[1]):
    begin(f"tcp {host}", socket.SOCK_STREAM, host, port)
    begin(f"udp {host}", socket.SOCK_DGRAM, host, port, b"x")
query = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\\7example\\3org\\0" + struct.pack("!2H", 1, 1)
for resolver in json.loads(sys.argv[2]):
    begin(f"dns {resolver}", socket.SOCK_DGRAM, resolver, 53, query)
end = time.monotonic() + 3
while waiting and time.monotonic() < end:
    streams = [s for s in waiting if s.type == socket.SOCK_STREAM]
    others = [s for s in waiting if s.type == socket.SOCK_DGRAM]
    for s in sum(select.select(others, streams, [], 0.2)[:2], []):
        name, code = waiting.pop(s), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code in (0, errno.ECONNREFUSED):
            answered.append(name)
try:
    socket.getaddrinfo("example.org", 80)
    answered.append("a name")
except OSError:
    pass
print(json.dumps(sorted(answered)))
"""
#: Prints where a file can be made, what was started from there, and what there is of Docker's.
WRITE = """
import json, os, subprocess
made, ran = [], []
for top, folders, files in os.walk("/"):
    if top == "/proc":
        folders[:] = [each for each in folders if not each.isdecimal() and each != "self"]
    path = os.path.join(top, "attack")
    try:
        with open(path, "w") as file:
            file.write("#!/bin/sh\\n")
    except OSError:
        continue
    made.append(top)
    os.chmod(path, 0o755)
    try:
        subprocess.run([path])
        ran.append(path)
    except OSError:
        pass
    os.unlink(path)
sockets = [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)]
print(json.dumps([made, ran, sockets]))
"""
#: Takes more memory than there is, in processes that are each smaller than the proxy.
MEMORY = """
import os, time
for _ in range(28):
    if os.fork() == 0:
        kept = bytearray(os.urandom(1 << 20) * 4)
        time.sleep(60)
time.sleep(60)
"""
#: Prints how many processes could be started.
FORKS = """
import json, os, signal
made = []
try:
    while len(made) < 1000:
        child = os.fork()
        if child == 0:
            signal.pause()
        made.append(child)
except OSError:
    pass
for each in made:
    os.kill(each, signal.SIGKILL)
print(json.dumps(len(made)))
"""
BURN = """
import os
for _ in range(3):
    os.fork()
while True:
    pass
"""


def host_addresses() -> list[str]:
    """All addresses of this machine."""
    told = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True, text=True)
    return re.findall(r" inet ([0-9.]+)", told.stdout)


def resolvers() -> list[str]:
    """Who answers names for this machine, and Docker's own in a container."""
    text = Path("/etc/resolv.conf").read_text()
    return [*re.findall(r"^nameserver ([0-9.]+)$", text, re.M), "127.0.0.11"]


@contextmanager
def firewall(folder: Path) -> Iterator[None]:
    """Closed off, as `ctllm firewall` does it; afterwards as it was before."""
    config = folder / "firewall.toml"
    config.write_text(f'[cloud]\ndocker_network_pool = "{POOL}"\n')
    command = [str(BIN / "ctllm"), f"--config={config}", "firewall"]
    before = subprocess.run([*command, "--check"], capture_output=True, check=False, text=True)
    subprocess.run(command, capture_output=True, check=True)
    try:
        yield
    finally:
        if before.returncode:
            subprocess.run([*command, "--remove"], capture_output=True, check=True)


class Pair:
    """Alice with a desktop, bob with another, and a container each."""

    def __init__(self, engine: ContainerInspector, cluster: Cluster) -> None:
        self.engine, self.cluster = engine, cluster
        self.alice = self.bob = ""  # their containers
        self.bobs = ""  # bob's token

    async def begin(self, *options: str) -> None:
        cluster, engine = self.cluster, self.engine
        await start_with_desktop(cluster, *engine.options, *options)
        (self.alice,) = engine.containers()
        other, ollama = cluster.start_fake_ollama("llama3.2")
        other.script("/api/chat", Script(lines=100_000, line_interval=0.05))
        await cluster.start_desktop("bob", ollama)
        self.other = other
        self.bobs = await cluster.create_token("bob")
        await wait_until(lambda: is_reachable(cluster, self.bobs), "bob's way to be open")
        (self.bob,) = (each for each in engine.containers() if each != self.alice)

    async def streaming(self) -> Any:
        """A long answer of bob's, under way."""
        answer = deferToThread(_read_for_ever, self.cluster.cloud_port, self.bobs, self)
        self.lines = 0
        self.enough = False
        await wait_until(lambda: self.lines > 3, "bob's answer to begin")
        return answer

    async def unhurt(self, answer: Any) -> None:
        """Bob's answer goes on."""
        seen = self.lines
        await wait_until(lambda: self.lines > seen + 10, "bob's answer to go on", 10)
        assert not answer.called


def _read_for_ever(port: int, token: str, pair: Any) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/chat", json.dumps(CHAT), headers)
    answer = connection.getresponse()
    while not pair.enough and answer.readline():
        pair.lines += 1
    connection.close()


@pytest.fixture
def pair(engine: ContainerInspector, cluster: Cluster) -> Pair:
    """Nothing of it runs yet."""
    return Pair(engine, cluster)


@ensureDeferred
async def test_nothing_answers(pair: Pair, tmp_path: Path) -> None:
    """Neither the other user, this machine, the internet nor a resolver; without rules, it does."""
    await pair.begin()
    engine = pair.engine
    gateway, other = engine.gateway(pair.alice), engine.address(pair.bob)
    hosts = sorted({*host_addresses(), "1.1.1.1", gateway, engine.gateway(pair.bob)})
    hosts.remove("127.0.0.1")  # there it is the container's own
    targets = [*([host, 8081] for host in hosts), [other, 8080], ["169.254.169.254", 80]]

    def reached() -> Any:
        told = (json.dumps(targets), json.dumps(resolvers()))
        return engine.run_python(pair.alice, REACH, *told)

    assert f"tcp {gateway}" in await deferToThread(reached), "so the next line can fail"
    with firewall(tmp_path):
        assert await deferToThread(reached) == []
        status, _, body = await pair.cluster.request(
            "POST", "/api/chat", CHAT, pair.cluster.alice_token
        )
        assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True


@ensureDeferred
async def test_nothing_can_be_written(pair: Pair) -> None:
    """But the temporary folder, and nothing there can be run; Docker's socket is not there."""
    await pair.begin()
    assert await deferToThread(pair.engine.run_python, pair.alice, WRITE) == [["/tmp"], [], []]


@ensureDeferred
async def test_a_memory_bomb_hurts_its_own_user_alone(pair: Pair) -> None:
    """Her answers break off, the next proxy serves her, and the audit has the reason."""
    await pair.begin("--max-memory-bytes=67108864")
    bobs = await pair.streaming()
    answer = await start_stream(pair.cluster, pair.cluster.alice_token)
    await deferToThread(pair.engine.start_python, pair.alice, MEMORY)
    await assert_broken(answer)
    await wait_until(
        lambda: is_reachable(pair.cluster, pair.cluster.alice_token),
        "alice's desktop to return",
        30,
    )
    await pair.unhurt(bobs)
    (death,) = [line for line in audit_records(pair.cluster) if line["event"] == "proxy.died"]
    assert "needed more memory than its limit" in death["detail"]
    assert pair.bob in pair.engine.containers() and pair.alice not in pair.engine.containers()
    pair.enough = True
    await bobs


@ensureDeferred
async def test_a_fork_bomb_ends_early(pair: Pair) -> None:
    """At the limit of processes; the proxy itself goes on."""
    await pair.begin()
    bobs = await pair.streaming()
    started = await deferToThread(pair.engine.run_python, pair.alice, FORKS)
    assert 5 < started < 32
    await pair.unhurt(bobs)
    assert await is_reachable(pair.cluster, pair.cluster.alice_token)
    pair.enough = True
    await bobs


@ensureDeferred
async def test_who_burns_processors_is_throttled(pair: Pair) -> None:
    """By the control group of that one container, and the others go on."""
    await pair.begin()
    bobs = await pair.streaming()
    await deferToThread(pair.engine.start_python, pair.alice, BURN)
    reader = """
import glob, json, re
found = glob.glob("/sys/fs/cgroup/cpu/cpu.stat") + glob.glob("/sys/fs/cgroup/cpu.stat")
print(json.dumps(int(re.search(r"nr_throttled (\\d+)", open(found[0]).read())[1])))
"""
    before = await deferToThread(pair.engine.run_python, pair.alice, reader)
    await pair.unhurt(bobs)
    after = await deferToThread(pair.engine.run_python, pair.alice, reader)
    assert after > before + 3
    status, _, _ = await start_proxy(pair.cluster, pair.cluster.alice_token)
    assert status == 200
    pair.enough = True
    await bobs

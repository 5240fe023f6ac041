"""Attacks from inside a user's container on the network, the host and other users."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
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
from tests.e2e.process_info import core_limits
from tests.fake_ollama import Script

#: Prints which addresses respond, even by refusing, and whether a name can be resolved.
PROBE_NETWORK = """
import errno, json, os, select, socket, struct, sys, time
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
responding, pending = [], {}
def probe(name, kind, host, port, data=b""):
    s = socket.socket(socket.AF_INET, kind)
    s.setblocking(False)
    code = s.connect_ex((host, port))
    if code == errno.ECONNREFUSED:
        responding.append(name)
    elif code in (0, errno.EINPROGRESS):
        pending[s] = name
        if data:
            s.send(data)
for host, port in json.loads(sys.argv[1]):
    probe(f"tcp {host}", socket.SOCK_STREAM, host, port)
    probe(f"udp {host}", socket.SOCK_DGRAM, host, port, b"x")
query = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\\7example\\3org\\0" + struct.pack("!2H", 1, 1)
for resolver in json.loads(sys.argv[2]):
    probe(f"dns {resolver}", socket.SOCK_DGRAM, resolver, 53, query)
deadline = time.monotonic() + 3
while pending and time.monotonic() < deadline:
    streams = [s for s in pending if s.type == socket.SOCK_STREAM]
    others = [s for s in pending if s.type == socket.SOCK_DGRAM]
    for s in sum(select.select(others, streams, [], 0.2)[:2], []):
        name, code = pending.pop(s), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code in (0, errno.ECONNREFUSED):
            responding.append(name)
try:
    socket.getaddrinfo("example.org", 80)
    responding.append("a name")
except OSError:
    pass
print(json.dumps(sorted(responding)))
"""
#: Prints the writable directories, the files executed there, and the Docker sockets.
PROBE_FILES = """
import json, os, subprocess
writable, executed = [], []
for top, folders, files in os.walk("/"):
    if top == "/proc":
        folders[:] = [each for each in folders if not each.isdecimal() and each != "self"]
    path = os.path.join(top, "attack")
    try:
        with open(path, "w") as file:
            file.write("#!/bin/sh\\n")
    except OSError:
        continue
    writable.append(top)
    os.chmod(path, 0o755)
    try:
        subprocess.run([path])
        executed.append(path)
    except OSError:
        pass
    os.unlink(path)
sockets = [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)]
print(json.dumps([writable, executed, sockets]))
"""
#: Prints the files in the only directory that can be written.
LIST_TMP = """
import json, os
print(json.dumps([os.path.join(top, each) for top, _, files in os.walk("/tmp") for each in files]))
"""
#: Prints whether a program of this container that crashes was dumped, and the files then.
DUMP_CORE = """
import json, os
os.chdir("/tmp")
pid = os.fork()
if pid == 0:
    os.abort()
_, status = os.waitpid(pid, 0)
print(json.dumps([os.WCOREDUMP(status), os.listdir()]))
"""
#: Exceeds the memory limit, in processes that are each smaller than the proxy.
ALLOCATE_MEMORY = """
import os, time
for _ in range(28):
    if os.fork() == 0:
        memory = bytearray(os.urandom(1 << 20) * 4)
        time.sleep(60)
time.sleep(60)
"""
#: Prints how many processes could be started.
FORK_PROCESSES = """
import json, os, signal
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
print(json.dumps(len(children)))
"""
#: Keeps several processors busy.
BUSY_LOOP = """
import os
for _ in range(3):
    os.fork()
while True:
    pass
"""


def host_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine."""
    result = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True, text=True)
    return re.findall(r" inet ([0-9.]+)", result.stdout)


def resolvers() -> list[str]:
    """Return this machine's DNS resolvers, and the one of Docker in a container."""
    text = Path("/etc/resolv.conf").read_text()
    return [*re.findall(r"^nameserver ([0-9.]+)$", text, re.M), "127.0.0.11"]


@contextmanager
def firewall(folder: Path) -> Iterator[Callable[[], str]]:
    """Run `ctllm firewall --watch`; restore the previous state afterwards.

    The function that this returns reports what is missing.
    """
    config = folder / "firewall.toml"
    config.write_text(
        f'[cloud]\ndocker_network_pool = "{POOL}"\nfirewall_socket = "{folder}/firewall"\n'
    )
    command = [str(BIN / "ctllm"), f"--config={config}", "firewall"]

    def missing() -> str:
        done = subprocess.run([*command, "--check"], capture_output=True, check=False, text=True)
        return done.stdout if done.returncode else ""

    before = missing()
    watcher = subprocess.Popen([*command, "--watch=60"], stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    try:
        lines = iter(watcher.stdout.readline, "")
        assert any(line.startswith("Watching") for line in lines), watcher.wait()
        yield missing
    finally:
        watcher.terminate()
        watcher.wait()
        if before:
            subprocess.run([*command, "--remove"], capture_output=True, check=True)


class Pair:
    """Two users, alice and bob, each with a desktop and a container."""

    def __init__(self, engine: ContainerInspector, cluster: Cluster) -> None:
        self.engine, self.cluster = engine, cluster
        self.alice = self.bob = ""  # the ids of their containers
        self.bob_token = ""

    async def start(self, *options: str) -> None:
        """Start the cloud, with additional options, both desktops and both containers."""
        cluster, engine = self.cluster, self.engine
        await start_with_desktop(cluster, *engine.options, *options)
        (self.alice,) = engine.containers()
        bob_ollama, port = cluster.start_fake_ollama("llama3.2")
        bob_ollama.script("/api/chat", Script(lines=100_000, line_interval=0.05))
        await cluster.start_desktop("bob", port)
        self.bob_ollama = bob_ollama
        self.bob_token = await cluster.create_token("bob")
        await wait_until(
            lambda: is_reachable(cluster, self.bob_token), "bob's desktop to be reachable"
        )
        (self.bob,) = (each for each in engine.containers() if each != self.alice)

    async def start_bob_stream(self) -> Any:
        """Start a long response to bob; the Deferred fires once `stop_reading` is set."""
        response = deferToThread(_read_until_stopped, self.cluster.cloud_port, self.bob_token, self)
        self.lines = 0
        self.stop_reading = False
        await wait_until(lambda: self.lines > 3, "bob's response to begin")
        return response

    async def assert_bob_unaffected(self, response: Any) -> None:
        """Assert that bob's response continues."""
        seen = self.lines
        await wait_until(lambda: self.lines > seen + 10, "bob's response to continue", 10)
        assert not response.called


def _read_until_stopped(port: int, token: str, pair: Any) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/chat", json.dumps(CHAT), headers)
    response = connection.getresponse()
    while not pair.stop_reading and response.readline():
        pair.lines += 1
    connection.close()


@pytest.fixture
def pair(engine: ContainerInspector, cluster: Cluster) -> Pair:
    """Two users, for whom nothing is started yet."""
    return Pair(engine, cluster)


@ensureDeferred
async def test_a_container_reaches_nothing_behind_the_firewall(pair: Pair, tmp_path: Path) -> None:
    """Neither the other container, the host, the internet nor a resolver; without it, the host."""
    await pair.start()
    engine = pair.engine
    gateway, bob_address = engine.gateway(pair.alice), engine.address(pair.bob)
    hosts = sorted({*host_addresses(), "1.1.1.1", gateway, engine.gateway(pair.bob)})
    hosts.remove("127.0.0.1")  # in a container, this is the container itself
    targets = [*([host, 8081] for host in hosts), [bob_address, 8080], ["169.254.169.254", 80]]

    def reachable_targets() -> Any:
        arguments = (json.dumps(targets), json.dumps(resolvers()))
        return engine.run_python(pair.alice, PROBE_NETWORK, *arguments)

    assert f"tcp {gateway}" in await deferToThread(reachable_targets), "The probe finds nothing."
    with firewall(tmp_path):
        assert await deferToThread(reachable_targets) == []
        status, _, body = await pair.cluster.request(
            "POST", "/api/chat", CHAT, pair.cluster.alice_token
        )
        assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True


@ensureDeferred
async def test_no_container_starts_while_the_firewall_is_missing(
    engine: ContainerInspector, cluster: Cluster, tmp_path: Path
) -> None:
    """Rules that were flushed are set before a container starts; without the watcher, none does."""
    await cluster.start_cloud(*engine.options, f"--firewall-socket={tmp_path}/firewall")
    token = await cluster.create_token("alice")

    async def assert_refused() -> None:
        status, headers, body = await start_proxy(cluster, token)
        assert status == 503 and "retry-after" in headers and engine.containers() == []
        assert "none is started. ctllm firewall --watch: it does not run" in str(body)
        _, _, health = await cluster.request("GET", "/health")
        assert b"ctllm firewall --watch: it does not run" in health

    await assert_refused()
    with firewall(tmp_path) as missing:
        for _ in range(2):
            subprocess.run(["iptables", "-w", "-D", "INPUT", "1"], check=True)
            subprocess.run(["iptables", "-w", "-F", "CTLLM"], check=True)
            subprocess.run(
                ["ip", "route", "del", "blackhole", str(POOL), "metric", "9999"], check=True
            )
            assert missing()
            assert (await start_proxy(cluster, token))[0] == 200
            assert missing() == "" and len(engine.containers()) == 1
            assert (await cluster.request("DELETE", "/ctllm/proxy", token=token))[0] == 204
    await assert_refused()


@ensureDeferred
async def test_a_container_can_write_only_to_tmp(pair: Pair) -> None:
    """Files there cannot be executed, and the socket of Docker is not in the container."""
    await pair.start()
    found = await deferToThread(pair.engine.run_python, pair.alice, PROBE_FILES)
    assert found == [["/tmp"], [], []]


@ensureDeferred
async def test_a_conversation_leaves_nothing_in_a_container(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Neither in its files, log and description, nor in what the engine stores, layers included."""
    await start_with_desktop(cluster, *engine.options)
    sentence = b"The heron of Bergedorf keeps seventeen marbles"
    path, document = f"/ctllm/desktop/conversations/{'a' * 32}", {"title": sentence.decode()}
    status, _, _ = await cluster.request(
        "PUT", path, document, cluster.alice_token, {"If-None-Match": "*"}
    )
    assert status == 201
    status, _, body = await cluster.request("GET", path, None, cluster.alice_token)
    assert (status, json.loads(body)) == (200, document)
    chat = {"model": "llama3.2", "messages": [{"role": "user", "content": document["title"]}]}
    assert (await cluster.request("POST", "/api/chat", chat, cluster.alice_token))[0] == 200
    (container,) = engine.containers()
    assert engine.run("diff", container) == ""
    proc = Path("/proc", str(engine.inspect(container)["State"]["Pid"]))
    shown = engine.run("logs", container) + engine.run("inspect", container)
    assert sentence.decode() not in shown
    assert sentence not in (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
    assert engine.run_python(container, LIST_TMP) == []
    assert core_limits(int(proc.name)) == ["0", "0"]
    assert os.stat(proc / "environ").st_uid == 0  # of root, so its memory cannot be dumped
    assert engine.run_python(container, DUMP_CORE) == [False, []]
    assert engine.run("diff", container) == ""
    command = ["grep", "-rlasF", "--devices=skip", "--exclude-dir=merged", "--"]
    for text, is_found in ((sentence.decode(), False), ("ctllm.instance", True)):
        found = subprocess.run(
            [*command, text, str(engine.docker.folder)], capture_output=True, check=False
        )
        assert bool(found.stdout) is is_found, found


@ensureDeferred
async def test_a_memory_bomb_affects_only_its_own_user(pair: Pair) -> None:
    """Her response is cut off, a new proxy serves her, and the audit log has the reason."""
    await pair.start("--max-memory-bytes=67108864")
    bob_response = await pair.start_bob_stream()
    alice_response = await start_stream(pair.cluster, pair.cluster.alice_token)
    await deferToThread(pair.engine.start_python, pair.alice, ALLOCATE_MEMORY)
    await assert_broken(alice_response)
    await wait_until(
        lambda: is_reachable(pair.cluster, pair.cluster.alice_token),
        "alice's desktop to return",
        30,
    )
    await pair.assert_bob_unaffected(bob_response)
    (death,) = [record for record in audit_records(pair.cluster) if record["event"] == "proxy.died"]
    assert "needed more memory than its limit" in death["detail"]
    assert pair.bob in pair.engine.containers()
    pair.stop_reading = True
    await bob_response


@ensureDeferred
async def test_a_fork_bomb_stops_at_the_process_limit(pair: Pair) -> None:
    """The proxy in the same container continues to serve."""
    await pair.start()
    bob_response = await pair.start_bob_stream()
    started = await deferToThread(pair.engine.run_python, pair.alice, FORK_PROCESSES)
    assert 5 < started < 32
    await pair.assert_bob_unaffected(bob_response)
    assert await is_reachable(pair.cluster, pair.cluster.alice_token)
    pair.stop_reading = True
    await bob_response


@ensureDeferred
async def test_a_busy_loop_is_throttled(pair: Pair) -> None:
    """The cgroup of its container limits it; other containers are not affected."""
    await pair.start()
    bob_response = await pair.start_bob_stream()
    await deferToThread(pair.engine.start_python, pair.alice, BUSY_LOOP)
    count_throttled = """
import glob, json, re
found = glob.glob("/sys/fs/cgroup/cpu/cpu.stat") + glob.glob("/sys/fs/cgroup/cpu.stat")
print(json.dumps(int(re.search(r"nr_throttled (\\d+)", open(found[0]).read())[1])))
"""
    before = await deferToThread(pair.engine.run_python, pair.alice, count_throttled)
    await pair.assert_bob_unaffected(bob_response)

    async def is_throttled() -> bool:
        after = await deferToThread(pair.engine.run_python, pair.alice, count_throttled)
        return bool(after > before + 3)

    await wait_until(is_throttled, "the loop to be throttled")
    status, _, _ = await start_proxy(pair.cluster, pair.cluster.alice_token)
    assert status == 200
    pair.stop_reading = True
    await bob_response

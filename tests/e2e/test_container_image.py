"""The image of the streaming proxy: its size, its contents, and containers run from it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.threads import deferToThread

from ctllm.cloud.docker_api import Container, DockerClient, create_transport
from ctllm.cloud.proxies.health import fetch_health
from ctllm.errors import ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from tests.e2e.cluster import wait_until
from tests.e2e.dockerd import IMAGE, Dockerd
from tests.e2e.process_info import resident_megabytes

NAME, NETWORK = "ctllm-image", "ctllm-net-image"
ARGUMENTS = ("--id=p", f"--cloud-key={'A' * 43}")
CONFINED = (
    "--read-only", "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=1m", "--cap-drop=ALL",
    "--security-opt=no-new-privileges", "--memory=512m", "--memory-swap=512m", "--cpus=0.5",
    "--pids-limit=32",
)  # fmt: skip
#: Megabytes: of the image on the tests' base, and resident in memory when idle.
MAX_IMAGE_SIZE, MAX_IDLE_MEMORY = 100, 27


@pytest_twisted.async_yield_fixture()
async def engine(docker: Dockerd) -> AsyncIterator[DockerClient]:
    """A client; the container and its network are removed afterwards."""
    client = DockerClient(create_transport(reactor, docker.address), reactor)
    yield client
    await client.remove_container(NAME)
    await client.remove_network(NETWORK)


def run_python(docker: Dockerd, program: str) -> Any:
    """Run a Python program in the image, without --read-only; return its JSON output."""
    command = ["run", "--rm", "--network=none", "--entrypoint=python3", IMAGE, "-OO", "-P", "-c"]
    return json.loads(docker.docker(*command, program))


@ensureDeferred
async def test_the_image_is_smaller_than_100_mb(engine: DockerClient) -> None:
    """The size includes the base image."""
    size = (await engine.inspect_image(IMAGE)).size
    print(f"\nimage: {size / 1e6:.1f} MB")
    assert size < MAX_IMAGE_SIZE * 1e6


#: Prints user, groups and writable paths, except symbolic links and kernel file systems.
WRITABLE = """
import json, os
found = []
for top, folders, files in os.walk("/"):
    if top == "/":
        folders[:] = [each for each in folders if each not in ("proc", "sys", "dev")]
    paths = [top, *(os.path.join(top, each) for each in files)]
    found += [each for each in paths if not os.path.islink(each) and os.access(each, os.W_OK)]
print(json.dumps([os.getuid(), os.getgid(), os.getgroups(), found]))
"""
#: Prints the modules of a proxy that have no bytecode and would be compiled at each start.
UNCOMPILED = """
import json, os, sys
import ctllm.proxy_main
ctllm.proxy_main.install_lazy_imports()
import ctllm.tap, ctllm.proxy.service, twisted.internet.reactor
found = [getattr(each, "__cached__", None) for each in list(sys.modules.values())]
found = [each for each in found if each]
assert len(found) > 100, found
bad = [each for each in found if not each.endswith(".opt-2.pyc") or not os.path.exists(each)]
print(json.dumps(bad))
"""
#: Prints which packages are installed that a proxy does not need.
NEEDLESS = """
import importlib.util, json
names = ["ctllm.cloud", "ctllm.desktop", "ctllm.demo", "treq", "cryptography", "OpenSSL", "pip",
         "twisted.web"]
print(json.dumps([each for each in names if importlib.util.find_spec(each)]))
"""


def test_the_user_can_write_only_to_tmp(docker: Dockerd) -> None:
    """The user is 1001; file permissions suffice, without a read-only root file system."""
    assert run_python(docker, WRITABLE) == [1001, 1001, [1001], ["/tmp"]]


def test_all_modules_of_a_proxy_are_compiled(docker: Dockerd) -> None:
    """The bytecode has the optimization level at which the proxy runs."""
    assert run_python(docker, UNCOMPILED) == []


def test_the_image_contains_only_what_a_proxy_needs(docker: Dockerd) -> None:
    """It contains neither the other roles, nor their dependencies, nor pip."""
    assert run_python(docker, NEEDLESS) == []


async def is_healthy(pool: ConnectionPool) -> bool:
    """Return whether the proxy reports its health."""
    return await fetch_health(pool, reactor) is not None


async def container_pid(docker: Dockerd) -> int:
    """Return the process id of the container on the host."""
    return int(await deferToThread(docker.docker, "inspect", "-f={{.State.Pid}}", NAME))


@ensureDeferred
async def test_a_proxy_runs_on_an_internal_network(docker: Dockerd, engine: DockerClient) -> None:
    """It responds to the host, uses little memory when idle, and exits with 0 when stopped."""
    subnet = "--subnet=10.141.0.0/28"
    await deferToThread(docker.docker, "network", "create", "--internal", subnet, NETWORK)
    command = ["run", "-d", f"--name={NAME}", f"--network={NETWORK}", *CONFINED, IMAGE, *ARGUMENTS]
    await deferToThread(docker.docker, *command, "--port=8080", "--host=0.0.0.0")
    found: Container = await engine.inspect_container(NAME)
    endpoint = TCP4ClientEndpoint(reactor, found.address(NETWORK), 8080)
    pool = ConnectionPool(endpoint, reactor, "the proxy", ProxyUnavailable)
    await wait_until(lambda: is_healthy(pool), "the proxy to respond")
    resident = resident_megabytes(await container_pid(docker))
    print(f"\nidle: {resident:.1f} MB")
    assert resident <= MAX_IDLE_MEMORY
    pool.close()
    await engine.stop_container(NAME, 10)
    assert (await engine.inspect_container(NAME)).state.exit_code == 0, await engine.container_logs(
        NAME
    )


@ensureDeferred
async def test_a_proxy_runs_without_a_network(docker: Dockerd, engine: DockerClient) -> None:
    """It listens on a UNIX socket in a mounted directory."""
    folder = docker.folder / "sockets"
    folder.mkdir()
    folder.chmod(0o777)
    command = ["run", "-d", f"--name={NAME}", "--network=none", f"--volume={folder}:/run/ctllm"]
    socket = "--socket=/run/ctllm/proxy.sock"
    await deferToThread(docker.docker, *command, *CONFINED, IMAGE, *ARGUMENTS, socket)
    endpoint = UNIXClientEndpoint(reactor, str(folder / "proxy.sock"))
    pool = ConnectionPool(endpoint, reactor, "the proxy", ProxyUnavailable)
    await wait_until(lambda: is_healthy(pool), "the proxy to respond")
    pool.close()


@ensureDeferred
async def test_a_missing_argument_is_an_error(docker: Dockerd) -> None:
    """The error message names the argument."""
    command = ["run", "--rm", "--network=none", IMAGE, "--id=p", "--port=1"]
    with pytest.raises(AssertionError, match="cloud-key"):
        await deferToThread(docker.docker, *command)

"""The image of the streaming proxy: small, closed, and a proxy like any other."""

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
TOLD = ("--id=p", f"--cloud-key={'A' * 43}")
CLOSED = (
    "--read-only", "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=1m", "--cap-drop=ALL",
    "--security-opt=no-new-privileges", "--memory=512m", "--memory-swap=512m", "--cpus=0.5",
    "--pids-limit=32",
)  # fmt: skip
#: Megabytes: of the image on the tests' base, and resident in memory when idle.
LARGEST, MOST = 100, 27


@pytest_twisted.async_yield_fixture()
async def engine(docker: Dockerd) -> AsyncIterator[DockerClient]:
    """A client; afterwards the container and its network are gone."""
    client = DockerClient(create_transport(reactor, docker.address), reactor)
    yield client
    await client.remove_container(NAME)
    await client.remove_network(NETWORK)


def python(docker: Dockerd, program: str) -> Any:
    """What a Python program in the image prints, as JSON; run by its user, nothing read-only."""
    told = ["run", "--rm", "--network=none", "--entrypoint=python3", IMAGE, "-OO", "-P", "-c"]
    return json.loads(docker.docker(*told, program))


@ensureDeferred
async def test_size(engine: DockerClient) -> None:
    """Under 100 MB, base included."""
    size = (await engine.inspect_image(IMAGE)).size
    print(f"\nimage: {size / 1e6:.1f} MB")
    assert size < LARGEST * 1e6


#: Prints the user and what may be written, links aside, but for what the kernel shows as files.
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
#: Prints which modules of a proxy would be compiled at each start.
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
#: Prints what is there of the rest of ctllm, and of what only that imports.
NEEDLESS = """
import importlib.util, json
names = ["ctllm.cloud", "ctllm.desktop", "ctllm.demo", "treq", "cryptography", "OpenSSL", "pip",
         "twisted.web"]
print(json.dumps([each for each in names if importlib.util.find_spec(each)]))
"""


def test_nothing_can_be_written(docker: Dockerd) -> None:
    """By its user, 1001, even were it not read-only: nothing but the temporary folder."""
    assert python(docker, WRITABLE) == [1001, 1001, [1001], ["/tmp"]]


def test_nothing_is_compiled_at_a_start(docker: Dockerd) -> None:
    """Each module that a proxy imports was, at the level that it runs at."""
    assert python(docker, UNCOMPILED) == []


def test_only_what_a_proxy_needs(docker: Dockerd) -> None:
    """Neither the other places, nor what they import, nor pip."""
    assert python(docker, NEEDLESS) == []


async def well(origin: ConnectionPool) -> bool:
    """Whether a proxy says that it is."""
    return await fetch_health(origin, reactor) is not None


async def pid(docker: Dockerd) -> int:
    """The process of the container, as the host sees it."""
    return int(await deferToThread(docker.docker, "inspect", "-f={{.State.Pid}}", NAME))


@ensureDeferred
async def test_in_a_network_of_its_own(docker: Dockerd, engine: DockerClient) -> None:
    """It answers the host, is small when idle, and ends in order when it is told."""
    subnet = "--subnet=10.141.0.0/28"
    await deferToThread(docker.docker, "network", "create", "--internal", subnet, NETWORK)
    told = ["run", "-d", f"--name={NAME}", f"--network={NETWORK}", *CLOSED, IMAGE, *TOLD]
    await deferToThread(docker.docker, *told, "--port=8080", "--host=0.0.0.0")
    found: Container = await engine.inspect_container(NAME)
    endpoint = TCP4ClientEndpoint(reactor, found.address(NETWORK), 8080)
    origin = ConnectionPool(endpoint, reactor, "the proxy", ProxyUnavailable)
    await wait_until(lambda: well(origin), "the proxy to answer")
    resident = resident_megabytes(await pid(docker))
    print(f"\nidle: {resident:.1f} MB")
    assert resident <= MOST
    origin.close()
    await engine.stop_container(NAME, 10)
    assert (await engine.inspect_container(NAME)).state.exit_code == 0, await engine.container_logs(
        NAME
    )


@ensureDeferred
async def test_without_a_network(docker: Dockerd, engine: DockerClient) -> None:
    """On a UNIX socket in a folder that it was given."""
    folder = docker.folder / "faulty"
    folder.mkdir()
    folder.chmod(0o777)
    told = ["run", "-d", f"--name={NAME}", "--network=none", f"--volume={folder}:/run/ctllm"]
    socket = "--socket=/run/ctllm/proxy.sock"
    await deferToThread(docker.docker, *told, *CLOSED, IMAGE, *TOLD, socket)
    endpoint = UNIXClientEndpoint(reactor, str(folder / "proxy.sock"))
    origin = ConnectionPool(endpoint, reactor, "the proxy", ProxyUnavailable)
    await wait_until(lambda: well(origin), "the proxy to answer")
    origin.close()


@ensureDeferred
async def test_wrong_arguments(docker: Dockerd) -> None:
    """End it with a sentence in its log."""
    told = ["run", "--rm", "--network=none", IMAGE, "--id=p", "--port=1"]
    with pytest.raises(AssertionError, match="cloud-key"):
        await deferToThread(docker.docker, *told)

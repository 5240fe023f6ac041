"""Fixtures of the end-to-end tests, and a check for leaks that pytest-twisted does not report."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from tests.e2e.chromium import Chromium
from tests.e2e.cluster import Cluster
from tests.e2e.containers import ContainerInspector
from tests.e2e.debian_system import DebianSystem
from tests.e2e.dockerd import Dockerd, dockerd
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.mirrored_requests import MirroredCluster, start_mirrored_cluster


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a delayed call, or during which a failure was logged."""
    failures: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(str(event["log_failure"].getTraceback()))

    before = set(reactor.getDelayedCalls())
    globalLogPublisher.addObserver(observe)
    yield
    # A test may end inside the call that cleans up: let that call return.
    pytest_twisted.blockon(deferLater(reactor, 0))
    gc.collect()  # an unhandled error in a Deferred is logged when it is collected
    globalLogPublisher.removeObserver(observe)
    leaked = [call for call in reactor.getDelayedCalls() if call not in before and call.active()]
    assert not failures, "\n".join(failures)
    assert not leaked, f"The test leaves delayed calls: {leaked}"


@pytest_twisted.async_yield_fixture()
async def cluster(tmp_path: Path) -> Any:
    """A cluster of one test, without any process."""
    cluster = Cluster(tmp_path)
    yield cluster
    await cluster.stop()


@pytest_twisted.async_yield_fixture()
async def faulty(cluster: Cluster) -> Any:
    """A cluster behind network relays that the test controls; nothing is started."""
    faulty_cluster = FaultyCluster(cluster)
    yield faulty_cluster
    faulty_cluster.disconnect_clients()


@pytest.fixture(scope="session")
def docker() -> Iterator[Dockerd]:
    """A Docker Engine of this test run, with the streaming proxy's image and its base."""
    with dockerd() as engine:
        engine.build()
        yield engine


@pytest.fixture
def engine(docker: Dockerd) -> Iterator[ContainerInspector]:
    """The engine, without containers and networks of ctllm before and after the test.

    A test that also uses `cluster` lists it after this fixture: the cloud, which would start
    containers again, has to stop first.
    """
    inspector = ContainerInspector(docker)
    assert inspector.all() == []
    yield inspector
    for name in reversed(inspector.all()):  # networks are listed first, and must be empty
        inspector.run(*(("rm", "-f") if "proxy" in name else ("network", "rm")), name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cloud and alice's desktop beside a fake Ollama, for the tests of one module."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))

    async def start() -> None:
        await cluster.start_cloud()
        cluster.ollama, port = cluster.start_fake_ollama("llama3.2", "nomic-embed-text")
        await cluster.start_desktop("alice", port)
        cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--scope=manage", "tests")
        cluster.alice_token = await cluster.create_token("alice")
        await cluster.wait_for_api_key()

    pytest_twisted.blockon(ensureDeferred(start()))
    yield cluster
    pytest_twisted.blockon(ensureDeferred(cluster.stop()))


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirroredCluster]:
    """A fake Ollama that is requested directly and through ctllm, for the tests of one module."""
    cluster = Cluster(tmp_path_factory.mktemp("mirrored"))
    yield pytest_twisted.blockon(ensureDeferred(start_mirrored_cluster(cluster)))
    pytest_twisted.blockon(ensureDeferred(cluster.stop()))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """Start one browser for all tests."""
    browser = Chromium()
    pytest_twisted.blockon(ensureDeferred(browser.start()))
    yield browser
    pytest_twisted.blockon(ensureDeferred(browser.close()))


@pytest_twisted.async_yield_fixture()
async def tab(chromium: Chromium) -> Any:
    """Open a page in a new context; closing it fails the test if the page reported errors."""
    new_tab = await chromium.tab()
    yield new_tab
    await new_tab.close()


@pytest.fixture(scope="session")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> DebianSystem:
    """Debian 13, whose nginx has HTTP/3 and `pass`, as that of the container's usual image."""
    root = tmp_path_factory.mktemp("trixie") / "root"
    return DebianSystem.bootstrap(root, "trixie", "nginx-light", "libnginx-mod-stream")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make packages` writes, without the bundle."""
    folder = tmp_path_factory.mktemp("packages")
    argv = [sys.executable, "-m", "package_builder", f"--output={folder}"]
    root = Path(__file__).parents[2]
    result = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder

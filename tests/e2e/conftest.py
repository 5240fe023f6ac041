"""Fixtures of the end-to-end tests, and a watch over what pytest-twisted passes in silence."""

from __future__ import annotations

import gc
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

from tests.e2e.cluster import Cluster
from tests.e2e.containers import ContainerInspector
from tests.e2e.dockerd import Dockerd, dockerd
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.mirrored_requests import MirroredCluster, start_mirrored_cluster


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a timer, or during which a failure was logged."""
    failures: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(str(event["log_failure"].getTraceback()))

    before = set(reactor.getDelayedCalls())
    globalLogPublisher.addObserver(observe)
    yield
    # A test may end inside the very call that is about to clean up: let that call return.
    pytest_twisted.blockon(deferLater(reactor, 0))
    gc.collect()  # an unhandled error in a Deferred is logged when it is collected
    globalLogPublisher.removeObserver(observe)
    left = [call for call in reactor.getDelayedCalls() if call not in before and call.active()]
    assert not failures, "\n".join(failures)
    assert not left, f"timers left: {left}"


@pytest_twisted.async_yield_fixture()
async def cluster(tmp_path: Path) -> Any:
    """An empty world of one test."""
    made = Cluster(tmp_path)
    yield made
    await made.stop()


@pytest_twisted.async_yield_fixture()
async def faulty(cluster: Cluster) -> Any:
    """A world with a network under the test's control; nothing of it runs yet."""
    made = FaultyCluster(cluster)
    yield made
    made.disconnect_clients()


@pytest.fixture(scope="session")
def docker() -> Iterator[Dockerd]:
    """A Docker engine of this run's own, with the streaming proxy's image and its base."""
    with dockerd() as made:
        made.build()
        yield made


@pytest.fixture
def engine(docker: Dockerd) -> Iterator[ContainerInspector]:
    """The engine; nothing of ctllm's is there before, nor left afterwards.

    Named before `world` where both are wanted: what would start containers again ends first.
    """
    made = ContainerInspector(docker)
    assert made.all() == []
    yield made
    for each in reversed(made.all()):  # networks are the first, and must be empty
        made.run(*(("rm", "-f") if "proxy" in each else ("network", "rm")), each)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cloud and alice's desktop beside a fake Ollama, for the tests of one module."""
    made = Cluster(tmp_path_factory.mktemp("shared"))

    async def start() -> None:
        await made.start_cloud()
        made.ollama, port = made.start_fake_ollama("llama3.2", "nomic-embed-text")
        await made.start_desktop("alice", port)
        made.api_key = await made.run_ctllm("alice", "keys", "add", "--manage", "tests")
        made.alice_token = await made.create_token("alice")
        await made.wait_for_api_key()

    pytest_twisted.blockon(ensureDeferred(start()))
    yield made
    pytest_twisted.blockon(ensureDeferred(made.stop()))


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirroredCluster]:
    """A stand-in that is asked directly and through ctllm, for the tests of one module."""
    made = Cluster(tmp_path_factory.mktemp("twice"))
    yield pytest_twisted.blockon(ensureDeferred(start_mirrored_cluster(made)))
    pytest_twisted.blockon(ensureDeferred(made.stop()))

"""`ctllm proxies`, /health and /metrics: what whoever runs a cloud sees of its containers."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.containers import ContainerInspector
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


def configured(engine: ContainerInspector, cluster: Cluster) -> str:
    """A file of configuration that says what the options of the cloud do."""
    file = cluster.directory / "ctllm.toml"
    options = [each.removeprefix("--").partition("=") for each in engine.options]
    lines = [f'{name.replace("-", "_")} = "{value}"' for name, _, value in options]
    file.write_text("\n".join(["[cloud]", *lines]) + "\n")
    return f"--config={file}"


async def proxies(engine: ContainerInspector, cluster: Cluster, *words: str) -> tuple[int, str]:
    """Run `ctllm proxies` and these words: status and what it printed."""
    state = f"--state-dir={cluster.state_dir('cloud')}"
    argv = [str(BIN / "ctllm"), configured(engine, cluster), state, "proxies", *words]
    ran = await deferToThread(
        subprocess.run, argv, capture_output=True, text=True, env=cluster.environment()
    )
    return ran.returncode, ran.stdout + ran.stderr


async def health(cluster: Cluster) -> Any:
    """What /health says."""
    _, _, body = await cluster.request("GET", "/health")
    return json.loads(body)


ROW = r"\w{12}  running +\d+ \w+ +\d+ s +0 +\d +(\d+\.\d) MB +\d+\.\d s"
HEAD = ["PROXY", "STATE", "AGE", "IDLE", "REQUESTS", "DESKTOPS", "MEMORY", "CPU"]


@ensureDeferred
async def test_a_table_of_those_that_run(engine: ContainerInspector, cluster: Cluster) -> None:
    """Whether the cloud runs or not: the same rows; the socket is the cloud's user's alone."""
    cloud = await start_with_desktop(cluster, *engine.options)
    await start_proxy(cluster, await cluster.create_token("bob"))
    socket = cluster.state_dir("cloud") / "cloud" / "operator.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    first = await proxies(engine, cluster)
    await cloud.stop()
    assert not socket.exists()
    second = await proxies(engine, cluster, "ls")
    names = {each.removeprefix("ctllm-proxy-")[:12] for each in engine.all()[2:]}
    for code, printed in (first, second):
        assert code == 0, printed
        head, *rows = printed.splitlines()
        assert head.split() == HEAD and len(rows) == 2
        assert {row.split()[0] for row in rows} == names
        for row in rows:
            found = re.fullmatch(ROW, row)
            assert found and 10 < float(found[1]) < 64, row


@ensureDeferred
async def test_two_clouds_on_one_folder(cluster: Cluster) -> None:
    """The second does not start, and the first goes on; one that was killed is in nobody's way."""
    first = await cluster.start_cloud()
    second = cluster.run_role(
        "cloud", "cloud", "--listen=127.0.0.1:0", "--metrics-listen=off", "--spawner=docker"
    )
    assert await second.exited == 1 and "Another ctllm cloud uses" in second.output
    assert await cluster.run_ctllm("cloud", "proxies") == "No streaming proxy runs."
    await first.stop(signal.SIGKILL)
    socket = cluster.state_dir("cloud") / "cloud" / "operator.sock"
    assert socket.is_socket()
    await cluster.start_cloud()
    assert await cluster.run_ctllm("cloud", "proxies") == "No streaming proxy runs."


@ensureDeferred
async def test_ends_one_or_all(engine: ContainerInspector, cluster: Cluster) -> None:
    """By the beginning of a name that fits one; else it is said which it may be."""
    cloud = await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
    bob = await cluster.create_token("bob")
    await start_proxy(cluster, bob)
    (alices, bobs) = (engine.inspect(each)["Name"][13:] for each in reversed(engine.containers()))
    code, printed = await proxies(engine, cluster, "rm", "nobody")
    assert code == 1 and "no streaming proxy has a name that begins with nobody" in printed
    code, printed = await proxies(engine, cluster, "rm", "")
    assert code == 1 and "more than one" in printed and alices[:12] in printed
    code, printed = await proxies(engine, cluster, "rm", bobs[:8])
    assert code == 0 and printed.endswith("Stopped 1 streaming proxy.\n")
    assert engine.all() == [f"ctllm-net-{alices}", f"ctllm-proxy-{alices}"]
    (stop,) = [line for line in audit_records(cluster) if line["event"] == "proxy.stopped"]
    assert stop["reason"] == "requested" and stop["proxy"].endswith(bobs)
    await cloud.stop()
    code, printed = await proxies(engine, cluster, "rm", "all")
    assert code == 0 and engine.all() == []
    assert (await proxies(engine, cluster)) == (0, "No streaming proxy runs.\n")


@ensureDeferred
async def test_drains(engine: ContainerInspector, cluster: Cluster) -> None:
    """An answer under way ends whole, nothing new begins, then all is gone; resume undoes it."""
    await start_with_desktop(cluster, *engine.options)
    cluster.ollama.script("/api/chat", Script(lines=60, line_interval=0.1))
    answer = Deferred.fromCoroutine(cluster.request("POST", "/api/chat", CHAT, cluster.alice_token))
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)
    draining = Deferred.fromCoroutine(proxies(engine, cluster, "drain"))

    async def refuses() -> bool:
        status, headers, body = await cluster.request(
            "GET", "/api/version", token=cluster.alice_token
        )
        return status == 503 and b"maintenance" in body and "retry-after" in headers

    await wait_until(refuses, "new requests to be refused")
    assert (await health(cluster))["status"] == "draining"
    status, _, body = await answer
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    code, printed = await draining
    assert code == 0 and "0 stopped, 1 busy" in printed
    assert "Stopped 1 streaming proxy, 0 with active requests." in printed
    assert engine.all() == [] and await refuses()
    code, _ = await proxies(engine, cluster, "resume")
    assert code == 0
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 40
    )


@ensureDeferred
async def test_drains_no_longer_than_told(engine: ContainerInspector, cluster: Cluster) -> None:
    """Then what is still under way breaks off, and that is said."""
    await start_with_desktop(cluster, *engine.options)
    answer = await start_stream(cluster, cluster.alice_token)
    code, printed = await proxies(engine, cluster, "drain", "--seconds=2")
    assert code == 0 and "1 with active requests" in printed
    await assert_broken(answer)


@ensureDeferred
async def test_what_is_wrong_and_what_is_used(engine: ContainerInspector, cluster: Cluster) -> None:
    """/health tells of a missing image until it is there; /metrics of each one's memory and CPU."""
    cloud = await cluster.start_cloud(*engine.options, "--docker-image=ctllm-none:1")
    await wait_until(lambda: _degraded(cluster), "the missing image to be noticed")
    assert "make images" in (await health(cluster))["error"]
    await cloud.stop()
    await start_with_desktop(cluster, *engine.options)
    assert (await health(cluster))["status"] == "ok" and (await health(cluster))["error"] is None
    _, _, body = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
    (name,) = (each for each in engine.all() if "proxy" in each)
    label = re.escape(f'{{proxy="{name}"}}')
    memory = re.search(rf"^ctllm_proxy_memory_bytes{label} (\S+)$", body.decode(), re.M)
    cpu = re.search(rf"^ctllm_proxy_cpu_seconds_total{label} (\S+)$", body.decode(), re.M)
    assert memory and 10e6 < float(memory[1]) < 64e6
    assert cpu and 0.05 < float(cpu[1]) < 60


async def _degraded(cluster: Cluster) -> bool:
    return bool((await health(cluster))["status"] == "degraded")


@ensureDeferred
async def test_an_engine_elsewhere(engine: ContainerInspector, cluster: Cluster) -> None:
    """By TLS: the same, and what is used is asked of it, whose files could be anywhere."""
    where = (f"--docker-url={engine.docker.tls_address}",
             f"--docker-certs-dir={engine.docker.certificates}")  # fmt: skip
    await cluster.start_cloud(*engine.options, *where)
    status, _, _ = await start_proxy(cluster, await cluster.create_token("alice"))
    assert status == 200
    _, _, body = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
    assert re.search(r"^ctllm_proxy_memory_bytes\{proxy=\S+ \S+e\+07$", body.decode(), re.M)
    assert _refused_without_network(cluster, *where)


def _refused_without_network(cluster: Cluster, *where: str) -> bool:
    state = f"--state-dir={cluster.state_dir('other')}"
    options = (
        "--spawner=docker",
        "--docker-network=none",
        "--listen=127.0.0.1:0",
        "--metrics-listen=off",
    )
    argv = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "cloud", state, *options, *where]
    ran = subprocess.run(
        argv, capture_output=True, text=True, env=cluster.environment(), timeout=60
    )
    return ran.returncode == 1 and "requires Docker on this machine" in ran.stdout + ran.stderr

"""`ctllm proxies`, /health and /metrics of a cloud that runs proxies as containers."""

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


def write_config(engine: ContainerInspector, cluster: Cluster) -> str:
    """Write the options of the cloud to a configuration file; return the option that names it."""
    file = cluster.directory / "ctllm.toml"
    options = [option.removeprefix("--").partition("=") for option in engine.options]
    lines = [f'{name.replace("-", "_")} = "{value}"' for name, _, value in options]
    file.write_text("\n".join(["[cloud]", *lines]) + "\n")
    return f"--config={file}"


async def run_proxies(
    engine: ContainerInspector, cluster: Cluster, *arguments: str
) -> tuple[int, str]:
    """Run `ctllm proxies` with the arguments; return its exit code and output."""
    state = f"--state-dir={cluster.state_dir('cloud')}"
    argv = [str(BIN / "ctllm"), write_config(engine, cluster), state, "proxies", *arguments]
    result = await deferToThread(
        subprocess.run, argv, capture_output=True, text=True, env=cluster.environment()
    )
    return result.returncode, result.stdout + result.stderr


async def fetch_health(cluster: Cluster) -> Any:
    """Return the content of /health."""
    _, _, body = await cluster.request("GET", "/health")
    return json.loads(body)


ROW = r"\w{12}  running +\d+ \w+ +\d+ s +0 +\d +(\d+\.\d) MB +\d+\.\d s"
HEADER = ["PROXY", "STATE", "AGE", "IDLE", "REQUESTS", "DESKTOPS", "MEMORY", "CPU"]


@ensureDeferred
async def test_proxies_lists_the_running_proxies(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The rows are the same while the cloud is stopped; only its user can use the socket."""
    cloud = await start_with_desktop(cluster, *engine.options)
    await start_proxy(cluster, await cluster.create_token("bob"))
    socket = cluster.state_dir("cloud") / "cloud" / "operator.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    first = await run_proxies(engine, cluster)
    await cloud.stop()
    assert not socket.exists()
    second = await run_proxies(engine, cluster, "ls")
    names = {each.removeprefix("ctllm-proxy-")[:12] for each in engine.all()[2:]}
    for code, output in (first, second):
        assert code == 0, output
        header, *rows = output.splitlines()
        assert header.split() == HEADER and len(rows) == 2
        assert {row.split()[0] for row in rows} == names
        for row in rows:
            found = re.fullmatch(ROW, row)
            assert found and 10 < float(found[1]) < 64, row


@ensureDeferred
async def test_a_second_cloud_with_the_same_state_directory_does_not_start(
    cluster: Cluster,
) -> None:
    """The first keeps running; after it was killed, another one can start."""
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
async def test_proxies_rm_stops_one_or_all(engine: ContainerInspector, cluster: Cluster) -> None:
    """A prefix selects a proxy; an ambiguous one is an error that lists the matches."""
    cloud = await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
    bob_token = await cluster.create_token("bob")
    await start_proxy(cluster, bob_token)
    alice, bob = (engine.inspect(each)["Name"][13:] for each in reversed(engine.containers()))
    code, output = await run_proxies(engine, cluster, "rm", "nobody")
    assert code == 1 and "no streaming proxy has a name that begins with nobody" in output
    code, output = await run_proxies(engine, cluster, "rm", "")
    assert code == 1 and "more than one" in output and alice[:12] in output
    code, output = await run_proxies(engine, cluster, "rm", bob[:8])
    assert code == 0 and output.endswith("Stopped 1 streaming proxy.\n")
    assert engine.all() == [f"ctllm-net-{alice}", f"ctllm-proxy-{alice}"]
    (stop,) = [record for record in audit_records(cluster) if record["event"] == "proxy.stopped"]
    assert stop["reason"] == "requested" and stop["proxy"].endswith(bob)
    await cloud.stop()
    code, output = await run_proxies(engine, cluster, "rm", "all")
    assert code == 0 and engine.all() == []
    assert (await run_proxies(engine, cluster)) == (0, "No streaming proxy runs.\n")


@ensureDeferred
async def test_drain_finishes_active_requests_and_rejects_new_ones(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """It then stops all proxies; `ctllm proxies resume` makes the cloud accept requests again."""
    await start_with_desktop(cluster, *engine.options)
    cluster.ollama.script("/api/chat", Script(lines=60, line_interval=0.1))
    response = Deferred.fromCoroutine(
        cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    )
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)
    draining = Deferred.fromCoroutine(run_proxies(engine, cluster, "drain"))

    async def rejects_requests() -> bool:
        status, headers, body = await cluster.request(
            "GET", "/api/version", token=cluster.alice_token
        )
        return status == 503 and b"maintenance" in body and "retry-after" in headers

    await wait_until(rejects_requests, "new requests to be rejected")
    assert (await fetch_health(cluster))["status"] == "draining"
    status, _, body = await response
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    code, output = await draining
    assert code == 0 and "0 stopped, 1 busy" in output
    assert "Stopped 1 streaming proxy, 0 with active requests." in output
    assert engine.all() == [] and await rejects_requests()
    code, _ = await run_proxies(engine, cluster, "resume")
    assert code == 0
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 40
    )


@ensureDeferred
async def test_drain_cuts_off_requests_after_its_time_limit(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Its output has the number of proxies with active requests."""
    await start_with_desktop(cluster, *engine.options)
    response = await start_stream(cluster, cluster.alice_token)
    code, output = await run_proxies(engine, cluster, "drain", "--seconds=2")
    assert code == 0 and "1 with active requests" in output
    await assert_broken(response)


@ensureDeferred
async def test_health_reports_a_missing_image_and_metrics_the_resource_usage(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """/metrics has the memory and CPU time of each proxy."""
    cloud = await cluster.start_cloud(*engine.options, "--docker-image=ctllm-none:1")
    await wait_until(lambda: _is_degraded(cluster), "/health to report the missing image")
    assert "make images" in (await fetch_health(cluster))["error"]
    await cloud.stop()
    await start_with_desktop(cluster, *engine.options)
    assert (await fetch_health(cluster))["status"] == "ok"
    assert (await fetch_health(cluster))["error"] is None
    _, _, body = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
    (name,) = (each for each in engine.all() if "proxy" in each)
    label = re.escape(f'{{proxy="{name}"}}')
    memory = re.search(rf"^ctllm_proxy_memory_bytes{label} (\S+)$", body.decode(), re.M)
    cpu = re.search(rf"^ctllm_proxy_cpu_seconds_total{label} (\S+)$", body.decode(), re.M)
    assert memory and 10e6 < float(memory[1]) < 64e6
    assert cpu and 0.05 < float(cpu[1]) < 60


async def _is_degraded(cluster: Cluster) -> bool:
    return bool((await fetch_health(cluster))["status"] == "degraded")


@ensureDeferred
async def test_a_remote_engine_provides_proxies_and_their_resource_usage(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """It is reached with TLS, and cannot provide proxies without a network."""
    docker_options = (f"--docker-url={engine.docker.tls_address}",
                      f"--docker-certs-dir={engine.docker.certificates}")  # fmt: skip
    await cluster.start_cloud(*engine.options, *docker_options)
    status, _, _ = await start_proxy(cluster, await cluster.create_token("alice"))
    assert status == 200
    _, _, body = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
    assert re.search(r"^ctllm_proxy_memory_bytes\{proxy=\S+ \S+e\+07$", body.decode(), re.M)
    assert _is_rejected_without_network(cluster, *docker_options)


def _is_rejected_without_network(cluster: Cluster, *docker_options: str) -> bool:
    state = f"--state-dir={cluster.state_dir('other')}"
    options = (
        *docker_options,
        "--spawner=docker",
        "--docker-network=none",
        "--listen=127.0.0.1:0",
        "--metrics-listen=off",
    )
    argv = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "cloud", state, *options]
    result = subprocess.run(
        argv, capture_output=True, text=True, env=cluster.environment(), timeout=60
    )
    return (
        result.returncode == 1
        and "requires Docker on this machine" in result.stdout + result.stderr
    )

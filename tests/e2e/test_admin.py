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

from tests.e2e.cluster import BIN, World, until
from tests.e2e.containers import Engine
from tests.e2e.lifecycle_cases import CHAT, audit, broken, start, streaming, with_desktop, works
from tests.fake_ollama import Script


def configured(engine: Engine, world: World) -> str:
    """A file of configuration that says what the options of the cloud do."""
    file = world.folder / "ctllm.toml"
    options = [each.removeprefix("--").partition("=") for each in engine.options]
    lines = [f'{name.replace("-", "_")} = "{value}"' for name, _, value in options]
    file.write_text("\n".join(["[cloud]", *lines]) + "\n")
    return f"--config={file}"


async def proxies(engine: Engine, world: World, *words: str) -> tuple[int, str]:
    """Run `ctllm proxies` and these words: status and what it printed."""
    state = f"--state={world.state('cloud')}"
    argv = [str(BIN / "ctllm"), configured(engine, world), state, "proxies", *words]
    ran = await deferToThread(
        subprocess.run, argv, capture_output=True, text=True, env=world.environment()
    )
    return ran.returncode, ran.stdout + ran.stderr


async def health(world: World) -> Any:
    """What /health says."""
    _, _, body = await world.http("GET", "/health")
    return json.loads(body)


ROW = r"\w{12}  running +\d+ \w+ +\d+ s +0 +\d +(\d+\.\d) MB +\d+\.\d s"
HEAD = ["PROXY", "STATE", "AGE", "IDLE", "EXCHANGES", "DESKTOPS", "MEMORY", "CPU"]


@ensureDeferred
async def test_a_table_of_those_that_run(engine: Engine, world: World) -> None:
    """Whether the cloud runs or not: the same rows; the socket is the cloud's user's alone."""
    cloud = await with_desktop(world, *engine.options)
    await start(world, await world.token("bob"))
    socket = world.state("cloud") / "cloud" / "operator.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    first = await proxies(engine, world)
    await cloud.stop()
    assert not socket.exists()
    second = await proxies(engine, world, "ls")
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
async def test_two_clouds_on_one_folder(world: World) -> None:
    """The second does not start, and the first goes on; one that was killed is in nobody's way."""
    first = await world.cloud()
    second = world.place(
        "cloud", "cloud", "--listen=127.0.0.1:0", "--metrics=off", "--runtime=docker"
    )
    assert await second.ended == 1 and "Another ctllm cloud uses" in second.printed
    assert await world.command("cloud", "proxies") == "No streaming proxy runs."
    await first.stop(signal.SIGKILL)
    socket = world.state("cloud") / "cloud" / "operator.sock"
    assert socket.is_socket()
    await world.cloud()
    assert await world.command("cloud", "proxies") == "No streaming proxy runs."


@ensureDeferred
async def test_ends_one_or_all(engine: Engine, world: World) -> None:
    """By the beginning of a name that fits one; else it is said which it may be."""
    cloud = await with_desktop(world, *engine.options, "--reconcile-seconds=600")
    bob = await world.token("bob")
    await start(world, bob)
    (alices, bobs) = (engine.inspect(each)["Name"][13:] for each in reversed(engine.containers()))
    code, printed = await proxies(engine, world, "rm", "nobody")
    assert code == 1 and "no streaming proxy's name begins with nobody" in printed
    code, printed = await proxies(engine, world, "rm", "")
    assert code == 1 and "more than one" in printed and alices[:12] in printed
    code, printed = await proxies(engine, world, "rm", bobs[:8])
    assert code == 0 and printed.endswith("1 streaming proxy ended.\n")
    assert engine.all() == [f"ctllm-net-{alices}", f"ctllm-proxy-{alices}"]
    (stop,) = [line for line in audit(world) if line["event"] == "stop"]
    assert stop["reason"] == "asked" and stop["proxy"].endswith(bobs)
    await cloud.stop()
    code, printed = await proxies(engine, world, "rm", "all")
    assert code == 0 and engine.all() == []
    assert (await proxies(engine, world)) == (0, "No streaming proxy runs.\n")


@ensureDeferred
async def test_drains(engine: Engine, world: World) -> None:
    """An answer under way ends whole, nothing new begins, then all is gone; resume undoes it."""
    await with_desktop(world, *engine.options)
    assert world.ollama is not None
    world.ollama.script("/api/chat", Script(lines=60, line_interval=0.1))
    answer = Deferred.fromCoroutine(world.http("POST", "/api/chat", CHAT, world.alice))
    await world.ollama.wait_for(lambda record: record.lines_sent > 3)
    draining = Deferred.fromCoroutine(proxies(engine, world, "drain"))

    async def refuses() -> bool:
        status, headers, body = await world.http("GET", "/api/version", token=world.alice)
        return status == 503 and b"maintenance" in body and "retry-after" in headers

    await until(refuses, "new requests to be refused")
    assert (await health(world))["status"] == "draining"
    status, _, body = await answer
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    code, printed = await draining
    assert code == 0 and "0 ended, 1 have something under way" in printed
    assert "1 streaming proxy ended, 0 of them in the middle of something." in printed
    assert engine.all() == [] and await refuses()
    code, _ = await proxies(engine, world, "resume")
    assert code == 0
    await until(lambda: works(world, world.alice), "the desktop to return", 40)


@ensureDeferred
async def test_drains_no_longer_than_told(engine: Engine, world: World) -> None:
    """Then what is still under way breaks off, and that is said."""
    await with_desktop(world, *engine.options)
    answer = await streaming(world, world.alice)
    code, printed = await proxies(engine, world, "drain", "--seconds=2")
    assert code == 0 and "1 of them in the middle of something" in printed
    await broken(answer)


@ensureDeferred
async def test_what_is_wrong_and_what_is_used(engine: Engine, world: World) -> None:
    """/health tells of a missing image until it is there; /metrics of each one's memory and CPU."""
    cloud = await world.cloud(*engine.options, "--image=ctllm-none:1")
    await until(lambda: _degraded(world), "the missing image to be noticed")
    assert "make images" in (await health(world))["error"]
    await cloud.stop()
    await with_desktop(world, *engine.options)
    assert (await health(world))["status"] == "ok" and (await health(world))["error"] is None
    _, _, body = await world.http("GET", "/metrics", port=world.metrics_port)
    (name,) = (each for each in engine.all() if "proxy" in each)
    label = re.escape(f'{{proxy="{name}"}}')
    memory = re.search(rf"^ctllm_proxy_memory_bytes{label} (\S+)$", body.decode(), re.M)
    cpu = re.search(rf"^ctllm_proxy_cpu_seconds_total{label} (\S+)$", body.decode(), re.M)
    assert memory and 10e6 < float(memory[1]) < 64e6
    assert cpu and 0.05 < float(cpu[1]) < 60


async def _degraded(world: World) -> bool:
    return bool((await health(world))["status"] == "degraded")


@ensureDeferred
async def test_an_engine_elsewhere(engine: Engine, world: World) -> None:
    """By TLS: the same, and what is used is asked of it, whose files could be anywhere."""
    where = (f"--engine={engine.docker.tls_address}",
             f"--engine-certs={engine.docker.certificates}")  # fmt: skip
    await world.cloud(*engine.options, *where)
    status, _, _ = await start(world, await world.token("alice"))
    assert status == 200
    _, _, body = await world.http("GET", "/metrics", port=world.metrics_port)
    assert re.search(r"^ctllm_proxy_memory_bytes\{proxy=\S+ \S+e\+07$", body.decode(), re.M)
    assert _refused_without_network(world, *where)


def _refused_without_network(world: World, *where: str) -> bool:
    state = f"--state={world.state('other')}"
    options = ("--runtime=docker", "--network=none", "--listen=127.0.0.1:0", "--metrics=off")
    argv = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "cloud", state, *options, *where]
    ran = subprocess.run(argv, capture_output=True, text=True, env=world.environment(), timeout=60)
    return ran.returncode == 1 and "needs an engine on this machine" in ran.stdout + ran.stderr

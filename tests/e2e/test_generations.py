"""Generations: responses on the desktop, which survive their readers, the proxy and the cloud."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader, send_request
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.process_info import proc_status
from tests.fake_ollama import Script

PATH = "/ctllm/desktop/generations"
LINES = 150


async def start(
    faulty: FaultyCluster, lines: int, interval: float = 0.0, pad: int = 0, port: int = 0
) -> tuple[str, ResponseReader]:
    """Start a generation of numbered lines; return its id and its first reader."""
    id = token_hex(16)
    request = {"model": "numbers", "lines": lines, "interval": interval, "pad": pad}
    body = {"id": id, "path": "/api/chat", "request": request}
    reader = await send_request(port or faulty.client_relay.port, "POST", PATH, faulty.token, body)
    faulty.readers.append(reader)
    return id, reader


async def read(faulty: FaultyCluster, id: str, offset: int, token: str = "") -> ResponseReader:
    """Read a generation from byte `offset`."""
    port, path = faulty.client_relay.port, f"{PATH}/{id}?from={offset}"
    reader = await send_request(port, "GET", path, token or faulty.token)
    faulty.readers.append(reader)
    return reader


async def read_after_reconnect(faulty: FaultyCluster, id: str, offset: int) -> ResponseReader:
    """Read the rest once the desktop is connected again; wait for its end."""

    async def try_to_read() -> ResponseReader | None:
        try:
            reader = await read(faulty, id, offset)
        except OSError:
            return None  # the cloud does not listen yet
        await wait_until(lambda: reader.status or reader.closed, "a status")
        return reader if reader.status == 200 else None

    reader: ResponseReader = await wait_until(try_to_read, "the response to be read again")
    return await reader.wait_closed()


async def list_generations(faulty: FaultyCluster) -> list[dict[str, Any]]:
    _, _, body = await faulty.cluster.request("GET", PATH, token=faulty.token)
    found: list[dict[str, Any]] = json.loads(body)["generations"]
    return found


def memory(pid: int) -> int:
    """Return the most bytes that a process has had in memory."""
    return int(proc_status(pid)["VmHWM"].split()[0]) * 1024


async def kill_proxy(faulty: FaultyCluster) -> None:
    os.kill(faulty.proxy_pid(), signal.SIGKILL)


async def restart_cloud(faulty: FaultyCluster) -> None:
    await faulty.cloud.stop(signal.SIGKILL)
    faulty.cloud = await faulty.cluster.start_cloud(*faulty.cloud_options)


async def cut_tunnel(faulty: FaultyCluster) -> None:
    faulty.relays[0].reset()
    faulty.client_relay.reset()


@pytest.mark.parametrize(
    ("interrupt", "pad"),
    [(kill_proxy, 30_000), (kill_proxy, 0), (restart_cloud, 0), (cut_tunnel, 0)],
)
@ensureDeferred
async def test_a_generation_goes_on_where_its_reader_was(
    faulty: FaultyCluster, interrupt: Callable[[FaultyCluster], Awaitable[None]], pad: int
) -> None:
    """Not one byte is lost or repeated, for three readers at three places of it."""
    expected = full_response(LINES, pad)
    await faulty.start()
    await faulty.add_desktop()
    id, first = await start(faulty, LINES, 0.03, pad)
    await first.wait_for_lines(1)
    readers = [first, await read(faulty, id, 0), await read(faulty, id, 0)]
    for number, reader in enumerate(readers):
        await reader.wait_for_lines(10 + 15 * number)
    await interrupt(faulty)
    for reader in readers:
        await reader.wait_closed(15)
        assert not reader.complete
        assert b'"done": true' not in reader.body
        rest = await read_after_reconnect(faulty, id, len(reader.complete_lines))
        assert rest.complete
        whole = reader.complete_lines + bytes(rest.body)
        assert sha256(whole) == sha256(expected)
    assert faulty.upstream.request_count == 1
    (listed,) = await list_generations(faulty)
    assert (listed["state"], listed["bytes"]) == ("complete", len(expected))


@ensureDeferred
async def test_a_response_of_megabytes_is_read_at_any_pace(faulty: FaultyCluster) -> None:
    """Twenty readers, and twenty that read nothing: nobody waits for these."""
    await faulty.start()
    await faulty.add_desktop()
    pid = faulty.desktops[0].pid
    memory_before = memory(pid)
    expected = full_response(600, 16_000)
    id, first = await start(faulty, 600, pad=16_000, port=faulty.cluster.cloud_port)
    first.transport.pauseProducing()
    offsets = [len(expected) * number // 20 for number in range(20)]
    await wait_until(lambda: faulty.upstream.request_count, "the request to arrive")
    stalled = [await read(faulty, id, 0) for _ in range(19)]
    for reader in stalled:
        reader.transport.pauseProducing()

    async def has_ended() -> bool:
        return [each["state"] for each in await list_generations(faulty)] == ["complete"]

    await wait_until(has_ended, "the model to end", 60)
    readers = [await read(faulty, id, offset) for offset in offsets]
    for offset, reader in zip(offsets, readers, strict=True):
        await reader.wait_closed()
        assert (reader.status, reader.complete) == (200, True)
        assert sha256(bytes(reader.body)) == sha256(expected[offset:])
    assert memory(pid) - memory_before < 5 * len(expected)  # and not twenty times
    assert not first.closed
    first.transport.resumeProducing()
    await first.wait_closed()
    assert sha256(bytes(first.body)) == sha256(expected)


@ensureDeferred
async def test_a_generation_ends_when_it_is_deleted_or_nobody_reads_it(
    faulty: FaultyCluster,
) -> None:
    await faulty.start()
    await faulty.add_desktop("--generation-grace-seconds=2")
    id, reader = await start(faulty, 10_000, 0.02)
    await reader.wait_for_lines(1)
    other = await read(faulty, id, 0)
    await other.wait_for_lines(5)
    status, _, _ = await faulty.cluster.request("DELETE", f"{PATH}/{id}", token=faulty.token)
    assert status == 204
    await wait_until(lambda: not faulty.upstream.active, "Ollama's connection to close", 1)
    for each in (reader, other):
        await each.wait_closed()
        assert not each.complete
        assert json.loads(each.body.splitlines()[-1])["error"]["code"] == "cancelled"

    id, reader = await start(faulty, 10_000, 0.02)
    await reader.wait_for_lines(3)
    reader.disconnect()
    await wait_until(lambda: not faulty.upstream.active, "the grace time to end", 10)
    states = [each["state"] for each in await list_generations(faulty)]
    assert states == ["cancelled", "cancelled"]


@ensureDeferred
async def test_a_reader_that_returns_in_time_keeps_its_generation(faulty: FaultyCluster) -> None:
    await faulty.start()
    await faulty.add_desktop("--generation-grace-seconds=5")
    id, reader = await start(faulty, LINES, 0.04)
    for lines in (10, 20, 30):
        await reader.wait_for_lines(lines)
        received = reader.complete_lines
        reader.disconnect()
        reader = await read(faulty, id, 0)
        await reader.wait_for_lines(1)
        assert received.startswith(bytes(reader.body[: len(received)][:50]))
    await reader.wait_closed()
    assert sha256(bytes(reader.body)) == sha256(full_response(LINES))
    assert faulty.upstream.request_count == 1


@ensureDeferred
async def test_a_model_that_loads_for_long_survives_a_restart(cluster: Cluster) -> None:
    """There is no response yet when the cloud is killed, so the same request is sent again."""
    cloud = await cluster.start_cloud()
    ollama, port = cluster.start_fake_ollama("llama3.2")
    ollama.script("/api/chat", Script(load_seconds=6, lines=("a", "b")))
    await cluster.start_desktop("alice", port)
    token = await cluster.create_token("alice")
    request = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}
    body = {"id": token_hex(16), "path": "/api/chat", "request": request}
    first = await send_request(cluster.cloud_port, "POST", PATH, token, body)
    await wait_until(lambda: ollama.requests, "the request to arrive")
    await cloud.stop(signal.SIGKILL)
    await first.wait_closed()
    await cluster.start_cloud()

    async def try_again() -> bytes:
        status, _, response = await cluster.request("POST", PATH, body, token=token)
        return response if status == 200 else b""

    response = await wait_until(try_again, "the response")
    assert [json.loads(line)["done"] for line in response.splitlines()] == [False, False, True]
    assert sum(record.path == "/api/chat" for record in ollama.requests) == 1


@ensureDeferred
async def test_what_is_refused_and_what_passes(shared: Cluster) -> None:
    """Ollama's refusals pass; credentials other than the page's, and other paths, are refused."""

    async def post(token: str, **more: Any) -> tuple[int, Any]:
        request = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}
        body = {"id": token_hex(16), "path": "/api/chat", "request": request, **more}
        status, _, response = await shared.request("POST", PATH, body, token=token)
        return status, json.loads(response.splitlines()[-1])

    page = shared.alice_token
    assert (await post(page))[1]["done"] is True
    status, refusal = await post(page, request={"model": "absent", "messages": []})
    assert (status, refusal) == (404, {"error": "model 'absent' not found"})
    for path in ("/api/pull", "/api/delete", "/v1/models", "/api/chat?x", "//api/chat", ""):
        assert (await post(page, path=path))[0] == 400, path
    for id in ("", "x" * 32, "A" * 32, "../" * 10, "0" * 33):
        assert (await post(page, id=id))[0] == 400, id
    assert (await post(page, conversation="x"))[0] == 400
    assert (await post(shared.api_key))[0] == 403
    status, _, _ = await shared.request("GET", f"{PATH}/{'0' * 32}", token=page)
    assert status == 404
    mallory = await shared.create_token("mallory")
    assert (await post(mallory))[0] == 503  # without a desktop of her own
    big = "x" * (20 * 1024 * 1024)
    image = {"model": "llama3.2", "messages": [{"role": "user", "content": "?", "images": [big]}]}
    assert (await post(page, request=image))[1]["done"] is True


def chat(model: str = "llama3.2", **more: Any) -> dict[str, Any]:
    """Return the body that starts a generation."""
    request = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return {"id": token_hex(16), "path": "/api/chat", "request": request, **more}


ODD = '{"error": "odd"}'


@pytest.mark.parametrize(
    ("script", "status", "ending", "is_clean", "state"),
    [
        (Script(error_before=(400, ODD, {})), 400, {"error": "odd"}, True, "failed"),
        (Script(error_before=(500, ODD, {})), 500, {"error": "odd"}, True, "failed"),
        (Script(error_in_stream=(2, "no memory")), 200, {"error": "no memory"}, True, "complete"),
        (Script(break_after=2), 200, "upstream_failed", False, "failed"),
    ],
)  # fmt: skip
@ensureDeferred
async def test_errors_of_ollama_reach_every_reader(
    shared: Cluster, script: Script, status: int, ending: Any, is_clean: bool, state: str
) -> None:
    """The first reader, and one that comes after the end."""
    assert shared.ollama is not None
    shared.ollama.script("/api/chat", script, times=1)
    body, token = chat(), shared.alice_token
    first = await send_request(shared.cloud_port, "POST", PATH, token, body)
    await first.wait_closed()
    path = f"{PATH}/{body['id']}"
    later = await (await send_request(shared.cloud_port, "GET", path, token)).wait_closed()
    assert bytes(first.body) == bytes(later.body)
    for reader in (first, later):
        last = json.loads(reader.body.splitlines()[-1])
        assert reader.status == status
        assert ending in (last, isinstance(last["error"], dict) and last["error"]["code"]), last
        assert reader.complete is is_clean
    _, _, listed = await shared.request("GET", PATH, token=token)
    states = {each["id"]: each["state"] for each in json.loads(listed)["generations"]}
    assert states[body["id"]] == state


@ensureDeferred
async def test_the_owners_restrictions_apply(cluster: Cluster) -> None:
    """Models of ollama.com, and what the desktop does not allow, do not reach Ollama."""
    await cluster.start_cloud()
    ollama, port = cluster.start_fake_ollama("llama3.2", "gpt-oss:120b-cloud")
    desktop = await cluster.start_desktop("alice", port, "--remote-models=refuse")
    token = await cluster.create_token("alice")
    for model, expected in (("gpt-oss:120b-cloud", 403), ("llama3.2", 200)):
        status, _, body = await cluster.request("POST", PATH, chat(model), token)
        assert status == expected, body
    await desktop.stop()
    cluster.run_role(
        "desktop", "alice", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off",
        "--allowed-requests=manage",
    )  # fmt: skip

    async def status_without_use() -> bool:
        status, _, body = await cluster.request("POST", PATH, chat(), token)
        return status == 403 and b"desktop.allowed_requests" in body

    await wait_until(status_without_use, "the refusal of a desktop without the scope use")
    bodies = [record.body for record in ollama.requests if record.path == "/api/chat"]
    assert [json.loads(body)["model"] for body in bodies if body] == ["llama3.2"]


@ensureDeferred
async def test_a_log_out_ends_the_readers_of_that_session_alone(faulty: FaultyCluster) -> None:
    """The generation goes on for the other session, which reads all of it."""
    await faulty.start()
    await faulty.add_desktop()
    code = (await faulty.cluster.create_invite("alice")).partition("#invite=")[2]
    _, headers, body = await faulty.cluster.request(
        "POST", "/ctllm/session", {"invite": code, "client": "browser"}
    )
    ended, cookie = json.loads(body), headers["set-cookie"].partition(";")[0]
    id, reader = await start(faulty, 200, 0.03)
    await reader.wait_for_lines(1)
    other = await read(faulty, id, 0, ended["token"])
    await other.wait_for_lines(5)
    status, _, _ = await faulty.cluster.request(
        "DELETE", "/ctllm/session", headers={"Cookie": cookie}
    )
    assert status == 204
    await other.wait_closed()
    assert not other.complete
    again = await (await read(faulty, id, 0, ended["token"])).wait_closed()
    assert again.status == 401
    await reader.wait_closed()
    assert sha256(bytes(reader.body)) == sha256(full_response(200))


@ensureDeferred
async def test_quitting_waits_for_a_generation_that_nobody_reads(faulty: FaultyCluster) -> None:
    await faulty.start()
    await faulty.add_desktop()
    _, reader = await start(faulty, 60, 0.05)
    await reader.wait_for_lines(5)
    (running,) = faulty.upstream.active
    reader.disconnect()
    await faulty.cluster.run_ctllm("alice-0", "quit", "--seconds=30")
    assert not faulty.upstream.active
    assert running.written_lines == 60


@ensureDeferred
async def test_a_stopped_desktop_closes_the_requests_that_its_status_counts(
    faulty: FaultyCluster,
) -> None:
    await faulty.start()
    await faulty.add_desktop()
    _, reader = await start(faulty, 10_000, 0.02)
    await reader.wait_for_lines(5)
    status = json.loads(await faulty.cluster.run_ctllm("alice-0", "status", "--json"))
    assert status["traffic"]["generations"] == 1
    await faulty.desktops[0].stop()
    await wait_until(lambda: not faulty.upstream.active, "Ollama's connection to close")
    await reader.wait_closed()
    assert not reader.complete

"""What the relay preserves, and what happens when somebody leaves or something breaks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.raw_client import NetworkRelay, RawClient, parse_chunked_body
from tests.fake_ollama import Record, Script

T = TypeVar("T")
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
#: Longer than any test waits: what ends must have been ended.
LONG = 300.0


@pytest.fixture(autouse=True)
def fresh(shared: Cluster) -> None:
    shared.ollama.reset()


def latest(cluster: Cluster, path: str) -> Record:
    return [record for record in cluster.ollama.requests if record.path == path][-1]


async def seen(cluster: Cluster, path: str) -> Record:
    """Wait until the fake Ollama has a request for `path`."""
    await wait_until(
        lambda: any(record.path == path for record in cluster.ollama.requests), f"{path} to arrive"
    )
    return latest(cluster, path)


async def thread(work: Callable[[], T]) -> T:
    return await deferToThread(work)


# -- faithful


@ensureDeferred
async def test_nothing_about_the_client_reaches_ollama(shared: Cluster) -> None:
    """No credential, cookie, origin or forwarding header; the Host is Ollama's own."""
    headers = {
        "Cookie": "a=b",
        "Origin": "https://evil.example",
        "Referer": "https://evil.example/",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "X-Api-Key": "secret",
        "Ctllm-Assertion": "forged",
        "X-Kept": "yes",
    }
    status, _, _ = await shared.request("GET", "/api/tags", None, shared.api_key, headers)
    assert status == 200
    record = [r for r in shared.ollama.requests if r.header("x-kept")][-1]
    names = {name.lower() for name, _ in record.headers}
    assert names <= {"host", "accept-encoding", "x-kept"}
    assert (record.header("host") or "").startswith("127.0.0.1:")


@ensureDeferred
async def test_every_method_and_path_passes(shared: Cluster) -> None:
    """HEAD has no body, DELETE has one."""
    status, _, body = await shared.request("HEAD", "/", token=shared.api_key)
    assert (status, body) == (200, b"")
    status, _, body = await shared.request("GET", "/", token=shared.api_key)
    assert (status, body) == (200, b"Ollama is running")
    copy = {"source": "llama3.2", "destination": "doomed"}
    assert (await shared.request("POST", "/api/copy", copy, shared.api_key))[0] == 200
    assert (await shared.request("DELETE", "/api/delete", {"model": "doomed"}, shared.api_key))[
        0
    ] == 200
    assert json.loads(latest(shared, "/api/delete").body or b"") == {"model": "doomed"}
    status, _, _ = await shared.request("PUT", "/api/tags", token=shared.api_key)
    assert status == 403


@ensureDeferred
async def test_each_line_comes_by_itself(shared: Cluster) -> None:
    """A line is a chunk, there before the next is written; the end is clean."""
    shared.ollama.script("/api/chat", Script(lines=3, line_interval=0.2))
    client = await thread(lambda: RawClient(shared.cloud_port))
    await thread(
        lambda: client.send_request("POST", "/api/chat", shared.api_key, CHAT).read_lines(1)
    )
    assert client.received.count(b'"done":false') == 1
    received = await thread(lambda: client.read_until(b"0\r\n\r\n"))
    body, whole = parse_chunked_body(received)
    assert whole
    lines = body.splitlines(keepends=True)
    chunks = [f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines]
    assert received.endswith(b"".join(chunks) + b"0\r\n\r\n")
    assert client.read_head()["content-type"] == "application/x-ndjson"
    client.close()


@ensureDeferred
async def test_a_large_upload_passes_whole(shared: Cluster) -> None:
    """A blob of many windows arrives as it was sent."""
    blob = bytes(range(256)) * (4 * 1024 * 20)
    digest = hashlib.sha256(blob).hexdigest()
    status, _, body = await shared.request(
        "POST", f"/api/blobs/sha256:{digest}", blob, shared.api_key
    )
    assert (status, body) == (201, b"")
    record = latest(shared, f"/api/blobs/sha256:{digest}")
    assert (record.body_length, record.body_sha256) == (len(blob), digest)


@ensureDeferred
async def test_a_large_answer_passes_whole(shared: Cluster) -> None:
    """Many windows of an answer arrive once and in order."""
    shared.ollama.script("/api/generate", Script(size=8_000_000, line_interval=0))
    _, _, body = await shared.request(
        "POST", "/api/generate", {"model": "llama3.2", "prompt": "x"}, shared.api_key
    )
    lines = [json.loads(line) for line in body.splitlines()]
    assert len(body) >= 8_000_000
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


@ensureDeferred
async def test_an_upload_with_an_early_answer_gets_the_answer(shared: Cluster) -> None:
    """A refusal before the body was read is what the client sees."""
    client = await thread(lambda: RawClient(shared.cloud_port))
    await thread(
        lambda: (
            client.send_request(
                "POST", "/api/chat", "nonsense", b"x" * 10, "Content-Length: 100000000"
            )
            if False
            else client.socket.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n"
                b"Content-Length: 100000000\r\n\r\n" + b"x" * 100_000
            )
        )
    )
    assert (await thread(client.read_head))["status"] == "401"
    client.close()


# -- leaving


@pytest.mark.parametrize(
    ("phase", "script", "body"),
    [
        ("waiting for the head", Script(delay_before_head=LONG), CHAT),
        ("loading the model", Script(load_seconds=LONG), CHAT),
        ("streaming", Script(lines=1000, line_interval=0.05), CHAT),
        ("silent in the stream", Script(lines=10, pause_after=(2, LONG)), CHAT),
        ("answering at once", Script(load_seconds=LONG), {**CHAT, "stream": False}),
    ],
)
@ensureDeferred
async def test_a_client_that_leaves_stops_ollama(
    shared: Cluster, phase: str, script: Script, body: Any
) -> None:
    """Whatever Ollama is doing, its connection closes when the client's does."""
    shared.ollama.script("/api/chat", script)
    client = await thread(lambda: RawClient(shared.cloud_port))
    await thread(lambda: client.send_request("POST", "/api/chat", shared.api_key, body))
    record = await seen(shared, "/api/chat")
    if "stream" in phase:
        await thread(lambda: client.read_lines(2))
    assert record.closed_by is None
    client.close()
    await record.closed
    assert record.closed_by == "client"


@ensureDeferred
async def test_a_client_that_leaves_while_uploading_stops_the_upload(shared: Cluster) -> None:
    """Half a blob is not a blob, and Ollama does not wait for the rest."""
    path = "/api/blobs/sha256:" + "0" * 64
    client = await thread(lambda: RawClient(shared.cloud_port))
    await thread(
        lambda: client.socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shared.api_key}\r\n"
            "Content-Length: 1000000\r\n\r\n".encode()
            + b"x" * 100_000
        )
    )
    record = await seen(shared, path)
    await wait_until(lambda: record.phase == "receiving", "the first half")
    client.close()
    await record.closed
    assert record.closed_by == "client"


@ensureDeferred
async def test_a_stalled_reader_stalls_only_itself(shared: Cluster) -> None:
    """The fake Ollama stops generating for one that does not read; another is served."""
    shared.ollama.script(
        "/api/generate", Script(size=200_000_000, line_bytes=1000, line_interval=0)
    )
    stalled = await thread(lambda: RawClient(shared.cloud_port))
    ask = {"model": "llama3.2", "prompt": "x"}
    await thread(
        lambda: stalled.send_request("POST", "/api/generate", shared.api_key, ask).read_lines(1)
    )
    record = await seen(shared, "/api/generate")
    sent = -1
    while sent != record.lines_sent:  # it goes on until every buffer on the way is full
        sent = record.lines_sent
        for _ in range(20):
            status, _, _ = await shared.request("POST", "/api/chat", CHAT, shared.api_key)
            assert status == 200
    assert record.lines_sent < 50_000
    await thread(lambda: stalled.socket.recv(65536))
    stalled.close()
    await record.closed


@ensureDeferred
async def test_a_burst_of_clients_is_served(shared: Cluster) -> None:
    """Hundreds that come at the same moment are all answered; none is turned away."""

    def burst() -> list[str]:
        clients = [RawClient(shared.cloud_port) for _ in range(300)]
        for client in clients:
            client.send_request("POST", "/api/chat", shared.api_key, CHAT)
        for client in clients:
            client.read_until(b"0\r\n\r\n")
            client.close()
        return [client.read_head()["status"] for client in clients]

    assert await thread(burst) == ["200"] * 300


# -- people


@ensureDeferred
async def test_two_users_at_once_each_get_their_own(shared: Cluster) -> None:
    """Each user's clients reach that user's desktop, with a proxy of its own between."""
    _, port = shared.start_fake_ollama("bobs-model")
    await shared.start_desktop("bob", port)
    bob = await shared.create_token("bob")
    for token, model in ((shared.api_key, "llama3.2"), (bob, "bobs-model")) * 3:
        _, _, body = await shared.request("GET", "/api/tags", token=token)
        names = [m["name"] for m in json.loads(body)["models"]]
        assert any(name.startswith(model) for name in names), names
    status, _, _ = await shared.request(
        "POST", "/api/chat", {**CHAT, "model": "bobs-model"}, shared.api_key
    )
    assert status == 404
    [alices] = await shared.list_desktops(shared.alice_token)
    [bobs] = await shared.list_desktops(bob)
    assert alices["id"] != bobs["id"]
    status, _, _ = await shared.request(
        "GET", "/api/tags", None, bob, {"Ctllm-Desktop": alices["id"]}
    )
    assert status == 404


@ensureDeferred
async def test_two_desktops_of_one_user(shared: Cluster) -> None:
    """Both are listed; a request may name one; one that leaves leaves the other serving."""
    _, port = shared.start_fake_ollama("second-model")
    second = await shared.start_desktop("alice", port, "--desktop-name=attic", state="alice-2")
    named = {"Ctllm-Desktop": "attic"}
    both = await shared.list_desktops(shared.alice_token)
    assert {"attic"} < {desktop["name"] for desktop in both}

    async def models(headers: dict[str, str]) -> list[str]:
        _, _, body = await shared.request("GET", "/api/tags", None, shared.api_key, headers)
        return [model["name"] for model in json.loads(body)["models"]]

    assert any(name.startswith("second-model") for name in await models(named))
    first = next(desktop["id"] for desktop in both if desktop["name"] != "attic")
    assert any(n.startswith("llama3.2") for n in await models({"Ctllm-Desktop": first}))
    await second.stop()

    async def alone() -> bool:
        return len(await shared.list_desktops(shared.alice_token)) == 1

    await wait_until(alone, "the second desktop to be gone")
    assert any(name.startswith("llama3.2") for name in await models({}))
    assert (await shared.request("GET", "/api/tags", None, shared.api_key, named))[0] == 404


# -- what breaks


class Wired:
    """A cloud, and a desktop that reaches it over a wire that can be cut."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def start(self) -> Wired:
        cluster = self.cluster
        self.cloud = await cluster.start_cloud("--reconnect-grace-seconds=3")
        self.wire = NetworkRelay(cluster.cloud_port)
        cluster.ports.append(self.wire)
        cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
        link = (await cluster.create_invite("alice")).replace(
            f":{cluster.cloud_port}", f":{self.wire.port}"
        )
        await cluster.run_ctllm("alice", "login", link)
        self.desktop = cluster.run_role(
            "desktop",
            "alice",
            f"--ollama-host=127.0.0.1:{port}",
            "--desktop-listen=off",
            "--reconnect-grace-seconds=3",
        )
        await wait_until(lambda: "bridge: connected" in self.desktop.output, "the bridge")
        cluster.api_key = await cluster.create_token("alice")
        return self

    async def proxy_pid(self) -> int:
        with open(f"/proc/{self.cloud.pid}/task/{self.cloud.pid}/children") as children:
            return int(children.read().split()[0])


def said(body: bytes) -> list[str]:
    """What a model said, line by line, without the times at which it did."""
    return [json.loads(line)["message"]["content"] for line in body.splitlines()]


@ensureDeferred
async def test_a_cut_network_does_not_cut_the_answer(cluster: Cluster) -> None:
    """The bridge comes back and the answer goes on: nothing lost, nothing twice."""
    wired = await Wired(cluster).start()
    words = tuple(f"word{n} " for n in range(60))
    cluster.ollama.script("/api/chat", Script(lines=words, line_interval=0.05))
    client = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(5)
    )
    for lines in (6, 25):
        await thread(partial(client.read_lines, lines))
        wired.wire.reset()
    received = await thread(lambda: client.read_until(b"0\r\n\r\n"))
    body, whole = parse_chunked_body(received)
    assert whole
    assert "".join(said(body)) == "".join(words)
    assert len(cluster.ollama.requests) >= 1
    assert [r.closed_by for r in cluster.ollama.requests if r.path == "/api/chat"] == ["server"]
    client.close()


@ensureDeferred
async def test_a_desktop_that_dies_ends_the_answer_uncleanly(cluster: Cluster) -> None:
    """The client hears an error in its dialect and no end; others get 503 with Retry-After."""
    wired = await Wired(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    client = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    wired.desktop.send_signal(signal.SIGKILL)
    _, headers, body = await until_offline(cluster)
    assert headers["retry-after"]
    assert "error" in json.loads(body)
    received = await thread(client.read_to_end)
    body, whole = parse_chunked_body(received)
    assert not whole
    assert "error" in json.loads(body.splitlines()[-1])
    client.close()


async def until_offline(cluster: Cluster) -> Any:
    async def offline() -> Any:
        answer = await cluster.request("GET", "/api/tags", token=cluster.api_key)
        return answer if answer[0] == 503 else None

    return await wait_until(offline, "503 for an offline desktop")


@ensureDeferred
async def test_a_killed_proxy_ends_plain_answers_and_resumable_ones_go_on(cluster: Cluster) -> None:
    """A plain client hears no false end; one that may come back gets every byte."""
    wired = await Wired(cluster).start()
    words = tuple(f"word{n} " for n in range(80))
    cluster.ollama.script("/api/chat", Script(lines=words, line_interval=0.05))
    plain = await thread(lambda: RawClient(cluster.cloud_port))
    patient = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: plain.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    await thread(
        lambda: patient.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_lines(3)
    )
    exchange = patient.read_head()["ctllm-request-id"]
    os.kill(await wired.proxy_pid(), signal.SIGKILL)
    assert not parse_chunked_body(await thread(plain.read_to_end))[1]
    first, whole = parse_chunked_body(await thread(patient.read_to_end))
    assert not whole
    kept = first[: first.rfind(b"\n", 0, first.rfind(b'{"error"')) + 1]
    path = f"/ctllm/exchanges/{exchange}?from={len(kept)}"

    async def taken_up() -> Any:
        status, _, body = await cluster.request("GET", path, token=cluster.api_key)
        return body if status == 200 else None

    rest = await wait_until(taken_up, "the answer to be taken up")
    assert "".join(said(kept + rest)) == "".join(words)


@ensureDeferred
async def test_an_answer_is_taken_up_from_any_byte_and_by_its_user_alone(cluster: Cluster) -> None:
    """Within its time an answer can be had again; another user learns nothing of it."""
    await Wired(cluster).start()
    client = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: client.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_until(b"0\r\n\r\n")
    )
    exchange = client.read_head()["ctllm-request-id"]
    body, _ = parse_chunked_body(client.received)
    client.close()
    for offset in (0, 1, len(body) // 2, len(body)):
        status, _, again = await cluster.request(
            "GET", f"/ctllm/exchanges/{exchange}?from={offset}", token=cluster.api_key
        )
        assert (status, again) == (200, body[offset:])
    status, _, _ = await cluster.request(
        "GET", f"/ctllm/exchanges/{exchange}?from={len(body) + 1}", token=cluster.api_key
    )
    assert status == 410
    mallory = await cluster.create_token("mallory")
    for token in (mallory, None):
        status, _, told = await cluster.request("GET", f"/ctllm/exchanges/{exchange}", token=token)
        assert status in (401, 404), told
        assert b"hello" not in told


@ensureDeferred
async def test_a_client_that_asked_to_resume_may_leave(cluster: Cluster) -> None:
    """Its answer goes on without it, and is whole when it comes back."""
    await Wired(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=20, line_interval=0.05))
    client = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: client.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_lines(2)
    )
    exchange = client.read_head()["ctllm-request-id"]
    client.close()
    [record] = [r for r in cluster.ollama.requests if r.path == "/api/chat"]
    await record.closed
    assert record.closed_by == "server"
    status, _, body = await cluster.request(
        "GET", f"/ctllm/exchanges/{exchange}", token=cluster.api_key
    )
    lines = [json.loads(line) for line in body.splitlines()]
    assert (status, lines[-1]["done"], len(lines)) == (200, True, 21)


@ensureDeferred
async def test_a_desktop_that_signs_out_hangs_up(cluster: Cluster) -> None:
    """Its models are out of reach at once, and an answer under way ends as broken."""
    await Wired(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    client = await thread(lambda: RawClient(cluster.cloud_port))
    await thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    await cluster.run_ctllm("alice", "logout")
    body, whole = parse_chunked_body(await thread(client.read_to_end))
    assert not whole
    assert "signed out" in json.loads(body.splitlines()[-1])["error"]
    await until_offline(cluster)
    client.close()

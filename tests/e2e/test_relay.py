"""The relay preserves requests and responses; clients disconnect and components fail."""

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
from tests.e2e.network_relay import NetworkRelay
from tests.e2e.raw_client import RawClient, parse_chunked_body
from tests.fake_ollama import Record, Script

T = TypeVar("T")
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
#: Seconds; longer than any test waits.
LONG = 300.0


@pytest.fixture(autouse=True)
def fresh(shared: Cluster) -> None:
    shared.ollama.reset()


def latest_request(cluster: Cluster, path: str) -> Record:
    return [record for record in cluster.ollama.requests if record.path == path][-1]


async def wait_for_request(cluster: Cluster, path: str) -> Record:
    """Wait until the fake Ollama has received a request for `path`; return the latest one."""
    await wait_until(
        lambda: any(record.path == path for record in cluster.ollama.requests), f"{path} to arrive"
    )
    return latest_request(cluster, path)


async def in_thread(work: Callable[[], T]) -> T:
    return await deferToThread(work)


# -- what is preserved


@ensureDeferred
async def test_no_identifying_header_of_the_client_reaches_ollama(shared: Cluster) -> None:
    """Credentials, cookies, origin and forwarding headers are removed; the Host is Ollama's own."""
    headers = {
        "Cookie": "a=b",
        "Origin": "https://evil.example",
        "Referer": "https://evil.example/",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "X-Api-Key": "secret",
        "Ctllm-Assertion": "forged",
        "X-Other": "yes",
    }
    status, _, _ = await shared.request("GET", "/api/tags", None, shared.api_key, headers)
    assert status == 200
    record = [r for r in shared.ollama.requests if r.header("x-other")][-1]
    names = {name.lower() for name, _ in record.headers}
    assert names <= {"host", "accept-encoding", "x-other"}
    assert (record.header("host") or "").startswith("127.0.0.1:")


@ensureDeferred
async def test_every_method_of_an_allowed_path_is_relayed(shared: Cluster) -> None:
    """A response to HEAD has no body, a DELETE request has one; others are refused."""
    status, _, body = await shared.request("HEAD", "/", token=shared.api_key)
    assert (status, body) == (200, b"")
    status, _, body = await shared.request("GET", "/", token=shared.api_key)
    assert (status, body) == (200, b"Ollama is running")
    copy = {"source": "llama3.2", "destination": "doomed"}
    assert (await shared.request("POST", "/api/copy", copy, shared.api_key))[0] == 200
    assert (await shared.request("DELETE", "/api/delete", {"model": "doomed"}, shared.api_key))[
        0
    ] == 200
    assert json.loads(latest_request(shared, "/api/delete").body or b"") == {"model": "doomed"}
    status, headers, _ = await shared.request("PUT", "/api/tags", token=shared.api_key)
    assert (status, headers["allow"]) == (405, "GET")


@ensureDeferred
async def test_each_line_is_relayed_as_one_chunk_at_once(shared: Cluster) -> None:
    """It arrives before the next one is written; the end is clean."""
    shared.ollama.script("/api/chat", Script(lines=3, line_interval=0.2))
    client = await in_thread(lambda: RawClient(shared.cloud_port))
    await in_thread(
        lambda: client.send_request("POST", "/api/chat", shared.api_key, CHAT).read_lines(1)
    )
    assert client.received.count(b'"done":false') == 1
    received = await in_thread(lambda: client.read_until(b"0\r\n\r\n"))
    body, complete = parse_chunked_body(received)
    assert complete
    lines = body.splitlines(keepends=True)
    chunks = [f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines]
    assert received.endswith(b"".join(chunks) + b"0\r\n\r\n")
    assert client.read_head()["content-type"] == "application/x-ndjson"
    client.close()


@ensureDeferred
async def test_a_large_upload_arrives_complete(shared: Cluster) -> None:
    """The blob is many flow-control windows long."""
    blob = bytes(range(256)) * (4 * 1024 * 20)
    digest = hashlib.sha256(blob).hexdigest()
    status, _, body = await shared.request(
        "POST", f"/api/blobs/sha256:{digest}", blob, shared.api_key
    )
    assert (status, body) == (201, b"")
    record = latest_request(shared, f"/api/blobs/sha256:{digest}")
    assert (record.body_length, record.body_sha256) == (len(blob), digest)


@ensureDeferred
async def test_a_large_response_arrives_complete(shared: Cluster) -> None:
    """The response is many flow-control windows long; it arrives once and in order."""
    shared.ollama.script("/api/generate", Script(size=8_000_000, line_interval=0))
    _, _, body = await shared.request(
        "POST", "/api/generate", {"model": "llama3.2", "prompt": "x"}, shared.api_key
    )
    lines = [json.loads(line) for line in body.splitlines()]
    assert len(body) >= 8_000_000
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


@ensureDeferred
async def test_a_refusal_before_the_body_is_read_reaches_the_client(shared: Cluster) -> None:
    client = await in_thread(lambda: RawClient(shared.cloud_port))
    await in_thread(
        lambda: client.socket.sendall(
            b"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n"
            b"Content-Length: 100000000\r\n\r\n" + b"x" * 100_000
        )
    )
    assert (await in_thread(client.read_head))["status"] == "401"
    client.close()


# -- clients that disconnect


@pytest.mark.parametrize(
    ("phase", "script", "body"),
    [
        ("waiting for the head", Script(delay_before_head=LONG), CHAT),
        ("loading the model", Script(load_seconds=LONG), CHAT),
        ("streaming", Script(lines=1000, line_interval=0.05), CHAT),
        ("silent in the stream", Script(lines=10, pause_after=(2, LONG)), CHAT),
        ("not streaming", Script(load_seconds=LONG), {**CHAT, "stream": False}),
    ],
)
@ensureDeferred
async def test_a_client_that_disconnects_stops_ollama(
    shared: Cluster, phase: str, script: Script, body: Any
) -> None:
    """Ollama's connection closes in every phase of a request."""
    shared.ollama.script("/api/chat", script)
    client = await in_thread(lambda: RawClient(shared.cloud_port))
    await in_thread(lambda: client.send_request("POST", "/api/chat", shared.api_key, body))
    record = await wait_for_request(shared, "/api/chat")
    if phase in ("streaming", "silent in the stream"):
        await in_thread(lambda: client.read_lines(2))
    assert record.closed_by is None
    client.close()
    await record.closed
    assert record.closed_by == "client"


@ensureDeferred
async def test_a_client_that_disconnects_while_uploading_stops_the_upload(shared: Cluster) -> None:
    """Ollama does not wait for the rest of the body."""
    path = "/api/blobs/sha256:" + "0" * 64
    client = await in_thread(lambda: RawClient(shared.cloud_port))
    await in_thread(
        lambda: client.socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shared.api_key}\r\n"
            "Content-Length: 1000000\r\n\r\n".encode()
            + b"x" * 100_000
        )
    )
    record = await wait_for_request(shared, path)
    await wait_until(lambda: record.phase == "receiving", "the first half")
    client.close()
    await record.closed
    assert record.closed_by == "client"


@ensureDeferred
async def test_a_stalled_client_pauses_only_its_own_response(shared: Cluster) -> None:
    """The fake Ollama stops generating for a client that does not read; another one is served."""
    shared.ollama.script(
        "/api/generate", Script(size=200_000_000, line_bytes=1000, line_interval=0)
    )
    stalled = await in_thread(lambda: RawClient(shared.cloud_port))
    body = {"model": "llama3.2", "prompt": "x"}
    await in_thread(
        lambda: stalled.send_request("POST", "/api/generate", shared.api_key, body).read_lines(1)
    )
    record = await wait_for_request(shared, "/api/generate")
    sent = -1
    while sent != record.lines_sent:  # Ollama writes until every buffer is full
        sent = record.lines_sent
        for _ in range(20):
            status, _, _ = await shared.request("POST", "/api/chat", CHAT, shared.api_key)
            assert status == 200
    assert record.lines_sent < 50_000
    await in_thread(lambda: stalled.socket.recv(65536))
    stalled.close()
    await record.closed


@ensureDeferred
async def test_hundreds_of_simultaneous_clients_are_served(shared: Cluster) -> None:

    def burst() -> list[str]:
        clients = [RawClient(shared.cloud_port) for _ in range(300)]
        for client in clients:
            client.send_request("POST", "/api/chat", shared.api_key, CHAT)
        for client in clients:
            client.read_until(b"0\r\n\r\n")
            client.close()
        return [client.read_head()["status"] for client in clients]

    assert await in_thread(burst) == ["200"] * 300


# -- users and desktops


@ensureDeferred
async def test_each_user_reaches_only_their_own_desktop(shared: Cluster) -> None:
    """A desktop of another user cannot be selected either."""
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
async def test_a_request_may_select_one_of_two_desktops(shared: Cluster) -> None:
    """Both are listed; when one disconnects, the other serves."""
    _, port = shared.start_fake_ollama("second-model")
    second = await shared.start_desktop("alice", port, "--desktop-name=attic", state="alice-2")
    selected = {"Ctllm-Desktop": "attic"}
    both = await shared.list_desktops(shared.alice_token)
    assert {"attic"} < {desktop["name"] for desktop in both}

    async def models(headers: dict[str, str]) -> list[str]:
        _, _, body = await shared.request("GET", "/api/tags", None, shared.api_key, headers)
        return [model["name"] for model in json.loads(body)["models"]]

    assert any(name.startswith("second-model") for name in await models(selected))
    first = next(desktop["id"] for desktop in both if desktop["name"] != "attic")
    assert any(n.startswith("llama3.2") for n in await models({"Ctllm-Desktop": first}))
    await second.stop()

    async def one_desktop() -> bool:
        return len(await shared.list_desktops(shared.alice_token)) == 1

    await wait_until(one_desktop, "the second desktop to disconnect")
    assert any(name.startswith("llama3.2") for name in await models({}))
    assert (await shared.request("GET", "/api/tags", None, shared.api_key, selected))[0] == 404


# -- failures


class RelayedCluster:
    """A cloud and a desktop, with a network relay between them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def start(self) -> RelayedCluster:
        cluster = self.cluster
        self.cloud = await cluster.start_cloud("--reconnect-grace-seconds=3")
        self.relay = NetworkRelay(cluster.cloud_port)
        cluster.ports.append(self.relay)
        cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
        link = (await cluster.create_invite("alice")).replace(
            f":{cluster.cloud_port}", f":{self.relay.port}"
        )
        await cluster.run_ctllm("alice", "login", link)
        self.desktop = cluster.run_role(
            "desktop",
            "alice",
            f"--ollama-host=127.0.0.1:{port}",
            "--desktop-listen=off",
            "--reconnect-grace-seconds=3",
        )
        await wait_until(lambda: "Cloud connection: connected" in self.desktop.output, "the bridge")
        cluster.api_key = await cluster.create_token("alice")
        return self

    async def proxy_pid(self) -> int:
        with open(f"/proc/{self.cloud.pid}/task/{self.cloud.pid}/children") as children:
            return int(children.read().split()[0])


def contents(body: bytes) -> list[str]:
    """Return the content of each line of a chat."""
    return [json.loads(line)["message"]["content"] for line in body.splitlines()]


@ensureDeferred
async def test_a_reset_tunnel_does_not_interrupt_the_response(cluster: Cluster) -> None:
    """After the bridge reconnects the response continues: nothing is lost or repeated."""
    relayed = await RelayedCluster(cluster).start()
    words = tuple(f"word{n} " for n in range(60))
    cluster.ollama.script("/api/chat", Script(lines=words, line_interval=0.05))
    client = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(5)
    )
    for lines in (6, 25):
        await in_thread(partial(client.read_lines, lines))
        relayed.relay.reset()
    received = await in_thread(lambda: client.read_until(b"0\r\n\r\n"))
    body, complete = parse_chunked_body(received)
    assert complete
    assert "".join(contents(body)) == "".join(words)
    assert len(cluster.ollama.requests) >= 1
    assert [r.closed_by for r in cluster.ollama.requests if r.path == "/api/chat"] == ["server"]
    client.close()


@ensureDeferred
async def test_a_killed_desktop_ends_the_response_as_incomplete(cluster: Cluster) -> None:
    """The client receives an error in its dialect; later requests get 503 with Retry-After."""
    relayed = await RelayedCluster(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    client = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    relayed.desktop.send_signal(signal.SIGKILL)
    _, headers, body = await wait_until_offline(cluster)
    assert headers["retry-after"]
    assert "error" in json.loads(body)
    received = await in_thread(client.read_to_end)
    body, complete = parse_chunked_body(received)
    assert not complete
    assert "error" in json.loads(body.splitlines()[-1])
    client.close()


async def wait_until_offline(cluster: Cluster) -> Any:
    async def offline() -> Any:
        response = await cluster.request("GET", "/api/tags", token=cluster.api_key)
        return response if response[0] == 503 else None

    return await wait_until(offline, "503 for an offline desktop")


@ensureDeferred
async def test_resumable_responses_survive_a_killed_proxy_and_others_end(cluster: Cluster) -> None:
    """A plain response is incomplete; a resumed one has every byte."""
    relayed = await RelayedCluster(cluster).start()
    words = tuple(f"word{n} " for n in range(80))
    cluster.ollama.script("/api/chat", Script(lines=words, line_interval=0.05))
    plain = await in_thread(lambda: RawClient(cluster.cloud_port))
    resuming = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: plain.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    await in_thread(
        lambda: resuming.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_lines(3)
    )
    request_id = resuming.read_head()["ctllm-request-id"]
    os.kill(await relayed.proxy_pid(), signal.SIGKILL)
    assert not parse_chunked_body(await in_thread(plain.read_to_end))[1]
    first, complete = parse_chunked_body(await in_thread(resuming.read_to_end))
    assert not complete
    received = first[: first.rfind(b"\n", 0, first.rfind(b'{"error"')) + 1]
    path = f"/ctllm/exchanges/{request_id}?from={len(received)}"

    async def resumed() -> Any:
        status, _, body = await cluster.request("GET", path, token=cluster.api_key)
        return body if status == 200 else None

    rest = await wait_until(resumed, "the response to be resumed")
    assert "".join(contents(received + rest)) == "".join(words)


@ensureDeferred
async def test_a_response_is_resumed_from_any_byte_and_only_by_its_user(cluster: Cluster) -> None:
    """Within the resume time a response can be read again; other users get 404."""
    await RelayedCluster(cluster).start()
    client = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: client.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_until(b"0\r\n\r\n")
    )
    request_id = client.read_head()["ctllm-request-id"]
    body, _ = parse_chunked_body(client.received)
    client.close()
    for offset in (0, 1, len(body) // 2, len(body)):
        status, _, again = await cluster.request(
            "GET", f"/ctllm/exchanges/{request_id}?from={offset}", token=cluster.api_key
        )
        assert (status, again) == (200, body[offset:])
    status, _, _ = await cluster.request(
        "GET", f"/ctllm/exchanges/{request_id}?from={len(body) + 1}", token=cluster.api_key
    )
    assert status == 410
    mallory = await cluster.create_token("mallory")
    for token in (mallory, None):
        status, _, response = await cluster.request(
            "GET", f"/ctllm/exchanges/{request_id}", token=token
        )
        assert status in (401, 404), response
        assert b"hello" not in response


@ensureDeferred
async def test_a_resumable_response_continues_while_its_client_is_disconnected(
    cluster: Cluster,
) -> None:
    """It is complete when the client reconnects."""
    await RelayedCluster(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=20, line_interval=0.05))
    client = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: client.send_request(
            "POST", "/api/chat", cluster.api_key, CHAT, "Ctllm-Resume: 60"
        ).read_lines(2)
    )
    request_id = client.read_head()["ctllm-request-id"]
    client.close()
    [record] = [r for r in cluster.ollama.requests if r.path == "/api/chat"]
    await record.closed
    assert record.closed_by == "server"
    status, _, body = await cluster.request(
        "GET", f"/ctllm/exchanges/{request_id}", token=cluster.api_key
    )
    lines = [json.loads(line) for line in body.splitlines()]
    assert (status, lines[-1]["done"], len(lines)) == (200, True, 21)


@ensureDeferred
async def test_a_logout_disconnects_the_desktop(cluster: Cluster) -> None:
    """Requests get 503 at once, and a response in progress ends as incomplete."""
    await RelayedCluster(cluster).start()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    client = await in_thread(lambda: RawClient(cluster.cloud_port))
    await in_thread(
        lambda: client.send_request("POST", "/api/chat", cluster.api_key, CHAT).read_lines(3)
    )
    await cluster.run_ctllm("alice", "logout")
    body, whole = parse_chunked_body(await in_thread(client.read_to_end))
    assert not whole
    assert "logged out" in json.loads(body.splitlines()[-1])["error"]
    await wait_until_offline(cluster)
    client.close()

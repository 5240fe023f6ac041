"""Several desktops of one user: requests are routed by model, and model lists are merged."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import ollama
import openai
import pytest
import pytest_twisted
from openai.types.chat import ChatCompletion
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.http.message.content_coding import load_zstd
from tests.e2e.cluster import wait_until
from tests.e2e.multi_desktop import MultiDesktopCluster
from tests.e2e.raw_client import RawClient
from tests.fake_ollama import Record, Script

T = TypeVar("T")
HELLO: Any = [{"role": "user", "content": "hello"}]
#: Three megabytes, four in base64.
PICTURE = base64.b64encode(bytes(range(256)) * 4 * 3000).decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
LONG = 300.0


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiDesktopCluster]:
    cluster = MultiDesktopCluster(tmp_path_factory.mktemp("desktops"))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.start()))
    yield cluster
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@pytest.fixture(autouse=True)
def fresh(multi: MultiDesktopCluster) -> None:
    pytest_twisted.blockon(Deferred.fromCoroutine(multi.reset()))


async def in_thread(work: Callable[[], T]) -> T:
    return await deferToThread(work)


# -- routing by model


@ensureDeferred
async def test_requests_of_ollamas_client_reach_a_desktop_with_the_model(
    multi: MultiDesktopCluster,
) -> None:
    """Chat, generate, embed, show, copy and delete, streamed or not."""
    client = multi.ollama_client()

    def work() -> None:
        for model in ("llama3.2", "qwen3:4b", "llama3.2:latest", "nomic-embed-text"):
            assert client.chat(model=model, messages=HELLO).done
            assert list(client.generate(model=model, prompt="hello", stream=True))[-1].done
            assert client.show(model).details
            client.copy(model, f"copy-of-{model}")
        assert client.embed(model="nomic-embed-text", input=["a", "b"]).embeddings

    await in_thread(work)
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/copy"):
        assert multi.requested_desktops(path) == ["study"] * 2 + ["attic"] * 2, path
    assert multi.requested_desktops("/api/embed") == ["attic"]
    await multi.wait_for_desktops("study", "attic")
    await in_thread(lambda: client.delete("copy-of-qwen3:4b"))
    assert multi.requested_desktops("/api/delete") == ["attic"]


@ensureDeferred
async def test_requests_of_openais_client_reach_a_desktop_with_the_model(
    multi: MultiDesktopCluster,
) -> None:
    """Chats, completions, embeddings, responses and the entry of one model."""
    client = multi.openai_client()

    def work() -> None:
        for model in ("llama3.2", "qwen3:4b"):
            assert client.chat.completions.create(model=model, messages=HELLO).choices
            assert list(client.completions.create(model=model, prompt="x", stream=True))
            assert client.responses.create(model=model, input="hello").output_text
            assert client.embeddings.create(model=model, input="hello").data
            assert client.models.retrieve(model).id.startswith(model)

    await in_thread(work)
    for path in ("chat/completions", "completions", "responses", "embeddings"):
        assert multi.requested_desktops(f"/v1/{path}") == ["study", "attic"], path
    assert multi.requested_desktops("/v1/models/llama3.2") == ["study"]
    assert multi.requested_desktops("/v1/models/qwen3:4b") == ["attic"]


@ensureDeferred
async def test_a_model_named_after_large_messages_is_found(multi: MultiDesktopCluster) -> None:
    """Megabytes of a picture precede the name; the body arrives complete at the right desktop."""
    content = [
        {"type": "text", "text": 'a "model": "llama3.2"? \\'},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    ]
    body = {"messages": [{"role": "user", "content": content}], "model": ""}
    client = multi.openai_client()
    for desktop, model in (("study", "llama3.2"), ("attic", "qwen3:4b")):
        request = {**body, "model": model}
        response = await in_thread(
            partial(client.post, "/chat/completions", body=request, cast_to=ChatCompletion)
        )
        assert response.model == model
        (record,) = [r for r in multi.ollamas[desktop].requests if r.path == "/v1/chat/completions"]
        assert record.body_length > len(PICTURE)
    assert multi.requested_desktops("/v1/chat/completions") == ["study", "attic"]


async def assert_relayed_unchanged(
    multi: MultiDesktopCluster, desktop: str, path: str, body: bytes, **headers: str
) -> None:
    """Assert that a body whose model only this desktop has arrives there unchanged."""
    content_headers = {"Content-Type": "application/json", **headers}
    status, _, response = await multi.request("POST", path, body, multi.api_key, content_headers)
    assert status == 200, response
    (record,) = [record for record in multi.ollamas[desktop].requests if record.path == path]
    assert record.body_sha256 == hashlib.sha256(body).hexdigest()
    assert multi.requested_desktops(path) == [desktop]
    for fake_ollama in multi.ollamas.values():
        fake_ollama.reset()


@ensureDeferred
@pytest.mark.parametrize(("desktop", "model"), [("study", "llama3.2"), ("attic", "qwen3:4b")])
async def test_compressed_bodies_are_routed_by_model(
    multi: MultiDesktopCluster, desktop: str, model: str
) -> None:
    """With zstd, as Codex sends them; the name may be the last key."""
    coding = {"Content-Encoding": "zstd"}
    chat = {"messages": [{**HELLO[0], "content": "hello " * 20_000}], "model": model}
    for path, request in (
        ("/v1/responses", {"model": model, "input": "hello"}),
        ("/v1/chat/completions", chat),
        ("/api/chat", {**chat, "stream": False}),
    ):
        body = load_zstd().compress(json.dumps(request).encode())
        await assert_relayed_unchanged(multi, desktop, path, body, **coding)


@ensureDeferred
@pytest.mark.parametrize(("desktop", "model"), [("study", "llama3.2"), ("attic", "qwen3:4b")])
async def test_multipart_forms_are_routed_by_model(
    multi: MultiDesktopCluster, desktop: str, model: str
) -> None:
    """As OpenAI's Python client sends a recording, and with the file before the model."""
    client = multi.openai_client()
    file = ("a.wav", b"RIFF" + bytes(1_000_000))
    path = "/v1/audio/transcriptions"
    assert (
        await in_thread(lambda: client.audio.transcriptions.create(model=model, file=file))
    ).text
    assert multi.requested_desktops(path) == [desktop]
    for fake_ollama in multi.ollamas.values():
        fake_ollama.reset()
    disposition = b"Content-Disposition: form-data; name="
    body = b"\r\n".join(
        (
            b'--x\r\n%b"file"; filename="a"\r\n' % disposition,
            file[1],
            b'--x\r\n%b"model"\r\n' % disposition,
            model.encode(),
            b"--x--\r\n",
        )
    )
    content_type = {"Content-Type": "multipart/form-data; boundary=x"}
    await assert_relayed_unchanged(multi, desktop, path, body, **content_type)


@ensureDeferred
async def test_the_last_of_two_model_names_routes_the_request(multi: MultiDesktopCluster) -> None:
    """As in Ollama, whose keys are case-insensitive."""
    body = b'{"model": "llama3.2", "prompt": "x", "Model": "qwen3:4b", "stream": false}'
    await multi.request("POST", "/api/generate", body, multi.api_key)
    assert multi.requested_desktops("/api/generate") == ["attic"]


@ensureDeferred
async def test_chats_with_pictures_of_ollamas_client_are_routed_by_model(
    multi: MultiDesktopCluster,
) -> None:
    """This client sends the model before the messages."""
    for model in ("llama3.2", "qwen3:4b"):
        messages = [{**HELLO[0], "images": [PNG]}]
        client = multi.ollama_client()
        await in_thread(partial(client.chat, model=model, messages=messages))
    assert multi.requested_desktops("/api/chat") == ["study", "attic"]


@ensureDeferred
async def test_a_chunked_body_after_100_continue_is_routed_by_model(
    multi: MultiDesktopCluster,
) -> None:
    """The chunks split the model's name."""

    def work() -> bytes:
        client = RawClient(multi.cloud_port)
        head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {multi.api_key}\r\n"
        head += "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        client.socket.sendall(head.encode())
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        body = json.dumps({"messages": HELLO, "model": "llama3.2", "stream": False}).encode()
        for start in range(0, len(body), 7):
            part = body[start : start + 7]
            client.socket.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        client.socket.sendall(b"0\r\n\r\n")
        client.received = b""
        response = client.read_until(b'"done":true')
        client.close()
        return response

    assert b" 200 OK" in await in_thread(work)
    assert multi.requested_desktops("/api/chat") == ["study"]


@ensureDeferred
async def test_an_unknown_model_gets_ollamas_own_error(multi: MultiDesktopCluster) -> None:
    client = multi.ollama_client()
    with pytest.raises(ollama.ResponseError, match="model 'unknown' not found") as raised:
        await in_thread(lambda: client.chat(model="unknown", messages=HELLO))
    assert raised.value.status_code == 404
    create = multi.openai_client().chat.completions.create
    with pytest.raises(openai.NotFoundError):
        await in_thread(lambda: create(model="unknown", messages=HELLO))


@ensureDeferred
async def test_an_idle_desktop_is_preferred(
    multi: MultiDesktopCluster,
) -> None:
    """While one desktop with the model responds, the next request goes to the other."""
    for fake_ollama in multi.ollamas.values():
        fake_ollama.script("/api/chat", Script(load_seconds=LONG))
    body = {"model": "shared-model", "messages": HELLO}
    clients = []
    for count in (1, 2):
        clients.append(await in_thread(lambda: RawClient(multi.cloud_port)))
        await in_thread(lambda: clients[-1].send_request("POST", "/api/chat", multi.api_key, body))
        await wait_until(
            lambda count=count: len(multi.requested_desktops("/api/chat")) == count, "the request"
        )
    assert multi.requested_desktops("/api/chat") == ["study", "attic"]
    for client in clients:
        client.close()
    for fake_ollama in multi.ollamas.values():
        for record in [record for record in fake_ollama.requests if record.path == "/api/chat"]:
            await record.closed


@ensureDeferred
async def test_ctllm_desktop_overrides_the_model(multi: MultiDesktopCluster) -> None:
    """In lists and in chats."""
    client = multi.ollama_client(**{"Ctllm-Desktop": "attic"})
    listed = await in_thread(client.list)
    assert {model.model for model in listed.models} == set(multi.ollamas["attic"].models)
    assert (await in_thread(lambda: client.chat(model="shared-model", messages=HELLO))).done
    with pytest.raises(ollama.ResponseError, match="not found"):
        await in_thread(lambda: client.chat(model="llama3.2", messages=HELLO))
    assert multi.requested_desktops("/api/chat") == ["attic"] * 2


# -- bodies are buffered until their model is known


@ensureDeferred
async def test_a_client_may_disconnect_before_its_model_is_known(
    multi: MultiDesktopCluster,
) -> None:
    """No desktop receives its request, and the next request is served."""
    start = b'{"messages":[{"role":"user","content":"' + b"x" * 1_000_000

    def work() -> None:
        for _ in range(20):
            client = RawClient(multi.cloud_port)
            head = (
                f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {multi.api_key}\r\n"
            )
            client.socket.sendall(head.encode() + b"Content-Length: 9000000\r\n\r\n" + start)
            client.close()

    await in_thread(work)
    response = await in_thread(lambda: multi.ollama_client().chat(model="llama3.2", messages=HELLO))
    assert response.done
    assert multi.requested_desktops("/api/chat") == ["study"]
    assert [each["exchanges"] for each in await multi.list_desktops(multi.alice_token)] == [0, 0]


@ensureDeferred
async def test_a_body_without_a_model_in_the_first_megabytes_is_not_buffered(
    multi: MultiDesktopCluster,
) -> None:
    """It is routed as without a model and arrives complete; the proxy's memory stays bounded."""
    size = 80_000_000
    before = multi.proxy_memory()
    peak = before

    def work() -> RawClient:
        nonlocal peak
        client = RawClient(multi.cloud_port)
        head = f"POST /api/embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {multi.api_key}\r\n"
        client.socket.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        end = b'","model":"nomic-embed-text"}'
        client.socket.sendall(b'{"input":"')
        remaining = size - 10 - len(end)
        while remaining:
            remaining -= client.socket.send(b"x" * min(remaining, 1 << 20))
            peak = max(peak, multi.proxy_memory())
        client.socket.sendall(end)
        return client

    client = await in_thread(work)
    await wait_until(lambda: multi.requested_desktops("/api/embed"), "the request to arrive")
    (desktop,) = multi.requested_desktops("/api/embed")
    record = next(r for r in multi.ollamas[desktop].requests if r.path == "/api/embed")
    await wait_until(lambda: record.body_length == size, "the complete body")
    client.close()
    assert peak - before < 32_000_000


# -- model lists


@ensureDeferred
async def test_model_lists_are_merged(multi: MultiDesktopCluster) -> None:
    """Both clients list the models of both desktops, each name once."""
    both = {name for fake_ollama in multi.ollamas.values() for name in fake_ollama.models}
    listed = [str(model.model) for model in (await in_thread(multi.ollama_client().list)).models]
    assert sorted(listed) == sorted(both)
    models = await in_thread(lambda: list(multi.openai_client().models.list()))
    assert sorted(model.id for model in models) == sorted(both)
    assert {model.object for model in models} == {"model"}


@ensureDeferred
async def test_running_models_are_merged(multi: MultiDesktopCluster) -> None:
    client = multi.ollama_client()
    for model in ("llama3.2", "qwen3:4b"):
        await in_thread(partial(client.generate, model=model, prompt="x"))
    loaded = {model.model for model in (await in_thread(client.ps)).models}
    assert loaded == {"llama3.2:latest", "qwen3:4b"}


@ensureDeferred
async def test_the_newest_model_is_listed_first(multi: MultiDesktopCluster) -> None:
    """The order is across desktops, as in Ollama; entries keep all their fields."""
    began = reactor.seconds()
    await wait_until(
        lambda: reactor.seconds() // 1 > began // 1,
        "the next second, which is the resolution of modified_at",
    )
    await multi.request("POST", "/api/pull", {"model": "newest"}, multi.api_key)
    _, headers, body = await multi.request("GET", "/api/tags", token=multi.api_key)
    entries = json.loads(body)["models"]
    assert entries[0]["name"] == "newest:latest"
    direct = [
        entry
        for desktop in multi.ollamas
        for entry in json.loads(
            (
                await multi.request(
                    "GET", "/api/tags", None, multi.api_key, {"Ctllm-Desktop": desktop}
                )
            )[2]
        )["models"]
    ]
    assert all(entry in direct for entry in entries)
    assert headers["content-type"] == "application/json; charset=utf-8"


@ensureDeferred
async def test_a_desktop_whose_list_is_late_is_omitted(multi: MultiDesktopCluster) -> None:
    """The other's list arrives within seconds; if all fail, the response is an error of one."""
    broken = Script(error_before=(500, '{"error":"broken"}', {"X-Request-Id": "1"}))

    def is_from_client(record: Record) -> bool:
        return record.header("x-client") is not None

    multi.ollamas["attic"].script(is_from_client, Script(delay_before_head=LONG))
    _, _, body = await multi.request("GET", "/api/tags", None, multi.api_key, {"X-Client": "1"})
    names = {model["name"] for model in json.loads(body)["models"]}
    assert names == set(multi.ollamas["study"].models)
    for fake_ollama in multi.ollamas.values():
        fake_ollama.script(is_from_client, broken)
    status, headers, body = await multi.request(
        "GET", "/api/ps", None, multi.api_key, {"X-Client": "1"}
    )
    assert (status, json.loads(body)) == (500, {"error": "broken"})
    assert headers.get("x-request-id") == "1"


# -- changes of desktops and models


@ensureDeferred
async def test_models_are_available_only_while_their_desktop_is_connected(
    multi: MultiDesktopCluster,
) -> None:
    cellar = await multi.add_desktop("cellar", "wine")
    client = multi.ollama_client()
    try:
        await multi.wait_for_desktops("study", "attic", "cellar")
        assert (await in_thread(lambda: client.chat(model="wine", messages=HELLO))).done
        assert multi.requested_desktops("/api/chat") == ["cellar"]
        assert "wine:latest" in {m.model for m in (await in_thread(client.list)).models}
    finally:
        await multi.remove_desktop("cellar", cellar)
    assert "wine:latest" not in {m.model for m in (await in_thread(client.list)).models}
    with pytest.raises(ollama.ResponseError, match="not found"):
        await in_thread(lambda: client.chat(model="wine", messages=HELLO))


@ensureDeferred
async def test_a_pulled_or_copied_model_is_available_at_once(multi: MultiDesktopCluster) -> None:
    """Also on a desktop that other requests do not reach."""
    for desktop in ("study", "attic"):
        selected = multi.ollama_client(**{"Ctllm-Desktop": desktop})
        client = multi.ollama_client()

        def work(desktop: str = desktop, selected: Any = selected, client: Any = client) -> None:
            for round in range(5):
                list(selected.pull(f"{desktop}-{round}", stream=True))
                assert client.chat(model=f"{desktop}-{round}", messages=HELLO).done
                client.copy(f"{desktop}-{round}", f"copy-{desktop}-{round}")
                assert client.chat(model=f"copy-{desktop}-{round}", messages=HELLO).done

        await in_thread(work)
    assert multi.requested_desktops("/api/chat") == ["study"] * 10 + ["attic"] * 10


@ensureDeferred
async def test_changes_of_models_through_the_proxy_are_listed_within_seconds(
    multi: MultiDesktopCluster,
) -> None:
    """The desktops themselves check their models only every ten minutes."""
    for method, path, body in (
        ("POST", "/api/pull", {"model": "pulled", "stream": False}),
        ("POST", "/api/create", {"model": "created", "from": "shared-model", "stream": False}),
        ("POST", "/api/copy", {"source": "shared-model", "destination": "copied"}),
        ("DELETE", "/api/delete", {"model": "copied"}),
    ):
        status, _, response = await multi.request(method, path, body, multi.api_key)
        assert status == 200, response
        await multi.wait_for_desktops("study", "attic")


@ensureDeferred
async def test_a_model_pulled_directly_is_found_by_the_next_check(
    multi: MultiDesktopCluster,
) -> None:
    cellar = await multi.add_desktop("cellar", "wine", check_interval=1)
    try:
        port = multi.ports[-1].getHost().port
        await multi.request("POST", "/api/pull", {"model": "direct-pull"}, port=port)
        await multi.wait_for_desktops("study", "attic", "cellar")
        response = await in_thread(
            lambda: multi.ollama_client().chat(model="direct-pull", messages=HELLO)
        )
        assert response.done
        assert multi.requested_desktops("/api/chat") == ["cellar"]
    finally:
        await multi.remove_desktop("cellar", cellar)

"""Several desktops of one user: requests go to one that has the model, and lists are merged."""

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
#: Three megabytes, which are four on the way.
PICTURE = base64.b64encode(bytes(range(256)) * 4 * 3000).decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
LONG = 300.0


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiDesktopCluster]:
    made = MultiDesktopCluster(tmp_path_factory.mktemp("house"))
    pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest.fixture(autouse=True)
def fresh(multi: MultiDesktopCluster) -> None:
    pytest_twisted.blockon(Deferred.fromCoroutine(multi.reset()))


async def thread(work: Callable[[], T]) -> T:
    return await deferToThread(work)


# -- a request goes where its model is


@ensureDeferred
async def test_each_model_is_answered_by_its_desktop_for_ollama(multi: MultiDesktopCluster) -> None:
    """Chatting, generating, embedding, showing, copying and deleting, streamed or not."""
    client = multi.ollama_client()

    def work() -> None:
        for model in ("llama3.2", "qwen3:4b", "llama3.2:latest", "nomic-embed-text"):
            assert client.chat(model=model, messages=HELLO).done
            assert list(client.generate(model=model, prompt="hello", stream=True))[-1].done
            assert client.show(model).details
            client.copy(model, f"copy-of-{model}")
        assert client.embed(model="nomic-embed-text", input=["a", "b"]).embeddings

    await thread(work)
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/copy"):
        assert multi.requested_desktops(path) == ["study"] * 2 + ["attic"] * 2, path
    assert multi.requested_desktops("/api/embed") == ["attic"]
    await multi.wait_for_desktops("study", "attic")
    await thread(lambda: client.delete("copy-of-qwen3:4b"))
    assert multi.requested_desktops("/api/delete") == ["attic"]


@ensureDeferred
async def test_each_model_is_answered_by_its_desktop_for_openai(multi: MultiDesktopCluster) -> None:
    """Its dialect's chats, completions, embeddings, responses, and one model's entry."""
    client = multi.openai_client()

    def work() -> None:
        for model in ("llama3.2", "qwen3:4b"):
            assert client.chat.completions.create(model=model, messages=HELLO).choices
            assert list(client.completions.create(model=model, prompt="x", stream=True))
            assert client.responses.create(model=model, input="hello").output_text
            assert client.embeddings.create(model=model, input="hello").data
            assert client.models.retrieve(model).id.startswith(model)

    await thread(work)
    for path in ("chat/completions", "completions", "responses", "embeddings"):
        assert multi.requested_desktops(f"/v1/{path}") == ["study", "attic"], path
    assert multi.requested_desktops("/v1/models/llama3.2") == ["study"]
    assert multi.requested_desktops("/v1/models/qwen3:4b") == ["attic"]


@ensureDeferred
async def test_a_model_named_after_the_messages(multi: MultiDesktopCluster) -> None:
    """Megabytes of a picture come before the name; they arrive whole at the right desktop."""
    content = [
        {"type": "text", "text": 'a "model": "llama3.2"? \\'},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    ]
    body = {"messages": [{"role": "user", "content": content}], "model": ""}
    client = multi.openai_client()
    for room, model in (("study", "llama3.2"), ("attic", "qwen3:4b")):
        sent = {**body, "model": model}
        answer = await thread(
            partial(client.post, "/chat/completions", body=sent, cast_to=ChatCompletion)
        )
        assert answer.model == model
        (record,) = [r for r in multi.ollamas[room].requests if r.path == "/v1/chat/completions"]
        assert record.body_length > len(PICTURE)
    assert multi.requested_desktops("/v1/chat/completions") == ["study", "attic"]


async def sent_as_is(
    multi: MultiDesktopCluster, room: str, path: str, body: bytes, **headers: str
) -> None:
    """A body whose model only this room has: it comes there, and not a byte of it is another."""
    kinds = {"Content-Type": "application/json", **headers}
    status, _, said = await multi.request("POST", path, body, multi.api_key, kinds)
    assert status == 200, said
    (record,) = [each for each in multi.ollamas[room].requests if each.path == path]
    assert record.body_sha256 == hashlib.sha256(body).hexdigest()
    assert multi.requested_desktops(path) == [room]
    for fake_ollama in multi.ollamas.values():
        fake_ollama.reset()


@ensureDeferred
@pytest.mark.parametrize(("room", "model"), [("study", "llama3.2"), ("attic", "qwen3:4b")])
async def test_compressed_bodies(multi: MultiDesktopCluster, room: str, model: str) -> None:
    """With zstd, as Codex sends them; the name may come last."""
    coding = {"Content-Encoding": "zstd"}
    chat = {"messages": [{**HELLO[0], "content": "hello " * 20_000}], "model": model}
    for path, asked in (
        ("/v1/responses", {"model": model, "input": "hello"}),
        ("/v1/chat/completions", chat),
        ("/api/chat", {**chat, "stream": False}),
    ):
        body = load_zstd().compress(json.dumps(asked).encode())
        await sent_as_is(multi, room, path, body, **coding)


@ensureDeferred
@pytest.mark.parametrize(("room", "model"), [("study", "llama3.2"), ("attic", "qwen3:4b")])
async def test_forms(multi: MultiDesktopCluster, room: str, model: str) -> None:
    """As OpenAI's client for Python sends a recording, and with the file before the name."""
    client = multi.openai_client()
    file = ("a.wav", b"RIFF" + bytes(1_000_000))
    path = "/v1/audio/transcriptions"
    assert (await thread(lambda: client.audio.transcriptions.create(model=model, file=file))).text
    assert multi.requested_desktops(path) == [room]
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
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    await sent_as_is(multi, room, path, body, **kind)


@ensureDeferred
async def test_a_name_that_comes_twice(multi: MultiDesktopCluster) -> None:
    """Ollama takes the last one: the request goes where that is."""
    body = b'{"model": "llama3.2", "prompt": "x", "Model": "qwen3:4b", "stream": false}'
    await multi.request("POST", "/api/generate", body, multi.api_key)
    assert multi.requested_desktops("/api/generate") == ["attic"]


@ensureDeferred
async def test_a_picture_from_ollama(multi: MultiDesktopCluster) -> None:
    """Its client names the model first."""
    for model in ("llama3.2", "qwen3:4b"):
        messages = [{**HELLO[0], "images": [PNG]}]
        client = multi.ollama_client()
        await thread(partial(client.chat, model=model, messages=messages))
    assert multi.requested_desktops("/api/chat") == ["study", "attic"]


@ensureDeferred
async def test_a_client_that_waits_to_be_asked_for_its_body(multi: MultiDesktopCluster) -> None:
    """Expect: 100-continue, then chunks that cut the name in two."""

    def work() -> bytes:
        client = RawClient(multi.cloud_port)
        head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {multi.api_key}\r\n"
        head += "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        client.socket.sendall(head.encode())
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        body = json.dumps({"messages": HELLO, "model": "llama3.2", "stream": False}).encode()
        for start in range(0, len(body), 7):
            piece = body[start : start + 7]
            client.socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.socket.sendall(b"0\r\n\r\n")
        client.received = b""
        answer = client.read_until(b'"done":true')
        client.close()
        return answer

    assert b" 200 OK" in await thread(work)
    assert multi.requested_desktops("/api/chat") == ["study"]


@ensureDeferred
async def test_a_model_that_nobody_has(multi: MultiDesktopCluster) -> None:
    """Ollama says so in its own words and status."""
    client = multi.ollama_client()
    with pytest.raises(ollama.ResponseError, match="model 'nobodys' not found") as raised:
        await thread(lambda: client.chat(model="nobodys", messages=HELLO))
    assert raised.value.status_code == 404
    create = multi.openai_client().chat.completions.create
    with pytest.raises(openai.NotFoundError):
        await thread(lambda: create(model="nobodys", messages=HELLO))


@ensureDeferred
async def test_a_model_of_several_desktops_is_asked_of_an_idle_one(
    multi: MultiDesktopCluster,
) -> None:
    """While one desktop is answering, the next request goes to the other."""
    for fake_ollama in multi.ollamas.values():
        fake_ollama.script("/api/chat", Script(load_seconds=LONG))
    body = {"model": "shared-model", "messages": HELLO}
    clients = []
    for count in (1, 2):
        clients.append(await thread(lambda: RawClient(multi.cloud_port)))
        await thread(lambda: clients[-1].send_request("POST", "/api/chat", multi.api_key, body))
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
async def test_a_desktop_that_is_named_gets_the_request(multi: MultiDesktopCluster) -> None:
    """Ctllm-Desktop wins over the model, in lists as in chats."""
    client = multi.ollama_client(**{"Ctllm-Desktop": "attic"})
    listed = await thread(client.list)
    assert {model.model for model in listed.models} == set(multi.ollamas["attic"].models)
    assert (await thread(lambda: client.chat(model="shared-model", messages=HELLO))).done
    with pytest.raises(ollama.ResponseError, match="not found"):
        await thread(lambda: client.chat(model="llama3.2", messages=HELLO))
    assert multi.requested_desktops("/api/chat") == ["attic"] * 2


# -- what waits is bounded and leaves nothing


@ensureDeferred
async def test_a_client_that_leaves_before_its_model_is_known(multi: MultiDesktopCluster) -> None:
    """No desktop hears of it, and the next request is served."""
    start = b'{"messages":[{"role":"user","content":"' + b"x" * 1_000_000

    def work() -> None:
        for _ in range(20):
            client = RawClient(multi.cloud_port)
            head = (
                f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {multi.api_key}\r\n"
            )
            client.socket.sendall(head.encode() + b"Content-Length: 9000000\r\n\r\n" + start)
            client.close()

    await thread(work)
    answer = await thread(lambda: multi.ollama_client().chat(model="llama3.2", messages=HELLO))
    assert answer.done
    assert multi.requested_desktops("/api/chat") == ["study"]
    assert [each["exchanges"] for each in await multi.list_desktops(multi.alice_token)] == [0, 0]


@ensureDeferred
async def test_a_body_that_hides_its_model_is_not_held(multi: MultiDesktopCluster) -> None:
    """Beyond a bound it goes where it would without one, whole, and memory stays small."""
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
        left = size - 10 - len(end)
        while left:
            left -= client.socket.send(b"x" * min(left, 1 << 20))
            peak = max(peak, multi.proxy_memory())
        client.socket.sendall(end)
        return client

    client = await thread(work)
    await wait_until(lambda: multi.requested_desktops("/api/embed"), "the request to arrive")
    (room,) = multi.requested_desktops("/api/embed")
    record = next(r for r in multi.ollamas[room].requests if r.path == "/api/embed")
    await wait_until(lambda: record.body_length == size, "the whole body")
    client.close()
    assert peak - before < 32_000_000


# -- lists


@ensureDeferred
async def test_lists_are_merged(multi: MultiDesktopCluster) -> None:
    """Both clients see every model of both desktops, each name once."""
    both = {name for fake_ollama in multi.ollamas.values() for name in fake_ollama.models}
    listed = [str(model.model) for model in (await thread(multi.ollama_client().list)).models]
    assert sorted(listed) == sorted(both)
    models = await thread(lambda: list(multi.openai_client().models.list()))
    assert sorted(model.id for model in models) == sorted(both)
    assert {model.object for model in models} == {"model"}


@ensureDeferred
async def test_running_models_are_merged(multi: MultiDesktopCluster) -> None:
    """What is loaded anywhere is listed."""
    client = multi.ollama_client()
    for model in ("llama3.2", "qwen3:4b"):
        await thread(partial(client.generate, model=model, prompt="x"))
    loaded = {model.model for model in (await thread(client.ps)).models}
    assert loaded == {"llama3.2:latest", "qwen3:4b"}


@ensureDeferred
async def test_the_newest_model_is_listed_first(multi: MultiDesktopCluster) -> None:
    """Over all desktops, as in Ollama, with all that each entry said."""
    then = reactor.seconds()
    await wait_until(
        lambda: reactor.seconds() // 1 > then // 1, "the next second: Ollama's own measure"
    )
    await multi.request("POST", "/api/pull", {"model": "newest"}, multi.api_key)
    _, headers, body = await multi.request("GET", "/api/tags", token=multi.api_key)
    entries = json.loads(body)["models"]
    assert entries[0]["name"] == "newest:latest"
    own = [
        entry
        for room in multi.ollamas
        for entry in json.loads(
            (await multi.request("GET", "/api/tags", None, multi.api_key, {"Ctllm-Desktop": room}))[
                2
            ]
        )["models"]
    ]
    assert all(entry in own for entry in entries)
    assert headers["content-type"] == "application/json; charset=utf-8"


@ensureDeferred
async def test_a_desktop_whose_list_does_not_come_is_left_out(multi: MultiDesktopCluster) -> None:
    """The list of the other comes within seconds; when none does, the best one's error."""
    broken = Script(error_before=(500, '{"error":"broken"}', {"X-Request-Id": "1"}))

    def asked_by_client(record: Record) -> bool:
        return record.header("x-client") is not None

    multi.ollamas["attic"].script(asked_by_client, Script(delay_before_head=LONG))
    _, _, body = await multi.request("GET", "/api/tags", None, multi.api_key, {"X-Client": "1"})
    names = {model["name"] for model in json.loads(body)["models"]}
    assert names == set(multi.ollamas["study"].models)
    for fake_ollama in multi.ollamas.values():
        fake_ollama.script(asked_by_client, broken)
    status, headers, body = await multi.request(
        "GET", "/api/ps", None, multi.api_key, {"X-Client": "1"}
    )
    assert (status, json.loads(body)) == (500, {"error": "broken"})
    assert headers.get("x-request-id") == "1"


# -- desktops and models come and go


@ensureDeferred
async def test_a_desktop_that_comes_and_goes(multi: MultiDesktopCluster) -> None:
    """Its models are listed and answered while it is there, and no longer."""
    cellar = await multi.add_desktop("cellar", "wine")
    client = multi.ollama_client()
    try:
        await multi.wait_for_desktops("study", "attic", "cellar")
        assert (await thread(lambda: client.chat(model="wine", messages=HELLO))).done
        assert multi.requested_desktops("/api/chat") == ["cellar"]
        assert "wine:latest" in {m.model for m in (await thread(client.list)).models}
    finally:
        await multi.remove_desktop("cellar", cellar)
    assert "wine:latest" not in {m.model for m in (await thread(client.list)).models}
    with pytest.raises(ollama.ResponseError, match="not found"):
        await thread(lambda: client.chat(model="wine", messages=HELLO))


@ensureDeferred
async def test_a_model_is_found_at_once_where_it_was_pulled(multi: MultiDesktopCluster) -> None:
    """Also on a desktop that would not be asked else; and where one was copied to."""
    for room in ("study", "attic"):
        named = multi.ollama_client(**{"Ctllm-Desktop": room})
        client = multi.ollama_client()

        def work(room: str = room, named: Any = named, client: Any = client) -> None:
            for round in range(5):
                list(named.pull(f"{room}-{round}", stream=True))
                assert client.chat(model=f"{room}-{round}", messages=HELLO).done
                client.copy(f"{room}-{round}", f"copy-{room}-{round}")
                assert client.chat(model=f"copy-{room}-{round}", messages=HELLO).done

        await thread(work)
    assert multi.requested_desktops("/api/chat") == ["study"] * 10 + ["attic"] * 10


@ensureDeferred
async def test_what_changes_through_us_is_told_within_seconds(multi: MultiDesktopCluster) -> None:
    """Though these desktops look only every ten minutes by themselves."""
    for method, path, body in (
        ("POST", "/api/pull", {"model": "pulled", "stream": False}),
        ("POST", "/api/create", {"model": "created", "from": "shared-model", "stream": False}),
        ("POST", "/api/copy", {"source": "shared-model", "destination": "copied"}),
        ("DELETE", "/api/delete", {"model": "copied"}),
    ):
        status, _, answer = await multi.request(method, path, body, multi.api_key)
        assert status == 200, answer
        await multi.wait_for_desktops("study", "attic")


@ensureDeferred
async def test_a_model_that_was_pulled_beside_us(multi: MultiDesktopCluster) -> None:
    """The desktop finds it when it looks next."""
    cellar = await multi.add_desktop("cellar", "wine", check_interval=1)
    try:
        port = multi.ports[-1].getHost().port
        await multi.request("POST", "/api/pull", {"model": "beside"}, port=port)
        await multi.wait_for_desktops("study", "attic", "cellar")
        answer = await thread(lambda: multi.ollama_client().chat(model="beside", messages=HELLO))
        assert answer.done
        assert multi.requested_desktops("/api/chat") == ["cellar"]
    finally:
        await multi.remove_desktop("cellar", cellar)

"""API keys that do only what they are for: real clients, and clients that try more."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import ollama
import openai
import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.auth.api_keys import record_key
from ctllm.desktop.api_keys import KeyOptions, create_api_key
from ctllm.desktop.credential_file import CredentialFile
from ctllm.http.message.content_coding import load_zstd
from tests.e2e.cluster import ChildProcess, Cluster, read_response, wait_until
from tests.fake_ollama import FakeOllama, Script
from tests.fake_ollama.records import Record

#: Paths that desktops request themselves.
OWN_REQUESTS = ("/api/version", "/api/tags", "/api/ps")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
#: A request for a model by each endpoint that takes one; {} is its name.
REQUESTS = [
    ("POST", "/api/chat", {**CHAT, "model": "{}"}),
    ("POST", "/api/generate", {"prompt": "hi", "model": "{}"}),
    ("POST", "/api/embed", {"input": "hi", "model": "{}"}),
    ("POST", "/api/embeddings", {"prompt": "hi", "model": "{}"}),
    ("POST", "/api/show", {"model": "{}"}),
    ("POST", "/api/show", {"name": "{}"}),
    ("POST", "/v1/chat/completions", {**CHAT, "model": "{}"}),
    ("POST", "/v1/completions", {"prompt": "hi", "model": "{}"}),
    ("POST", "/v1/embeddings", {"input": "hi", "model": "{}"}),
    ("POST", "/v1/responses", {"input": "hi", "model": "{}"}),
    ("POST", "/v1/messages", {**CHAT, "max_tokens": 9, "model": "{}"}),
    ("GET", "/v1/models/{}", None),
]
CHANGES = [
    ("POST", "/api/pull", {"model": "{}"}),
    ("POST", "/api/push", {"model": "{}"}),
    ("DELETE", "/api/delete", {"model": "{}"}),
    ("POST", "/api/copy", {"source": "{}", "destination": "llama-copy"}),
    ("POST", "/api/copy", {"source": "llama3.2", "destination": "{}"}),
    ("POST", "/api/create", {"model": "{}", "from": "llama3.2"}),
    ("POST", "/api/create", {"model": "llama-copy", "from": "{}"}),
]


class KeyCluster(Cluster):
    """A cloud, and two desktops of alice that share some models."""

    study: FakeOllama
    attic: FakeOllama

    async def start(self) -> None:
        await self.start_cloud()
        self.study, port = self.start_fake_ollama("llama3.2", "qwen3:4b", "mistral")
        await self.start_named_desktop("study", port)
        self.attic, port = self.start_fake_ollama("llama3.1:8b", "mistral", "secret-model")
        await self.start_named_desktop("attic", port)
        self.api_key = await self.add_key("everything")

    async def start_named_desktop(self, name: str, port: int) -> ChildProcess:
        return await self.start_desktop("alice", port, f"--desktop-name={name}", state=name)

    async def add_key(self, *options: str, state: str = "study") -> str:
        """Create a key and wait until the cloud accepts it."""
        key = await self.run_ctllm(state, "keys", "add", *options)
        await wait_until(lambda: self.is_accepted(key), "a key to be accepted")
        return key

    async def is_accepted(self, key: str) -> bool:
        return (await self.request("GET", "/api/version", token=key))[0] == 200

    def answered(self) -> list[str]:
        """The requests to which an Ollama responded: it does when it has the whole body."""
        return [
            f"{each.method} {each.path}"
            for fake in (self.study, self.attic)
            for each in fake.requests
            if each.status == 200 and each.path not in OWN_REQUESTS
        ]

    def reset(self) -> None:
        for fake in (self.study, self.attic):
            fake.reset()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyCluster]:
    cluster = KeyCluster(tmp_path_factory.mktemp("keys"))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.start()))
    yield cluster
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def filled(value: Any, model: str) -> Any:
    """Return the body or path of a request with the name of the model."""
    return json.loads(json.dumps(value).replace("{}", model)) if value is not None else None


def message(body: bytes) -> str:
    error = json.loads(body)["error"]
    return str(error["message"] if isinstance(error, dict) else error)


# -- presenting a key


@ensureDeferred
async def test_a_key_works_once_the_command_ends_that_creates_it(keys: KeyCluster) -> None:
    """So a script may use it in its next line; and no longer after that which revokes it."""
    key = await keys.run_ctllm("study", "keys", "add", "script")
    assert await keys.is_accepted(key)
    await keys.run_ctllm("study", "keys", "rm", "script")
    assert not await keys.is_accepted(key)


@ensureDeferred
async def test_a_key_may_be_presented_in_each_header(keys: KeyCluster) -> None:
    """Whatever the case of the scheme and the header, and beside a placeholder."""
    key = keys.api_key
    basic = base64.b64encode(f"anybody:{key}".encode()).decode()
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
        {"Authorization": f"BEARER   {key}"},
        {"X-API-KEY": key},
        {"api-key": key},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": "Bearer ollama", "x-api-key": key},
        {"Authorization": "Bearer none", "api-key": key, "x-api-key": "sk-1234"},
        {"Authorization": f"Bearer {key}", "x-api-key": "placeholder"},
        {"Authorization": "Basic ????", "x-api-key": key},
    ):
        for _ in range(3):
            assert (await keys.request("GET", "/api/tags", headers=headers))[0] == 200, headers
    for headers in (
        {},
        {"Authorization": key},
        {"Authorization": f"Token {key}"},
        {"x-api-key": key[:-1]},
        {"x-goog-api-key": key},
    ):
        assert (await keys.request("GET", "/api/tags", headers=headers))[0] == 401, headers
    assert (await keys.request("GET", f"/api/tags?api_key={key}"))[0] == 401


@ensureDeferred
async def test_sdks_use_a_key_and_get_their_own_error_for_another_model(keys: KeyCluster) -> None:
    """OpenAI's with Bearer, Azure's with api-key, Anthropic's with x-api-key, Ollama's."""
    key = await keys.add_key("sdks", "--models", "llama*")

    def use_openai() -> None:
        client = openai.OpenAI(base_url=f"{keys.url}/v1", api_key=key, max_retries=0)
        done = client.chat.completions.create(model="llama3.2", messages=CHAT["messages"])  # type: ignore[arg-type]
        assert done.choices[0].message.content
        assert {each.id for each in client.models.list()} == {"llama3.2:latest", "llama3.1:8b"}
        with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'mistral'"):
            client.chat.completions.create(model="mistral", messages=CHAT["messages"])  # type: ignore[arg-type]

    def use_azure() -> None:
        client = openai.AzureOpenAI(
            base_url=f"{keys.url}/v1", api_key=key, api_version="2025-01-01", max_retries=0
        )
        assert {each.id for each in client.models.list()} == {"llama3.2:latest", "llama3.1:8b"}
        with pytest.raises(openai.PermissionDeniedError):
            client.models.retrieve("mistral")

    def use_anthropic() -> None:
        client = anthropic.Anthropic(base_url=keys.url, api_key=key, max_retries=0)
        asked: Any = {"max_tokens": 9, "messages": CHAT["messages"]}
        assert client.messages.create(model="llama3.2", **asked).content
        with pytest.raises(anthropic.PermissionDeniedError, match="may not use the model"):
            client.messages.create(model="mistral", **asked)

    def use_ollama() -> None:
        client = ollama.Client(host=keys.url, headers={"Authorization": f"Bearer {key}"})
        assert client.generate("llama3.2", "hi").response
        assert {each.model for each in client.list().models} == {"llama3.2:latest", "llama3.1:8b"}
        with pytest.raises(ollama.ResponseError, match="may not use the model 'mistral'"):
            client.generate("mistral", "hi")

    for use in (use_openai, use_azure, use_anthropic, use_ollama):
        await deferToThread(use)


# -- other models


@ensureDeferred
async def test_a_restricted_key_uses_no_other_model_by_any_endpoint(keys: KeyCluster) -> None:
    """The error has the name, in the dialect; no Ollama gets the whole request."""
    key = await keys.add_key("llamas", "--models", "llama*")
    keys.reset()
    for method, path, body in REQUESTS:
        for model in ("mistral", "secret-model", "qwen3:4b", "alice/llama3.2"):
            status, _, response = await keys.request(
                method, filled(path, model), filled(body, model), key
            )
            assert status == 403, (path, model, response)
            assert model in message(response)
    assert keys.answered() == []
    for method, path, body in REQUESTS:
        for model in ("llama3.2", "llama3.2:latest"):
            status, _, response = await keys.request(
                method, filled(path, model), filled(body, model), key
            )
            assert status == 200, (path, model, response)
    assert len(keys.answered()) == 2 * len(REQUESTS)


@ensureDeferred
async def test_a_restricted_key_is_not_helped_by_hostile_requests(keys: KeyCluster) -> None:
    """Doubled members, compressed bodies, other paths, forms, chunks, headers of its own."""
    key = await keys.add_key("hostile", "--models", "llama*")
    keys.reset()
    zstd = load_zstd()
    hidden = zstd.compress(b'{"x": "' + b"y" * (2 << 20) + b'", "model": "mistral", "prompt": "x"}')
    audio = (
        b'--X\r\nContent-Disposition: form-data; name="model"; filename=""\r\n\r\nmistral\r\n'
        b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nllama3.2\r\n--X--\r\n'
    )
    coded, form = {"Content-Encoding": "zstd"}, {"Content-Type": "multipart/form-data; boundary=X"}
    good = b'{"model": "llama3.2", "prompt": "x"}'
    attacks: list[tuple[str, bytes, dict[str, str]]] = [
        ("/api/generate", b'{"model": "llama3.2", "prompt": "x", "model": "mistral"}', {}),
        ("/api/generate", b'{"model": "llama3.2", "prompt": "x", "MODEL": "mistral"}', {}),
        ("/api/generate", b'{"model": "mistral", "prompt": "x", "Model": "llama3.2"}', {}),
        ("/api/generate", b'{"model": "llama3.2", "mod\\u0065l": "mistral"}', {}),
        ("//api/generate", b'{"model": "mistral"}', {}),
        ("/api/%67enerate", b'{"model": "mistral"}', {}),
        ("/x/../api/generate/", b'{"model": "mistral"}', {}),
        ("/api/generate", b'{"prompt": "x"}', {}),
        ("/api/generate", b"", {}),
        ("/api/generate", b'{"model": "mistral"}', {"Ctllm-Allowed-Models": "*"}),
        ("/api/generate", b'{"model": "mistral"}', {"ctllm_allowed_models": "*"}),
        ("/api/generate", b'{"model": "mistral"}', {"Connection": "Ctllm-Allowed-Models"}),
        ("/api/generate", b'{"model": "mistral"}', {"Ctllm-Desktop": "attic"}),
        ("/v1/responses", zstd.compress(b'{"model": "mistral", "input": "x"}'), coded),
        ("/v1/responses", hidden, coded),
        ("/v1/audio/transcriptions", audio, form),
        ("/v1/audio/transcriptions?model=llama3.2", audio, form),
        ("/api/experimental/web_search", b'{"query": "x"}', {}),
    ]
    for path, body, headers in attacks:
        status, _, response = await keys.request("POST", path, body, key, headers)
        assert status == 403, (path, body[:80], headers, response)
    assert keys.answered() == []
    assert (await keys.request("POST", "/api/generate", good, key))[0] == 200


@ensureDeferred
async def test_a_restricted_key_sees_only_its_models_in_the_lists_of_all_desktops(
    keys: KeyCluster,
) -> None:
    key = await keys.add_key("lists", "--models", "llama*", "--scope", "manage")
    for path, entries, field in (
        ("/api/tags", "models", "name"),
        ("/v1/models", "data", "id"),
        ("//api/tags", "models", "name"),
    ):
        for headers in ({}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=0-10"}):
            status, _, body = await keys.request("GET", path, token=key, headers=headers)
            names = {each[field] for each in json.loads(body)[entries]}
            assert (status, names) == (200, {"llama3.2:latest", "llama3.1:8b"}), path
        _, _, body = await keys.request("GET", path, token=keys.api_key)
        assert b"secret-model" in body and b"qwen3:4b" in body
    for desktop, expected in (("study", b"llama3.2"), ("attic", b"llama3.1:8b")):
        selected = {"Ctllm-Desktop": desktop}
        _, _, body = await keys.request("GET", "/api/tags", token=key, headers=selected)
        assert expected in body and b"mistral" not in body
    await keys.request("POST", "/api/generate", {"model": "mistral", "prompt": "x"}, keys.api_key)
    _, _, body = await keys.request("GET", "/api/ps", token=key)
    assert b"mistral" not in body
    listed = await keys.list_desktops(key)
    assert {name for each in listed for name in each["models"]} == {
        "llama3.2:latest", "llama3.1:8b",
    }  # fmt: skip
    for method, path in (("HEAD", "/api/tags"), ("GET", "/api/status"), ("HEAD", "/v1/models")):
        assert (await keys.request(method, path, token=key))[0] == 403


@ensureDeferred
async def test_a_restricted_key_with_the_scope_manage_changes_only_its_models(
    keys: KeyCluster,
) -> None:
    key = await keys.add_key("changes", "--models", "llama*", "--scope", "manage")
    plain = await keys.add_key("no changes", "--models", "llama*")
    keys.reset()
    selected = {"Ctllm-Desktop": "study"}
    for method, path, body in CHANGES:
        status, _, response = await keys.request(
            method, path, filled(body, "mistral"), key, selected
        )
        assert status == 403 and "mistral" in message(response), (path, response)
        assert (await keys.request(method, path, filled(body, "llama-x"), plain))[0] == 403
    create = {"model": "llama-x", "files": {"a.gguf": "sha256:" + "0" * 64}}
    for method, path, attack in (
        ("POST", "/api/create", create),
        ("POST", "/api/create", {**create, "from": "llama3.2"}),
        ("POST", f"/api/blobs/sha256:{'0' * 64}", b"x"),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}", None),
        ("POST", "/api/copy", {"source": "llama3.2", "destination": "x", "DESTINATION": "llama"}),
    ):
        assert (await keys.request(method, path, attack, key, selected))[0] == 403, (path, attack)
    assert keys.answered() == []
    copy = {"source": "llama3.2", "destination": "llama-copy"}
    assert (await keys.request("POST", "/api/copy", copy, key, selected))[0] == 200
    removal = {"model": "llama-copy"}
    assert (await keys.request("DELETE", "/api/delete", removal, key, selected))[0] == 200


@ensureDeferred
async def test_keys_of_two_desktops_have_their_own_restrictions(keys: KeyCluster) -> None:
    """Each is good for the models of both desktops, as far as it may use them."""
    mistral = await keys.add_key("mistral", "--models", "mistral", state="study")
    secret = await keys.add_key("secret", "--models=secret-*", "--scope=manage", state="attic")
    for key, model in ((mistral, "mistral"), (secret, "secret-model")):
        for asked in ("mistral", "secret-model", "llama3.2"):
            body = {"model": asked, "prompt": "x"}
            status, _, _ = await keys.request("POST", "/api/generate", body, key)
            assert status == (200 if asked == model else 403), (model, asked)
    selected = {"Ctllm-Desktop": "attic"}
    body = {"model": "mistral", "prompt": "x"}
    assert (await keys.request("POST", "/api/generate", body, mistral, selected))[0] == 200


@ensureDeferred
async def test_a_key_has_its_own_number_of_requests_a_minute(keys: KeyCluster) -> None:
    """Beyond it there is 429 with Retry-After; other keys go on."""
    key = await keys.run_ctllm("study", "keys", "add", "slow", "--requests-per-minute", "5")
    refused: list[tuple[int, dict[str, str]]] = []

    async def is_limited() -> bool:
        status, headers, _ = await keys.request("GET", "/api/version", token=key)
        refused.append((status, headers))
        return status == 429

    await wait_until(is_limited, "the limit of the key")
    assert int(refused[-1][1]["retry-after"]) > 0
    assert [status for status, _ in refused].count(200) in range(1, 7)
    for _ in range(10):
        assert await keys.is_accepted(keys.api_key)


# -- the end of keys


@ensureDeferred
async def test_an_expired_key_is_refused_with_the_reason(keys: KeyCluster) -> None:
    file = CredentialFile(keys.state_dir("study"))
    key = create_api_key(file, "brief", time.time(), KeyOptions(expires=int(time.time()) + 4))
    await wait_until(lambda: keys.is_accepted(key), "the key to be accepted")

    async def is_refused() -> bool:
        return not await keys.is_accepted(key)

    await wait_until(is_refused, "the key to expire")
    listed = json.loads(await keys.run_ctllm("study", "keys", "ls", "--json"))
    (brief,) = [each for each in listed if each["name"] == "brief"]
    assert brief["expires"] is not None
    assert "expired" in await keys.run_ctllm("study", "keys", "ls")
    assert await keys.is_accepted(keys.api_key)


@ensureDeferred
async def test_a_revoked_key_ends_its_streams_within_seconds(keys: KeyCluster) -> None:
    """A stream of another key goes on."""
    revoked, other = [await keys.add_key(name) for name in ("revoked", "other")]
    body = {"model": "qwen3:4b", "prompt": "x"}
    keys.study.script("/api/generate", Script(lines=1500, line_interval=0.005), times=2)
    streams = [
        deferToThread(
            read_response, keys.cloud_port, "/api/generate", json.dumps(body).encode(), key
        )
        for key in (revoked, other)
    ]

    def begun() -> list[Record]:
        return [each for each in keys.study.requests if each.lines_sent > 20]

    await wait_until(lambda: len(begun()) == 2, "two streams")
    await keys.run_ctllm("study", "keys", "rm", "revoked")
    ended = await streams[0]
    assert b"This API key was revoked" in ended and b'"done":true' not in ended
    await wait_until(
        lambda: any(each.closed_by for each in begun()), "Ollama's request to be closed"
    )
    assert not await keys.is_accepted(revoked)
    assert b'"done":true' in await streams[1]


@ensureDeferred
async def test_another_user_cannot_announce_or_withdraw_a_key(keys: KeyCluster) -> None:
    """Mallory knows the record of the key, and the id of the desktop."""
    record = msgspec.to_builtins(record_key(keys.api_key))
    stored = json.loads((keys.state_dir("study") / "desktop" / "credentials.json").read_text())
    serve = await keys.create_token("mallory", "desktop")
    path = f"/ctllm/desktops/{stored['desktop_id']}/keys"
    lease = {"keys": [{**record, "scope": "manage"}], "seconds": 60}
    assert (await keys.request("PUT", path, lease, serve))[0] == 200
    _, _, body = await keys.request("GET", "/api/tags", token=keys.api_key)
    assert b"llama3.2" in body
    assert (await keys.request("POST", "/api/copy", {}, keys.api_key))[0] == 403
    for status, answer in [
        (await keys.request("PUT", path, {"keys": [], "seconds": 60}, serve))[::2],
        (await keys.request("DELETE", path, token=serve))[::2],
    ]:
        assert (status, json.loads(answer)) == (200, {"usage": []})
    assert await keys.is_accepted(keys.api_key)
    for method in ("PUT", "DELETE"):
        status, _, _ = await keys.request(method, path, lease, keys.api_key)
        assert status == 403


# -- desktops that stop, and what is stored


@pytest.fixture
def own(tmp_path: Path) -> Iterator[KeyCluster]:
    cluster = KeyCluster(tmp_path)
    yield cluster
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@ensureDeferred
async def test_keys_stop_with_their_desktop_and_a_restart_cuts_nothing(own: KeyCluster) -> None:
    """The other desktop goes on responding to what the key began."""
    await own.start_cloud()
    own.study, study_port = own.start_fake_ollama("llama3.2")
    own.attic, attic_port = own.start_fake_ollama("qwen3:4b")
    study = await own.start_named_desktop("study", study_port)
    await own.start_named_desktop("attic", attic_port)
    key = await own.add_key("app")
    other = await own.add_key("other", state="attic")
    own.attic.script("/api/generate", Script(lines=900, line_interval=0.02))
    body = json.dumps({"model": "qwen3:4b", "prompt": "x"}).encode()
    stream = deferToThread(read_response, own.cloud_port, "/api/generate", body, key)
    await wait_until(
        lambda: any(r.lines_sent > 20 for r in own.attic.requests), "the stream to begin"
    )

    await study.stop()
    status, _, response = await own.request("GET", "/api/tags", token=key)
    assert status == 401 and "not connected" in message(response)
    assert await own.is_accepted(other)
    study = own.run_role(
        "desktop", "study", f"--ollama-host=127.0.0.1:{study_port}", "--desktop-listen=off"
    )
    await wait_until(lambda: own.is_accepted(key), "the key to work again")
    assert b'"done":true' in await stream


@ensureDeferred
async def test_keys_stop_when_their_desktop_logs_out(own: KeyCluster) -> None:
    await own.start_cloud()
    own.study, port = own.start_fake_ollama("llama3.2")
    await own.start_named_desktop("study", port)
    key = await own.add_key("app")
    await own.run_ctllm("study", "logout")
    assert (await own.request("GET", "/api/tags", token=key))[0] == 401


@ensureDeferred
async def test_no_file_has_a_key_and_keys_of_an_earlier_version_remain_valid(
    own: KeyCluster,
) -> None:
    """Neither of the desktop nor of the cloud, nor their logs."""
    await own.start_cloud()
    own.study, port = own.start_fake_ollama("llama3.2")
    desktop = await own.start_named_desktop("study", port)
    keys = [await own.add_key("one"), await own.add_key("two", "--scope", "manage")]
    printed = await own.run_ctllm("study", "connect", "curl", "--cloud")
    keys += re.findall(r"ctllm-k-[\w-]+", printed)
    await wait_until(lambda: own.is_accepted(keys[2]), "the client's key")
    await own.request("POST", "/api/generate", {"model": "llama3.2"}, keys[0])

    def assert_unstored() -> None:
        for file in own.directory.rglob("*"):
            if file.is_file():
                assert not any(key[-43:].encode() in file.read_bytes() for key in keys), file
        for process in own.processes:
            assert not any(key[-43:] in process.output for key in keys), process.name

    assert_unstored()
    await desktop.stop()
    listed = {
        each["name"]: each
        for each in json.loads(await own.run_ctllm("study", "keys", "ls", "--json"))
    }
    assert listed["one"]["last_address"] == "127.0.0.0/24" and listed["one"]["requests"] > 0
    assert listed["one"]["created"] <= listed["one"]["last_used"]
    file = own.state_dir("study") / "desktop" / "credentials.json"
    stored = json.loads(file.read_text())
    del stored["api_keys"]
    stored |= {"keys": {"one": keys[0], "two": keys[1], "curl": keys[2]}, "managing": ["two"]}
    file.write_text(json.dumps(stored))
    own.run_role("desktop", "study", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off")
    for key in keys:
        await wait_until(lambda key=key: own.is_accepted(key), "a converted key")
    copy = {"source": "llama3.2", "destination": "x"}
    assert [(await own.request("POST", "/api/copy", copy, key))[0] for key in keys[:2]] == [
        403,
        200,
    ]
    assert_unstored()

"""API keys that are created and revoked on the page: in the cloud, and on a desktop's loopback."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, read_response, wait_until
from tests.e2e.test_conversations import Owner, error_code
from tests.fake_ollama import Script

KEYS = "/ctllm/keys"
USE: dict[str, Any] = {"name": "laptop", "scopes": ["use"]}


class KeyOwner(Owner):
    """The same owner, who has API keys."""

    async def create(self, wanted: dict[str, Any]) -> tuple[int, Any]:  # type: ignore[override]
        status, _, body = await self.cluster.request("POST", KEYS, wanted, self.token)
        return status, json.loads(body)

    async def create_key(self, **more: Any) -> tuple[str, str]:
        """Create a key and return its id and the key."""
        status, body = await self.create(USE | more)
        assert status == 201, body
        return body["id"], body["key"]

    async def keys(self) -> dict[str, dict[str, Any]]:
        status, _, body = await self.cluster.request("GET", KEYS, token=self.token)
        assert status == 200, body
        return {each["name"]: each for each in json.loads(body)["keys"]}

    async def revoke(self, id: str) -> int:
        return (await self.cluster.request("DELETE", f"{KEYS}/{id}", token=self.token))[0]

    async def status_with(self, key: str) -> int:
        """Return the status of a request for a model with an API key."""
        return (await self.cluster.request("GET", "/api/tags", token=key))[0]

    async def wait_for_state(self, name: str, state: str) -> None:
        async def has_state() -> bool:
            return (await self.keys()).get(name, {}).get("state") == state

        await wait_until(has_state, f"the key {name} to be {state}")

    async def stored_keys(self) -> list[dict[str, Any]]:
        """Return the keys that `ctllm keys` lists on the desktop."""
        listed = await self.cluster.run_ctllm("desktop", "keys", "ls", "--json")
        return list(json.loads(listed))


@pytest_twisted.async_yield_fixture()
async def owner(cluster: Cluster) -> Any:
    yield KeyOwner(cluster)


@ensureDeferred
async def test_a_key_works_at_once_and_is_stored_by_the_desktop(owner: KeyOwner) -> None:
    """It works after a restart of both; nobody stores the key itself."""
    await owner.start()
    id, key = await owner.create_key(models=["llama*"], requests_per_minute=50, expires_in=3600)
    assert await owner.status_with(key) == 200
    await owner.wait_for_state("laptop", "confirmed")
    (stored,) = await owner.stored_keys()
    assert (stored["name"], stored["id"], stored["models"]) == ("laptop", id, ["llama*"])
    listed = (await owner.keys())["laptop"]
    assert listed["scopes"] == ["use"] and listed["requests_per_minute"] == 50
    assert abs(listed["expires_at"] - time.time() - 3600) < 60
    assert listed["last_used"] and listed["last_address"]
    secret = key.rpartition("-")[2].encode()
    for path in owner.cluster.directory.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes()
    await owner.restart_desktop()

    async def works() -> bool:
        return await owner.status_with(key) == 200

    await wait_until(works, "the key to work after a restart")
    audit = (owner.cluster.state_dir("cloud") / "cloud" / "audit.jsonl").read_text()
    assert '"event":"key.created"' in audit and id in audit and secret.decode() not in audit


@ensureDeferred
async def test_a_revoked_key_ends_its_responses_and_is_deleted(owner: KeyOwner) -> None:
    """The response in progress breaks off within seconds; the key is gone on the desktop, too."""
    await owner.start()
    id, key = await owner.create_key()
    await owner.wait_for_state("laptop", "confirmed")
    owner.ollama.script("/api/generate", Script(lines=500, line_interval=0.2))
    body = json.dumps({"model": "llama3.2", "prompt": "Count."}).encode()
    running = deferToThread(read_response, owner.cluster.cloud_port, "/api/generate", body, key)
    await owner.ollama.wait_for(lambda record: record.lines_sent > 2)
    assert await owner.revoke(id) == 204
    assert await owner.status_with(key) == 401
    response = await running  # of 100 seconds; the request itself would wait for 30 of them
    assert b'"done":true' not in response and b"revoked" in response

    async def is_deleted() -> bool:
        return not await owner.stored_keys()

    await wait_until(is_deleted, "the desktop to delete the key")
    assert await owner.keys() == {}
    assert await owner.revoke(id) == 404


@ensureDeferred
async def test_the_page_revokes_keys_of_the_desktop(owner: KeyOwner) -> None:
    """Those that `ctllm keys add` has created are listed with their names."""
    await owner.start()
    key = (await owner.cluster.run_ctllm("desktop", "keys", "add", "bot")).splitlines()[-1]
    await owner.wait_for_state("bot", "confirmed")
    assert await owner.revoke((await owner.keys())["bot"]["id"]) == 204
    assert await owner.status_with(key) == 401

    async def is_deleted() -> bool:
        return not await owner.stored_keys()

    await wait_until(is_deleted, "the desktop to delete the key")


@ensureDeferred
async def test_a_key_stays_revoked_though_its_desktop_was_away(owner: KeyOwner) -> None:
    """The cloud restarts before the desktop, which was killed, hears of the revocation."""
    await owner.start()
    id, key = await owner.create_key()
    await owner.wait_for_state("laptop", "confirmed")
    await owner.desktop.stop(signal.SIGKILL)
    assert await owner.revoke(id) == 204
    revocations = owner.cluster.state_dir("cloud") / "cloud" / "key-revocations"
    (file,) = revocations.iterdir()
    assert id in file.read_text() and key not in file.read_text()
    await owner.cloud.stop()
    owner.cloud = await owner.cluster.start_cloud()
    assert len(await owner.stored_keys()) == 1
    await owner.restart_desktop()

    async def is_deleted() -> bool:
        assert await owner.status_with(key) == 401
        return not await owner.stored_keys()

    await wait_until(is_deleted, "the desktop to delete the key")
    await wait_until(lambda: not list(revocations.iterdir()), "the cloud to forget the revocation")


@ensureDeferred
async def test_only_a_person_on_the_page_creates_keys(owner: KeyOwner) -> None:
    """API keys with all scopes and desktops do not; nor does the request that is not understood."""
    await owner.start()
    id, key = await owner.create_key(scopes=["use", "manage"])
    desktop = await owner.cluster.create_token("ann", "desktop")
    request = owner.cluster.request
    for token in (key, desktop):
        for method, path, body in (
            ("GET", KEYS, None), ("POST", KEYS, USE), ("DELETE", f"{KEYS}/{id}", None),
        ):  # fmt: skip
            assert (await request(method, path, body, token))[0] == 403
    assert (await request("GET", KEYS))[0] == 401
    stranger = await owner.cluster.create_token("bob")
    assert (await request("DELETE", f"{KEYS}/{id}", token=stranger))[0] == 404
    for wrong in (
        {}, {"name": "x"}, USE | {"name": "a\nb"}, USE | {"scopes": ["serve"]},
        USE | {"scopes": ["conversations"]}, USE | {"expires_in": 1}, USE | {"extra": 1},
        USE | {"models": ["[" * 300]}, USE | {"desktop": "x"},
    ):  # fmt: skip
        assert (await owner.create({**wrong}))[0] == 400
    assert (await owner.create(USE))[0] == 409  # the name is used
    assert (await owner.create(USE | {"name": "b", "desktop": "d" * 32}))[0] == 404


@ensureDeferred
async def test_an_owner_can_turn_it_off(owner: KeyOwner) -> None:
    """Keys are listed, and neither created nor revoked."""
    await owner.start("--remote-keys=off")
    await owner.cluster.run_ctllm("desktop", "keys", "add", "bot")
    await owner.wait_for_state("bot", "confirmed")
    assert (await owner.create(USE))[0] == 409
    desktop = (await owner.keys())["bot"]["desktop"]
    status, body = await owner.create(USE | {"desktop": desktop})
    assert status == 403 and "desktop.remote_keys" in body["error"]["message"]
    assert await owner.revoke((await owner.keys())["bot"]["id"]) == 403


@ensureDeferred
async def test_a_key_that_no_desktop_stores_is_gone(owner: KeyOwner) -> None:
    """The desktop hangs; the key works until its lease ends, and the page is told."""
    await owner.start()
    await owner.create_key(name="first")
    await owner.wait_for_state("first", "confirmed")
    owner.desktop.send_signal(signal.SIGSTOP)
    _, key = await owner.create_key(name="second")
    assert (await owner.keys())["second"]["state"] == "pending"
    owner.desktop.send_signal(signal.SIGKILL)
    assert (await owner.keys())["second"]["state"] == "pending"

    async def is_refused() -> bool:
        return await owner.status_with(key) == 401

    await wait_until(is_refused, "the key to end with its lease", timeout=120)


@ensureDeferred
async def test_loopback_creates_and_revokes_keys_of_its_desktop(owner: KeyOwner) -> None:
    """They work through the cloud as those that a command has created."""
    await owner.start()
    token = await owner.log_in_on_loopback()
    request, port = owner.cluster.request, owner.port
    assert (await request("GET", KEYS, port=port))[0] == 401
    status, _, body = await request("POST", KEYS, USE, token, port=port)
    created = json.loads(body)
    assert status == 201, body

    async def works() -> bool:
        return await owner.status_with(created["key"]) == 200

    await wait_until(works, "the key to work in the cloud")
    _, _, body = await request("GET", KEYS, token=token, port=port)
    (listed,) = json.loads(body)["keys"]
    assert (listed["id"], listed["name"], listed["state"]) == (
        created["id"], "laptop", "confirmed",
    )  # fmt: skip
    again = await request("POST", KEYS, USE, token, port=port)
    assert error_code(again) == (400, "bad_request")
    path = f"{KEYS}/{created['id']}"
    assert (await request("DELETE", path, token=token, port=port))[0] == 204
    assert (await request("DELETE", path, token=token, port=port))[0] == 404

    async def is_refused() -> bool:
        return await owner.status_with(created["key"]) == 401

    await wait_until(is_refused, "the key to be revoked in the cloud")

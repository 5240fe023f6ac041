"""Conversations on a desktop, through the cloud and on loopback. The cloud keeps nothing."""

from __future__ import annotations

import json
import re
import resource
import secrets
import signal
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.process_info import linux_only, open_files
from tests.ports import free_port

PATH = "/ctllm/desktop/conversations"
A, B = "a" * 32, "b" * 32
#: The sentence that must be found nowhere.
MARKED = "The heron of Bergedorf keeps seventeen marbles"
Answer = tuple[int, dict[str, str], bytes]


class Owner:
    """A user with a desktop that listens on loopback, too, and a browser's session."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.port = free_port()
        self.token = ""
        self.cloud: ChildProcess
        self.desktop: ChildProcess

    @property
    def directory(self) -> Path:
        return self.cluster.state_dir("desktop") / "conversations"

    async def start(self, *options: str) -> None:
        self.ollama, self.ollama_port = self.cluster.start_fake_ollama("llama3.2")
        self.cloud = await self.cluster.start_cloud()
        self.options = (f"--desktop-listen=127.0.0.1:{self.port}", *options)
        self.desktop = await self.cluster.start_desktop(
            "ann", self.ollama_port, *self.options, state="desktop"
        )
        self.token = await self.cluster.create_token("ann")

    async def restart_desktop(self) -> None:
        await self.desktop.stop()
        self.desktop = self.cluster.run_role(
            "desktop", "desktop", f"--ollama-host=127.0.0.1:{self.ollama_port}", *self.options
        )
        await wait_until(
            lambda: "Cloud connection: connected" in self.desktop.output, "the bridge to connect"
        )

    async def send(
        self, method: str, path: str = "", body: Any = None, token: str = "", **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.cluster.request(method, PATH + path, body, token or self.token, named)

    async def create(self, id: str, document: Any) -> int:
        status, headers, body = await self.send("PUT", f"/{id}", document, If_None_Match="*")
        assert status == 201, body
        revision = json.loads(body)["revision"]
        assert headers["etag"] == f'"{revision}"'
        return int(revision)

    async def replace(self, id: str, document: Any, revision: int) -> Answer:
        return await self.send("PUT", f"/{id}", document, If_Match=f'"{revision}"')

    async def read(self, id: str) -> Any:
        status, _, body = await self.send("GET", f"/{id}")
        assert status == 200, body
        return json.loads(body)

    async def list_ids(self, since: int = 0) -> list[tuple[str, bool]]:
        status, _, body = await self.send("GET", f"?since={since}")
        assert status == 200, body
        return [(each["id"], each["deleted"]) for each in json.loads(body)["conversations"]]

    async def log_in_on_loopback(self) -> str:
        link = await self.cluster.run_ctllm("desktop", "show", "--local")
        found = re.search(r"#invite=([A-Za-z0-9_-]{43})", link)
        assert found, link
        body = {"client": "browser", "invite": found[1]}
        status, _, response = await self.cluster.request(
            "POST", "/ctllm/session", body, port=self.port
        )
        assert status == 201, response
        return str(json.loads(response)["token"])


def error_code(answer: Answer) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]["code"]


@pytest_twisted.async_yield_fixture()
async def owner(cluster: Cluster) -> Any:
    yield Owner(cluster)


# -- through the cloud


@ensureDeferred
async def test_a_conversation_is_stored_changed_listed_and_deleted(owner: Owner) -> None:
    """And all of it is still so after the desktop was restarted."""
    await owner.start()
    first = await owner.create(A, {"title": "One"})
    await owner.create(B, {"title": "Two"})
    status, headers, body = await owner.replace(A, {"title": "Three"}, first)
    second = json.loads(body)["revision"]
    assert (status, headers["etag"]) == (200, f'"{second}"') and second > first
    await owner.restart_desktop()
    assert await owner.read(A) == {"title": "Three"}
    assert await owner.list_ids() == [(B, False), (A, False)]
    assert await owner.list_ids(since=second) == []
    assert (await owner.send("DELETE", f"/{A}"))[0] == 204
    assert (await owner.send("DELETE", f"/{A}"))[0] == 204
    assert error_code(await owner.send("GET", f"/{A}")) == (410, "gone")
    assert error_code(await owner.replace(A, {}, second)) == (410, "gone")
    assert await owner.list_ids(since=second) == [(A, True)]
    assert [path.name for path in owner.directory.glob("*.conversation*")] == [f"{B}.conversation"]


@ensureDeferred
async def test_of_two_devices_that_write_at_the_same_time_one_is_told(owner: Owner) -> None:
    """It reads what the other wrote, and writes both: nothing is lost."""
    await owner.start()
    first = await owner.create(A, {"messages": []})
    answers = await gatherResults(
        [
            Deferred.fromCoroutine(owner.replace(A, {"messages": [name]}, first))
            for name in ("phone", "laptop")
        ]
    )
    assert sorted(answer[0] for answer in answers) == [200, 412]
    refused = next(answer for answer in answers if answer[0] == 412)
    assert error_code(refused) == (412, "precondition_failed")
    present = int(refused[1]["etag"].strip('"'))
    (winner,) = (await owner.read(A))["messages"]
    both = {"messages": [winner, "laptop" if winner == "phone" else "phone"]}
    assert (await owner.replace(A, both, present))[0] == 200
    assert await owner.read(A) == both


@ensureDeferred
async def test_only_the_page_has_access(owner: Owner) -> None:
    """API keys, desktops and other users have none."""
    await owner.start()
    await owner.create(A, {})
    await owner.cluster.run_ctllm("desktop", "keys", "add", "program", "--scope", "manage")
    key = (await owner.cluster.run_ctllm("desktop", "keys", "add", "another")).splitlines()[-1]

    async def is_accepted() -> bool:
        return (await owner.cluster.request("GET", "/api/version", token=key))[0] == 200

    await wait_until(is_accepted, "the API key to work")
    assert (await owner.send("GET", f"/{A}", token=key))[0] == 403
    desktop = await owner.cluster.create_token("ann", "desktop")
    assert (await owner.send("GET", f"/{A}", token=desktop))[0] == 403
    stranger = await owner.cluster.create_token("bob")
    assert (await owner.send("GET", f"/{A}", token=stranger))[0] == 503  # has no desktop
    assert (await owner.cluster.request("GET", PATH))[0] == 401


@ensureDeferred
async def test_requests_that_are_not_understood_change_nothing(owner: Owner) -> None:
    """Each has an error that says why."""
    await owner.start()
    await owner.create(A, {"title": "One"})
    assert error_code(await owner.send("PUT", f"/{A}", {})) == (428, "precondition_required")
    assert (await owner.send("PUT", f"/{A}", {}, If_Match="*"))[0] == 400
    assert (await owner.send("PUT", f"/{A}", [1], If_Match='"1"'))[0] == 400
    assert (await owner.send("PUT", "/../secrets", {}, If_None_Match="*"))[0] in (400, 404)
    assert (await owner.send("GET", f"/{A}?x=1"))[0] == 404
    assert (await owner.send("GET", "?since=x"))[0] == 400
    assert (await owner.send("POST", f"/{A}", {}))[0] == 405
    assert await owner.read(A) == {"title": "One"}


@ensureDeferred
async def test_large_documents_pass_and_larger_ones_are_refused(owner: Owner) -> None:
    """20 MiB pass; 33 MiB do not."""
    await owner.start()
    large = {"image": secrets.token_hex(10 << 20)}
    await owner.create(A, large)
    assert await owner.read(A) == large
    answer = await owner.send("PUT", f"/{B}", {"image": "x" * (33 << 20)}, If_None_Match="*")
    assert error_code(answer) == (413, "too_large")
    assert await owner.list_ids() == [(A, False)]


@linux_only
@ensureDeferred
async def test_a_full_disk_leaves_the_old_document(owner: Owner) -> None:
    """The error says so, and writing goes on once there is space."""
    await owner.start()
    first = await owner.create(A, {"title": "One"})
    pid = owner.desktop.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    document = {"text": "x" * (2 << 20)}
    answer = await owner.replace(A, document, first)
    assert error_code(answer) == (507, "insufficient_storage")
    assert b"Free some space" in answer[2]
    assert await owner.read(A) == {"title": "One"}
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert (await owner.replace(A, document, first))[0] == 200
    assert sorted(path.name for path in owner.directory.iterdir()) == [
        f"{A}.conversation", "index", "key.json",
    ]  # fmt: skip


@ensureDeferred
async def test_a_damaged_file_concerns_one_conversation(owner: Owner) -> None:
    """It is reported, and left alone until a browser stores the conversation again."""
    await owner.start()
    await owner.create(A, {"title": "One"})
    await owner.create(B, {"title": "Two"})
    path = owner.directory / f"{A}.conversation"
    path.write_bytes(path.read_bytes()[:-1])
    assert error_code(await owner.send("GET", f"/{A}")) == (500, "conversation_damaged")
    assert await owner.read(B) == {"title": "Two"}
    assert await owner.list_ids() == [(B, False)]
    assert str(path) in owner.desktop.output
    await owner.create(A, {"title": "Again"})
    assert await owner.read(A) == {"title": "Again"}


@ensureDeferred
async def test_an_owner_can_turn_it_off(owner: Owner) -> None:
    """The message says where."""
    await owner.start("--conversations=off")
    answer = await owner.send("GET", "")
    assert error_code(answer) == (403, "forbidden")
    assert b"desktop.conversations" in answer[2]
    assert not owner.directory.exists()


# -- on loopback


@ensureDeferred
async def test_loopback_has_the_same_conversations(owner: Owner) -> None:
    """With the token of its session alone."""
    await owner.start()
    revision = await owner.create(A, {"title": "One"})
    token = await owner.log_in_on_loopback()
    request = owner.cluster.request
    assert (await request("GET", f"{PATH}/{A}", port=owner.port))[0] == 401
    status, headers, body = await request("GET", f"{PATH}/{A}", None, token, port=owner.port)
    assert (status, headers["etag"], json.loads(body)) == (200, f'"{revision}"', {"title": "One"})
    change = {"If-Match": headers["etag"]}
    status, _, _ = await request(
        "PUT", f"{PATH}/{A}", {"title": "Two"}, token, change, port=owner.port
    )
    assert status == 200
    assert await owner.read(A) == {"title": "Two"}


# -- two users of one desktop


async def log_in(owner: Owner, user: str) -> None:
    """Log the desktop in as `user`, and use that user's session."""
    invite = await owner.cluster.create_invite(user)
    await owner.cluster.run_ctllm("desktop", "login", "-", stdin=invite)
    owner.token = await owner.cluster.create_token(user)

    async def is_connected() -> bool:
        return (await owner.send("GET"))[0] == 200

    await wait_until(is_connected, f"the desktop to be that of {user}")


@ensureDeferred
async def test_two_users_in_turn_see_their_own_conversations(owner: Owner) -> None:
    """Those of an earlier version belong to the user who is logged in at the upgrade."""
    await owner.start()
    await owner.create(A, {"title": "Of Ann"})
    profiles = owner.cluster.state_dir("desktop") / "desktop" / "profiles.json"
    await owner.desktop.stop()
    profiles.unlink()  # which an earlier version does not write
    await owner.restart_desktop()
    assert await owner.read(A) == {"title": "Of Ann"}
    ann, ann_on_loopback = owner.token, await owner.log_in_on_loopback()
    generation = {
        "id": A, "path": "/api/chat",
        "request": {"model": "llama3.2", "messages": [{"role": "user", "content": MARKED}]},
    }  # fmt: skip
    path = "/ctllm/desktop/generations"
    assert (await owner.cluster.request("POST", path, generation, ann))[0] == 200

    await log_in(owner, "bob")
    assert await owner.list_ids() == []
    assert error_code(await owner.send("GET", f"/{A}")) == (404, "not_found")
    assert (await owner.cluster.request("GET", f"{path}/{A}", None, owner.token))[0] == 404
    assert (await owner.send("GET", token=ann))[0] == 503  # she has no desktop
    await owner.create(A, {"title": "Of Bob"})
    request = owner.cluster.request
    assert (await request("GET", PATH, None, ann_on_loopback, port=owner.port))[0] == 401
    bob_on_loopback = await owner.log_in_on_loopback()
    _, _, session = await request("GET", "/ctllm/session", None, bob_on_loopback, port=owner.port)
    assert json.loads(session)["user"]["id"].startswith("local-")
    _, _, body = await request("GET", f"{PATH}/{A}", None, bob_on_loopback, port=owner.port)
    assert json.loads(body) == {"title": "Of Bob"}

    await owner.cluster.run_ctllm("desktop", "logout")
    await log_in(owner, "ann")
    assert await owner.read(A) == {"title": "Of Ann"}
    await owner.restart_desktop()
    assert await owner.read(A) == {"title": "Of Ann"}
    invite = await owner.cluster.create_invite("bob")
    await owner.cluster.run_ctllm("desktop", "login", "-", stdin=invite)
    bob_on_loopback = await owner.log_in_on_loopback()  # at once: the link is already Bob's
    _, _, body = await request("GET", f"{PATH}/{A}", None, bob_on_loopback, port=owner.port)
    assert json.loads(body) == {"title": "Of Bob"}


# -- the marked sentence


def read_all(directory: Path) -> dict[Path, bytes]:
    """Return the content of all files in a folder."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def process_files(pid: int) -> dict[str, bytes]:
    """Return what the system shows of a process: environment, arguments, regular open files."""
    proc = Path("/proc") / str(pid)
    found = {name: (proc / name).read_bytes() for name in ("environ", "cmdline")}
    for descriptor, target in open_files(pid).items():
        with suppress(FileNotFoundError):  # the process has closed it meanwhile
            if descriptor.is_file() and not target.startswith("/dev/"):
                found[f"fd {target}"] = descriptor.read_bytes()
    return found


def descendants(pid: int) -> list[int]:
    """Return the ids of a process and of all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


@linux_only
@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
@ensureDeferred
async def test_a_marked_sentence_is_found_nowhere(owner: Owner, is_stopped: bool) -> None:
    """A whole conversation: question, streamed answer, storage, change, another device's read."""
    await owner.start()
    generation = {
        "id": secrets.token_hex(16), "conversation": A, "message": B, "path": "/api/chat",
        "request": {"model": "llama3.2", "messages": [{"role": "user", "content": MARKED}]},
    }  # fmt: skip
    status, _, answer = await owner.cluster.request(
        "POST", "/ctllm/desktop/generations", generation, owner.token
    )
    words = [json.loads(line)["message"]["content"] for line in answer.splitlines()]
    assert status == 200 and words, answer
    document = {"title": MARKED, "messages": [MARKED, "".join(words)]}
    revision = await owner.create(A, document)
    assert (await owner.replace(A, document, revision))[0] == 200
    assert await owner.read(A) == document
    broken = await owner.send("PUT", f"/{B}", MARKED, If_None_Match="*")
    assert broken[0] == 400 and MARKED.encode() not in broken[2]
    pids = descendants(owner.cloud.pid) + descendants(owner.desktop.pid)
    assert len(pids) >= 3  # the proxy, too
    found = {str(path): data for path, data in read_all(owner.cluster.directory).items()}
    for pid in pids:
        found |= {f"{pid} {name}": data for name, data in process_files(pid).items()}
    if is_stopped:
        await owner.desktop.stop()
        await owner.cloud.stop()
        found = {str(path): data for path, data in read_all(owner.cluster.directory).items()}
    found["cloud's log"] = owner.cloud.output.encode()
    found["desktop's log"] = owner.desktop.output.encode()
    assert any(name.endswith(f"{A}.conversation") for name in found)
    forms = {MARKED.encode(), MARKED.encode("utf-16-le"), json.dumps(MARKED)[1:-1].encode()}
    places = [name for name, data in found.items() if any(form in data for form in forms)]
    assert places == []
    assert not list(owner.cluster.directory.rglob("core*"))


# -- the cloud's memory

#: Runs twistd. At SIGUSR1 it prints how many of its objects refer to a text that it gets in
#: hexadecimal, and to another one, which is always in use.
TWISTD_WITH_SCAN = """
import gc, signal, sys
texts = [bytearray.fromhex(sys.argv.pop(1)) for _ in range(2)]
def has(value, text):
    if isinstance(value, memoryview):
        value = value.tobytes()
    elif isinstance(value, str):
        value = value.encode(errors="replace")
    return isinstance(value, (bytes, bytearray)) and value is not text and bytes(text) in value
def scan(*_):
    gc.unfreeze()  # the cloud's objects of its start
    gc.collect()
    found = [0, 0]
    for holder in gc.get_objects():
        if holder is not texts:
            for value in gc.get_referents(holder):
                for index, text in enumerate(texts):
                    found[index] += has(value, text)
    print("scanned:", *found, flush=True)
signal.signal(signal.SIGUSR1, scan)
from twisted.scripts.twistd import run
run()
"""


def start_scanned_cloud(owner: Owner) -> None:
    """Have `owner` start a cloud that looks through its objects for MARKED at SIGUSR1."""
    start = owner.cluster.start_process
    texts = (MARKED.encode().hex(), b"Ctllm-Scope".hex())

    def start_process(name: str, *arguments: str, **options: Any) -> ChildProcess:
        if name == "cloud":
            arguments = ("python", "-c", TWISTD_WITH_SCAN, *texts, *arguments[1:])
        return start(name, *arguments, **options)

    owner.cluster.start_process = start_process  # type: ignore[method-assign]


async def scan(cloud: ChildProcess) -> tuple[int, int]:
    """Return how many objects of the cloud refer to MARKED, and how many to the other text."""
    seen = len(cloud.output)
    cloud.send_signal(signal.SIGUSR1)
    pattern = re.compile(r"scanned: (\d+) (\d+)")
    found = await wait_until(lambda: pattern.search(cloud.output, seen), "the scan")
    return int(found[1]), int(found[2])


@linux_only
@ensureDeferred
async def test_the_cloud_refers_to_nothing_of_a_conversation_that_has_passed(owner: Owner) -> None:
    """Not even while the client's connection stays open."""
    start_scanned_cloud(owner)
    await owner.start()
    document = json.dumps({"title": MARKED}).encode()
    connection = HTTPConnection("127.0.0.1", owner.cluster.cloud_port, timeout=30)
    headers = {"Authorization": f"Bearer {owner.token}"}

    def exchange(method: str, body: bytes | None, more: dict[str, str]) -> tuple[int, bytes]:
        connection.request(method, f"{PATH}/{A}", body, {**headers, **more})
        response = connection.getresponse()
        return response.status, response.read()

    assert (await deferToThread(exchange, "PUT", document, {"If-None-Match": "*"}))[0] == 201
    assert await deferToThread(exchange, "GET", None, {}) == (200, document)
    marked, other = await scan(owner.cloud)
    assert marked == 0 and other > 0
    connection.close()

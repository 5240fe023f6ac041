"""The daemon as the tray and the commands find it: real processes, sockets and users."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from tests.e2e.cluster import BIN, ChildProcess, Cluster, read_response, wait_until
from tests.e2e.process_info import command_line, is_running, linux_only, resident_megabytes
from tests.ports import free_port

BROWSER = """#!/bin/sh
# A browser that notes what it was told, and what is in the file that it was told to open.
printf '%s\\n' "$@" >"{0}/arguments"
cat "${{1#file://}}" >"{0}/file"
"""


ensure = Deferred.fromCoroutine


class Desk:
    """Alice's desktop, and what it is asked."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._ollama: ChildProcess | None = None
        self.ollama_port = free_port()
        self.endpoint = free_port()
        self.browser = cluster.directory / "browser"
        self._program: ChildProcess | None = None

    @property
    def ollama(self) -> ChildProcess:
        assert self._ollama is not None
        return self._ollama

    @property
    def program(self) -> ChildProcess:
        assert self._program is not None
        return self._program

    @property
    def state(self) -> Path:
        return self.cluster.state_dir("alice")

    async def start_ollama(self) -> None:
        self._ollama = await self.cluster.run_fake_ollama(self.ollama_port, "llama3.2")

    async def script(self, path: str, **script: Any) -> None:
        await self.cluster.set_script(self.ollama_port, path, **script)

    async def start(self) -> None:
        if self._ollama is None or self.ollama.exited.called:
            await self.start_ollama()
        if self._program is not None and not self.program.exited.called:
            return
        self._program = self.cluster.start_process(
            "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop",
            f"--state-dir={self.state}", f"--ollama-host=127.0.0.1:{self.ollama_port}",
            f"--desktop-listen=127.0.0.1:{self.endpoint}",
            "--desktop-name=home",
            env={**self.cluster.environment(), "BROWSER": f"{self.browser} %s"},
        )  # fmt: skip
        await wait_until(lambda: "Cloud connection: connected" in self.program.output, "the bridge")

    async def quit(self, *arguments: str) -> tuple[int, str, str]:
        """End it by command; its process is gone when the command is over."""
        pid = self.program.pid
        done = await self.run("quit", *arguments)
        assert not is_running(pid), "the command did not wait for the end"
        await wait_until(lambda: self.program.exited.called, "the end to be heard of")
        return done

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """A command of ctllm: status, output, errors."""
        words = [str(BIN / "ctllm"), f"--state-dir={self.state}", *arguments]
        done = await deferToThread(
            subprocess.run, words, capture_output=True, text=True, env=self.cluster.environment()
        )
        return done.returncode, done.stdout, done.stderr

    async def status(self) -> dict[str, Any]:
        return json.loads((await self.run("status", "--json"))[1])


@pytest.fixture(scope="module")
def desk_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Cluster(tmp_path_factory.mktemp("desk"))

    async def start() -> Desk:
        await made.start_cloud()
        desk = Desk(made)
        desk.browser.write_text(BROWSER.format(made.directory))
        desk.browser.chmod(0o755)
        await made.run_ctllm("alice", "login", await made.create_invite("alice"))
        return desk

    yield pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest_twisted.async_yield_fixture()
async def desk(desk_of_module: Desk) -> Any:
    """The desktop, which runs; a test may end it."""
    await desk_of_module.start()
    yield desk_of_module


# -- commands


@ensureDeferred
async def test_status(desk: Desk) -> None:
    """For people and for programs."""

    async def told() -> bool:
        return bool((await desk.status())["desktops"])

    await wait_until(told, "the cloud's list of desktops")
    code, said, _ = await desk.run("status")
    assert code == 0
    for words in (
        "Connected", f"alice at {desk.cluster.url}",
        f"http://127.0.0.1:{desk.ollama_port} (version",
        "llama3.2:latest", f"http://127.0.0.1:{desk.endpoint}", "auto: this machine first",
        "home (this one)",
    ):  # fmt: skip
        assert words in said
    assert "\x1b" not in said, "colour where no terminal is"
    status = await desk.status()
    assert status["authentication_state"] == "authenticated"
    assert status["connection_status"] == "connected"
    assert (status["state"], status["preference"], status["side"]) == ("connected", "auto", "local")
    assert status["pid"] == desk.program.pid
    assert status["ollama"]["models"] == ["llama3.2:latest"]
    assert status["traffic"]["bridge_bytes_sent"] > 0
    secret = json.loads(desk.state.joinpath(*protocol.ADDRESS_FILE).read_text())["secret"]
    assert secret not in json.dumps(status) + "".join(command_line(desk.program.pid))


@ensureDeferred
async def test_who_reads_the_status_leaves(desk: Desk) -> None:
    """`ctllm status | head -c1` ends as it would have, and says nothing of it."""
    for words, code in (("status", "0"), ("status --json", "0"), ("logs", "0"), ("--help", "0")):
        line = f"{BIN}/ctllm --state-dir={desk.state} {words} | head -c1; echo ${{PIPESTATUS[0]}}"
        done = await deferToThread(
            subprocess.run, ["bash", "-c", line], capture_output=True, text=True, errors="replace",
            env=desk.cluster.environment(), timeout=60,
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.endswith(code + "\n")


@ensureDeferred
async def test_on_a_terminal(desk: Desk) -> None:
    """There are colours, unless somebody wants none; and --watch follows live."""
    import pty

    async def watch(env: dict[str, str]) -> str:
        # What runs in the background of a shell, as these tests may, has SIGINT ignored.
        master, slave = pty.openpty()
        words = [str(BIN / "ctllm"), f"--state-dir={desk.state}", "status", "--watch"]
        child = subprocess.Popen(
            words, stdout=slave, stdin=slave, env={**desk.cluster.environment(), **env},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(master, False)
        seen = ""

        def has(words: str) -> bool:
            nonlocal seen
            with suppress(OSError):  # nothing there yet, or its writer is gone
                seen += os.read(master, 65536).decode()
            return words in seen

        try:
            await wait_until(lambda: has("auto: this machine first"), "the first screen")
            await desk.cluster.run_ctllm("alice", "prefer", "never")
            await wait_until(lambda: has("never cloud"), "the change to be shown")
        finally:
            await desk.cluster.run_ctllm("alice", "prefer", "auto")
            child.send_signal(signal.SIGINT)
            code = await deferToThread(child.wait, 10)
            os.close(master)
        assert code == 0, "Ctrl-C is how this ends"
        return seen

    assert "\x1b[32m" in await watch({"TERM": "xterm"})
    assert "\x1b[32m" not in await watch({"TERM": "xterm", "NO_COLOR": "1"})


@ensureDeferred
async def test_codes(desk: Desk) -> None:
    """What scripts see: 0 well, 2 without Ollama, 3 not running, 4 signed out, 1 cannot."""
    assert (await desk.run("status"))[0] == 0
    assert (await desk.run("prefer", "mine"))[0] == 1
    code, said, wrong = await desk.run("hide")
    assert (code, said) == (1, "") and "no window" in wrong
    code, said, _ = await desk.quit("--json")
    assert (code, json.loads(said)) == (0, {"under_way": 0})
    for command in ("status", "show", "hide", "settings", "quit", "logs"):
        code, said, wrong = await desk.run(command)
        assert (code, said) == (3, "") and "twistd -n ctllm desktop" in wrong, command
    assert sorted(path.name for path in (desk.state / "desktop").iterdir()) == [
        "credentials.json", "credentials.lock", "lock", "preference.json",
    ]  # fmt: skip


@ensureDeferred
async def test_ollama_goes_and_comes(desk: Desk) -> None:
    """Who watches hears of it within five seconds, and of what is in memory."""
    daemon = await deferToThread(IpcClient, desk.state)
    first = await deferToThread(daemon.status, True)
    assert first.state == "connected"
    events = daemon.events()

    async def news(wanted: Any, what: str) -> None:
        def look() -> None:
            for event in events:
                if event.event == "status" and wanted(json.loads(bytes(event.data))):
                    return

        await deferToThread(look).addTimeout(5, reactor)

    await desk.ollama.stop(signal.SIGKILL)
    await news(lambda status: status["state"] == "degraded", "Ollama is gone")
    assert (await desk.run("status"))[0] == 2
    await desk.start_ollama()
    await news(lambda status: status["state"] == "connected", "Ollama is back")
    await desk.cluster.request(
        "POST", "/api/generate", {"model": "llama3.2", "prompt": ""}, port=desk.endpoint
    )
    await news(
        lambda status: status["ollama"]["loaded"] == ["llama3.2:latest"], "a model is loaded"
    )
    daemon.close()


@ensureDeferred
async def test_ollama_says_nonsense(desk: Desk) -> None:
    """Arrays in arrays without end make it down, and it is looked at again all the same."""

    async def state(wanted: str) -> None:
        async def there() -> bool:
            status = await desk.status()
            return bool(status["state"] == wanted)

        await wait_until(there, f"the state {wanted}")

    deep = '{"models": [], "x": ' + "[" * 50_000 + "]" * 50_000 + "}"
    await desk.script("/api/tags", error_before=(200, deep, {}))
    await state("degraded")
    await desk.ollama.stop(signal.SIGKILL)
    await state("degraded")
    await desk.start_ollama()
    await state("connected")
    assert "Traceback" not in desk.program.output


@ensureDeferred
async def test_show(desk: Desk) -> None:
    """The browser is led to the page, signed in once; no program's arguments show how."""
    for command, view in (("show", ""), ("settings", "&view=settings")):
        code, said, _ = await desk.run(command)
        assert (code, said) == (0, "Opened in your browser.\n")
        folder = desk.cluster.directory
        told = (folder / "arguments").read_text()
        assert told.startswith("file://") and "invite" not in told
        path = Path(told.strip().removeprefix("file://"))
        assert path.stat().st_mode & 0o777 == 0o600
        file = (folder / "file").read_text()
        (link,) = re.findall(r'<a href="([^"]*)"', file)
        found = re.fullmatch(
            rf"{re.escape(desk.cluster.url)}/#invite=([\w-]{{43}}){view.replace('&', '&amp;')}",
            link,
        )
        assert found, link
        body = {"invite": found[1], "client": "browser"}
        status, _, answer = await desk.cluster.request("POST", "/ctllm/session", body)
        assert (status, json.loads(answer)["user"]["name"]) == (201, "alice")
        assert (await desk.cluster.request("POST", "/ctllm/session", body))[0] == 401
    await desk.quit()
    assert not path.exists()


@ensureDeferred
async def test_no_browser(desk: Desk) -> None:
    """The address is printed."""
    desk.browser.rename(f"{desk.browser}.away")
    try:
        code, said, _ = await desk.run("show")
        assert code == 0
        assert re.search(
            rf"works once.*\n{re.escape(desk.cluster.url)}/#invite=[\w-]{{43}}\n", said
        )
        opened = json.loads((await desk.run("show", "--json"))[1])
        assert opened["opened"] is False and opened["address"].startswith(desk.cluster.url)
    finally:
        Path(f"{desk.browser}.away").rename(desk.browser)


@ensureDeferred
async def test_signing_out_and_in(desk: Desk) -> None:
    """By IPC, as the tray does it; the state follows."""

    def ask(kind: Any, **told: Any) -> Any:
        with IpcClient(desk.state) as daemon:
            return daemon.call(kind, **told)

    async def state(wanted: str) -> None:
        async def there() -> bool:
            return (await desk.status())["state"] == wanted

        await wait_until(there, wanted)

    assert (await deferToThread(ask, protocol.Logout))["cloud_url"] == desk.cluster.url
    await state("signed_out")
    code, said, _ = await desk.run("status")
    assert code == 4 and "Not logged in" in said
    code, _, wrong = await desk.run("show")
    assert code == 1 and "not logged in" in wrong
    with pytest.raises(CtllmError, match="invite link"):
        await deferToThread(ask, protocol.Login, link="https://example.org/")
    answer = await deferToThread(
        ask, protocol.Login, link=await desk.cluster.create_invite("alice")
    )
    assert answer["user"] == "alice"
    await state("connected")


@ensureDeferred
async def test_keys_made_at_once(desk: Desk) -> None:
    """By six processes: each that was printed is kept, and works at the cloud."""
    made = await gatherResults(
        [ensure(desk.run("keys", "add", f"at-once-{number}")) for number in range(6)]
    )
    assert [code for code, _, _ in made] == [0] * 6
    printed = {key.strip() for _, key, _ in made}
    kept = json.loads((desk.state / "desktop" / "credentials.json").read_text())["keys"]
    assert printed == {kept[f"at-once-{number}"] for number in range(6)}
    for key in printed:

        async def works(key: str = key) -> bool:
            status, _, _ = await desk.cluster.request("GET", "/api/tags", token=key)
            return status == 200

        await wait_until(works, "a key to work")
    await gatherResults(
        [ensure(desk.run("keys", "rm", f"at-once-{number}")) for number in range(6)]
    )
    assert "at-once" not in (await desk.run("keys"))[1]


@ensureDeferred
async def test_a_damaged_file(desk: Desk) -> None:
    """It is told and set aside; what needs no sign-in goes on, and signing in mends the rest."""
    path = desk.state / "desktop" / "credentials.json"
    whole = path.read_bytes()
    desktop = (await desk.status())["desktop_id"]
    with path.open("r+b") as file:
        file.truncate(len(whole) - 20)
    for _ in range(3):
        status, _, said = await desk.cluster.request("GET", "/api/tags", port=desk.endpoint)
        assert status == 200, said

    async def signed_out() -> bool:
        return bool((await desk.status())["state"] == "signed_out")

    await wait_until(signed_out, "the state")
    code, shown, _ = await desk.run("status")
    (aside,) = path.parent.glob("credentials.json.damaged-*")
    assert code == 4
    assert aside.name in shown and "ctllm login" in shown
    assert aside.read_bytes() == whole[:-20]
    assert desk.program.output.count("was damaged") <= 2  # once, and as the bridge's state
    await desk.cluster.run_ctllm("alice", "login", await desk.cluster.create_invite("alice"))

    async def connected() -> bool:
        status = await desk.status()
        return bool(status["state"] == "connected" and status["desktop_id"] == desktop)

    await wait_until(connected, "the bridge")
    assert "Traceback" not in desk.program.output
    (desk.state / "desktop" / "ipc.json").write_text("{")
    code, _, complaint = await desk.run("status")
    assert code == 1
    assert "ipc.json is damaged" in complaint
    await desk.program.stop()


@ensureDeferred
async def test_logs(desk: Desk) -> None:
    """The last lines, and what follows."""
    code, said, _ = await desk.run("logs", "-n", "1000")
    assert code == 0 and "Cloud connection: connected" in said
    assert len((await desk.run("logs", "-n", "2"))[1].splitlines()) == 2
    follow = desk.cluster.start_process(
        "logs", "ctllm", f"--state-dir={desk.state}", "logs", "--follow", "-n", "0"
    )
    quiet = await deferToThread(IpcClient, desk.state)

    async def following() -> bool:
        await deferToThread(quiet.call, protocol.Prefer, policy="auto")
        await desk.cluster.run_ctllm("alice", "login", await desk.cluster.create_invite("alice"))
        return "Cloud connection: " in follow.output

    await wait_until(following, "a line of the log")
    quiet.close()
    await follow.stop(signal.SIGINT)


# -- who may ask


@linux_only
@ensureDeferred
async def test_another_user(desk: Desk, tmp_path: Path) -> None:
    """Neither the file nor the socket is for him, and TCP wants what is in the file."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    where = json.loads(desk.state.joinpath(*protocol.ADDRESS_FILE).read_text())
    for path in (desk.state, *desk.state.parents):  # as if he could walk there
        if path == Path("/"):
            break
        path.chmod(path.stat().st_mode | 0o055)
    (desk.state / "desktop").chmod(0o755)
    Path(where["socket"]).chmod(0o666)
    script = f"""
import json, os, socket, sys
os.setgroups([]); os.setgid(60123); os.setuid(60123)
try:
    open({str(desk.state.joinpath(*protocol.ADDRESS_FILE))!r}).read(); print("read it")
except PermissionError:
    print("cannot read")
ask = b'{{"id":1,"command":"QUIT"}}\\n'
by_tcp = "127.0.0.1", {where["port"]}
for family, where in ((socket.AF_UNIX, {where["socket"]!r}), (socket.AF_INET, by_tcp)):
    s = socket.socket(family); s.settimeout(10); s.connect(where); s.sendall(ask); said = b""
    while data := s.recv(65536):
        said += data
    print(said.decode().splitlines()[-1])
"""
    done = await deferToThread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    refused, by_socket, by_tcp = done.stdout.splitlines()
    assert refused == "cannot read"
    assert json.loads(by_socket)["data"]["code"] == "forbidden"
    assert json.loads(by_tcp)["data"]["code"] == "unauthenticated"
    assert (await desk.status())["pid"] == desk.program.pid
    (desk.state / "desktop").chmod(0o700)


@ensureDeferred
async def test_by_tcp_too(desk: Desk) -> None:
    """Where there are no UNIX sockets; and what only listens on the same port is found out."""
    file = desk.state.joinpath(*protocol.ADDRESS_FILE)
    real = json.loads(file.read_text())
    elsewhere = desk.cluster.directory / "by-tcp"
    told = elsewhere.joinpath(*protocol.ADDRESS_FILE)
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps({**real, "socket": ""}))
    with await deferToThread(IpcClient, elsewhere) as daemon:
        assert (await deferToThread(daemon.status)).pid == desk.program.pid
    told.write_text(json.dumps({**real, "socket": "", "secret": "00" * 32}))
    with pytest.raises(CtllmError, match="secret"):
        await deferToThread(IpcClient, elsewhere)
    liar = socket.create_server(("127.0.0.1", 0))
    told.write_text(json.dumps({**real, "socket": "", "port": liar.getsockname()[1]}))

    def lie() -> bytes:
        visitor, _ = liar.accept()
        with visitor:
            hello = protocol.Hello(protocol.PROTOCOL_VERSION, "0", "ab" * 32)
            visitor.sendall(protocol.encode_event("hello", hello))
            visitor.recv(65536)
            visitor.sendall(protocol.encode_response(1, {"proof": "0" * 64}))
            return visitor.recv(65536)

    lying = deferToThread(lie)
    with pytest.raises(CtllmError, match="is not the desktop"):
        await deferToThread(IpcClient, elsewhere)
    assert await lying == b"", "the client said something to a stranger"
    liar.close()


@ensureDeferred
async def test_a_hundred_clients(desk: Desk) -> None:
    """They are all served at once, and a flood of one that reads nothing disturbs nobody."""
    where = json.loads(desk.state.joinpath(*protocol.ADDRESS_FILE).read_text())
    flood = socket.socket(socket.AF_UNIX)
    flood.setblocking(False)
    flood.connect(where["socket"])
    line = b'{"id":1,"command":"STATUS"}\n' * 1000

    def pour() -> bool:
        try:
            for _ in range(50):
                flood.send(line)
        except BlockingIOError:
            return True
        return False

    await wait_until(pour, "the flood to be stopped")

    def one() -> int:
        with IpcClient(desk.state) as daemon:
            return [daemon.status(subscribe=True) for _ in range(5)][-1].pid

    before = resident_megabytes(desk.program.pid)
    pids = await gatherResults([deferToThread(one) for _ in range(100)])
    assert set(pids) == {desk.program.pid}
    assert resident_megabytes(desk.program.pid) - before < 20
    flood.close()


# -- two of them, and none


@ensureDeferred
async def test_a_second_daemon(desk: Desk) -> None:
    """It refuses, and says where the first is; the first goes on."""
    second = desk.cluster.run_role(
        "desktop", "alice", "--desktop-listen=off", "--ollama-host=127.0.0.1:1"
    )
    await wait_until(lambda: second.exit_code is not None, "the second to end")
    assert second.exit_code == 1
    assert f"process {desk.program.pid}, IPC at 127.0.0.1:" in second.output
    assert "Traceback" not in second.output
    assert (await desk.run("status"))[0] == 0


@ensureDeferred
async def test_after_a_kill(desk: Desk) -> None:
    """What a killed daemon left is no daemon, and hinders none."""
    await desk.program.stop(signal.SIGKILL)
    await wait_until(lambda: desk.program.exited.called, "the end to be heard of")
    assert desk.state.joinpath(*protocol.ADDRESS_FILE).exists()
    with pytest.raises(NotRunning, match=r"process \d+ has ended"):
        await deferToThread(IpcClient, desk.state)
    assert (await desk.run("status"))[0] == 3
    await desk.start()
    assert (await desk.run("status"))[0] == 0


@ensureDeferred
async def test_quitting_waits_for_answers(desk: Desk) -> None:
    """One that becomes whole in time does; one that does not is told, in its dialect."""
    await desk.script("/api/chat", lines=20, line_interval=0.1)
    await desk.script("/api/generate", lines=2000, line_interval=0.1)

    async def ask(path: str) -> list[dict[str, Any]]:
        body = {"model": "llama3.2", "prompt": "go", "messages": [{"role": "user", "content": "x"}]}
        said = await deferToThread(read_response, desk.endpoint, path, json.dumps(body).encode())
        return [json.loads(line) for line in said.splitlines()]

    short, long = deferred(ask("/api/chat")), deferred(ask("/api/generate"))

    async def both() -> bool:
        return (await desk.status())["traffic"]["under_way"] == 2

    await wait_until(both, "both to be under way")
    code, said, _ = await desk.quit("--seconds", "4")
    assert code == 0 and "Waiting for 2 active responses" in said
    assert (await short)[-1]["done"] is True
    assert "The desktop was stopped" in (await long)[-1]["error"]


def deferred(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)

"""The desktop's IPC and the commands that use it, with real processes, sockets and users."""

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

from ctllm.desktop.credential_file import CredentialFile
from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from tests.e2e.cluster import BIN, ChildProcess, Cluster, read_response, wait_until
from tests.e2e.process_info import command_line, is_running, linux_only, resident_megabytes
from tests.ports import free_port

BROWSER = """#!/bin/sh
# A browser that records its arguments and the contents of the file that it should open.
printf '%s\\n' "$@" >"{0}/arguments"
cat "${{1#file://}}" >"{0}/file"
"""


class Desktop:
    """Alice's desktop daemon with its Ollama, and the commands for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._ollama: ChildProcess | None = None
        self.ollama_port = free_port()
        self.local_port = free_port()
        self.browser = cluster.directory / "browser"
        self._daemon: ChildProcess | None = None

    @property
    def ollama(self) -> ChildProcess:
        assert self._ollama is not None
        return self._ollama

    @property
    def daemon(self) -> ChildProcess:
        assert self._daemon is not None
        return self._daemon

    @property
    def state_dir(self) -> Path:
        return self.cluster.state_dir("alice")

    async def start_ollama(self) -> None:
        self._ollama = await self.cluster.run_fake_ollama(self.ollama_port, "llama3.2")

    async def script(self, path: str, **script: Any) -> None:
        await self.cluster.set_script(self.ollama_port, path, **script)

    async def start(self) -> None:
        if self._ollama is None or self.ollama.exited.called:
            await self.start_ollama()
        if self._daemon is not None and not self.daemon.exited.called:
            return
        self._daemon = self.cluster.start_process(
            "desktop", "twistd", "-n", "--pidfile=", "ctllm", "desktop",
            f"--state-dir={self.state_dir}", f"--ollama-host=127.0.0.1:{self.ollama_port}",
            f"--desktop-listen=127.0.0.1:{self.local_port}",
            "--desktop-name=home",
            env={**self.cluster.environment(), "BROWSER": f"{self.browser} %s"},
        )  # fmt: skip
        await wait_until(
            lambda: "Cloud connection: connected" in self.daemon.output, "the bridge to connect"
        )

    async def quit(self, *arguments: str) -> tuple[int, str, str]:
        """Stop the daemon with `ctllm quit`, which must not return before the process has ended."""
        pid = self.daemon.pid
        result = await self.run("quit", *arguments)
        assert not is_running(pid), "The command did not wait for the end of the process."
        await wait_until(lambda: self.daemon.exited.called, "the daemon to exit")
        return result

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of ctllm; return its exit code, standard output and standard error."""
        argv = [str(BIN / "ctllm"), f"--state-dir={self.state_dir}", *arguments]
        process = await deferToThread(
            subprocess.run, argv, capture_output=True, text=True, env=self.cluster.environment()
        )
        return process.returncode, process.stdout, process.stderr

    async def status(self) -> dict[str, Any]:
        return json.loads((await self.run("status", "--json"))[1])


@pytest.fixture(scope="module")
def module_desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    cluster = Cluster(tmp_path_factory.mktemp("desk"))

    async def start() -> Desktop:
        await cluster.start_cloud()
        desktop = Desktop(cluster)
        desktop.browser.write_text(BROWSER.format(cluster.directory))
        desktop.browser.chmod(0o755)
        await cluster.run_ctllm("alice", "login", await cluster.create_invite("alice"))
        return desktop

    yield pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@pytest_twisted.async_yield_fixture()
async def desktop(module_desktop: Desktop) -> Any:
    """Alice's running desktop; a test may stop it."""
    await module_desktop.start()
    yield module_desktop


# -- commands


@ensureDeferred
async def test_status_is_printed_as_text_and_as_json(desktop: Desktop) -> None:
    """Neither the status nor the arguments of the process contain the IPC secret."""

    async def has_desktops() -> bool:
        return bool((await desktop.status())["desktops"])

    await wait_until(has_desktops, "the cloud's list of desktops")
    code, output, _ = await desktop.run("status")
    assert code == 0
    for text in (
        "Connected", f"alice at {desktop.cluster.url}",
        f"http://127.0.0.1:{desktop.ollama_port} (version",
        "llama3.2:latest", f"http://127.0.0.1:{desktop.local_port}", "auto: this machine first",
        "home (this one)",
    ):  # fmt: skip
        assert text in output
    assert "\x1b" not in output, "The output has colours without a terminal."
    status = await desktop.status()
    assert status["authentication_state"] == "authenticated"
    assert status["connection_status"] == "connected"
    assert (status["state"], status["preference"], status["side"]) == ("connected", "auto", "local")
    assert status["pid"] == desktop.daemon.pid
    assert status["ollama"]["models"] == ["llama3.2:latest"]
    assert status["traffic"]["bridge_bytes_sent"] > 0
    secret = json.loads(desktop.state_dir.joinpath(*protocol.ADDRESS_FILE).read_text())["secret"]
    assert secret not in json.dumps(status) + "".join(command_line(desktop.daemon.pid))


@ensureDeferred
async def test_commands_ignore_a_closed_pipe(desktop: Desktop) -> None:
    """`ctllm status | head -c1` exits with code 0 and writes no error."""
    ctllm = f"{BIN}/ctllm --state-dir={desktop.state_dir}"
    for command, code in (("status", "0"), ("status --json", "0"), ("logs", "0"), ("--help", "0")):
        line = f"{ctllm} {command} | head -c1; echo ${{PIPESTATUS[0]}}"
        process = await deferToThread(
            subprocess.run, ["bash", "-c", line], capture_output=True, text=True, errors="replace",
            env=desktop.cluster.environment(), timeout=60,
        )  # fmt: skip
        assert process.stderr == ""
        assert process.stdout.endswith(code + "\n")


@ensureDeferred
async def test_watch_follows_changes_in_colour_unless_no_color_is_set(desktop: Desktop) -> None:
    """`ctllm status --watch` on a terminal; Ctrl-C ends it with code 0."""
    import pty

    async def watch(env: dict[str, str]) -> str:
        # A shell ignores SIGINT for its background jobs, which these tests may be.
        master, slave = pty.openpty()
        argv = [str(BIN / "ctllm"), f"--state-dir={desktop.state_dir}", "status", "--watch"]
        child = subprocess.Popen(
            argv, stdout=slave, stdin=slave, env={**desktop.cluster.environment(), **env},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(master, False)
        output = ""

        def shows(text: str) -> bool:
            nonlocal output
            with suppress(OSError):  # no data yet, or the process has closed the terminal
                output += os.read(master, 65536).decode()
            return text in output

        try:
            await wait_until(lambda: shows("auto: this machine first"), "the first status")
            await desktop.cluster.run_ctllm("alice", "prefer", "never")
            await wait_until(lambda: shows("never cloud"), "the new routing policy")
        finally:
            await desktop.cluster.run_ctllm("alice", "prefer", "auto")
            child.send_signal(signal.SIGINT)
            code = await deferToThread(child.wait, 10)
            os.close(master)
        assert code == 0, "Ctrl-C must end the command with code 0."
        return output

    assert "\x1b[32m" in await watch({"TERM": "xterm"})
    assert "\x1b[32m" not in await watch({"TERM": "xterm", "NO_COLOR": "1"})


@ensureDeferred
async def test_exit_codes(desktop: Desktop) -> None:
    """0 success, 1 refused, 3 not running; other tests check 2 (no Ollama) and 4 (logged out)."""
    assert (await desktop.run("status"))[0] == 0
    assert (await desktop.run("prefer", "mine"))[0] == 1
    code, output, errors = await desktop.run("hide")
    assert (code, output) == (1, "") and "no window" in errors
    code, output, _ = await desktop.quit("--json")
    assert (code, json.loads(output)) == (0, {"under_way": 0})
    for command in ("status", "show", "hide", "settings", "quit", "logs"):
        code, output, errors = await desktop.run(command)
        assert (code, output) == (3, "") and "twistd -n ctllm desktop" in errors, command
    assert sorted(path.name for path in (desktop.state_dir / "desktop").iterdir()) == [
        "credentials.json", "credentials.lock", "lock", "login.lock", "preference.json",
        "profiles.json", "secrets.json", "secrets.lock",
    ]  # fmt: skip


@ensureDeferred
async def test_subscribers_are_notified_of_changes_of_ollama(desktop: Desktop) -> None:
    """Within five seconds after Ollama stops, starts, or loads a model."""
    client = await deferToThread(IpcClient, desktop.state_dir)
    first = await deferToThread(client.status, True)
    assert first.state == "connected"
    events = client.events()

    async def wait_for_status(matches: Any, description: str) -> None:
        def read_events() -> None:
            for event in events:
                if event.event == "status" and matches(json.loads(bytes(event.data))):
                    return
            raise AssertionError(f"The events ended before: {description}")

        await deferToThread(read_events).addTimeout(5, reactor)

    await desktop.ollama.stop(signal.SIGKILL)
    await wait_for_status(lambda status: status["state"] == "degraded", "Ollama is down")
    assert (await desktop.run("status"))[0] == 2
    await desktop.start_ollama()
    await wait_for_status(lambda status: status["state"] == "connected", "Ollama is up")
    await desktop.cluster.request(
        "POST", "/api/generate", {"model": "llama3.2", "prompt": ""}, port=desktop.local_port
    )
    await wait_for_status(
        lambda status: status["ollama"]["loaded"] == ["llama3.2:latest"], "a model is loaded"
    )
    client.close()


@ensureDeferred
async def test_a_deeply_nested_response_marks_ollama_as_down(desktop: Desktop) -> None:
    """The desktop goes on with its checks, and notices when Ollama works again."""

    async def wait_for_state(expected: str) -> None:
        async def is_reached() -> bool:
            status = await desktop.status()
            return bool(status["state"] == expected)

        await wait_until(is_reached, f"the state {expected}")

    nested = '{"models": [], "x": ' + "[" * 50_000 + "]" * 50_000 + "}"
    await desktop.script("/api/tags", error_before=(200, nested, {}))
    await wait_for_state("degraded")
    await desktop.ollama.stop(signal.SIGKILL)
    await wait_for_state("degraded")
    await desktop.start_ollama()
    await wait_for_state("connected")
    assert "Traceback" not in desktop.daemon.output


@ensureDeferred
async def test_show_and_settings_open_the_page_with_a_one_time_login(desktop: Desktop) -> None:
    """The login code is in a private file, not in the browser's arguments."""
    for command, view in (("show", ""), ("settings", "&view=settings")):
        code, output, _ = await desktop.run(command)
        assert (code, output) == (0, "Opened in your browser.\n")
        folder = desktop.cluster.directory
        arguments = (folder / "arguments").read_text()
        assert arguments.startswith("file://") and "invite" not in arguments
        path = Path(arguments.strip().removeprefix("file://"))
        assert path.stat().st_mode & 0o777 == 0o600
        html = (folder / "file").read_text()
        (link,) = re.findall(r'<a href="([^"]*)"', html)
        match = re.fullmatch(
            rf"{re.escape(desktop.cluster.url)}/#invite=([\w-]{{43}}){view.replace('&', '&amp;')}",
            link,
        )
        assert match, link
        body = {"invite": match[1], "client": "browser"}
        status, _, response = await desktop.cluster.request("POST", "/ctllm/session", body)
        assert (status, json.loads(response)["user"]["name"]) == (201, "alice")
        assert (await desktop.cluster.request("POST", "/ctllm/session", body))[0] == 401
    await desktop.quit()
    assert not path.exists()


@ensureDeferred
async def test_show_prints_the_address_without_a_browser(desktop: Desktop) -> None:
    desktop.browser.rename(f"{desktop.browser}.away")
    try:
        code, output, _ = await desktop.run("show")
        assert code == 0
        assert re.search(
            rf"works once.*\n{re.escape(desktop.cluster.url)}/#invite=[\w-]{{43}}\n", output
        )
        opened = json.loads((await desktop.run("show", "--json"))[1])
        assert opened["opened"] is False and opened["address"].startswith(desktop.cluster.url)
    finally:
        Path(f"{desktop.browser}.away").rename(desktop.browser)


@ensureDeferred
async def test_log_out_and_in_by_ipc(desktop: Desktop) -> None:
    """While logged out, `status` exits with 4, and `show` opens the page of this machine."""

    def call(command: Any, **arguments: Any) -> Any:
        with IpcClient(desktop.state_dir) as client:
            return client.call(command, **arguments)

    async def wait_for_state(expected: str) -> None:
        async def is_reached() -> bool:
            return (await desktop.status())["state"] == expected

        await wait_until(is_reached, f"the state {expected}")

    assert (await deferToThread(call, protocol.Logout))["cloud_url"] == desktop.cluster.url
    await wait_for_state("signed_out")
    code, output, _ = await desktop.run("status")
    assert code == 4 and "Not logged in" in output
    code, output, errors = await desktop.run("show")
    assert code == 0 and output == "Opened in your browser. It is the page of this machine.\n"
    assert not errors
    with pytest.raises(CtllmError, match="invite link"):
        await deferToThread(call, protocol.Login, link="https://example.org/")
    response = await deferToThread(
        call, protocol.Login, link=await desktop.cluster.create_invite("alice")
    )
    assert response["user"] == "alice"
    await wait_for_state("connected")


@ensureDeferred
async def test_api_keys_added_concurrently_are_all_stored(desktop: Desktop) -> None:
    """Six processes add one key each; the cloud accepts every key that was printed."""
    results = await gatherResults(
        [
            Deferred.fromCoroutine(desktop.run("keys", "add", f"at-once-{number}"))
            for number in range(6)
        ]
    )
    assert [code for code, _, _ in results] == [0] * 6
    printed = {key.strip() for _, key, _ in results}
    stored = CredentialFile(desktop.state_dir).load()
    for number, (_, key, _) in enumerate(results):
        record = stored.find_key(f"at-once-{number}")
        assert record is not None and record.matches(key.strip())
    for key in printed:

        async def is_accepted(key: str = key) -> bool:
            status, _, _ = await desktop.cluster.request("GET", "/api/tags", token=key)
            return status == 200

        await wait_until(is_accepted, "the cloud to accept a key")
    await gatherResults(
        [
            Deferred.fromCoroutine(desktop.run("keys", "rm", f"at-once-{number}"))
            for number in range(6)
        ]
    )
    assert "at-once" not in (await desktop.run("keys"))[1]


@ensureDeferred
async def test_damaged_credentials_are_set_aside_and_login_replaces_them(desktop: Desktop) -> None:
    """Local requests continue meanwhile, and the desktop keeps its id."""
    path = desktop.state_dir / "desktop" / "credentials.json"
    contents = path.read_bytes()
    desktop_id = (await desktop.status())["desktop_id"]
    with path.open("r+b") as file:
        file.truncate(len(contents) - 20)
    for _ in range(3):
        status, _, body = await desktop.cluster.request("GET", "/api/tags", port=desktop.local_port)
        assert status == 200, body

    async def signed_out() -> bool:
        return bool((await desktop.status())["state"] == "signed_out")

    await wait_until(signed_out, "the state signed_out")
    code, output, _ = await desktop.run("status")
    (damaged,) = path.parent.glob("credentials.json.damaged-*")
    assert code == 4
    assert damaged.name in output and "ctllm login" in output
    assert damaged.read_bytes() == contents[:-20]
    # At most once in the log, and once in the state of the bridge.
    assert desktop.daemon.output.count("was damaged") <= 2
    await desktop.cluster.run_ctllm("alice", "login", await desktop.cluster.create_invite("alice"))

    async def connected() -> bool:
        status = await desktop.status()
        return bool(status["state"] == "connected" and status["desktop_id"] == desktop_id)

    await wait_until(connected, "the bridge to connect")
    assert "Traceback" not in desktop.daemon.output
    (desktop.state_dir / "desktop" / "ipc.json").write_text("{")
    code, _, errors = await desktop.run("status")
    assert code == 1
    assert "ipc.json is damaged" in errors
    await desktop.daemon.stop()


@ensureDeferred
async def test_logs_prints_the_last_lines_and_follows_new_ones(desktop: Desktop) -> None:
    code, output, _ = await desktop.run("logs", "-n", "1000")
    assert code == 0 and "Cloud connection: connected" in output
    assert len((await desktop.run("logs", "-n", "2"))[1].splitlines()) == 2
    follow = desktop.cluster.start_process(
        "logs", "ctllm", f"--state-dir={desktop.state_dir}", "logs", "--follow", "-n", "0"
    )
    client = await deferToThread(IpcClient, desktop.state_dir)

    async def follows() -> bool:
        await deferToThread(client.call, protocol.Prefer, policy="auto")
        await desktop.cluster.run_ctllm(
            "alice", "login", await desktop.cluster.create_invite("alice")
        )
        return "Cloud connection: " in follow.output

    await wait_until(follows, "a new line of the log")
    client.close()
    await follow.stop(signal.SIGINT)


# -- access control


@linux_only
@ensureDeferred
async def test_other_users_of_the_machine_are_refused(desktop: Desktop, tmp_path: Path) -> None:
    """They cannot read the address file; the UNIX socket checks the peer, TCP the secret."""
    if os.geteuid() != 0:
        pytest.skip("Only root can change to another user.")
    address = json.loads(desktop.state_dir.joinpath(*protocol.ADDRESS_FILE).read_text())
    # Let other users traverse the directories.
    for path in (desktop.state_dir, *desktop.state_dir.parents):
        if path == Path("/"):
            break
        path.chmod(path.stat().st_mode | 0o055)
    (desktop.state_dir / "desktop").chmod(0o755)
    Path(address["socket"]).chmod(0o666)
    script = f"""
import json, os, socket, sys
os.setgroups([]); os.setgid(60123); os.setuid(60123)
try:
    open({str(desktop.state_dir.joinpath(*protocol.ADDRESS_FILE))!r}).read(); print("read it")
except PermissionError:
    print("cannot read")
request = b'{{"id":1,"command":"QUIT"}}\\n'
by_tcp = "127.0.0.1", {address["port"]}
for family, peer in ((socket.AF_UNIX, {address["socket"]!r}), (socket.AF_INET, by_tcp)):
    s = socket.socket(family); s.settimeout(10); s.connect(peer)
    s.sendall(request); response = b""
    while data := s.recv(65536):
        response += data
    print(response.decode().splitlines()[-1])
"""
    process = await deferToThread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    by_file, by_socket, by_tcp = process.stdout.splitlines()
    assert by_file == "cannot read"
    assert json.loads(by_socket)["data"]["code"] == "forbidden"
    assert json.loads(by_tcp)["data"]["code"] == "unauthenticated"
    assert (await desktop.status())["pid"] == desktop.daemon.pid
    (desktop.state_dir / "desktop").chmod(0o700)


@ensureDeferred
async def test_ipc_over_tcp_authenticates_both_ends(desktop: Desktop) -> None:
    """The client refuses an impostor on the port before it sends a command."""
    file = desktop.state_dir.joinpath(*protocol.ADDRESS_FILE)
    address = json.loads(file.read_text())
    state_dir = desktop.cluster.directory / "by-tcp"
    copy = state_dir.joinpath(*protocol.ADDRESS_FILE)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps({**address, "socket": ""}))
    with await deferToThread(IpcClient, state_dir) as client:
        assert (await deferToThread(client.status)).pid == desktop.daemon.pid
    copy.write_text(json.dumps({**address, "socket": "", "secret": "00" * 32}))
    with pytest.raises(CtllmError, match="secret"):
        await deferToThread(IpcClient, state_dir)
    impostor = socket.create_server(("127.0.0.1", 0))
    copy.write_text(json.dumps({**address, "socket": "", "port": impostor.getsockname()[1]}))

    def serve_impostor() -> bytes:
        connection, _ = impostor.accept()
        with connection:
            hello = protocol.Hello(protocol.PROTOCOL_VERSION, "0", "ab" * 32)
            connection.sendall(protocol.encode_event("hello", hello))
            connection.recv(65536)
            connection.sendall(protocol.encode_response(1, {"proof": "0" * 64}))
            return connection.recv(65536)

    received = deferToThread(serve_impostor)
    with pytest.raises(CtllmError, match="is not the desktop"):
        await deferToThread(IpcClient, state_dir)
    assert await received == b"", "The client sent a command to an impostor."
    impostor.close()


@ensureDeferred
async def test_a_hundred_clients_are_served_beside_one_that_never_reads(desktop: Desktop) -> None:
    """The daemon stops reading from that client, and its memory stays bounded."""
    address = json.loads(desktop.state_dir.joinpath(*protocol.ADDRESS_FILE).read_text())
    flood = socket.socket(socket.AF_UNIX)
    flood.setblocking(False)
    flood.connect(address["socket"])
    requests = b'{"id":1,"command":"STATUS"}\n' * 1000

    def fill_socket() -> bool:
        try:
            for _ in range(50):
                flood.send(requests)
        except BlockingIOError:
            return True
        return False

    await wait_until(fill_socket, "the daemon to pause the flood")

    def read_pid() -> int:
        with IpcClient(desktop.state_dir) as client:
            return [client.status(subscribe=True) for _ in range(5)][-1].pid

    before = resident_megabytes(desktop.daemon.pid)
    pids = await gatherResults([deferToThread(read_pid) for _ in range(100)])
    assert set(pids) == {desktop.daemon.pid}
    assert resident_megabytes(desktop.daemon.pid) - before < 20
    flood.close()


# -- start and stop


@ensureDeferred
async def test_a_second_daemon_exits_with_the_address_of_the_first(desktop: Desktop) -> None:
    second = desktop.cluster.run_role(
        "desktop", "alice", "--desktop-listen=off", "--ollama-host=127.0.0.1:1"
    )
    await wait_until(lambda: second.exit_code is not None, "the second daemon to exit")
    assert second.exit_code == 1
    assert f"process {desktop.daemon.pid}, IPC at 127.0.0.1:" in second.output
    assert "Traceback" not in second.output
    assert (await desktop.run("status"))[0] == 0


@ensureDeferred
async def test_files_of_a_killed_daemon_are_detected_as_stale(desktop: Desktop) -> None:
    """Commands report that it is not running, and the next daemon starts."""
    await desktop.daemon.stop(signal.SIGKILL)
    await wait_until(lambda: desktop.daemon.exited.called, "the daemon to exit")
    assert desktop.state_dir.joinpath(*protocol.ADDRESS_FILE).exists()
    with pytest.raises(NotRunning, match=r"process \d+ has ended"):
        await deferToThread(IpcClient, desktop.state_dir)
    assert (await desktop.run("status"))[0] == 3
    await desktop.start()
    assert (await desktop.run("status"))[0] == 0


@ensureDeferred
async def test_quit_waits_for_active_responses_until_its_time_limit(desktop: Desktop) -> None:
    """A response that takes longer ends with an error in its dialect."""
    await desktop.script("/api/chat", lines=20, line_interval=0.1)
    await desktop.script("/api/generate", lines=2000, line_interval=0.1)

    async def send_request(path: str) -> list[dict[str, Any]]:
        body = {"model": "llama3.2", "prompt": "go", "messages": [{"role": "user", "content": "x"}]}
        response = await deferToThread(
            read_response, desktop.local_port, path, json.dumps(body).encode()
        )
        return [json.loads(line) for line in response.splitlines()]

    short = Deferred.fromCoroutine(send_request("/api/chat"))
    long = Deferred.fromCoroutine(send_request("/api/generate"))

    async def are_active() -> bool:
        return (await desktop.status())["traffic"]["under_way"] == 2

    await wait_until(are_active, "both responses to be active")
    code, output, _ = await desktop.quit("--seconds", "4")
    assert code == 0 and "Waiting for 2 active responses" in output
    assert (await short)[-1]["done"] is True
    assert "The desktop was stopped" in (await long)[-1]["error"]

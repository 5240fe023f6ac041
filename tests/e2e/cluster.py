"""A small world for end-to-end tests: real processes, on free ports, in folders of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.fake_ollama import FakeOllama
from tests.ports import free_port, listen, port_of

BIN = Path(sys.executable).parent
WAIT_TIMEOUT = 30.0


async def wait_until(condition: Any, description: str, timeout: float = WAIT_TIMEOUT) -> Any:
    """Wait for `condition()` to be true (it may be async); fails the test after `patience`."""
    deadline = reactor.seconds() + timeout
    while True:
        result = condition()
        if hasattr(result, "__await__"):
            result = await result
        if result:
            return result
        assert reactor.seconds() < deadline, f"waited {timeout} s in vain for {description}"
        await deferLater(reactor, 0.02)


class ChildProcess(ProcessProtocol):
    """A child process and what it printed."""

    def __init__(
        self, name: str, argv: list[str], env: dict[str, str], use_pty: bool = False
    ) -> None:
        self.name = name
        self.output = ""
        self.exited: Deferred[int] = Deferred()
        self.exit_code: int | None = None
        self.transport: Any = None
        reactor.spawnProcess(self, argv[0], argv, env=env, usePTY=use_pty)

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode(errors="replace")

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        self.exit_code = 0 if reason.check(ProcessDone) else reason.value.exitCode
        self.exited.callback(self.exit_code)

    @property
    def pid(self) -> int:
        return self.transport.pid

    def send_signal(self, signal_number: int) -> None:
        if self.exit_code is None and self.transport.pid is not None:
            os.kill(self.transport.pid, signal_number)

    async def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        self.send_signal(signal_number)
        await wait_until(lambda: self.transport.pid is None, f"{self.name} to end:\n{self.output}")


class Cluster:
    """Everything a test started; `close` ends it all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[ChildProcess] = []
        self.ports: list[Any] = []
        self.api_key = ""  # an API key of alice's
        self.alice_token = ""  # an access token of hers
        self.ollama: FakeOllama  # set by whoever starts it
        self.extra_environment: dict[str, str] = {}
        self.cloud_port = free_port()
        self.metrics_port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.cloud_port}"

    def state_dir(self, name: str) -> Path:
        return self.directory / name

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        fixed = {"CTLLM_CONFIG": "/dev/null", "PYTHONUNBUFFERED": "1"}
        return {**kept, **fixed, **self.extra_environment}

    # -- parts

    def start_fake_ollama(self, *models: str) -> tuple[FakeOllama, int]:
        """A stand-in for Ollama, served from the test itself, and its port."""
        fake_ollama = FakeOllama(reactor, models=models or ("llama3.2",), word_interval=0.0)
        port = listen(reactor, fake_ollama.site)
        self.ports.append(port)
        return fake_ollama, port_of(port)

    async def run_fake_ollama(self, port: int, *models: str) -> ChildProcess:
        """A stand-in that is a process of its own, and so may be frozen or killed."""
        words = [f"--model={model}" for model in models]
        module = ("python", "-m", "tests.fake_ollama", f"--port={port}", "--control")
        program = self.start_process("ollama", *module, *words)
        await wait_until(lambda: '"port"' in program.output, "Ollama")
        return program

    async def set_script(self, port: int, path: str, **script: Any) -> None:
        """What such a fake Ollama does at `path` from now on."""
        body = {"path": path, "script": script}
        status, _, said = await self.request("POST", "/fake/scripts", body, port=port)
        assert status == 204, said

    def start_process(
        self, name: str, *arguments: str, env: dict[str, str] | None = None
    ) -> ChildProcess:
        program = ChildProcess(
            name, [str(BIN / arguments[0]), *arguments[1:]], env or self.environment()
        )
        self.processes.append(program)
        return program

    def run_role(self, role: str, state: str, *options: str) -> ChildProcess:
        folder = str(self.state_dir(state))
        return self.start_process(
            role, "twistd", "-n", "--pidfile=", "ctllm", role, f"--state-dir={folder}", *options
        )

    async def start_cloud(self, *options: str) -> ChildProcess:
        """A cloud that answers."""
        program = self.run_role(
            "cloud",
            "cloud",
            f"--listen=127.0.0.1:{self.cloud_port}",
            f"--metrics-listen=127.0.0.1:{self.metrics_port}",
            *options,
        )
        await wait_until(lambda: self.is_cloud_healthy(program), f"the cloud:\n{program.output}")
        return program

    async def is_cloud_healthy(self, process: ChildProcess) -> bool:
        assert process.exit_code is None, process.output
        try:
            status, _, _ = await self.request("GET", "/health")
        except OSError:
            return False
        return status == 200

    async def start_desktop(
        self, user: str, ollama: int, *options: str, state: str = ""
    ) -> ChildProcess:
        """A desktop of `user` beside the Ollama at a port, signed in and connected."""
        state = state or user
        await self.run_ctllm(state, "login", "-", stdin=await self.create_invite(user))
        program = self.run_role(
            "desktop", state, f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off", *options
        )
        await wait_until(lambda: "bridge: connected" in program.output, "the bridge to connect")
        return program

    async def run_ctllm(self, state: str, *arguments: str, stdin: str = "") -> str:
        """Run `ctllm`; gives what it printed, fails the test if it failed."""
        return await self.run_ctllm_in(self.state_dir(state), *arguments, stdin=stdin)

    async def run_ctllm_in(self, state_dir: Path, *arguments: str, stdin: str = "") -> str:
        """Run `ctllm` with any folder as its state, and `given` on its standard input."""
        argv = [str(BIN / "ctllm"), f"--state-dir={state_dir}", *arguments]
        done = await deferToThread(
            subprocess.run,
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    async def create_invite(self, name: str) -> str:
        return await self.run_ctllm("cloud", "invite", name)

    async def create_token(self, name: str, client: str = "browser") -> str:
        """An access token of user `name`."""
        return (await self.log_in(await self.create_invite(name), client))["token"]

    async def log_in(self, link: str, client: str = "browser") -> dict[str, Any]:
        """Sign in with a link; what the cloud answers."""
        body = {"invite": link.partition("#invite=")[2], "client": client}
        status, _, answer = await self.request("POST", "/ctllm/session", body)
        assert status == 201, answer
        return json.loads(answer)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        port: int | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request by a plain HTTP client in a thread: status, headers (lower case), body."""
        return await deferToThread(
            blocking_request, port or self.cloud_port, method, path, body, token, headers or {}
        )

    async def wait_for_api_key(self) -> None:
        """Wait until the cloud has heard of the key."""

        async def works() -> bool:
            status, _, _ = await self.request("GET", "/api/version", token=self.api_key)
            return status == 200

        await wait_until(works, "the API key to work")

    async def list_desktops(self, token: str) -> list[dict[str, Any]]:
        _, _, body = await self.request("GET", "/ctllm/desktops", token=token)
        return json.loads(body)["desktops"]

    async def stop(self) -> None:
        for program in reversed(self.processes):
            await program.stop()
        for port in self.ports:
            await port.stopListening()


def blocking_request(
    port: int, method: str, path: str, body: Any, token: str | None, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        if token is not None:
            headers = {"Authorization": f"Bearer {token}", **headers}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def read_response(port: int, path: str, body: bytes, key: str = "") -> bytes:
    """The whole answer; of one that breaks off, what came."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection.request("POST", path, body, headers)
    try:
        return connection.getresponse().read()
    except http.client.IncompleteRead as error:
        return error.partial
    finally:
        connection.close()

"""A cluster for end-to-end tests: real processes on free ports, each with a state directory."""

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

from ctllm.cli.users import create_invite_link
from ctllm.config import Config
from tests.e2e.nginx import Nginx
from tests.fake_ollama import FakeOllama
from tests.ports import free_port, listen, port_of

BIN = Path(sys.executable).parent
#: Options of a cloud in which any number of credentials may be wrong.
ANY_FAILURES = ("--failed-logins-per-minute=0", "--failed-requests-per-minute=0")
WAIT_TIMEOUT = 30.0
#: What clients connect to: the cloud itself, or nginx, which sends requests to streaming proxies.
FRONT = os.environ.get("CTLLM_FRONT", "cloud")


async def wait_until(condition: Any, description: str, timeout: float = WAIT_TIMEOUT) -> Any:
    """Poll `condition`, which may be async; return its first true result.

    Raises AssertionError after `timeout` seconds.
    """
    deadline = reactor.seconds() + timeout
    while True:
        result = condition()
        if hasattr(result, "__await__"):
            result = await result
        if result:
            return result
        assert reactor.seconds() < deadline, (
            f"Timed out after {timeout} s waiting for {description}."
        )
        await deferLater(reactor, 0.02)


class ChildProcess(ProcessProtocol):
    """A child process and its output."""

    def __init__(
        self, name: str, argv: list[str], env: dict[str, str], use_pty: bool = False
    ) -> None:
        self.name = name
        self.output = ""
        self.exited: Deferred[int] = Deferred()
        self.exit_code: int | None = None
        self.wait_status: int | None = None  # of waitpid(2)
        self.transport: Any = None
        reactor.spawnProcess(self, argv[0], argv, env=env, usePTY=use_pty)

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode(errors="replace")

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        self.exit_code = 0 if reason.check(ProcessDone) else reason.value.exitCode
        self.wait_status = reason.value.status
        self.exited.callback(self.exit_code)

    @property
    def pid(self) -> int:
        return self.transport.pid

    def send_signal(self, signal_number: int) -> None:
        if self.exit_code is None and self.transport.pid is not None:
            os.kill(self.transport.pid, signal_number)

    async def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Send the signal and wait until the process has ended."""
        self.send_signal(signal_number)
        await wait_until(lambda: self.transport.pid is None, f"{self.name} to end:\n{self.output}")


class Cluster:
    """The processes and ports of one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[ChildProcess] = []
        self.ports: list[Any] = []
        self.api_key = ""  # an API key of user alice
        self.alice_token = ""  # an access token of user alice
        self.ollama: FakeOllama  # assigned by the test or fixture that starts it
        self.extra_environment: dict[str, str] = {}
        self.cloud_port = free_port()
        self.metrics_port = free_port()
        #: Where the cloud listens, and the command that runs it in another network namespace.
        self.cloud_host = "127.0.0.1"
        self.cloud_command: tuple[str, ...] = ()
        self.nginx: Nginx | None = None
        self.backend_port = self.cloud_port
        if FRONT == "nginx":
            self.use_nginx()

    def use_nginx(self) -> None:
        """Have clients connect to nginx."""
        self.nginx = Nginx(f"127.0.0.1:{self.backend_port}")
        self.cloud_port = self.nginx.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.cloud_port}"

    def state_dir(self, name: str) -> Path:
        return self.directory / name

    def environment(self) -> dict[str, str]:
        inherited = {
            name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ
        }
        fixed = {"CTLLM_CONFIG": "/dev/null", "PYTHONUNBUFFERED": "1"}
        return {**inherited, **fixed, **self.extra_environment}

    def start_fake_ollama(self, *models: str) -> tuple[FakeOllama, int]:
        """Serve a fake Ollama from the test's own process; return it and its port."""
        fake_ollama = FakeOllama(reactor, models=models or ("llama3.2",), word_interval=0.0)
        port = listen(reactor, fake_ollama.site)
        self.ports.append(port)
        return fake_ollama, port_of(port)

    async def run_fake_ollama(self, port: int, *models: str) -> ChildProcess:
        """Run a fake Ollama as a process that the test can stop or kill."""
        model_options = [f"--model={model}" for model in models]
        module = ("python", "-m", "tests.fake_ollama", f"--port={port}", "--control")
        process = self.start_process("ollama", *module, *model_options)
        await wait_until(lambda: '"port"' in process.output, "Ollama")
        return process

    async def set_script(self, port: int, path: str, **script: Any) -> None:
        """Set the script for `path` of a fake Ollama that runs as a process."""
        body = {"path": path, "script": script}
        status, _, response = await self.request("POST", "/fake/scripts", body, port=port)
        assert status == 204, response

    def start_process(
        self, name: str, *arguments: str, env: dict[str, str] | None = None
    ) -> ChildProcess:
        process = ChildProcess(
            name, [str(BIN / arguments[0]), *arguments[1:]], env or self.environment()
        )
        self.processes.append(process)
        return process

    def run_role(self, role: str, state: str, *options: str) -> ChildProcess:
        directory = str(self.state_dir(state))
        twistd = (*self.cloud_command, str(BIN / "twistd")) if role == "cloud" else ("twistd",)
        return self.start_process(
            role, *twistd, "-n", "--pidfile=", "ctllm", role, f"--state-dir={directory}", *options
        )

    async def start_cloud(self, *options: str) -> ChildProcess:
        """Start a cloud and wait until it is healthy."""
        process = self.run_role(
            "cloud",
            "cloud",
            f"--listen={self.cloud_host}:{self.backend_port}",
            f"--metrics-listen={self.cloud_host}:{self.metrics_port}",
            *self._front_options(),
            *options,
        )
        await wait_until(lambda: self.is_cloud_healthy(process), f"the cloud:\n{process.output}")
        if self.nginx is not None:
            self.nginx.start(self.state_dir("cloud"))
        return process

    def _front_options(self) -> tuple[str, ...]:
        if self.nginx is None:
            return () if self.cloud_host == "127.0.0.1" else (f"--public-url={self.url}",)
        listen = f"--auth-request-listen=unix:{self.nginx.authorizer}:mode=660"
        return (listen, f"--public-url={self.url}")

    async def is_cloud_healthy(self, process: ChildProcess) -> bool:
        assert process.exit_code is None, process.output
        try:
            status, _, _ = await self.request("GET", "/health", port=self.backend_port)
        except OSError:
            return False
        return status == 200

    async def start_desktop(
        self, user: str, ollama: int, *options: str, state: str = ""
    ) -> ChildProcess:
        """Start a desktop of `user` for the Ollama at port `ollama`: logged in and connected."""
        state = state or user
        invite = await self.run_ctllm("cloud", "invite", user)
        await self.run_ctllm(state, "login", "-", stdin=invite)
        process = self.run_role(
            "desktop", state, f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off", *options
        )
        await wait_until(
            lambda: "Cloud connection: connected" in process.output, "the bridge to connect"
        )
        return process

    async def run_ctllm(self, state: str, *arguments: str, stdin: str = "") -> str:
        """Run the `ctllm` command; return its output. Raises AssertionError if it fails."""
        return await self.run_ctllm_in(self.state_dir(state), *arguments, stdin=stdin)

    async def run_ctllm_in(self, state_dir: Path, *arguments: str, stdin: str = "") -> str:
        """Run `ctllm` with any state directory, and `stdin` as its standard input."""
        argv = [str(BIN / "ctllm"), f"--state-dir={state_dir}", *arguments]
        completed = await deferToThread(
            subprocess.run,
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout.strip()

    async def create_invite(self, name: str) -> str:
        """Do what `ctllm invite` does, without its process where the environment is the same."""
        if self.extra_environment:
            return await self.run_ctllm("cloud", "invite", name)
        config = Config(state_dir=str(self.state_dir("cloud")))
        return await deferToThread(create_invite_link, config, name)

    async def create_token(self, name: str, client: str = "browser") -> str:
        """Return an access token of user `name`."""
        return (await self.log_in(await self.create_invite(name), client))["token"]

    async def log_in(self, link: str, client: str = "browser") -> dict[str, Any]:
        """Log in with an invite link; return the session that the cloud creates."""
        body = {"invite": link.partition("#invite=")[2], "client": client}
        status, _, response = await self.request("POST", "/ctllm/session", body)
        assert status == 201, response
        return json.loads(response)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        port: int | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request from a thread; return status, headers (lower-case names) and body."""
        return await deferToThread(
            blocking_request, port or self.cloud_port, method, path, body, token, headers or {}
        )

    async def wait_for_api_key(self) -> None:
        """Wait until the cloud accepts the API key."""

        async def is_accepted() -> bool:
            status, _, _ = await self.request("GET", "/api/version", token=self.api_key)
            return status == 200

        await wait_until(is_accepted, "the API key to work")

    async def list_desktops(self, token: str) -> list[dict[str, Any]]:
        _, _, body = await self.request("GET", "/ctllm/desktops", token=token)
        return json.loads(body)["desktops"]

    async def stop(self) -> None:
        for process in reversed(self.processes):
            await process.stop()
        if self.nginx is not None:
            self.nginx.stop()
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
        response = connection.getresponse()
        response_headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response_headers, response.read()
    finally:
        connection.close()


def read_response(port: int, path: str, body: bytes, key: str = "") -> bytes:
    """Return a response's body; of an incomplete one, the part that was received."""
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

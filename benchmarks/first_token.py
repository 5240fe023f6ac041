"""The time from a fresh checkout to the first token: a whole server in containers, and a desktop.

`python -m benchmarks.first_token` from the root of the repository, as root, with Docker Engine,
docker-compose and pebble installed; pip downloads packages. It starts an engine of its own.
`--write` stores the results in README.md.

The base images are made from Debian's packages beforehand, where a server would pull them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import report
from benchmarks.command_line import exit_on_signals, print_progress, require_root
from benchmarks.paths import start_model_server
from benchmarks.processes import Program, Unavailable
from tests.e2e.cluster import BIN
from tests.e2e.compose_server import PACKAGES, SERVER_BASE, SERVICES, ComposeServer
from tests.e2e.dockerd import BASE, DOCKER, ROOT, Dockerd, dockerd

#: Seconds within which each step that waits must be done.
TIMEOUT = 300.0
#: Of a self-signed certificate there is no other way to tell than who issued it.
AUTHORITY = "Pebble"


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, in seconds of the clock and of processors."""

    name: str
    seconds: float
    cpu_seconds: float


class CpuMeter:
    """The processor time of this process, of all that it starts, and of an engine's containers.

    All are in one control group (cgroups(7), either version). What has ended remains counted.
    """

    NAME = "ctllm-first-token"

    def __init__(self) -> None:
        root = Path("/sys/fs/cgroup")
        accounting = root / "cpuacct"
        self._group = (accounting if accounting.is_dir() else root) / self.NAME
        # Those of version 2 have processes only where they have no child.
        own = self._group / "programs"
        try:
            own.mkdir(parents=True, exist_ok=True)
            (own / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise Unavailable(f"no control group: {error}") from error
        self.engine_option = f"--cgroup-parent=/{self.NAME}/containers"

    def read(self) -> float:
        """Return the processor time so far, in seconds."""
        nanoseconds = self._group / "cpuacct.usage"
        if nanoseconds.exists():
            return int(nanoseconds.read_text()) / 1e9
        words = (self._group / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6


@dataclass
class Stopwatch:
    """The steps so far."""

    meter: CpuMeter
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure the block as a step."""
        print_progress(name)
        began, cpu = time.monotonic(), self.meter.read()
        yield
        self.steps.append(Step(name, time.monotonic() - began, self.meter.read() - cpu))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, which may raise OSError meanwhile; exit after `TIMEOUT`."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("A step took too long")


def run(argv: Sequence[str], folder: Path, engine: Dockerd) -> None:
    """Run a command of the sysadmin; exit with its output if it fails."""
    environ = {**os.environ, "DOCKER": DOCKER, "DOCKER_HOST": engine.address}
    done = subprocess.run(
        argv, cwd=folder, env=environ, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(argv)}:\n{done.stdout}")


class Desktop:
    """Alice's desktop, whose Ollama has the model `m`."""

    def __init__(self, server: ComposeServer, folder: Path, ollama_port: int) -> None:
        self._server, self._ollama_port = server, ollama_port
        self._folder = folder
        self._state = f"--state-dir={folder / 'state'}"
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environ = {**inherited, "CTLLM_CONFIG": "/dev/null", "PYTHONUNBUFFERED": "1",
                         "SSL_CERT_FILE": str(server.root)}  # fmt: skip

    def ctllm(self, *words: str, stdin: str = "") -> str:
        """Run `ctllm` on this desktop; return its output."""
        argv = self._server.with_names(str(BIN / "ctllm"), self._state, *words)
        done = subprocess.run(argv, input=stdin, env=self._environ, check=False,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            sys.exit(f"ctllm {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def connect(self, stack: ExitStack) -> None:
        """Start it, and return when it is connected."""
        options = (f"--ollama-host=127.0.0.1:{self._ollama_port}", "--desktop-listen=off")
        command = ("-n", "--pidfile=", "ctllm", "desktop", self._state, *options)
        argv = self._server.with_names(str(BIN / "twistd"), *command)
        log = self._folder / "desktop.log"
        program = Program(stack, log, argv, environment=self._environ)
        program.wait_until(lambda: "Cloud connection: connected" in program.output, TIMEOUT)


def prepare(engine: Dockerd) -> None:
    """Make the base images."""
    for name, packages in ((BASE, ()), (SERVER_BASE, PACKAGES)):  # type: str, Sequence[str]
        run(["tests/base-image", name, *packages], ROOT, engine)


def build(engine: Dockerd, folder: Path, watch: Stopwatch) -> None:
    """Clone this repository, and build the images in the clone."""
    with watch.measure("`git clone`"):
        run(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT, engine)
    with watch.measure("`make server`: ctllm and Sphinx into `.venv`"):
        run(["make", "--silent", ".venv/.docs"], folder, engine)
    with watch.measure("`make server`: site and images"):
        run(["make", "--silent", "server", f"BASE_IMAGES={BASE} {SERVER_BASE} {SERVER_BASE}"],
            folder, engine)  # fmt: skip


def start_authority(server: ComposeServer) -> None:
    """Start pebble, which a server finds running."""
    server.compose("up", "-d", "--no-deps", "pebble")

    def is_running() -> bool:
        server.fetch_root()
        return True

    wait_until(is_running)


def has_certificate(server: ComposeServer) -> bool:
    """Return whether nginx has the authority's certificate."""
    return AUTHORITY in server.certificate().issuer.rfc4514_string()


def read_token(server: ComposeServer, authorization: str) -> None:
    """Send a request; return when the first line of the response has arrived."""
    connection = server.connect()
    body = json.dumps({"model": "m", "prompt": "Hi"})
    connection.request("POST", "/api/generate", body, {"Authorization": authorization})
    response = connection.getresponse()
    line = response.readline()
    connection.close()
    if response.status != 200 or not json.loads(line)["response"]:
        sys.exit(f"status {response.status}: {line.decode()}")


def measure(folder: Path, meter: CpuMeter) -> list[Step]:
    """Measure all steps."""
    watch = Stopwatch(meter)
    with dockerd(meter.engine_option) as engine, ExitStack() as stack:
        print_progress("Base images")
        prepare(engine)
        _, ollama_port = start_model_server(stack, folder)
        build(engine, folder / "ctllm", watch)
        server_folder = folder / "server"
        server_folder.mkdir()
        with watch.measure("`ctllm server init`"):
            server = ComposeServer(engine, server_folder, f"127.66.{os.getpid() % 250}.2")
        stack.callback(server.remove)
        start_authority(server)
        with watch.measure("`docker-compose up -d`"):
            server.compose("up", "-d", *SERVICES)
        with watch.measure("the certificate"):
            wait_until(lambda: has_certificate(server))
        desktop = Desktop(server, folder, ollama_port)
        with watch.measure("`ctllm invite`, and `ctllm login` on the desktop"):
            desktop.ctllm("login", "-", stdin=server.invite("alice"))
        with watch.measure("the desktop connects, and makes an API key"):
            desktop.connect(stack)
            key = desktop.ctllm("keys", "add", "bench")
            authorization = f"Bearer {key}"
            wait_until(
                lambda: server.request("/api/tags", Authorization=authorization).status == 200
            )
        with watch.measure("the first token of a request"):
            read_token(server, authorization)
    return watch.steps


def text(steps: Sequence[Step]) -> str:
    """Return the results as Markdown."""
    total = Step("**all**", sum(each.seconds for each in steps),
                 sum(each.cpu_seconds for each in steps))  # fmt: skip
    rows = [["step", "seconds", "processor seconds"]]
    rows += [[each.name, f"{each.seconds:.1f}", f"{each.cpu_seconds:.1f}"]
             for each in (*steps, total)]  # fmt: skip
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"{report.hardware()}; load at the end {load}.\n\n{report.table(rows)}"


def main() -> None:
    """Measure, print the results, and store them with --write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_token", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the results in README.md")
    arguments = parser.parse_args()
    require_root()
    exit_on_signals()
    # The path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        Path(temporary).chmod(0o711)
        results = text(measure(Path(temporary), CpuMeter()))
    print(results)
    if arguments.write:
        report.write(results, "first-token")


if __name__ == "__main__":
    main()

"""A whole server with many users: Docker Engine, cloud, nginx, desktops and clients.

It runs as root in a network namespace of its own. The users are user0, user1 and so on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accounts import Accounts, start_proxy
from benchmarks.command_line import exit_on_signals, print_progress, require_root
from benchmarks.inventory import entries, remove_control_groups, take_inventory
from benchmarks.line_checker import words
from benchmarks.measuring import set_script
from benchmarks.network_namespace import enter_network_namespace
from benchmarks.paths import (
    BIN,
    docker_options,
    start_cloud,
    start_desktops,
    start_model_server,
    write_docker_config,
)
from benchmarks.processes import ControlledProgram, Program, Unavailable, all_pids, descendants
from benchmarks.resources import Pids, engine_pids, has_argument, meminfo
from tests.e2e.dockerd import BASE, IMAGE, Dockerd, dockerd, mounts_below
from tests.e2e.nginx import Nginx
from tests.ports import free_port

#: The processes among which the desktops are divided, at most.
MAX_DESKTOP_PROCESSES = 6
#: Starts at once, as the cloud has it; so no start waits for another.
CONCURRENT_STARTS = 2
#: Lines a second of each stream, as of a model on a busy machine.
LINES_PER_SECOND = 2
#: How many users start before memory is looked at; and the MB that must be available then, for
#: desktops, streams, and whoever else uses the machine.
USERS_PER_STEP, MIN_AVAILABLE = 20, 1200
#: Seconds within which something that is waited for must have made progress.
PROGRESS_TIMEOUT = 180.0


@dataclass(frozen=True)
class ClusterOptions:
    """The size of a cluster.

    `image` is a file in which `docker save` stored the images of the streaming proxy and its base;
    they are built if it is None. `cloud` are further options of `twistd ctllm cloud`.
    """

    users: int
    network: str
    image: Path | None = None
    token_seconds: int = 3600
    cloud: tuple[str, ...] = ()

    @property
    def desktop_processes(self) -> int:
        """The number of processes for all desktops."""
        return min(MAX_DESKTOP_PROCESSES, max(3, self.users // 5))


@dataclass
class Response:
    """What a client reports of one response; times are epoch seconds.

    `was_cut` is true if the client itself has reset the connection.
    """

    user: str
    began: float
    ended: float
    status: int
    reason: str
    was_cut: bool
    is_complete: bool
    received: int
    missing: int
    repeated: int
    damaged: int


@dataclass(frozen=True)
class DesktopStatus:
    """What a process of desktops reports: see `many_desktops`."""

    ready: int = 0
    timers: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    stopped: Sequence[str] = ()


@dataclass
class Observations:
    """What clients and desktops have reported."""

    responses: list[Response] = field(default_factory=list)
    probes: dict[str, float] = field(default_factory=dict)
    receiving: int = 0
    is_finished: bool = False
    desktops: dict[int, DesktopStatus] = field(default_factory=dict)  # by process

    @property
    def ready_desktops(self) -> int:
        """The number of desktops that are connected and whose model server responds."""
        return sum(each.ready for each in self.desktops.values())

    @property
    def timers(self) -> int:
        """The number of timers of all processes of desktops."""
        return sum(each.timers for each in self.desktops.values())

    @property
    def desktop_problems(self) -> str:
        """Why desktops are not ready, each with the number of them."""
        reasons: Counter[str] = Counter()
        for each in self.desktops.values():
            reasons.update(each.reasons)
        return "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())

    def add_client_event(self, event: dict[str, Any]) -> None:
        """Take one event of the clients."""
        match event.pop("event"):
            case "response":
                self.responses.append(Response(**event))
            case "probed":
                self.probes[event["user"]] = event["seconds"]
            case "status":
                self.receiving = event["receiving"]
            case "finished":
                self.is_finished = True


class UserCluster:
    """The programs of a server and of its users."""

    def __init__(self, stack: ExitStack, folder: Path, options: ClusterOptions) -> None:
        self._stack, self.folder, self.options = stack, folder, options
        self.state = folder / "cloud"
        self.users = [f"user{number}" for number in range(options.users)]
        self.cgroup_parent = f"/ctllm-benchmark-{os.getpid()}"
        self.observed = Observations()
        self.limit = ""  # why there are fewer users than were to be
        self._backend = free_port()
        self.engine = self._start_engine()
        self.ollama, self.ollama_port = start_model_server(stack, folder)
        self.nginx = Nginx(f"127.0.0.1:{self._backend}")
        stack.callback(self.nginx.stop)
        if options.network == "bridge":
            self._start_firewall()
        self.start_cloud()
        self.nginx.start(self.state)
        self._accounts = Accounts(self.state, options.token_seconds)
        self.desktops: dict[int, ControlledProgram] = {}
        self._logged_in: set[str] = set()  # users whose desktop has its credentials
        self._with_desktop: set[str] = set()  # users whose desktop is to run
        self.stopping: set[str] = set()  # users whose desktop was told to stop, and may run still
        self.clients = ControlledProgram(
            stack, folder / "clients.log",
            [sys.executable, "-m", "benchmarks.user_clients", f"127.0.0.1:{self.nginx.port}"],
        )  # fmt: skip

    # -- the server

    def _start_engine(self) -> Dockerd:
        image = self.options.image or build_image(self.folder / "image.tar")
        enter_network_namespace()
        engine = self._stack.enter_context(checked_dockerd(self.cgroup_parent))
        engine.docker("load", "-i", str(image))
        self.dockerd_pid = int((engine.folder / "pid").read_text())
        return engine

    @property
    def _firewall_socket(self) -> str:
        return f"{self.folder}/firewall/socket" if self.options.network == "bridge" else ""

    def _start_firewall(self) -> None:
        """Start `ctllm firewall --watch`, which the cloud asks before each start."""
        config = self.folder / "firewall.toml"
        write_docker_config(config, self.engine.address, self._firewall_socket)
        argv = [str(BIN / "ctllm"), f"--config={config}", "firewall", "--watch"]
        watcher = Program(self._stack, self.folder / "firewall.log", argv)
        watcher.wait_until(Path(self._firewall_socket).exists)

    def start_cloud(self) -> None:
        """Start the cloud; again after a kill."""
        options = [
            *docker_options(self.engine.address, self.options.users, self._firewall_socket),
            f"--docker-network={self.options.network}",
            f"--access-token-ttl-seconds={self.options.token_seconds}",
            "--requests-per-minute=0", *self.options.cloud,
        ]  # fmt: skip
        self.cloud = start_cloud(self._stack, self.folder, self._backend, self.nginx, options)

    def kill_cloud(self) -> None:
        """Kill the cloud."""
        self.cloud.kill()

    def set_response(self, lines: int) -> None:
        """Have the model server respond with so many numbered lines from now on."""
        set_script(
            self.ollama_port,
            {"lines": words(lines), "line_interval": 1 / LINES_PER_SECOND},
        )

    # -- users

    def start_proxies(self) -> list[float]:
        """Start the proxies of all users, two at a time; returns the seconds of each.

        If one cannot be started, or memory runs out, `limit` is the reason, and further users are
        left out.
        """
        seconds: list[float] = []
        with ThreadPoolExecutor(CONCURRENT_STARTS) as pool:
            while len(seconds) < len(self.users) and not self.limit:
                those = self.users[len(seconds) : len(seconds) + USERS_PER_STEP]
                try:
                    seconds += pool.map(self._start_proxy, those)
                    self.limit = memory_limit()
                except Unavailable as error:
                    self.limit = str(error)
                print_progress(f"{len(seconds)} proxies run", is_update=not self.limit)
        self.users = self.users[: len(seconds)]
        return seconds

    def _start_proxy(self, user: str) -> float:
        return start_proxy(self._backend, self._accounts.authorization(user))

    def desktop_process(self, user: str) -> int:
        """The number of the process with the user's desktop."""
        return int(user.removeprefix("user")) % self.options.desktop_processes

    def start_desktops(self, users: Sequence[str]) -> None:
        """Start the desktops of users, which log in the first time."""
        invites: dict[int, dict[str, str]] = {}
        for user in users:
            invite = "" if user in self._logged_in else self._accounts.invite(user)
            invites.setdefault(self.desktop_process(user), {})[user] = invite
        self._logged_in.update(users)
        self._with_desktop.update(users)
        for number, those in invites.items():
            if number not in self.desktops:
                url = f"http://127.0.0.1:{self.nginx.port}"
                self.desktops[number] = start_desktops(
                    self._stack, self.folder, f"desktops{number}", self.ollama_port, url
                )
            self.desktops[number].send("start", invites=those)

    def command_desktops(self, do: str, users: Sequence[str]) -> None:
        """Have the desktops of users do something."""
        for number, program in self.desktops.items():
            if those := [user for user in users if self.desktop_process(user) == number]:
                program.send(do, users=those)

    def stop_desktops(self, users: Sequence[str]) -> None:
        """Have the desktops of users stop; they are in `stopping` until they have."""
        self.command_desktops("stop", users)
        self._with_desktop.difference_update(users)
        self.stopping.update(users)

    def restart_desktops(self, number: int) -> None:
        """Kill a process of desktops and start it again."""
        self.desktops.pop(number).kill()
        self.observed.desktops[number] = DesktopStatus()
        self.stopping = {each for each in self.stopping if self.desktop_process(each) != number}
        self.start_desktops(
            [each for each in sorted(self._with_desktop) if self.desktop_process(each) == number]
        )

    def stop_all_desktops(self) -> None:
        """Stop all processes of desktops."""
        for program in self.desktops.values():
            program.stop()

    def start_clients(self, users: Sequence[str], lines: int) -> None:
        """Start the clients of users, or give those that run new tokens."""
        self.clients.send(
            "start", tokens={user: self._accounts.token(user) for user in users}, lines=lines
        )

    def kill_proxies(self, users: Sequence[str]) -> None:
        """Kill the containers of users, all at once; those that do not run now are left alone."""
        form = "{{.Names}} {{.ID}}"
        running = dict(
            line.split()
            for line in self.engine.docker("ps", "--no-trunc", "--format", form).splitlines()
        )
        names = map(self._accounts.proxy_id, users)
        ids = [running[name] for name in names if name in running]
        if ids:
            found = self.engine.docker("inspect", "-f", "{{.State.Pid}}", *ids).split()
            for pid in filter(None, map(int, found)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def finish_clients(self) -> None:
        """Wait until the present responses of all clients have ended; they begin no further one."""
        print_progress("Waiting for the present responses to end")
        self.clients.send("finish")
        self.wait_until(lambda: self.observed.is_finished, 1, "finished")

    def stop_proxies(self) -> float:
        """Stop all proxies; returns the seconds until they are gone."""
        print_progress("Stopping all proxies")
        began = time.monotonic()
        argv = [str(BIN / "ctllm"), "--config=/dev/null", f"--state-dir={self.state}"]
        program = Program(self._stack, self.folder / "drain.log",
                          [*argv, "proxies", "drain", "--seconds=0"])  # fmt: skip
        if program.child.wait(900):
            raise Unavailable(f"ctllm proxies drain: {program.output}")
        return time.monotonic() - began

    # -- what is observed

    def poll(self) -> None:
        """Take the events of clients and desktops. Raises Unavailable if a program has ended."""
        for event in self.clients.new_events():
            self.observed.add_client_event(event)
        for number, program in self.desktops.items():
            for event in program.new_events():
                status = self.observed.desktops[number] = DesktopStatus(**event)
                self.stopping.difference_update(status.stopped)

    def wait_until(self, count: Callable[[], int], wanted: int, description: str) -> float:
        """Wait until `count()` is `wanted`; returns the seconds.

        Raises Unavailable after `PROGRESS_TIMEOUT` without a higher count.
        """
        began = progress_at = time.monotonic()
        best = 0
        while best < wanted:
            time.sleep(0.2)
            self.poll()
            if count() > best:
                best, progress_at = count(), time.monotonic()
                print_progress(f"{best} of {wanted} {description}", is_update=True)
            if time.monotonic() > progress_at + PROGRESS_TIMEOUT:
                raise Unavailable(f"only {best} of {wanted} {description}")
        return time.monotonic() - began

    def wait_for_desktops(self) -> float:
        """Wait until all desktops are ready; returns the seconds. An error has the reasons."""
        observed = self.observed
        try:
            return self.wait_until(
                lambda: observed.ready_desktops, len(self.users), "desktops are ready"
            )
        except Unavailable as error:
            raise Unavailable(f"{error} ({observed.desktop_problems})") from error

    def wait_for_lines(self) -> None:
        """Wait until all users receive lines."""
        self.wait_until(lambda: self.observed.receiving, len(self.users), "receive lines")

    def watch(self, seconds: float) -> None:
        """Take events for some time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
            self.poll()
            print_progress(
                f"{until - time.monotonic():.0f} s left, {self.observed.receiving} receive lines, "
                f"{self.observed.ready_desktops} desktops",
                is_update=True,
            )

    def probe(self) -> list[float]:
        """The seconds until a new request of each user is answered, sorted."""
        self.observed.probes = {}
        self.clients.send("probe", users=self.users)
        self.wait_until(lambda: len(self.observed.probes), len(self.users), "users are back")
        return sorted(self.observed.probes.values())

    def pids(self) -> Pids:
        """The processes of each part."""
        return {
            "backend": (self.cloud.pid,),
            **engine_pids(self.dockerd_pid, self.engine.folder),
            "nginx": (self.nginx.pid, *descendants(self.nginx.pid)),
            # A copy, because another thread may sample while desktops are started again.
            "desktops": tuple(each.pid for each in list(self.desktops.values())),
            "clients": (self.clients.pid,),
            "model server": (self.ollama.pid,),
        }

    def audit_counts(self) -> dict[str, int]:
        """How often each event is in the audit log, with its reason."""
        lines = (self.state / "cloud" / "audit.jsonl").read_text().splitlines()
        records = map(json.loads, lines)
        return Counter(f"{each['event']} {each.get('reason', '')}".strip() for each in records)

    def inventory(self) -> frozenset[str]:
        """What is on the machine now."""
        return take_inventory(self.engine, self.state, self.cgroup_parent)


def memory_limit() -> str:
    """Why no more containers fit into memory; empty if more do."""
    available = meminfo()["MemAvailable"]
    return f"only {available:.0f} MB of memory are left" if available < MIN_AVAILABLE else ""


def build_image(path: Path) -> Path:
    """Build the images and store them; that needs the network of this machine."""
    print_progress("Building the image")
    with dockerd() as builder:
        builder.build()
        builder.docker("save", "-o", str(path), BASE, IMAGE)
    return path


@contextmanager
def run_cluster(options: ClusterOptions) -> Iterator[UserCluster]:
    """Run a cluster, and remove all of it however the block ends.

    Exits the program with a message if something cannot be measured.
    """
    require_root()
    exit_on_signals()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            with ExitStack() as stack:
                yield UserCluster(stack, Path(folder), options)
        except Unavailable as error:
            sys.exit(f"Not finished: {error}")
        except KeyboardInterrupt:
            sys.exit("Interrupted; all that was started is removed")


@contextmanager
def checked_dockerd(cgroup_parent: str) -> Iterator[Dockerd]:
    """Start an engine, remove what it has afterwards, and say if anything remains."""
    engine = None
    try:
        with dockerd(f"--cgroup-parent={cgroup_parent}") as engine:
            yield engine
    finally:
        remove_control_groups(cgroup_parent)
        for each in find_remains(engine) if engine else ():
            print(f"Not removed: {each}", file=sys.stderr)


def find_remains(engine: Dockerd) -> list[str]:
    """What an engine that was stopped has left on this machine: files, mounts, processes."""
    folder = engine.folder
    files = [f"files in {folder}"] if folder.exists() else []
    processes = (str(pid) for pid in all_pids() if has_argument(pid, folder))
    return [*files, *entries("mount", mounts_below(folder)), *entries("process", processes)]

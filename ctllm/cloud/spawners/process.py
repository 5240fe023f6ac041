"""A spawner that runs each streaming proxy as a child process, without Docker.

A child's standard input is a pipe to which nothing is written. When the cloud exits, even by
SIGKILL, the child reads the end of the pipe and exits too. The child's output goes to the log.

If the cloud is root, each child switches to a user of its own once it listens. Otherwise it keeps
the cloud's user, and Landlock protects that user's files and processes (`ctllm.system.sandbox`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.spawners.interfaces import (
    ExitObserver,
    ExitObservers,
    NameInUse,
    ProxyInstance,
    ProxySocket,
    ResourceUsage,
    is_waiting_id,
)
from ctllm.cloud.spawners.listen_addresses import (
    ListenAddress,
    ListenAddresses,
    default_listen_addresses,
)
from ctllm.cloud.spawners.resource_usage import process_usage
from ctllm.cloud.spawners.uid_allocator import UidAllocator, can_switch_to
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Proxy, to_options
from ctllm.errors import ProxyUnavailable
from ctllm.reactor.deferred_tools import Waiters
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.reactor.services import Service
from ctllm.system.sandbox import forbid_inspection, landlock_version

#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 5.0
#: Bytes. A longer line of a proxy's output becomes several in the log.
MAX_LOG_LINE_BYTES = 2000

CommandFactory: TypeAlias = Callable[[str, Sequence[str]], Sequence[str]]
"""Returns the command line of a proxy, given its id and the arguments for its listen address."""

_INHERITED_VARIABLES = frozenset({"PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT"})


class ProcessTransport(Protocol):
    """Twisted's IProcessTransport, as far as it is used here."""

    pid: int

    def signalProcess(self, name: str) -> None:
        """Send a signal. Raises ProcessExitedAlready."""


class ProcessReactor(Clock, Protocol):
    """A reactor that keeps time and spawns processes."""

    def spawnProcess(
        self,
        processProtocol: ProcessProtocol,
        executable: str,
        /,
        *,
        args: Sequence[str],
        env: Mapping[str, str],
    ) -> object:
        """Spawn a process. Raises OSError."""


def proxy_command(cloud_key: str, settings: Proxy) -> CommandFactory:
    """Return a factory of command lines for `python -m ctllm.proxy_main`, run by this Python.

    It is `twistd ctllm proxy` in half the memory. `cloud_key` is the public key that verifies
    session assertions (base64url).
    """

    def command(proxy_id: str, listen_arguments: Sequence[str]) -> Sequence[str]:
        waiting = ["--waiting"] if is_waiting_id(proxy_id) else []
        # -P: the working directory of the cloud is not on the module path. All settings are
        # arguments, so that the proxy needs no configuration file.
        return [sys.executable, "-P", "-m", "ctllm.proxy_main", *listen_arguments,
                "--id", proxy_id, "--cloud-key", cloud_key, *waiting,
                *to_options(settings)]  # fmt: skip

    return command


def proxy_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a proxy: what Python needs of `inherited`, and no secrets."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _INHERITED_VARIABLES or name.startswith(("PYTHON", "LC_"))
    }
    return {**kept, "HOME": "/nonexistent"}


class ProcessSpawner(Service):
    """A `Spawner` of child processes. When this service stops, all of them exit.

    Sockets are below `state_dir`. `settings` and `cloud_key` are passed to each proxy. `uids` are
    the user ids of proxies, where this process can switch users. `now` returns epoch seconds.
    `command` and `listen_addresses` replace the defaults in tests.
    """

    proxies_survive_restart = False
    problem = ""  # what keeps one proxy from starting need not keep another
    _log = Logger()

    def __init__(
        self,
        reactor: ProcessReactor,
        state_dir: Path,
        settings: Proxy,
        cloud_key: str,
        command: CommandFactory | None = None,
        listen_addresses: ListenAddresses | None = None,
        now: Callable[[], float] = time.time,
        uids: Sequence[int] = (),
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._command = command or proxy_command(cloud_key, settings)
        self._listen_addresses = listen_addresses or default_listen_addresses(state_dir)
        self._now = now
        self._uid_range, self._uid_allocator = uids, UidAllocator(())
        self._stop_timeout = stop_timeout
        self._exit_observers = ExitObservers()
        self._processes: dict[str, ProxyProcess] = {}

    def add_exit_observer(self, observer: ExitObserver) -> None:
        """Call `observer` for each proxy that exits, unless `remove` stopped it."""
        self._exit_observers.add(observer)

    def startService(self) -> None:
        """Remove what an earlier run left. Raises BadConfiguration if that is not possible."""
        self._listen_addresses.open()
        self._set_up_isolation()
        super().startService()

    def _set_up_isolation(self) -> None:
        """Isolate proxies from this process and from each other; warn if that is not possible."""
        forbid_inspection()  # by proxies that run as the same user
        if can_switch_to(self._uid_range):
            self._uid_allocator = UidAllocator(self._uid_range)
        elif not landlock_version():
            self._log.warn(
                "This system has no Landlock. A compromised streaming proxy can read the files of "
                "the cloud's user, including the signing key. Run the cloud as root, or set "
                "cloud.spawner = docker."
            )

    def stopService(self) -> Deferred[None]:
        """Stop all processes and wait until they have exited."""
        super().stopService()
        stopping = DeferredList([process.stop() for process in self._processes.values()])
        return stopping.addCallback(lambda _: self._listen_addresses.close())

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy, unless it runs. Raises ProxyUnavailable if the system refuses."""
        process = self._processes.get(proxy_id)
        while process is not None and process.stopping:
            await process.stop()
            process = self._processes.get(proxy_id)
        return process.instance if process is not None else self._spawn(proxy_id)

    async def start_completed(self, proxy_id: str) -> None:
        """Do nothing: a process has its limits before it listens."""

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        """Return whether the waiting process runs, and the user has none."""
        return waiting_id in self._processes and proxy_id not in self._processes

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        """Give a waiting process the id of a user's proxy. Raises ProxyUnavailable."""
        if proxy_id in self._processes:
            raise NameInUse("Its process runs already.")
        process = self._processes.pop(waiting_id, None)
        if process is None:
            raise ProxyUnavailable("Its process has exited.")
        process.id = proxy_id
        process.instance = replace(process.instance, id=proxy_id)
        self._processes[proxy_id] = process
        return process.instance

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy, if it exists, and wait until it has exited."""
        if proxy_id in self._processes:
            await self._processes[proxy_id].stop()

    async def clean_up(self, proxy_id: str) -> None:
        """Stop the proxy, if it runs after all. Nothing of it can be used again."""
        await self.remove(proxy_id)

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, or None if it does not exist or is stopping."""
        process = self._processes.get(proxy_id)
        return None if process is None or process.stopping else process.instance

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies that are not stopping."""
        return [process.instance for process in self._processes.values() if not process.stopping]

    def is_outdated(self, proxy_id: str) -> bool:
        """Return False: processes run the cloud's own version."""
        return False

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return what each process uses."""
        usages = {id: process_usage(process.pid) for id, process in self._processes.items()}
        return {id: usage for id, usage in usages.items() if usage is not None}

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        """Return what one process uses."""
        process = self._processes.get(proxy_id)
        return None if process is None else process_usage(process.pid)

    def _spawn(self, proxy_id: str) -> ProxyInstance:
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        try:
            address = self._listen_addresses.allocate(proxy_id)
            return self._spawn_process(address, proxy_id)
        except OSError as error:
            raise ProxyUnavailable(
                f"The system cannot start another process: {error.strerror}."
            ) from error

    def _spawn_process(self, address: ListenAddress, proxy_id: str) -> ProxyInstance:
        process = ProxyProcess(
            proxy_id, address, self._reactor, self._process_exited, self._stop_timeout
        )
        try:
            process.uid = self._uid_allocator.reserve()
            uid_arguments = () if process.uid is None else ("--uid", str(process.uid))
            argv = self._command(proxy_id, (*address.arguments, *uid_arguments))
            env = proxy_environment(os.environ)
            self._reactor.spawnProcess(process, argv[0], args=argv, env=env)
        except (OSError, ProxyUnavailable):
            self._uid_allocator.release(process.uid)
            self._listen_addresses.release(address)
            raise
        socket = None
        if address.socket_path:
            # The proxy binds its socket before it switches users.
            socket = ProxySocket(address.socket_path, os.geteuid(), process.pid)
        waiting_id = proxy_id if is_waiting_id(proxy_id) else ""
        process.instance = ProxyInstance(
            proxy_id, address.endpoint, self._now(), socket=socket, waiting_id=waiting_id
        )
        self._processes[proxy_id] = process
        return process.instance

    def _process_exited(self, process: ProxyProcess, reason: str) -> None:
        self._listen_addresses.release(process.address)
        self._uid_allocator.release(process.uid)
        self._processes.pop(process.id, None)
        if not process.stopping:
            self._exit_observers.notify(process.id, reason)


class ProxyProcess(ProcessProtocol):
    """The process of one proxy. Calls `on_exit` with the reason, after the last of its output."""

    transport: ProcessTransport  # type: ignore[assignment]
    instance: ProxyInstance
    uid: int | None = None
    _log = Logger()

    def __init__(
        self,
        id: str,
        address: ListenAddress,
        clock: Clock,
        on_exit: Callable[[ProxyProcess, str], None],
        stop_timeout: float,
    ) -> None:
        self.id = id
        self.address = address
        self.stopping = False
        self._clock = clock
        self._on_exit = on_exit
        self._stop_timeout = stop_timeout
        self._exit_waiters: Waiters[None] = Waiters()
        self._kill_timer: Timer | None = None
        self._stdout = LogLineSplitter(self._log_output)
        self._stderr = LogLineSplitter(self._log_error_output)

    @property
    def _short_id(self) -> str:
        return self.id.rpartition("-")[2][:12]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.transport.pid

    def stop(self) -> Deferred[None]:
        """Send SIGTERM, and SIGKILL after the timeout; the Deferred fires on exit."""
        if not self.stopping:
            self.stopping = True
            self._kill_timer = self._clock.callLater(self._stop_timeout, self._send_signal, "KILL")
            self._send_signal("TERM")
        return self._exit_waiters.wait()

    def outReceived(self, data: bytes) -> None:
        """Log the standard output."""
        self._stdout.data_received(data)

    def errReceived(self, data: bytes) -> None:
        """Log the standard error."""
        self._stderr.data_received(data)

    def processEnded(self, reason: Failure) -> None:
        """Log the last line and report the exit: the process is gone and its output complete."""
        if self._kill_timer is not None and self._kill_timer.active():
            self._kill_timer.cancel()
        self._stdout.finish()
        self._stderr.finish()
        self._on_exit(self, _describe_exit(reason.value))
        self._exit_waiters.succeed(None)

    def _send_signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def _log_output(self, line: str) -> None:
        self._log.info("proxy {proxy}: {line}", proxy=self._short_id, line=line)

    def _log_error_output(self, line: str) -> None:
        self._log.warn("proxy {proxy}: {line}", proxy=self._short_id, line=line)


class LogLineSplitter:
    """Splits output into lines of at most `MAX_LOG_LINE_BYTES` and passes each to `on_line`.

    The lines have no control characters. Empty lines are dropped.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._partial_line = b""

    def data_received(self, data: bytes) -> None:
        """Split more output. Its last line may be incomplete."""
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._partial_line) > MAX_LOG_LINE_BYTES:
            self._emit(self._partial_line[:MAX_LOG_LINE_BYTES])
            self._partial_line = self._partial_line[MAX_LOG_LINE_BYTES:]

    def finish(self) -> None:
        """Pass on the last line, even if it is incomplete."""
        line, self._partial_line = self._partial_line, b""
        self._emit(line)

    def _emit(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_LOG_LINE_BYTES):
            text = line[start : start + MAX_LOG_LINE_BYTES].decode("utf-8", "replace").rstrip()
            if text:
                self._on_line(sanitize_line(text))


def _describe_exit(reason: BaseException | None) -> str:
    if not isinstance(reason, ProcessTerminated):
        return "it exited by itself"
    if reason.signal is not None:
        return f"it was ended by {signal.Signals(reason.signal).name}"
    if reason.exitCode == OUT_OF_MEMORY:
        return OUT_OF_MEMORY_MESSAGE
    return f"it exited with code {reason.exitCode}"

"""The runtime for one machine without Docker: each streaming proxy is a child process.

A child's standard input is a pipe that nobody writes to: when the cloud dies, however it dies, the
child sees its end and ends too. Its output goes to the cloud's log.

Where the cloud is root, each child becomes a user of its own once it listens. Else it is of the
cloud's user, and what keeps it from that user's files and processes is Landlock
(`ctllm.system.sandbox`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.spawners.interfaces import ProxyInstance, ProxySocket, ResourceUsage, no_matter
from ctllm.cloud.spawners.listen_addresses import (
    ListenAddress,
    ListenAddresses,
    default_listen_addresses,
)
from ctllm.cloud.spawners.log_lines import LogLineSplitter
from ctllm.cloud.spawners.resource_usage import process_usage
from ctllm.cloud.spawners.uid_allocator import UidAllocator, can_switch_to
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.config import Proxy, to_options
from ctllm.errors import ProxyUnavailable
from ctllm.reactor.deferred_tools import Waiters
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.reactor.services import Service
from ctllm.system.sandbox import forbid_inspection, landlock_version

#: Seconds between asking a process to end and making it end.
STOP_TIMEOUT = 5.0

CommandFactory = Callable[[str, Sequence[str]], Sequence[str]]
"""Makes the command line of the proxy with this id, given the arguments that say where it listens.
"""

_INHERITED_VARIABLES = frozenset({"PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT"})


def proxy_command(cloud_key: str, settings: Proxy) -> CommandFactory:
    """Make command lines of `python -m ctllm.proxy_main`, run by the Python that runs us.

    That is `twistd ctllm proxy` in half the memory. `cloud_key` is the public half of the key that
    signs session assertions (base64url).
    """

    def command(proxy_id: str, listening: Sequence[str]) -> Sequence[str]:
        # -P: nothing is imported from the folder that the cloud happens to be started in. The
        # settings are all given, and no file of configuration need be readable or right.
        return [sys.executable, "-P", "-m", "ctllm.proxy_main", *listening,
                "--id", proxy_id, "--cloud-key", cloud_key, *to_options(settings)]  # fmt: skip

    return command


def proxy_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Give what a proxy needs of our environment; secrets stay here."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _INHERITED_VARIABLES or name.startswith(("PYTHON", "LC_"))
    }
    return {**kept, "HOME": "/nonexistent"}


class ProcessSpawner(Service):
    """A `Runtime`. When this service stops, every process ends, and nothing of any is left.

    `reactor` spawns and keeps time; sockets are below the folder `state`; `settings` and
    `cloud_key` are handed to each proxy (see `lean`, which `command` replaces, as `places` the
    sockets); `uids` are the users that proxies become where that can be; `now` gives epoch seconds.
    """

    proxies_survive_restart = False
    problem = ""  # what the system refuses is each start's own
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state_dir: Path,
        settings: Proxy,
        cloud_key: str,
        command: CommandFactory | None = None,
        listen_addresses: ListenAddresses | None = None,
        now: Callable[[], float] = time.time,
        uids: Sequence[int] = (),
    ) -> None:
        self.on_exit: Callable[[str, str], None] = no_matter
        self._reactor = reactor
        self._command = command or proxy_command(cloud_key, settings)
        self._listen_addresses = listen_addresses or default_listen_addresses(state_dir)
        self._now = now
        self._uid_range, self._uid_allocator = uids, UidAllocator(())
        self._children: dict[str, ProxyProcess] = {}

    def startService(self) -> None:
        """Begin where nothing is left of an earlier run; BadConfiguration if that cannot be."""
        self._listen_addresses.open()
        self._set_up_isolation()
        super().startService()

    def _set_up_isolation(self) -> None:
        """See what keeps proxies from us and from each other; warn where nothing does."""
        forbid_inspection()  # by proxies of our own user
        if can_switch_to(self._uid_range):
            self._uid_allocator = UidAllocator(self._uid_range)
        elif not landlock_version():
            self._log.warn(
                "this system has no Landlock: a streaming proxy that was taken over can read what "
                "the cloud's user can, its keys too; run the cloud as root, or use spawner = docker"
            )

    def stopService(self) -> Deferred[None]:
        """End every process; fires when all have ended."""
        super().stopService()
        stopping = DeferredList([child.stop() for child in self._children.values()])
        return stopping.addCallback(lambda _: self._listen_addresses.close())

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy, unless it was; ProxyUnavailable when the system refuses."""
        child = self._children.get(proxy_id)
        while child is not None and child.stopping:
            await child.stop()
            child = self._children.get(proxy_id)
        return child.instance if child is not None else self._spawn(proxy_id)

    async def remove(self, proxy_id: str) -> None:
        """End the proxy, if there is one, and wait until it has ended."""
        if proxy_id in self._children:
            await self._children[proxy_id].stop()

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Give the proxy, or None."""
        child = self._children.get(proxy_id)
        return None if child is None or child.stopping else child.instance

    async def list(self) -> Sequence[ProxyInstance]:
        """Give all proxies."""
        return [child.instance for child in self._children.values() if not child.stopping]

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """What each uses."""
        usages = {id: process_usage(child.transport.pid) for id, child in self._children.items()}
        return {id: used for id, used in usages.items() if used is not None}

    def _spawn(self, proxy_id: str) -> ProxyInstance:
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        try:
            address = self._listen_addresses.allocate(proxy_id)
            return self._spawn_process(address, proxy_id)
        except OSError as error:
            raise ProxyUnavailable(
                f"The system starts no more processes: {error.strerror}."
            ) from error

    def _spawn_process(self, address: ListenAddress, proxy_id: str) -> ProxyInstance:
        child = ProxyProcess(proxy_id, address, self._reactor, self._child_exited)
        try:
            child.uid = self._uid_allocator.reserve()
            uid_arguments = () if child.uid is None else ("--uid", str(child.uid))
            argv = self._command(proxy_id, (*address.arguments, *uid_arguments))
            self._reactor.spawnProcess(child, argv[0], args=argv, env=proxy_environment(os.environ))
        except (OSError, ProxyUnavailable):
            self._uid_allocator.release(child.uid)
            self._listen_addresses.release(address)
            raise
        socket = None
        if address.socket_path:
            socket = ProxySocket(address.socket_path, os.geteuid(), child.transport.pid)
        child.instance = ProxyInstance(proxy_id, address.endpoint, self._now(), socket=socket)
        self._children[proxy_id] = child
        return child.instance

    def _child_exited(self, child: ProxyProcess, reason: str) -> None:
        self._listen_addresses.release(child.address)
        self._uid_allocator.release(child.uid)
        self._children.pop(child.id, None)
        if not child.stopping:
            self.on_exit(child.id, reason)


class ProxyProcess(ProcessProtocol):
    """One process; `ended` hears why it ended, after the last that it had to say."""

    transport: Any
    instance: ProxyInstance
    uid: int | None = None
    _log = Logger()

    def __init__(
        self,
        id: str,
        address: ListenAddress,
        clock: Clock,
        on_exit: Callable[[ProxyProcess, str], None],
    ) -> None:
        self.id = id
        self.address = address
        self.stopping = False
        self._clock = clock
        self._on_exit = on_exit
        self._exit_waiters: Waiters[None] = Waiters()
        self._kill_timer: Timer | None = None
        self._stdout, self._stderr = (
            LogLineSplitter(self._log_output),
            LogLineSplitter(self._log_error_output),
        )
        self._short_id = id.rpartition("-")[2][:12]

    def stop(self) -> Deferred[None]:
        """Ask the process to end, in the end make it; fires when it has."""
        if not self.stopping:
            self.stopping = True
            self._kill_timer = self._clock.callLater(STOP_TIMEOUT, self._send_signal, "KILL")
            self._send_signal("TERM")
        return self._exit_waiters.wait()

    def outReceived(self, data: bytes) -> None:
        """The process wrote to its standard output."""
        self._stdout.data_received(data)

    def errReceived(self, data: bytes) -> None:
        """The process wrote to its standard error."""
        self._stderr.data_received(data)

    def processEnded(self, reason: Failure) -> None:
        """The process ended, and all it said was heard."""
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


def _describe_exit(reason: BaseException | None) -> str:
    if not isinstance(reason, ProcessTerminated):
        return "it ended by itself"
    if reason.signal is not None:
        return f"it was ended by {signal.Signals(reason.signal).name}"
    if reason.exitCode == OUT_OF_MEMORY:
        return OUT_OF_MEMORY_MESSAGE
    return f"it ended with exit code {reason.exitCode}"

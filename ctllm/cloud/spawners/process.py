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

from ctllm.cloud.spawners.interfaces import Instance, ProxySocket, Usage, no_matter
from ctllm.cloud.spawners.listen_addresses import Place, Places, places_below
from ctllm.cloud.spawners.log_lines import Lines
from ctllm.cloud.spawners.resource_usage import of_process
from ctllm.cloud.spawners.uid_allocator import Uids, may_become
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.config import Proxy, arguments
from ctllm.errors import ProxyUnavailable
from ctllm.reactor.deferred_tools import Waiters
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.reactor.services import Service
from ctllm.system.sandbox import forbid_inspection, landlock_version

#: Seconds between asking a process to end and making it end.
PATIENCE = 5.0

Command = Callable[[str, Sequence[str]], Sequence[str]]
"""Makes the command line of the proxy with this id, given the arguments that say where it listens.
"""

_KEPT = frozenset({"PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT"})


def lean(cloud_key: str, settings: Proxy) -> Command:
    """Make command lines of `python -m ctllm.proxy_main`, run by the Python that runs us.

    That is `twistd ctllm proxy` in half the memory. `cloud_key` is the public half of the key that
    signs session assertions (base64url).
    """

    def command(proxy_id: str, listening: Sequence[str]) -> Sequence[str]:
        # -P: nothing is imported from the folder that the cloud happens to be started in. The
        # settings are all given, and no file of configuration need be readable or right.
        return [sys.executable, "-P", "-m", "ctllm.proxy_main", *listening,
                "--id", proxy_id, "--cloud-key", cloud_key, *arguments(settings)]  # fmt: skip

    return command


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Give what a proxy needs of our environment; secrets stay here."""
    kept = {
        name: value
        for name, value in ours.items()
        if name in _KEPT or name.startswith(("PYTHON", "LC_"))
    }
    return {**kept, "HOME": "/nonexistent"}


class ProcessSpawner(Service):
    """A `Runtime`. When this service stops, every process ends, and nothing of any is left.

    `reactor` spawns and keeps time; sockets are below the folder `state`; `settings` and
    `cloud_key` are handed to each proxy (see `lean`, which `command` replaces, as `places` the
    sockets); `uids` are the users that proxies become where that can be; `now` gives epoch seconds.
    """

    outlives = False
    trouble = ""  # what the system refuses is each start's own
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state: Path,
        settings: Proxy,
        cloud_key: str,
        command: Command | None = None,
        places: Places | None = None,
        now: Callable[[], float] = time.time,
        uids: Sequence[int] = (),
    ) -> None:
        self.on_exit: Callable[[str, str], None] = no_matter
        self._reactor = reactor
        self._command = command or lean(cloud_key, settings)
        self._places = places or places_below(state)
        self._now = now
        self._numbers, self._uids = uids, Uids(())
        self._children: dict[str, Child] = {}

    def startService(self) -> None:
        """Begin where nothing is left of an earlier run; BadConfiguration if that cannot be."""
        self._places.open()
        self._separate()
        super().startService()

    def _separate(self) -> None:
        """See what keeps proxies from us and from each other; warn where nothing does."""
        forbid_inspection()  # by proxies of our own user
        if may_become(self._numbers):
            self._uids = Uids(self._numbers)
        elif not landlock_version():
            self._log.warn(
                "this system has no Landlock: a streaming proxy that was taken over can read what "
                "the cloud's user can, its keys too; run the cloud as root, or use spawner = docker"
            )

    def stopService(self) -> Deferred[None]:
        """End every process; fires when all have ended."""
        super().stopService()
        ending = DeferredList([child.end() for child in self._children.values()])
        return ending.addCallback(lambda _: self._places.close())

    async def ensure(self, proxy_id: str) -> Instance:
        """Start the proxy, unless it was; ProxyUnavailable when the system refuses."""
        child = self._children.get(proxy_id)
        while child is not None and child.ending:
            await child.end()
            child = self._children.get(proxy_id)
        return child.instance if child is not None else self._spawn(proxy_id)

    async def remove(self, proxy_id: str) -> None:
        """End the proxy, if there is one, and wait until it has ended."""
        if proxy_id in self._children:
            await self._children[proxy_id].end()

    async def inspect(self, proxy_id: str) -> Instance | None:
        """Give the proxy, or None."""
        child = self._children.get(proxy_id)
        return None if child is None or child.ending else child.instance

    async def list(self) -> Sequence[Instance]:
        """Give all proxies."""
        return [child.instance for child in self._children.values() if not child.ending]

    async def usage(self) -> Mapping[str, Usage]:
        """What each uses."""
        found = {id: of_process(child.transport.pid) for id, child in self._children.items()}
        return {id: used for id, used in found.items() if used is not None}

    def _spawn(self, proxy_id: str) -> Instance:
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        try:
            place = self._places.take(proxy_id)
            return self._spawn_at(place, proxy_id)
        except OSError as error:
            raise ProxyUnavailable(
                f"The system starts no more processes: {error.strerror}."
            ) from error

    def _spawn_at(self, place: Place, proxy_id: str) -> Instance:
        child = Child(proxy_id, place, self._reactor, self._ended)
        try:
            child.uid = self._uids.reserve()
            becomes = () if child.uid is None else ("--uid", str(child.uid))
            argv = self._command(proxy_id, (*place.arguments, *becomes))
            self._reactor.spawnProcess(child, argv[0], args=argv, env=environment(os.environ))
        except (OSError, ProxyUnavailable):
            self._uids.release(child.uid)
            self._places.leave(place)
            raise
        socket = None
        if place.path:
            socket = ProxySocket(place.path, os.geteuid(), child.transport.pid)
        child.instance = Instance(proxy_id, place.endpoint, self._now(), socket=socket)
        self._children[proxy_id] = child
        return child.instance

    def _ended(self, child: Child, reason: str) -> None:
        self._places.leave(child.place)
        self._uids.release(child.uid)
        self._children.pop(child.id, None)
        if not child.ending:
            self.on_exit(child.id, reason)


class Child(ProcessProtocol):
    """One process; `ended` hears why it ended, after the last that it had to say."""

    transport: Any
    instance: Instance
    uid: int | None = None
    _log = Logger()

    def __init__(
        self,
        id: str,
        place: Place,
        clock: Clock,
        ended: Callable[[Child, str], None],
    ) -> None:
        self.id = id
        self.place = place
        self.ending = False
        self._clock = clock
        self._ended = ended
        self._gone: Waiters[None] = Waiters()
        self._kill: Timer | None = None
        self._out, self._err = Lines(self._said), Lines(self._warned)
        self._short = id.rpartition("-")[2][:12]

    def end(self) -> Deferred[None]:
        """Ask the process to end, in the end make it; fires when it has."""
        if not self.ending:
            self.ending = True
            self._kill = self._clock.callLater(PATIENCE, self._signal, "KILL")
            self._signal("TERM")
        return self._gone.wait()

    def outReceived(self, data: bytes) -> None:
        """The process wrote to its standard output."""
        self._out.take(data)

    def errReceived(self, data: bytes) -> None:
        """The process wrote to its standard error."""
        self._err.take(data)

    def processEnded(self, reason: Failure) -> None:
        """The process ended, and all it said was heard."""
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        self._out.end()
        self._err.end()
        self._ended(self, _said_of(reason.value))
        self._gone.succeed(None)

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def _said(self, line: str) -> None:
        self._log.info("proxy {proxy}: {line}", proxy=self._short, line=line)

    def _warned(self, line: str) -> None:
        self._log.warn("proxy {proxy}: {line}", proxy=self._short, line=line)


def _said_of(ending: BaseException | None) -> str:
    if not isinstance(ending, ProcessTerminated):
        return "it ended by itself"
    if ending.signal is not None:
        return f"it was ended by {signal.Signals(ending.signal).name}"
    if ending.exitCode == OUT_OF_MEMORY:
        return OUT_OF_MEMORY_MESSAGE
    return f"it ended with exit code {ending.exitCode}"

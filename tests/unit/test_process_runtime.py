"""Streaming proxies as child processes: real ones, small, which leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.listen_addresses import ListenAddresses, LoopbackPorts, UnixSockets
from ctllm.cloud.spawners.process import (
    MAX_LOG_LINE_BYTES,
    LogLineSplitter,
    ProcessSpawner,
    proxy_command,
    proxy_environment,
)
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.config import Cloud, Proxy
from ctllm.errors import BadConfiguration, ProxyUnavailable
from ctllm.http.client.fetch import get
from ctllm.reactor.deferred_tools import sleep
from ctllm.tap_options import Options

A, B = (f"ctllm-proxy-{letter * 32}" for letter in "ab")

# Answers /health, ends with its standard input; {} is for what a test adds.
CHILD = """
import os, signal, socket, sys, threading, time
place = dict(zip(sys.argv[1::2], sys.argv[2::2]))
{}
def orphaned():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=orphaned, daemon=True).start()
if "--socket" in place:
    server = socket.socket(socket.AF_UNIX)
    server.bind(place["--socket"])
else:
    server = socket.create_server(("127.0.0.1", int(place["--port"])))
server.listen()
BODY = b'{{"exchanges":0,"desktops":0,"idle_seconds":0}}'
while True:
    one, _ = server.accept()
    one.recv(4096)
    one.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + BODY)
    one.close()
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def child(extra: str = "") -> Callable[[str, Sequence[str]], Sequence[str]]:
    def command(proxy_id: str, listening: Sequence[str]) -> Sequence[str]:
        return [sys.executable, "-S", "-E", "-c", CHILD.format(extra), *listening]

    return command


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Case(TestCase):
    """A runtime of real processes. However a test ends, none of them may be left."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctllm-test-"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.folder)], check=True)
        self.pids: set[int] = set()
        self.addCleanup(self.assert_none_left)

    def assert_none_left(self) -> None:
        self.assertEqual([pid for pid in self.pids if alive(pid)], [])

    def made(self, extra: str = "", places: ListenAddresses | None = None) -> ProcessSpawner:
        command = child(extra)
        return ProcessSpawner(reactor, self.folder, Proxy(), "key", command, places, lambda: 7.0)

    def started(self, service: Any) -> Any:
        service.startService()
        self.addCleanup(lambda: service.running and service.stopService())
        return service

    def runtime(self, extra: str = "") -> ProcessSpawner:
        return self.started(self.made(extra))

    def pid(self, runtime: ProcessSpawner, proxy_id: str = A) -> int:
        pid: int = runtime._processes[proxy_id].transport.pid
        self.pids.add(pid)
        return pid

    def proxies(self, runtime: ProcessSpawner) -> ProxyManager:
        settings = Cloud(proxy_health_interval_seconds=1)
        return self.started(ProxyManager(runtime, reactor, settings, AuditLog(None), Metrics()))

    def left(self) -> list[str]:
        run = self.folder / "run"
        return os.listdir(run) if run.exists() else []


def asynchronous(
    test: Callable[[Any], Coroutine[Any, Any, None]],
) -> Callable[[Any], Deferred[None]]:
    """Let trial run a test that is a coroutine."""

    def run(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(true: Callable[[], object]) -> None:
    while not true():
        await sleep(reactor, 0.01)


class ProcessTests(Case):
    """One process each."""

    @asynchronous
    async def test_life(self) -> None:
        """Started once, found, reached, ended; its folder is private while it is there."""
        runtime = self.runtime()
        instance = await runtime.ensure_running(A)
        self.assertIs(await runtime.ensure_running(A), instance)
        pid = self.pid(runtime)
        self.assertEqual((instance.id, instance.started_at), (A, 7.0))
        self.assertEqual(await runtime.inspect(A), instance)
        self.assertEqual(list(await runtime.list()), [instance])
        [folder] = self.left()
        self.assertEqual((self.folder / "run" / folder).stat().st_mode & 0o777, 0o700)
        await runtime.remove(A)
        self.assertFalse(alive(pid))
        self.assertEqual((await runtime.inspect(A), list(await runtime.list())), (None, []))
        self.assertEqual(self.left(), [])
        await runtime.remove(A)

    @asynchronous
    async def test_reached(self) -> None:
        """What it gives as the endpoint is where the proxy answers; removing takes it away."""
        proxies = self.proxies(self.made())
        origin = await proxies.ensure_running(A)
        self.assertEqual((await get(origin, b"/health", reactor, 5))[0], 200)
        self.assertEqual((await proxies.health(A) or {})["exchanges"], 0)
        await proxies.remove(A, "by request")
        self.assertEqual((proxies.active_count, self.left()), (0, []))

    @asynchronous
    async def test_port(self) -> None:
        """Where there are no UNIX sockets, proxies listen on ports of the loopback interface."""
        runtime = self.made(places=LoopbackPorts())
        proxies = self.proxies(runtime)
        await proxies.ensure_running(A)
        instance = await runtime.inspect(A)
        assert instance is not None
        self.assertTrue(instance.endpoint.startswith("tcp:127.0.0.1:"))

    @asynchronous
    async def test_death(self) -> None:
        """A death is heard of with its reason, and leaves neither folder nor entry."""
        runtime = self.runtime()
        dead: Deferred[tuple[str, str]] = Deferred()
        runtime.add_exit_observer(lambda proxy_id, reason: dead.callback((proxy_id, reason)))
        await runtime.ensure_running(A)
        os.kill(self.pid(runtime), signal.SIGKILL)
        self.assertEqual(await dead, (A, "it was ended by SIGKILL"))
        self.assertEqual((await runtime.inspect(A), self.left()), (None, []))

    @asynchronous
    async def test_killed_and_replaced(self) -> None:
        """Whoever asks after a kill gets another process."""
        runtime = self.made()
        proxies = self.proxies(runtime)
        await proxies.ensure_running(A)
        killed = self.pid(runtime)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: proxies.status(A).state == "failed")
        self.assertIn("SIGKILL", proxies.status(A).error or "")
        await proxies.ensure_running(A)
        self.assertNotEqual(self.pid(runtime), killed)

    @asynchronous
    async def test_exit_code(self) -> None:
        """One that ends by itself says with which code, and its last words are in the log."""
        runtime = self.runtime('sys.stderr.write("no such\\nmodule"); sys.exit(3)')
        dead: Deferred[str] = Deferred()
        runtime.add_exit_observer(lambda proxy_id, reason: dead.callback(reason))
        with capturedLogs() as events:
            await runtime.ensure_running(A)
            self.pid(runtime)
            self.assertEqual(await dead, "it exited with code 3")
        said = [(event["proxy"], event["line"]) for event in events if "line" in event]
        self.assertEqual(said, [("a" * 12, "no such"), ("a" * 12, "module")])

    @asynchronous
    async def test_memory(self) -> None:
        """One that met a MemoryError says so by its exit code."""
        runtime = self.runtime(f"sys.exit({OUT_OF_MEMORY})")
        dead: Deferred[str] = Deferred()
        runtime.add_exit_observer(lambda proxy_id, reason: dead.callback(reason))
        await runtime.ensure_running(A)
        self.assertEqual(await dead, OUT_OF_MEMORY_MESSAGE)

    @asynchronous
    async def test_stubborn(self) -> None:
        """One that ignores SIGTERM is killed, though not at once."""
        self.patch(sys.modules[ProcessSpawner.__module__], "STOP_TIMEOUT", 0.3)
        runtime = self.made(STUBBORN)
        proxies = self.proxies(runtime)
        await proxies.ensure_running(A)
        pid = self.pid(runtime)
        removing = Deferred.fromCoroutine(runtime.remove(A))
        await sleep(reactor, 0.1)
        self.assertTrue(alive(pid))
        self.assertIsNone(await runtime.inspect(A))
        await removing
        self.assertFalse(alive(pid))

    @asynchronous
    async def test_again_while_ending(self) -> None:
        """Who asks for one that is ending gets a new one when the old one is gone."""
        runtime = self.runtime()
        first = await runtime.ensure_running(A)
        old = self.pid(runtime)
        removing = Deferred.fromCoroutine(runtime.remove(A))
        second = await runtime.ensure_running(A)
        self.assertFalse(alive(old))
        self.assertNotEqual(first.endpoint, second.endpoint)
        self.pid(runtime)
        await removing

    @asynchronous
    async def test_cannot_spawn(self) -> None:
        """When the system refuses, the error says so and no folder is left."""
        runtime = self.runtime()
        refused = OSError(11, "Resource temporarily unavailable")
        with mock.patch.object(reactor, "spawnProcess", side_effect=refused):
            try:
                await runtime.ensure_running(A)
            except ProxyUnavailable as error:
                self.assertIn("Resource temporarily unavailable", error.message)
            else:
                self.fail("started")
        self.assertEqual((self.left(), list(await runtime.list())), ([], []))


class StopTests(Case):
    """The end of the cloud, in order and not."""

    @asynchronous
    async def test_stop(self) -> None:
        """Stopping ends every process and leaves no folder; nothing starts after it."""
        runtime = self.made()
        proxies = self.proxies(runtime)
        for proxy_id in (A, B):
            await proxies.ensure_running(proxy_id)
            self.pid(runtime, proxy_id)
        await proxies.stopService()
        self.assert_none_left()
        self.assertEqual(self.left(), [])
        with self.assertRaises(ProxyUnavailable):
            await runtime.ensure_running(A)

    @asynchronous
    async def test_cloud_is_killed(self) -> None:
        """A process ends when nobody holds the other end of its standard input any more."""
        runtime = self.made()
        proxies = self.proxies(runtime)
        await proxies.ensure_running(A)
        self.pid(runtime)
        runtime._processes[A].transport.closeStdin()
        await until(lambda: proxies.status(A).state == "failed")

    @asynchronous
    async def test_nobody_else_holds_the_pipe(self) -> None:
        """A process does not hold its elder siblings' pipes, or none would end with the cloud."""
        if not Path("/proc/self/fd").exists():
            raise SkipTest("needs /proc")
        runtime = self.made()
        proxies = self.proxies(runtime)
        for proxy_id in (A, B):
            await proxies.ensure_running(proxy_id)
        pipe = os.readlink(f"/proc/{self.pid(runtime, A)}/fd/0")
        held = Path(f"/proc/{self.pid(runtime, B)}/fd")
        self.assertNotIn(pipe, [os.readlink(one) for one in held.iterdir()])

    @asynchronous
    async def test_swept(self) -> None:
        """What a killed run left is gone after the next start."""
        stale = self.folder / "run" / "0123456789ab-x"
        stale.mkdir(parents=True, mode=0o700)
        (self.folder / "run").chmod(0o700)
        (stale / "proxy.sock").touch()
        runtime = self.runtime()
        self.assertEqual(self.left(), [])
        await runtime.stopService()

    @asynchronous
    async def test_two_clouds(self) -> None:
        """A second cloud with the same state folder is refused, until the first has stopped."""
        first = self.runtime()
        instance = await first.ensure_running(A)
        self.pid(first)
        with self.assertRaises(BadConfiguration) as raised:
            self.runtime()
        self.assertIn(str(self.folder), str(raised.exception))
        self.assertEqual((await first.inspect(A)), instance)
        self.assertEqual(len(self.left()), 1)
        await first.stopService()
        self.runtime()


class PlaceTests(SynchronousTestCase):
    """Where proxies listen."""

    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="ctllm-test-"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.state)], check=True)

    def long(self) -> UnixSockets:
        deep = self.state / ("x" * 100)
        deep.mkdir(exist_ok=True)
        return UnixSockets(deep / "run")

    def path(self, sockets: UnixSockets) -> Path:
        return Path(sockets.allocate(A).arguments[1])

    def test_never_twice(self) -> None:
        """A proxy's next start has another socket: a late end of the last cannot remove it."""
        sockets = UnixSockets(self.state / "run")
        sockets.open()
        self.assertNotEqual(sockets.allocate(A), sockets.allocate(A))
        sockets.close()

    def test_long_path(self) -> None:
        """Below a long path sockets are in a temporary folder, private and gone at the end."""
        sockets = self.long()
        sockets.open()
        path = self.path(sockets)
        socket.socket(socket.AF_UNIX).bind(str(path))
        base = path.parent.parent
        self.assertEqual(base.stat().st_mode & 0o777, 0o700)
        self.assertNotIn(str(self.state), str(path))
        sockets.close()
        self.assertFalse(base.exists())
        self.assertEqual(list((self.state / ("x" * 100) / "run").iterdir()), [])

    def test_long_path_swept(self) -> None:
        """A killed run's temporary folder is gone after the next start."""
        killed = self.long()
        killed.open()
        base = self.path(killed).parent.parent
        assert killed._lock is not None
        os.close(killed._lock)
        after = self.long()
        after.open()
        self.assertFalse(base.exists())
        after.close()

    def test_not_ours(self) -> None:
        """A link to what is no temporary folder of ours takes nothing with it."""
        precious = self.state / "precious"
        precious.mkdir()
        (self.state / "run").mkdir(mode=0o700)
        (self.state / "run" / "elsewhere").symlink_to(precious)
        sockets = UnixSockets(self.state / "run")
        sockets.open()
        sockets.close()
        self.assertTrue(precious.exists())

    def test_endpoint(self) -> None:
        """The endpoint string survives a path with a colon."""
        sockets = UnixSockets(self.state / "a:b" / "run")
        sockets.open()
        place = sockets.allocate(A)
        endpoint: Any = clientFromString(reactor, place.endpoint)
        self.assertEqual(endpoint._path, place.arguments[1])
        sockets.close()


class CommandTests(SynchronousTestCase):
    """What is run, and with what."""

    def test_options(self) -> None:
        """The command line is one that `twistd ctllm proxy` takes, with every setting in it."""
        key = "A" * 43
        settings = Proxy(stream_window_bytes=131072, resume_buffer_bytes=0)
        argv = list(proxy_command(key, settings)(A, ("--socket", "/run/p.sock")))
        options = Options({})
        options.parseOptions(["proxy", *argv[argv.index("ctllm.proxy_main") + 1 :]])
        told = options.proxy_arguments()
        self.assertEqual((options.role, told.id, str(told.socket)), ("proxy", A, "/run/p.sock"))
        self.assertEqual(options.configuration().proxy, settings)

    def test_start(self) -> None:
        """And its beginning is one that starts a proxy."""
        argv = list(proxy_command("A" * 43, Proxy())(A, ()))
        beginning = [*argv[: argv.index("--id")], "--version"]
        env = proxy_environment(os.environ)
        said = subprocess.run(beginning, capture_output=True, text=True, check=True, env=env)
        self.assertEqual(said.stdout.split()[0], "ctllm")

    def test_safe_path(self) -> None:
        """Nothing is imported from the folder that the cloud was started in."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "ctllm.py").write_text("raise SystemExit('taken over')")
            argv = [*list(proxy_command("A" * 43, Proxy())(A, ()))[:4], "--version"]
            env = proxy_environment(os.environ)
            done = subprocess.run(argv, capture_output=True, check=False, env=env, cwd=folder)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_environment(self) -> None:
        """A proxy gets what Python needs, and none of the cloud's secrets."""
        ours = {"PATH": "/bin", "PYTHONPATH": "/x", "LC_ALL": "C", "HOME": "/root", "TOKEN": "t"}
        self.assertEqual(
            proxy_environment(ours),
            {"PATH": "/bin", "PYTHONPATH": "/x", "LC_ALL": "C", "HOME": "/nonexistent"},
        )


class LineTests(SynchronousTestCase):
    """What a process says."""

    def said(self, *pieces: bytes) -> list[str]:
        said: list[str] = []
        lines = LogLineSplitter(said.append)
        for piece in pieces:
            lines.data_received(piece)
        lines.finish()
        return said

    def test_lines(self) -> None:
        """Lines are whole whatever the pieces; empty ones are left out, the last one is not."""
        self.assertEqual(self.said(b"on", b"e\n\ntw", b"o\r\nthr", b"ee"), ["one", "two", "three"])

    def test_bounded(self) -> None:
        """A line without an end is cut, and does not stay in memory."""
        said: list[str] = []
        lines = LogLineSplitter(said.append)
        for _ in range(100):
            lines.data_received(b"x" * 1000)
        self.assertLessEqual(len(lines._partial_line), MAX_LOG_LINE_BYTES)
        lines.finish()
        self.assertEqual({len(line) for line in said}, {MAX_LOG_LINE_BYTES})
        self.assertEqual(sum(map(len, said)), 100_000)

    def test_safe(self) -> None:
        """What would steer a terminal, or is no UTF-8, is shown as unreadable."""
        self.assertEqual(self.said(b"\x1b[2Jred\xff\n"), ["\ufffd[2Jred\ufffd"])
        self.assertEqual(self.said(b"\tself.write(\n"), ["    self.write("])  # of a traceback

"""`ctllm.cloud.spawners.process`: real child processes, which leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.interfaces import NameInUse, new_waiting_id
from ctllm.cloud.spawners.listen_addresses import ListenAddresses, LoopbackPorts, UnixSockets
from ctllm.cloud.spawners.process import (
    MAX_LOG_LINE_BYTES,
    STOP_TIMEOUT,
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
from ctllm.reactor.endpoints import client_from_string
from ctllm.reactor.services import Service
from ctllm.tap_options import Options

S = TypeVar("S", bound=Service)

A, B = (f"ctllm-proxy-{letter * 32}" for letter in "ab")

# Responds to health checks and exits at the end of its standard input; {} is for a test's code.
CHILD = """
import os, signal, socket, sys, threading, time
address = dict(zip(sys.argv[1::2], sys.argv[2::2]))
{}
def wait_for_parent():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=wait_for_parent, daemon=True).start()
if "--socket" in address:
    server = socket.socket(socket.AF_UNIX)
    server.bind(address["--socket"])
else:
    server = socket.create_server(("127.0.0.1", int(address["--port"])))
server.listen()
BODY = b'{{"exchanges":0,"desktops":0,"idle_seconds":0}}'
while True:
    one, _ = server.accept()
    one.recv(4096)
    one.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + BODY)
    one.close()
"""
IGNORE_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def child_command(extra: str = "") -> Callable[[str, Sequence[str]], Sequence[str]]:
    def command(proxy_id: str, listen_arguments: Sequence[str]) -> Sequence[str]:
        return [sys.executable, "-S", "-E", "-c", CHILD.format(extra), *listen_arguments]

    return command


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class RecordingReactor:
    """The reactor, which records the transports of the processes that it spawns."""

    def __init__(self) -> None:
        self.transports: list[Any] = []

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        self.transports.append(cast(Any, reactor).spawnProcess(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class ProcessCase(TestCase):
    """A spawner of real processes, of which none may be left after a test."""

    timeout = 30

    def setUp(self) -> None:
        self.state_dir = Path(tempfile.mkdtemp(prefix="ctllm-test-"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.state_dir)], check=True)
        self.pids: set[int] = set()
        self.addCleanup(self.assert_none_left)

    def assert_none_left(self) -> None:
        self.assertEqual([pid for pid in self.pids if is_alive(pid)], [])

    def create_spawner(
        self,
        extra: str = "",
        addresses: ListenAddresses | None = None,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> ProcessSpawner:
        command = child_command(extra)
        self.reactor = RecordingReactor()
        return ProcessSpawner(
            cast(Any, self.reactor),
            self.state_dir,
            Proxy(),
            "key",
            command,
            addresses,
            lambda: 7.0,
            stop_timeout=stop_timeout,
        )

    def start_service(self, service: S) -> S:
        service.startService()
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    def start_spawner(self, extra: str = "") -> ProcessSpawner:
        return self.start_service(self.create_spawner(extra))

    def pid(self, spawner: ProcessSpawner, proxy_id: str = A) -> int:
        instance = self.successResultOf(Deferred.fromCoroutine(spawner.inspect(proxy_id)))
        assert instance is not None and instance.socket is not None
        self.pids.add(instance.socket.pid)
        return instance.socket.pid

    def start_manager(self, spawner: ProcessSpawner) -> ProxyManager:
        settings = Cloud(proxy_health_interval_seconds=1)
        return self.start_service(
            ProxyManager(
                spawner, cast(Any, reactor), settings, AuditLog(None), Metrics(), lambda *ids: ""
            )
        )

    def directories(self) -> list[str]:
        run = self.state_dir / "run"
        return os.listdir(run) if run.exists() else []


def coroutine_test(
    test: Callable[[Any], Coroutine[Any, Any, None]],
) -> Callable[[Any], Deferred[None]]:
    """Convert a coroutine function to a test that trial can run."""

    def run(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        await sleep(reactor, 0.01)


class ProcessTests(ProcessCase):
    @coroutine_test
    async def test_starts_lists_and_removes_a_process(self) -> None:
        spawner = self.start_spawner()
        instance = await spawner.ensure_running(A)
        self.assertIs(await spawner.ensure_running(A), instance)
        pid = self.pid(spawner)
        self.assertEqual((instance.id, instance.started_at), (A, 7.0))
        self.assertEqual(await spawner.inspect(A), instance)
        self.assertEqual(list(await spawner.list()), [instance])
        [folder] = self.directories()
        self.assertEqual((self.state_dir / "run" / folder).stat().st_mode & 0o777, 0o700)
        await spawner.remove(A)
        self.assertFalse(is_alive(pid))
        self.assertEqual((await spawner.inspect(A), list(await spawner.list())), (None, []))
        self.assertEqual(self.directories(), [])
        await spawner.remove(A)

    @coroutine_test
    async def test_a_process_that_waits_becomes_that_of_a_user(self) -> None:
        """Its socket stays, and its exit is that of the user's proxy."""
        spawner, waiting = self.start_spawner(), new_waiting_id()
        dead: Deferred[tuple[str, str]] = Deferred()
        spawner.add_exit_observer(lambda proxy_id, reason: dead.callback((proxy_id, reason)))
        before = await spawner.ensure_running(waiting)
        self.assertTrue(spawner.can_assign(waiting, A))
        instance = await spawner.assign(waiting, A)
        self.assertEqual((instance.id, instance.waiting_id), (A, waiting))
        self.assertEqual(instance.endpoint, before.endpoint)
        self.assertIs(await spawner.ensure_running(A), instance)
        self.assertFalse(spawner.can_assign(waiting, A))
        with self.assertRaises(NameInUse):
            await spawner.assign(waiting, A)
        with self.assertRaises(ProxyUnavailable):
            await spawner.assign(waiting, B)
        os.kill(self.pid(spawner), signal.SIGKILL)
        self.assertEqual(await dead, (A, "it was ended by SIGKILL"))

    @coroutine_test
    async def test_the_endpoint_reaches_the_proxy(self) -> None:
        manager = self.start_manager(self.create_spawner())
        pool = await manager.ensure_running(A)
        self.assertEqual((await get(pool, b"/health", reactor, 5))[0], 200)
        self.assertEqual((await manager.health(A) or {})["exchanges"], 0)
        await manager.remove(A, "was stopped by its user")
        self.assertEqual((manager.active_count, self.directories()), (0, []))

    @coroutine_test
    async def test_loopback_ports_replace_unix_sockets(self) -> None:
        spawner = self.create_spawner(addresses=LoopbackPorts())
        manager = self.start_manager(spawner)
        await manager.ensure_running(A)
        instance = await spawner.inspect(A)
        assert instance is not None
        self.assertTrue(instance.endpoint.startswith("tcp:127.0.0.1:"))

    @coroutine_test
    async def test_reports_an_exit_and_removes_its_directory(self) -> None:
        spawner = self.start_spawner()
        dead: Deferred[tuple[str, str]] = Deferred()
        spawner.add_exit_observer(lambda proxy_id, reason: dead.callback((proxy_id, reason)))
        await spawner.ensure_running(A)
        os.kill(self.pid(spawner), signal.SIGKILL)
        self.assertEqual(await dead, (A, "it was ended by SIGKILL"))
        self.assertEqual((await spawner.inspect(A), self.directories()), (None, []))

    @coroutine_test
    async def test_a_request_after_an_exit_starts_a_new_process(self) -> None:
        spawner = self.create_spawner()
        manager = self.start_manager(spawner)
        await manager.ensure_running(A)
        killed = self.pid(spawner)
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: manager.status(A).state == "failed")
        self.assertIn("SIGKILL", manager.status(A).error or "")
        await manager.ensure_running(A)
        self.assertNotEqual(self.pid(spawner), killed)

    @coroutine_test
    async def test_reports_the_exit_code_and_logs_the_output(self) -> None:
        spawner = self.start_spawner('sys.stderr.write("no such\\nmodule"); sys.exit(3)')
        dead: Deferred[str] = Deferred()
        spawner.add_exit_observer(lambda proxy_id, reason: dead.callback(reason))
        with capturedLogs() as events:
            await spawner.ensure_running(A)
            self.pid(spawner)
            self.assertEqual(await dead, "it exited with code 3")
        said = [(event["proxy"], event["line"]) for event in events if "line" in event]
        self.assertEqual(said, [("a" * 12, "no such"), ("a" * 12, "module")])

    @coroutine_test
    async def test_reports_the_exit_code_of_a_memory_error(self) -> None:
        spawner = self.start_spawner(f"sys.exit({OUT_OF_MEMORY})")
        dead: Deferred[str] = Deferred()
        spawner.add_exit_observer(lambda proxy_id, reason: dead.callback(reason))
        await spawner.ensure_running(A)
        self.assertEqual(await dead, OUT_OF_MEMORY_MESSAGE)

    @coroutine_test
    async def test_kills_a_process_that_ignores_sigterm(self) -> None:
        spawner = self.create_spawner(IGNORE_SIGTERM, stop_timeout=0.3)
        manager = self.start_manager(spawner)
        await manager.ensure_running(A)
        pid = self.pid(spawner)
        removing = Deferred.fromCoroutine(spawner.remove(A))
        await sleep(reactor, 0.1)
        self.assertTrue(is_alive(pid))
        self.assertIsNone(await spawner.inspect(A))
        await removing
        self.assertFalse(is_alive(pid))

    @coroutine_test
    async def test_a_request_while_stopping_waits_and_starts_a_new_process(self) -> None:
        spawner = self.start_spawner()
        first = await spawner.ensure_running(A)
        old = self.pid(spawner)
        removing = Deferred.fromCoroutine(spawner.remove(A))
        second = await spawner.ensure_running(A)
        self.assertFalse(is_alive(old))
        self.assertNotEqual(first.endpoint, second.endpoint)
        self.pid(spawner)
        await removing

    @coroutine_test
    async def test_reports_that_the_system_cannot_spawn(self) -> None:
        spawner = self.start_spawner()
        refused = OSError(11, "Resource temporarily unavailable")
        with mock.patch.object(reactor, "spawnProcess", side_effect=refused):
            try:
                await spawner.ensure_running(A)
            except ProxyUnavailable as error:
                self.assertIn("Resource temporarily unavailable", error.message)
            else:
                self.fail("started")
        self.assertEqual((self.directories(), list(await spawner.list())), ([], []))


class StopTests(ProcessCase):
    @coroutine_test
    async def test_stopping_the_service_stops_every_process(self) -> None:
        spawner = self.create_spawner()
        manager = self.start_manager(spawner)
        for proxy_id in (A, B):
            await manager.ensure_running(proxy_id)
            self.pid(spawner, proxy_id)
        stopping = manager.stopService()
        assert stopping is not None
        await stopping
        self.assert_none_left()
        self.assertEqual(self.directories(), [])
        with self.assertRaises(ProxyUnavailable):
            await spawner.ensure_running(A)

    @coroutine_test
    async def test_a_process_exits_at_the_end_of_its_standard_input(self) -> None:
        spawner = self.create_spawner()
        manager = self.start_manager(spawner)
        await manager.ensure_running(A)
        self.pid(spawner)
        self.reactor.transports[0].closeStdin()
        await wait_until(lambda: manager.status(A).state == "failed")

    @coroutine_test
    async def test_a_process_does_not_inherit_the_pipes_of_others(self) -> None:
        if not Path("/proc/self/fd").exists():
            raise SkipTest("needs /proc")
        spawner = self.create_spawner()
        manager = self.start_manager(spawner)
        for proxy_id in (A, B):
            await manager.ensure_running(proxy_id)
        pipe = os.readlink(f"/proc/{self.pid(spawner, A)}/fd/0")
        held = Path(f"/proc/{self.pid(spawner, B)}/fd")
        self.assertNotIn(pipe, [os.readlink(one) for one in held.iterdir()])

    @coroutine_test
    async def test_starting_removes_directories_of_an_earlier_run(self) -> None:
        stale = self.state_dir / "run" / "0123456789ab-x"
        stale.mkdir(parents=True, mode=0o700)
        (self.state_dir / "run").chmod(0o700)
        (stale / "proxy.sock").touch()
        spawner = self.start_spawner()
        self.assertEqual(self.directories(), [])
        await spawner.stopService()

    @coroutine_test
    async def test_two_clouds_cannot_share_a_state_directory(self) -> None:
        first = self.start_spawner()
        instance = await first.ensure_running(A)
        self.pid(first)
        with self.assertRaises(BadConfiguration) as raised:
            self.start_spawner()
        self.assertIn(str(self.state_dir), str(raised.exception))
        self.assertEqual((await first.inspect(A)), instance)
        self.assertEqual(len(self.directories()), 1)
        await first.stopService()
        self.start_spawner()


class UnixSocketsTests(TestCase):
    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="ctllm-test-"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(self.state)], check=True)

    def long(self) -> UnixSockets:
        deep = self.state / ("x" * 100)
        deep.mkdir(exist_ok=True)
        return UnixSockets(deep / "run")

    def path(self, sockets: UnixSockets) -> Path:
        return Path(sockets.allocate(A).arguments[1])

    def test_never_allocates_the_same_path_twice(self) -> None:
        sockets = UnixSockets(self.state / "run")
        sockets.open()
        self.assertNotEqual(sockets.allocate(A), sockets.allocate(A))
        sockets.close()

    def test_uses_a_temporary_directory_if_the_path_is_too_long(self) -> None:
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

    def test_removes_the_temporary_directory_of_a_killed_run(self) -> None:
        temporary = Path(tempfile.mkdtemp(prefix="ctllm-"))
        (temporary / "proxy.sock").touch()
        run_dir = self.state / "run"
        run_dir.mkdir(mode=0o700)
        (run_dir / "elsewhere").symlink_to(temporary)
        sockets = UnixSockets(run_dir)
        sockets.open()
        self.assertFalse(temporary.exists())
        self.assertEqual(list(run_dir.iterdir()), [])
        sockets.close()

    def test_does_not_remove_what_another_link_names(self) -> None:
        precious = self.state / "precious"
        precious.mkdir()
        (self.state / "run").mkdir(mode=0o700)
        (self.state / "run" / "elsewhere").symlink_to(precious)
        sockets = UnixSockets(self.state / "run")
        sockets.open()
        sockets.close()
        self.assertTrue(precious.exists())

    @coroutine_test
    async def test_quotes_the_path_in_the_endpoint(self) -> None:
        sockets = UnixSockets(self.state / "a:b" / "run")
        sockets.open()
        address = sockets.allocate(A)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address.socket_path)
            server.listen()
            endpoint = client_from_string(reactor, address.endpoint)
            connected = await endpoint.connect(Factory.forProtocol(Protocol))
            server.accept()[0].close()
            connected.transport.abortConnection()
            await sleep(cast(Any, reactor), 0.01)
        sockets.close()


class CommandTests(SynchronousTestCase):
    def test_the_command_line_has_every_setting(self) -> None:
        key = "A" * 43
        settings = Proxy(stream_window_bytes=131072, resume_buffer_bytes=0)
        argv = list(proxy_command(key, settings)(A, ("--socket", "/run/p.sock")))
        options = Options({})
        options.parseOptions(["proxy", *argv[argv.index("ctllm.proxy_main") + 1 :]])
        told = options.proxy_arguments()
        self.assertEqual((options.role, told.id, str(told.socket)), ("proxy", A, "/run/p.sock"))
        self.assertEqual(options.configuration().proxy, settings)

    def test_the_command_runs_ctllm(self) -> None:
        argv = list(proxy_command("A" * 43, Proxy())(A, ()))
        beginning = [*argv[: argv.index("--id")], "--version"]
        env = proxy_environment(os.environ)
        said = subprocess.run(beginning, capture_output=True, text=True, check=True, env=env)
        self.assertEqual(said.stdout.split()[0], "ctllm")

    def test_does_not_import_from_the_working_directory(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "ctllm.py").write_text("raise SystemExit('taken over')")
            argv = [*list(proxy_command("A" * 43, Proxy())(A, ()))[:4], "--version"]
            env = proxy_environment(os.environ)
            done = subprocess.run(argv, capture_output=True, check=False, env=env, cwd=folder)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_the_environment_has_no_secrets(self) -> None:
        ours = {"PATH": "/bin", "PYTHONPATH": "/x", "LC_ALL": "C", "HOME": "/root", "TOKEN": "t"}
        self.assertEqual(
            proxy_environment(ours),
            {"PATH": "/bin", "PYTHONPATH": "/x", "LC_ALL": "C", "HOME": "/nonexistent"},
        )


class LogLineSplitterTests(SynchronousTestCase):
    def said(self, *pieces: bytes) -> list[str]:
        said: list[str] = []
        lines = LogLineSplitter(said.append)
        for piece in pieces:
            lines.data_received(piece)
        lines.finish()
        return said

    def test_splits_output_at_newlines_whatever_the_chunks(self) -> None:
        self.assertEqual(self.said(b"on", b"e\n\ntw", b"o\r\nthr", b"ee"), ["one", "two", "three"])

    def test_splits_long_lines(self) -> None:
        said: list[str] = []
        lines = LogLineSplitter(said.append)
        for _ in range(100):
            lines.data_received(b"x" * 1000)
        self.assertGreaterEqual(sum(map(len, said)), 100_000 - MAX_LOG_LINE_BYTES)
        lines.finish()
        self.assertEqual({len(line) for line in said}, {MAX_LOG_LINE_BYTES})
        self.assertEqual(sum(map(len, said)), 100_000)

    def test_replaces_control_characters_and_invalid_utf8(self) -> None:
        self.assertEqual(self.said(b"\x1b[2Jred\xff\n"), ["\ufffd[2Jred\ufffd"])
        self.assertEqual(self.said(b"\tself.write(\n"), ["    self.write("])  # of a traceback

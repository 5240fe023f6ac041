"""Each periodic service of the product goes on after an unexpected exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import Proxy
from ctllm.desktop.api_key_lease import ApiKeyLease
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.desktop.host_monitor import HostMonitor
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.service import IpcService
from ctllm.desktop.key_usage import KeyUsage, KeyUsageFile
from ctllm.desktop.ollama_monitor import DOWN, OllamaMonitor
from ctllm.errors import Unauthorized
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ipc.messages import ConnectionState
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.service import create_proxy_service
from ctllm.reactor.periodic import PeriodicService
from ctllm.tunnel.frames import Desktop, Status
from ctllm.tunnel.responder import Responder
from tests.unit.reactor.test_periodic import Broken, Work


def reject(head: RequestHead, sink: ResponseSink) -> RequestSink:
    raise NotImplementedError


class FakeSession:
    """A session whose credentials are what `read_credentials` returns or raises."""

    def __init__(self) -> None:
        self.read_credentials = Work()

    @property
    def credentials(self) -> Any:
        return self.read_credentials()

    login = credentials

    def credentials_version(self) -> int:
        return 1


class FakeOllamaClient:
    """An Ollama that is up, unless `fetch` raises."""

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.fetch = Work()

    async def fetch_status(self) -> Status:
        self.fetch()
        return Status("up", "1")

    def close(self) -> None:
        pass


class PeriodicServiceTests(SynchronousTestCase):
    """What each service calls raises an exception; the service calls it again."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.work = Work()
        self.work.error = Broken("a defect")

    def assert_goes_on(self, service: Any, seconds: float = 1.0) -> None:
        service.startService()
        self.clock.pump([seconds] * 3)
        before = self.work.calls
        self.assertGreater(before, 1)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = None
        self.work.waiting = None
        self.clock.pump([seconds] * 2)
        self.assertGreater(self.work.calls, before)

    def test_the_host_monitor_goes_on(self) -> None:
        is_started = False
        host_monitor = HostMonitor(
            self.clock,
            lambda what: None,
            lambda: self.work() or "" if is_started else "",
        )
        host_monitor.startService()
        is_started = True
        self.clock.pump([1.0] * 3)
        self.assertEqual((self.work.calls, len(self.flushLoggedErrors(Broken))), (3, 1))
        host_monitor.stopService()

    def test_the_api_key_lease_goes_on(self) -> None:
        session: Any = FakeSession()
        session.read_credentials = self.work
        lease = ApiKeyLease(session, self.clock, KeyUsage(KeyUsageFile(Path(self.mktemp()))))
        lease.startService()
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.work.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        lease.stopService()

    def test_remote_desktops_go_on_and_are_empty_after_an_error(self) -> None:
        session: Any = FakeSession()
        session.read_credentials = self.work
        remote_desktops = RemoteDesktops(session, self.clock, lambda: True, cast(Any, None))
        remote_desktops.startService()
        self.clock.pump([1.0] * 8)
        self.assertGreater(self.work.calls, 2)
        self.assertTrue(self.flushLoggedErrors(Broken))
        self.assertIn("a defect", remote_desktops.error)
        self.assertEqual(remote_desktops.desktops, ())
        remote_desktops.stopService()

    def test_remote_desktops_go_on_if_is_watched_raises(self) -> None:
        self.assert_goes_on(
            RemoteDesktops(
                cast(Any, FakeSession()), self.clock, cast(Any, self.work), cast(Any, None)
            )
        )
        self.flushLoggedErrors()

    def test_the_ollama_monitor_goes_on_and_reports_down(self) -> None:
        ollama_client: Any = FakeOllamaClient()
        ollama_client.fetch = self.work
        self.work.error = None
        monitor = OllamaMonitor(ollama_client, self.clock, 5.0)
        monitor.startService()
        self.assertEqual(monitor.status.ollama, "up")
        self.work.error = Broken("a defect")
        self.clock.pump([5.0] * 3)
        self.assertIs(monitor.status, DOWN)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = None
        self.clock.advance(5.0)
        self.assertEqual(monitor.status.ollama, "up")
        monitor.stopService()

    def test_an_observer_of_the_ollama_monitor_that_raises_stops_no_other(self) -> None:
        monitor = OllamaMonitor(cast(Any, FakeOllamaClient()), self.clock, 5.0)
        statuses: list[Status] = []
        monitor.add_observer(cast(Any, self.work))
        monitor.add_observer(statuses.append)
        monitor.startService()
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(len(statuses), 1)
        monitor.stopService()

    def test_the_bridge_goes_on_removing_expired_streams(self) -> None:
        tunnel = Responder(
            1 << 16, 30, 8, request_handler=reject, resume_buffer_bytes=0, desktop=Desktop("d", "n")
        )
        self.patch(tunnel, "remove_expired", self.work)
        session: Any = FakeSession()
        session.read_credentials.error = Unauthorized("Nobody is signed in.")
        bridge = Bridge(tunnel, session, self.clock, (20, 10), cast(Any, None))
        self.assert_goes_on(bridge)
        bridge.stopService()

    def test_the_bridge_goes_on_connecting_if_its_observer_raises(self) -> None:
        session: Any = FakeSession()
        session.read_credentials = self.work
        bridge = Bridge(
            Responder(
                1 << 16,
                30,
                8,
                request_handler=reject,
                resume_buffer_bytes=0,
                desktop=Desktop("d", "n"),
            ),
            session,
            self.clock,
            (20, 10),
            cast(Any, None),
        )
        observer = Work()
        observer.error = Broken("an observer")
        bridge.add_observer(observer)
        bridge.startService()
        self.clock.pump([10.0] * 20)
        self.assertGreater(self.work.calls, 3)
        self.assertGreater(observer.calls, 0)
        self.assertEqual(bridge.state, ConnectionState.ERROR)
        self.flushLoggedErrors(Broken)
        bridge.stopService()

    def test_the_ipc_service_goes_on_sending_the_status(self) -> None:
        state = Path(self.mktemp())
        self.clock = MemoryReactorClock()
        ipc = IpcService(
            self.clock, state, 0, mock.Mock(), cast(Any, None),
            cast(Any, self.work), LogBuffer(),
        )  # fmt: skip
        ipc.connections.mark_authenticated(mock.Mock(is_subscribed=True))
        ipc.startService()
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.work.calls, 3)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        ipc.stopService()

    def test_graceful_shutdown_ends_if_counting_raises(self) -> None:
        stopped: list[Any] = []
        count = self.counter([0, Broken("a defect"), 0])
        shutdown = GracefulShutdown(self.clock, cast(Any, None), count, lambda: stopped.append(1))
        shutdown.begin(10.0)
        self.clock.pump([1.0] * 2)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(stopped, [1])

    def counter(self, results: list[Any]) -> Callable[[], int]:
        def count() -> int:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return int(result)

        return count

    def test_a_proxy_goes_on_removing_expired_streams(self) -> None:
        self.patch(DesktopRegistry, "remove_expired", self.work)
        services = create_proxy_service(
            self.clock, Proxy(), endpoint="unix:x", id="p", cloud_key="A" * 43
        )
        (periodic,) = (each for each in services if isinstance(each, PeriodicService))
        self.assert_goes_on(periodic)
        periodic.stopService()

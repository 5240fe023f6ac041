"""Work that is repeated goes on, whatever goes wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import Proxy
from ctllm.desktop.api_key_lease import ApiKeyLease
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.desktop.host_monitor import HostMonitor
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.service import IpcService
from ctllm.desktop.ollama_monitor import DOWN, OllamaMonitor
from ctllm.errors import Unauthorized
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ipc.messages import ConnectionState
from ctllm.proxy.service import create_proxy_service
from ctllm.reactor.periodic import PeriodicService
from ctllm.tunnel.frames import Desktop, Status
from ctllm.tunnel.responder import Responder
from tests.unit.reactor.test_periodic import Broken, Work


def reject(head: RequestHead, sink: ResponseSink) -> RequestSink:
    raise NotImplementedError


class Session:
    """A sign-in that cannot be looked at."""

    def __init__(self) -> None:
        self.looked = Work()

    @property
    def credentials(self) -> Any:
        return self.looked()

    login = credentials

    def credentials_version(self) -> int:
        return 1


class Server:
    """An Ollama that breaks whoever asks it."""

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.asked = Work()

    async def fetch_status(self) -> Status:
        self.asked()
        return Status("up", "1")

    def close(self) -> None:
        pass


class EveryLoop(SynchronousTestCase):
    """Each loop of the product, with what it calls broken: it calls it again."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.work = Work()
        self.work.error = Broken("a defect")

    def goes_on(self, service: Any, seconds: float = 1.0) -> None:
        service.startService()
        self.clock.pump([seconds] * 3)
        before = self.work.calls
        self.assertGreater(before, 1)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = None
        self.work.waiting = None
        self.clock.pump([seconds] * 2)
        self.assertGreater(self.work.calls, before)

    def test_surroundings(self) -> None:
        is_started = False
        surroundings = HostMonitor(
            self.clock,
            lambda what: None,
            lambda: self.work() or "" if is_started else "",
        )
        surroundings.startService()
        is_started = True
        self.clock.pump([1.0] * 3)
        self.assertEqual((self.work.calls, len(self.flushLoggedErrors(Broken))), (3, 1))
        surroundings.stopService()

    def test_the_keys(self) -> None:
        session: Any = Session()
        session.looked = self.work
        keys = ApiKeyLease(session, self.clock)
        keys.startService()
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.work.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        keys.stopService()

    def test_the_other_desktops(self) -> None:
        """And what was known of them is not claimed any more."""
        session: Any = Session()
        session.looked = self.work
        elsewhere = RemoteDesktops(session, self.clock, lambda: True, cast(Any, None))
        elsewhere.startService()
        self.clock.pump([1.0] * 8)
        self.assertGreater(self.work.calls, 2)
        self.assertTrue(self.flushLoggedErrors(Broken))
        self.assertIn("a defect", elsewhere.error)
        self.assertEqual(elsewhere.desktops, ())
        elsewhere.stopService()

    def test_who_wants_the_other_desktops(self) -> None:
        self.goes_on(
            RemoteDesktops(cast(Any, Session()), self.clock, cast(Any, self.work), cast(Any, None))
        )
        self.flushLoggedErrors()

    def test_ollama(self) -> None:
        """What cannot be asked is not claimed to be up."""
        server: Any = Server()
        server.asked = self.work
        self.work.error = None
        ollama = OllamaMonitor(server, self.clock, 5.0)
        ollama.startService()
        self.assertEqual(ollama.status.ollama, "up")
        self.work.error = Broken("a defect")
        self.clock.pump([5.0] * 3)
        self.assertIs(ollama.status, DOWN)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = None
        self.clock.advance(5.0)
        self.assertEqual(ollama.status.ollama, "up")
        ollama.stopService()

    def test_a_listener_to_ollama(self) -> None:
        """The others hear of it all the same."""
        ollama = OllamaMonitor(cast(Any, Server()), self.clock, 5.0)
        heard: list[Status] = []
        ollama.add_observer(cast(Any, self.work))
        ollama.add_observer(heard.append)
        ollama.startService()
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(len(heard), 1)
        ollama.stopService()

    def test_the_tunnel(self) -> None:
        tunnel = Responder(
            1 << 16, 30, 8, request_handler=reject, resume_buffer_bytes=0, desktop=Desktop("d", "n")
        )
        self.patch(tunnel, "remove_expired", self.work)
        session: Any = Session()
        session.looked.error = Unauthorized("nobody is signed in")
        bridge = Bridge(tunnel, session, self.clock, (20, 10), cast(Any, None))
        self.goes_on(bridge)
        bridge.stopService()

    def test_the_bridge(self) -> None:
        """It dials again, also where whoever is told of its state breaks."""
        session: Any = Session()
        session.looked = self.work
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
        told = Work()
        told.error = Broken("a listener")
        bridge.add_observer(told)
        bridge.startService()
        self.clock.pump([10.0] * 20)
        self.assertGreater(self.work.calls, 3)
        self.assertGreater(told.calls, 0)
        self.assertEqual(bridge.state, ConnectionState.ERROR)
        self.flushLoggedErrors(Broken)
        bridge.stopService()

    def test_news(self) -> None:
        """Those who watch over the IPC."""
        ipc = IpcService(
            self.clock, Path(self.mktemp()), 0, cast(Any, None), cast(Any, None),
            cast(Any, self.work), LogBuffer(),
        )  # fmt: skip
        watching = type("Connection", (), {"is_subscribed": True, "send_event": lambda *_: None})()
        self.patch(ipc, "connections", [watching])
        ipc._periodic.start(1.0, now=False)
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.work.calls, 3)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        ipc._periodic.stop()

    def test_quitting(self) -> None:
        """It ends all the same."""
        stopped: list[Any] = []
        count = self.counted([0, Broken("a defect"), 0])
        leaving = GracefulShutdown(self.clock, cast(Any, None), count, lambda: stopped.append(1))
        leaving.begin(10.0)
        self.clock.pump([1.0] * 2)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(stopped, [1])

    def counted(self, results: list[Any]) -> Callable[[], int]:
        def count() -> int:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return int(result)

        return count

    def test_a_proxy(self) -> None:
        """What is over is forgotten, each second."""
        whole = create_proxy_service(
            self.clock, Proxy(), endpoint="unix:x", id="p", cloud_key="A" * 43
        )
        (sweeping,) = (each for each in whole if isinstance(each, PeriodicService))
        self.assertIn("remove_expired", repr(sweeping._periodic._work))
        self.patch(sweeping._periodic, "_work", self.work)
        self.goes_on(sweeping)
        sweeping.stopService()

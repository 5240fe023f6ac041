"""`ctllm.desktop.broker.policy_store`: the policy that was set at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.errors import BadConfiguration
from ctllm.http.message.head import ResponseHead
from ctllm.tunnel.frames import Status

OK = ResponseHead(200)
UP = Status("up", "1", ("llama3.2:latest",))
CHAT = b'{"model":"%b"}'


class PolicyStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())

    def store(self, configured: RoutingPolicy = RoutingPolicy.AUTO) -> PolicyStore:
        return PolicyStore(self.state, configured)

    def test_loads_what_was_saved(self) -> None:
        self.assertEqual(self.store().load(), RoutingPolicy.AUTO)
        self.store().save(RoutingPolicy.NEVER)
        self.assertEqual(self.store().load(), RoutingPolicy.NEVER)

    def test_changed_configuration_takes_precedence(self) -> None:
        self.store().save(RoutingPolicy.NEVER)
        self.assertEqual(self.store(RoutingPolicy.CLOUD).load(), RoutingPolicy.CLOUD)

    def test_damaged_file_means_never_and_is_set_aside(self) -> None:
        path = self.state / "desktop" / "preference.json"
        self.store().save(RoutingPolicy.LOCAL)
        path.write_text('{"preference": "loc')
        events: list[LogEvent] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for _ in range(2):
            self.assertEqual(self.store(RoutingPolicy.CLOUD).load(), RoutingPolicy.NEVER)
        (event,) = events
        self.assertIn("ctllm prefer", formatEvent(event))
        (aside,) = path.parent.glob("preference.json.damaged-*")
        self.assertEqual(aside.read_text(), '{"preference": "loc')
        self.store(RoutingPolicy.CLOUD).save(RoutingPolicy.AUTO)
        self.assertEqual(self.store(RoutingPolicy.CLOUD).load(), RoutingPolicy.AUTO)

    def test_error_when_the_file_cannot_be_written(self) -> None:
        self.state.write_text("")
        self.assertRaises(BadConfiguration, self.store().save, RoutingPolicy.NEVER)

"""`ctllm.desktop.resources.preference`: the cloud may only let fewer requests leave the machine."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.desktop.resources.preference import PATH, PreferenceResource
from ctllm.errors import BadConfiguration, MethodNotAllowed, NotFound
from ctllm.http.message.head import RequestHead
from tests.unit.fakes import FakeResponseSink


class FakeBroker:
    """What has the policy."""

    policy = RoutingPolicy.LOCAL
    error: Exception | None = None

    def set_policy(self, policy: RoutingPolicy) -> None:
        self.policy = policy
        if self.error is not None:
            raise self.error


class PreferenceResourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.broker = FakeBroker()

    def send(self, method: bytes, body: Any = None, *, is_local: bool = False) -> int:
        resource = PreferenceResource(self.broker, is_local=is_local)
        sink = FakeResponseSink()
        request = resource.start_request(RequestHead(method, PATH), sink)
        request.write(b"" if body is None else json.dumps(body).encode())
        request.finish()
        self.json = json.loads(sink.data)
        assert sink.head is not None
        return sink.head.status

    def test_responds_with_the_policy(self) -> None:
        self.assertEqual(self.send(b"GET"), 200)
        self.assertEqual(self.json, {"routing_policy": "local"})

    def test_this_machine_sets_any_policy(self) -> None:
        for policy in RoutingPolicy:
            self.assertEqual(self.send(b"PUT", {"routing_policy": policy}, is_local=True), 200)
            self.assertEqual((self.broker.policy, self.json["routing_policy"]), (policy, policy))

    def test_the_cloud_sets_a_policy_that_sends_no_more_to_it(self) -> None:
        order = ["never", "local", "auto", "cloud"]
        for present in order:
            for wanted in order:
                self.broker.policy = RoutingPolicy(present)
                allowed = order.index(wanted) <= order.index(present)
                status = self.send(b"PUT", {"routing_policy": wanted})
                self.assertEqual(status, 200 if allowed else 403, (present, wanted))
                self.assertEqual(self.broker.policy, wanted if allowed else present)

    def test_refuses_what_is_no_policy(self) -> None:
        bodies: tuple[Any, ...] = ({"routing_policy": "x"}, {}, [], {"routing_policy": 1})
        for body in (*bodies, {"routing_policy": "auto", "x": 1}):
            self.assertEqual(self.send(b"PUT", body, is_local=True), 400, body)
        self.assertEqual(self.send(b"PUT", {"routing_policy": "auto" * 500}, is_local=True), 413)
        self.assertEqual(self.broker.policy, RoutingPolicy.LOCAL)

    def test_says_if_the_policy_cannot_be_stored(self) -> None:
        self.broker.error = BadConfiguration("disk full")
        self.assertEqual(self.send(b"PUT", {"routing_policy": "never"}), 500)
        self.assertEqual(self.json["error"]["message"], "disk full")

    def test_has_one_path_and_two_methods(self) -> None:
        resource = PreferenceResource(self.broker)
        for method, path, error in (
            (b"DELETE", PATH, MethodNotAllowed),
            (b"GET", PATH + b"/x", NotFound),
        ):
            head = RequestHead(method, path)
            self.assertRaises(error, resource.start_request, head, FakeResponseSink())

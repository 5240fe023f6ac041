"""`ctllm.cloud.spawners.swarm`: services of a swarm in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from ipaddress import IPv4Network
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.container_spec import CloudLabels
from ctllm.cloud.spawners.interfaces import ProxyInstance
from ctllm.cloud.spawners.swarm import MAX_REMOVALS, REMOVE_POLL_INTERVAL, SwarmSpawner
from ctllm.cloud.spawners.swarm_networks import SwarmNetworks
from ctllm.cloud.spawners.task_watcher import POLL_INTERVAL
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from tests.unit.cloud.proxies.manager_case import A, B
from tests.unit.cloud.spawners.fake_swarm import FakeSwarm

T = TypeVar("T")
LABELS = CloudLabels(b"secret", "key")
POOL = IPv4Network("10.142.0.0/24")
NETWORK_A = A.replace("-proxy-", "-net-")


class SwarmCase(SynchronousTestCase):
    """A spawner whose server has the container `nginx`."""

    def setUp(self) -> None:
        self.swarm, self.clock = FakeSwarm(), Clock()
        self.exits: list[tuple[str, str]] = []
        self.spawner = self.create_spawner()

    def create_spawner(self, labels: CloudLabels = LABELS, image: str = "image:1") -> SwarmSpawner:
        docker = cast(Any, self.swarm)
        networks = SwarmNetworks(docker, labels, POOL, ["nginx"], True)
        spawner = SwarmSpawner(docker, self.clock, image, labels, Proxy(), networks, ["x==y"])
        spawner.add_exit_observer(lambda *exit: self.exits.append(exit))
        spawner.startService()
        self.addCleanup(spawner.stopService)
        return spawner

    def result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def error(self, coroutine: Coroutine[Any, Any, Any]) -> CtllmError:
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), CtllmError)
        return cast(CtllmError, failure.value)

    def start(self, proxy_id: str = A) -> ProxyInstance:
        return self.result(self.spawner.ensure_running(proxy_id))


class StartTests(SwarmCase):
    """A start, and what keeps a proxy from it."""

    def test_a_service_in_a_network_of_its_own(self) -> None:
        instance = self.start()
        self.assertEqual((instance.endpoint, instance.adopted), ("tcp:10.0.0.2:8080", False))
        network = self.swarm.networks[NETWORK_A]
        self.assertTrue(network["Internal"])
        self.assertEqual(network["Options"], {"encrypted": ""})
        self.assertEqual(self.swarm.attached["nginx"], {NETWORK_A})
        template = self.swarm.services[A]["Spec"]["TaskTemplate"]
        self.assertEqual(template["RestartPolicy"], {"Condition": "none"})
        self.assertEqual(template["Placement"], {"Constraints": ["x==y"]})
        self.start(B)
        subnets = [each["IPAM"]["Config"][0]["Subnet"] for each in self.swarm.networks.values()]
        self.assertEqual(subnets, ["10.142.0.0/28", "10.142.0.16/28"])

    def test_one_that_runs_is_adopted(self) -> None:
        first = self.start()
        again = self.result(self.create_spawner().ensure_running(A))
        self.assertEqual((again.endpoint, again.adopted), (first.endpoint, True))

    def test_it_waits_until_the_task_runs(self) -> None:
        self.swarm.next_status = {"State": "preparing"}
        starting = Deferred.fromCoroutine(self.spawner.ensure_running(A))
        self.assertNoResult(starting)
        self.swarm.tasks[A]["Status"]["State"] = "running"
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(starting).id, A)

    def test_a_full_swarm(self) -> None:
        self.swarm.next_status = {"State": "pending", "Err": "no suitable node"}
        error = self.error(self.spawner.ensure_running(A))
        self.assertIsInstance(error, ServiceUnavailable)
        self.assertIn("no suitable node", error.message)
        self.assertIn("no suitable node", self.spawner.problem)

    def test_a_task_that_fails(self) -> None:
        self.swarm.next_status = {"State": "rejected", "Err": "No such image"}
        self.assertIn("rejected: No such image", self.error(self.spawner.ensure_running(A)).message)

    def test_the_next_start_replaces_what_failed(self) -> None:
        self.swarm.next_status = {"State": "failed", "Err": "exit 1"}
        self.error(self.spawner.ensure_running(A))
        self.swarm.next_status = {"State": "running"}
        self.assertEqual(self.start().id, A)
        self.assertEqual(self.spawner.problem, "")
        self.assertEqual((len(self.swarm.services), len(self.swarm.networks)), (1, 1))

    def test_a_service_of_somebody_else_is_left_alone(self) -> None:
        self.result(self.create_spawner(CloudLabels(b"other", "key")).ensure_running(A))
        error = self.error(self.spawner.ensure_running(A))
        self.assertIn("not of this cloud", error.message)
        self.result(self.spawner.remove(A))
        self.assertEqual(len(self.swarm.services), 1)

    def test_a_container_of_the_server_that_does_not_exist(self) -> None:
        self.swarm.attached = {}
        error = self.error(self.spawner.ensure_running(A))
        self.assertIsInstance(error, ProxyUnavailable)
        self.assertIn("no container nginx", error.message)


class RemoveTests(SwarmCase):
    """What is left afterwards: nothing."""

    def test_service_and_network(self) -> None:
        self.start()
        self.result(self.spawner.remove(A))
        self.assertEqual((self.swarm.services, self.swarm.networks), ({}, {}))
        self.clock.advance(POLL_INTERVAL)
        self.assertEqual(self.exits, [])

    def test_it_waits_for_what_uses_the_network(self) -> None:
        self.start()
        self.swarm.attached["other"] = {NETWORK_A}
        removing = Deferred.fromCoroutine(self.spawner.remove(A))
        self.clock.advance(REMOVE_POLL_INTERVAL)
        self.assertNoResult(removing)
        self.swarm.attached["other"].clear()
        self.clock.advance(REMOVE_POLL_INTERVAL)
        self.successResultOf(removing)
        self.assertEqual(self.swarm.networks, {})

    def test_a_network_that_stays_in_use_is_an_error(self) -> None:
        self.start()
        self.swarm.attached["other"] = {NETWORK_A}
        removing = Deferred.fromCoroutine(self.spawner.remove(A))
        self.clock.pump([REMOVE_POLL_INTERVAL] * MAX_REMOVALS)
        self.failureResultOf(removing, CtllmError)


class ListTests(SwarmCase):
    """What the next run of the cloud finds."""

    def test_what_runs_is_found_and_the_rest_removed(self) -> None:
        self.start()
        self.start(B)
        self.swarm.tasks[B]["Status"]["State"] = "failed"
        del self.swarm.services[B]
        found = self.result(self.create_spawner().list())
        self.assertEqual([each.id for each in found], [A])
        self.assertEqual(list(self.swarm.networks), [NETWORK_A])

    def test_a_new_container_of_the_server_reaches_what_runs(self) -> None:
        self.start()
        self.swarm.attached = {"nginx": set()}
        self.result(self.create_spawner().list())
        self.assertEqual(self.swarm.attached["nginx"], {NETWORK_A})

    def test_a_container_of_the_server_that_is_missing_is_a_problem(self) -> None:
        self.start()
        self.swarm.attached = {}
        spawner = self.create_spawner()
        self.assertEqual([each.id for each in self.result(spawner.list())], [A])
        self.assertIn("no container nginx", spawner.problem)

    def test_what_runs_on_a_dead_node_is_removed(self) -> None:
        self.start()
        self.swarm.nodes["node1"] = "down"
        self.assertEqual(self.result(self.spawner.list()), [])
        self.assertEqual((self.swarm.services, self.swarm.networks), ({}, {}))

    def test_a_proxy_that_does_not_accept_our_assertions_is_removed(self) -> None:
        self.start()
        self.assertEqual(self.result(self.create_spawner(CloudLabels(b"secret", "new")).list()), [])
        self.assertEqual(self.swarm.services, {})

    def test_another_image_makes_it_outdated(self) -> None:
        self.start()
        for image, is_outdated in (("image:1", False), ("image:2", True)):
            spawner = self.create_spawner(image=image)
            self.result(spawner.list())
            self.assertIs(spawner.is_outdated(A), is_outdated)


class WatchTests(SwarmCase):
    """What the swarm does to proxies that run."""

    def ends(self) -> list[tuple[str, str]]:
        self.clock.advance(POLL_INTERVAL)
        self.clock.advance(0)
        return self.exits

    def test_why_a_task_ended(self) -> None:
        cases: list[tuple[str, Any, str]] = [
            ("Status", {"State": "failed", "Err": "task: non-zero exit (1)"}, "non-zero exit (1)"),
            (
                "Status",
                {"State": "failed", "ContainerStatus": {"ExitCode": OUT_OF_MEMORY}},
                OUT_OF_MEMORY_MESSAGE,
            ),
            ("DesiredState", "shutdown", "drained"),
            ("NodeID", "node3", "its node does not respond"),
        ]
        for key, value, reason in cases:
            self.exits.clear()
            self.start()
            self.assertEqual(self.ends(), [])
            self.swarm.tasks[A][key] = value
            ((proxy_id, why),) = self.ends()
            self.assertEqual(proxy_id, A)
            self.assertIn(reason, why)
            self.ends()
            self.assertEqual(len(self.exits), 1)
            self.result(self.spawner.clean_up(A))

    def test_a_task_that_is_gone(self) -> None:
        self.start()
        self.swarm.tasks.clear()
        self.assertEqual(self.ends(), [(A, "its task was removed")])

    def test_a_container_of_the_server_that_was_replaced_is_attached(self) -> None:
        self.start()
        self.swarm.attached["nginx"].clear()
        self.ends()
        self.assertEqual(self.swarm.attached["nginx"], {NETWORK_A})

    def test_a_network_that_cannot_be_attached_keeps_no_other_from_it(self) -> None:
        self.start()
        self.start(B)
        self.swarm.attached["nginx"].clear()
        self.swarm.broken_networks.add(NETWORK_A)
        self.ends()
        self.assertEqual(len(self.swarm.attached["nginx"]), 1)
        self.assertIn("no address left", self.spawner.problem)
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_an_error_does_not_end_it(self) -> None:
        self.start()
        nginx = self.swarm.attached.pop("nginx")
        self.ends()
        self.swarm.attached["nginx"] = nginx
        self.swarm.tasks.clear()
        self.assertEqual(len(self.ends()), 1)

"""`ctllm.cloud.spawners.composite`: processes and containers side by side."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.composite import CompositeSpawner, select_spawner, survives_restart
from ctllm.cloud.spawners.interfaces import ProxyInstance, ResourceUsage, new_waiting_id
from ctllm.errors import ProxyUnavailable
from tests.unit.cloud.proxies.manager_case import A, B, C, FakeProxy, FakeSpawner, ProxyManagerCase


class CompositeSpawnerTests(SynchronousTestCase):
    """A spawner of processes, which is the default, and one of containers."""

    def setUp(self) -> None:
        self.process = FakeSpawner()
        self.docker = FakeSpawner(proxies_survive_restart=True)
        self.spawner = CompositeSpawner({"docker": self.docker, "process": self.process}, "process")

    def run_on(self, proxy_id: str, name: str = "") -> None:
        self.spawner.select(proxy_id, name)
        self.successResultOf(Deferred.fromCoroutine(self.spawner.ensure_running(proxy_id)))

    def listed(self) -> list[str]:
        found = self.successResultOf(Deferred.fromCoroutine(self.spawner.list()))
        return sorted(instance.id for instance in found)

    def where(self, proxy_id: str) -> list[str]:
        spawners = {"process": self.process, "docker": self.docker}
        return [name for name, each in spawners.items() if proxy_id in each.proxies]

    def test_each_proxy_runs_where_its_tier_says(self) -> None:
        self.run_on(A, "docker")
        self.run_on(B, "process")
        self.run_on(C)
        self.assertEqual([self.where(each) for each in (A, B, C)],
                         [["docker"], ["process"], ["process"]])  # fmt: skip
        self.assertEqual(self.listed(), sorted((A, B, C)))

    def test_a_proxy_whose_tier_has_changed_runs_elsewhere_after_its_next_start(self) -> None:
        self.run_on(A, "docker")
        self.run_on(A, "process")
        self.assertEqual(self.where(A), ["process"])
        self.run_on(A, "docker")
        self.assertEqual(self.where(A), ["docker"])

    def test_a_container_of_an_earlier_run_is_adopted_unless_the_tier_has_changed(self) -> None:
        for proxy_id in (A, B):
            self.successResultOf(Deferred.fromCoroutine(self.docker.ensure_running(proxy_id)))
        self.assertEqual(self.listed(), sorted((A, B)))
        self.run_on(A)
        self.run_on(B, "process")
        self.assertEqual((self.where(A), self.where(B)), (["docker"], ["process"]))
        self.assertEqual(self.docker.starts[A], 1)

    def test_a_user_gets_a_waiting_proxy_only_of_the_spawner_of_their_tier(self) -> None:
        waiting = new_waiting_id()
        self.run_on(waiting)
        self.spawner.select(A, "docker")
        self.assertFalse(self.spawner.can_assign(waiting, A))
        self.run_on(B, "docker")
        self.assertFalse(self.spawner.can_assign(waiting, B))
        self.assertTrue(self.spawner.can_assign(waiting, C))
        self.process.may_assign = False
        self.assertFalse(self.spawner.can_assign(waiting, C))
        instance = self.successResultOf(Deferred.fromCoroutine(self.spawner.assign(waiting, C)))
        self.assertEqual((instance.id, self.where(C), self.where(waiting)), (C, ["process"], []))
        self.process.exit_observers.notify(C, "gone")
        self.run_on(C)
        self.assertEqual(self.where(C), ["process"])

    def test_a_container_that_could_not_be_removed_is_removed_later(self) -> None:
        self.run_on(A, "docker")

        async def fail(proxy_id: str) -> None:
            raise ProxyUnavailable("Docker is down.")

        removing, self.docker.remove = self.docker.remove, fail  # type: ignore[method-assign]
        self.run_on(A, "process")
        self.assertEqual(self.where(A), ["process", "docker"])
        self.docker.remove = removing  # type: ignore[method-assign]
        self.assertEqual(self.listed(), [A])
        self.assertEqual(self.where(A), ["process"])

    def test_a_failing_docker_does_not_keep_processes_from_starting(self) -> None:
        self.docker.error = ProxyUnavailable("Docker is down.")
        self.run_on(A, "process")
        self.assertEqual(self.where(A), ["process"])
        starting = Deferred.fromCoroutine(self.spawner.list())
        self.failureResultOf(starting, ProxyUnavailable)

    def test_removal_removes_what_was_started_and_frees_the_memory_of_it(self) -> None:
        for each, name in ((A, "docker"), (B, "process")):
            self.run_on(each, name)
            self.successResultOf(Deferred.fromCoroutine(self.spawner.remove(each)))
        self.assertEqual((self.listed(), self.docker.removals[B], self.process.removals[A]),
                         ([], 0, 0))  # fmt: skip
        self.run_on(A)
        self.assertEqual(self.where(A), ["process"], "The selection outlived the proxy.")

    def test_exits_are_reported_by_the_spawner_that_runs_the_proxy(self) -> None:
        exits: list[tuple[str, str]] = []
        self.spawner.add_exit_observer(lambda proxy_id, reason: exits.append((proxy_id, reason)))
        self.run_on(A, "docker")
        self.process.exit_observers.notify(A, "of an older process")
        self.docker.exit_observers.notify(A, "it was killed")
        self.assertEqual(exits, [(A, "it was killed")])

    def test_merges_problems_and_usage(self) -> None:
        self.assertEqual(self.spawner.problem, "")
        self.docker.problem = "Docker is down."
        self.assertEqual(self.spawner.problem, "Docker is down.")
        self.docker.usages, self.process.usages = {A: ResourceUsage(1, 2)}, {B: ResourceUsage(3, 4)}
        usage = self.successResultOf(Deferred.fromCoroutine(self.spawner.resource_usage()))
        self.assertEqual(set(usage), {A, B})

    def test_tells_which_proxies_survive_a_restart(self) -> None:
        self.run_on(A, "docker")
        self.run_on(B, "process")
        self.assertTrue(survives_restart(self.spawner, A))
        self.assertFalse(survives_restart(self.spawner, B))
        self.assertFalse(survives_restart(self.process, A))
        select_spawner(self.process, A, "docker")  # has no choice


class FakeCompositeSpawner(CompositeSpawner):
    """A composite of two fakes, for a ProxyManagerCase."""

    def __init__(self, docker: FakeSpawner, process: FakeSpawner) -> None:
        super().__init__({"docker": docker, "process": process}, "process")
        self._fakes = (docker, process)

    @property
    def started(self) -> list[FakeProxy]:
        return [proxy for each in self._fakes for proxy in each.started]

    def connect(self, instance: ProxyInstance) -> FakeProxy:
        (proxy,) = [
            each.proxies[instance.id] for each in self._fakes if instance.id in each.proxies
        ]
        return proxy


class TieredManagerTests(ProxyManagerCase):
    """A manager with a composite spawner."""

    proxies_survive_restart = True

    def before_start(self) -> None:
        self.docker, self.process = FakeSpawner(proxies_survive_restart=True), FakeSpawner()
        self.spawner = FakeCompositeSpawner(self.docker, self.process)  # type: ignore[assignment]

    def test_a_user_whose_tier_changes_gets_the_other_kind_at_the_next_start(self) -> None:
        self.successResultOf(self.run_coroutine(self.manager.ensure_running(A, spawner="docker")))
        self.successResultOf(self.run_coroutine(self.manager.ensure_running(A, spawner="process")))
        self.assertEqual((list(self.docker.proxies), list(self.process.proxies)), ([A], []))
        self.successResultOf(self.run_coroutine(self.manager.remove(A, "was stopped")))
        self.successResultOf(self.run_coroutine(self.manager.ensure_running(A, spawner="process")))
        self.assertEqual((list(self.docker.proxies), list(self.process.proxies)), ([], [A]))

"""`ctllm.cloud.proxies.manager`: proxies of users that were revoked."""

from __future__ import annotations

from tests.unit.cloud.proxies import manager_case


class RevokedUserTests(manager_case.ProxyManagerCase):
    """Proxies that survived a restart of the cloud, with A's user revoked in between."""

    proxies_survive_restart = True

    def setUp(self) -> None:
        self.revoked = {manager_case.A: manager_case.START}
        super().setUp()

    def revocation_time(self, proxy_id: str) -> float:
        return self.revoked.get(proxy_id, float("-inf"))

    def before_start(self) -> None:
        for proxy_id in (manager_case.A, manager_case.B):
            self.spawner.proxies[proxy_id] = manager_case.FakeProxy(True)
            self.spawner.started.append(self.spawner.proxies[proxy_id])

    def test_stops_the_proxy_instead_of_adopting_it(self) -> None:
        self.flush()
        self.assertEqual(self.spawner.removals[manager_case.A], 1)
        self.assertEqual(self.status(manager_case.A), "absent")
        self.assertEqual(self.status(manager_case.B), "running")
        self.assertIn(("proxy.stopped", "revoked"), self.audited("event", "reason"))

    def test_replaces_a_proxy_that_could_not_be_removed_earlier(self) -> None:
        self.flush()
        self.spawner.proxies[manager_case.A] = manager_case.FakeProxy(True)
        self.spawner.started.append(self.spawner.proxies[manager_case.A])
        self.start(manager_case.A)
        self.assertEqual(self.spawner.removals[manager_case.A], 2)
        self.assertEqual(self.spawner.starts[manager_case.A], 1)

    def test_stops_a_running_proxy(self) -> None:
        self.flush()
        self.manager.revoke(manager_case.B)
        self.flush()
        self.assertEqual(self.status(manager_case.B), "absent")
        self.assertEqual(self.spawner.removals[manager_case.B], 1)
        self.manager.revoke(manager_case.B)
        self.manager.revoke(manager_case.C)

"""Proxies that wait for users: how many, whose they become, and that nobody else gets them."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred

from ctllm.cloud.proxies import warm_pool
from ctllm.cloud.proxies.warm_pool import (
    TRANSITIONS,
    WaitingEvent,
    WaitingState,
)
from ctllm.cloud.spawners.interfaces import NameInUse, is_proxy_id, is_waiting_id, new_waiting_id
from ctllm.config import Cloud
from ctllm.errors import ProxyUnavailable
from tests.unit.cloud.proxies.manager_case import A, B, C, ProxyManagerCase


class IdTests(ProxyManagerCase):
    """Ids of users and of nobody are never the same."""

    def test_ids_are_distinct(self) -> None:
        waiting = new_waiting_id()
        self.assertTrue(is_waiting_id(waiting) and not is_proxy_id(waiting))
        self.assertTrue(is_proxy_id(A) and not is_waiting_id(A))
        self.assertNotEqual(waiting, new_waiting_id())
        # The bridge of its network is named by twelve of these.
        self.assertNotEqual(waiting[:24], new_waiting_id()[:24])


class WarmPoolTests(ProxyManagerCase):
    """Two proxies wait where proxies end with the cloud."""

    settings = Cloud(proxy_warm=2, max_proxies=3, max_concurrent_starts=1)

    def setUp(self) -> None:
        super().setUp()
        self.wait(1)

    def taken(self) -> list[str]:
        return [each for one in self.spawner.started for each in one.assignments]

    def test_a_user_gets_a_proxy_that_waits_and_another_is_started(self) -> None:
        first, second = self.spawner.waiting
        self.start(A)
        self.assertEqual(self.taken(), [f"{first} is {A}"])
        self.assertEqual((self.spawner.starts[A], self.spawner.waiting), (0, [second]))
        self.assertEqual(
            self.audited("event", "proxy", "reason"), [("proxy.started", A, "assigned")]
        )
        self.assertTrue(self.has_metric("ctllm_proxy_assignments_total 1.0"))
        self.wait(1.5)
        self.assertEqual(len(self.spawner.waiting), 2)
        self.assertTrue(self.has_metric('ctllm_proxies{state="waiting"} 2.0'))
        self.assertTrue(self.has_metric('ctllm_proxies{state="running"} 1.0'))

    def test_one_that_starts_is_not_listed_as_waiting(self) -> None:
        third = new_waiting_id()
        self.patch(warm_pool, "new_waiting_id", lambda: third)
        self.spawner.slow_starts[third] = Deferred()
        self.start(A)
        self.wait(1.5)
        self.assertEqual(self.states(), ["running", "starting", "waiting"])
        self.spawner.slow_starts[third].callback(None)
        self.wait(0.5)
        self.assertEqual(self.states(), ["running", "waiting", "waiting"])

    def states(self) -> list[str]:
        listed = self.successResultOf(self.run_coroutine(self.manager.list_proxies()))
        return sorted(each.state for each in listed)

    def test_concurrent_requests_of_a_user_take_one(self) -> None:
        self.spawner.slow_assignment = Deferred()
        starting = [self.ensure_running(A) for _ in range(5)]
        self.spawner.slow_assignment.callback(None)
        self.flush()
        self.assertEqual(len({self.successResultOf(one) for one in starting}), 1)
        self.assertEqual((len(self.taken()), len(self.spawner.waiting)), (1, 1))

    def test_users_beyond_the_pool_start_proxies_of_their_own(self) -> None:
        starting = [self.ensure_running(each) for each in (A, B, C)]
        self.flush()
        for one in starting:
            self.successResultOf(one)
        self.assertEqual(len(self.taken()), 2)
        self.assertEqual([self.spawner.starts[each] for each in (A, B, C)], [0, 0, 1])

    def test_no_proxy_is_started_for_nobody_while_a_user_waits(self) -> None:
        """Nor are there ever more proxies than the maximum."""
        self.start(A)
        self.spawner.may_assign = False
        self.spawner.slow_starts[B] = Deferred()
        starting = self.ensure_running(B)
        self.spawner.exit(self.spawner.waiting[0])
        self.wait(5)
        self.assertEqual(self.spawner.waiting, [])
        self.spawner.slow_starts[B].callback(None)
        self.wait(5)
        self.successResultOf(starting)
        self.assertEqual(len(self.spawner.proxies), 3)
        self.start(C)
        self.wait(1)
        self.assertEqual(sorted(self.spawner.proxies), [A, B, C])

    def test_a_proxy_that_was_assigned_before_is_not_used(self) -> None:
        for each in self.spawner.waiting:
            self.spawner.proxies[each].assignments.append("somebody")
        self.start(A)
        self.assertEqual((self.spawner.starts[A], self.spawner.removals[A]), (1, 1))
        self.assertEqual(self.spawner.proxies[A].assignments, [])

    def test_an_assigned_proxy_that_starts_again_is_assigned_to_the_same_user(self) -> None:
        self.start(A)
        (token,) = self.spawner.proxies[A].assignments
        self.spawner.may_assign = False  # because it is kept
        self.spawner.exit(A)
        self.flush()
        self.start(A)
        self.assertEqual(self.spawner.starts[A], 1)
        self.assertEqual(self.spawner.proxies[A].assignments, [token])

    def test_a_proxy_that_hangs_delays_its_user_by_seconds(self) -> None:
        self.spawner.proxies[self.spawner.waiting[0]].is_hanging = True
        starting = self.ensure_running(A)
        self.wait(2.5)
        self.successResultOf(starting)
        self.assertEqual((self.spawner.starts[A], self.spawner.removals[A]), (1, 1))

    def test_a_spawner_that_hangs_delays_its_user_by_seconds(self) -> None:
        self.spawner.slow_assignment = Deferred()
        starting = self.ensure_running(A)
        self.wait(5.5)
        self.successResultOf(starting)
        self.assertEqual(self.spawner.starts[A], 1)

    def test_a_proxy_that_the_spawner_refuses_is_removed(self) -> None:
        """As one whose image is not that of new ones any more."""
        refused, other = self.spawner.waiting
        self.spawner.assignment_error = ProxyUnavailable("It is outdated.")
        self.start(A)
        self.wait(1)
        self.assertEqual((self.spawner.starts[A], self.spawner.removals[refused]), (1, 1))
        self.assertIn(other, self.spawner.waiting)

    def test_a_user_who_has_a_proxy_after_all_leaves_the_waiting_one(self) -> None:
        before = self.spawner.waiting
        self.spawner.assignment_error = NameInUse("It runs.")
        self.start(A)
        self.wait(1)
        self.assertEqual(self.spawner.waiting, before)

    def test_a_user_who_is_stopped_meanwhile_leaves_nothing(self) -> None:
        """The proxy may know the user already."""
        taken = self.spawner.waiting[0]
        self.spawner.slow_assignment = Deferred()
        starting = self.ensure_running(A)
        self.run_coroutine(self.manager.remove(A, "was stopped"))
        self.failureResultOf(starting, ProxyUnavailable)
        self.assertTrue(self.spawner.slow_assignment.called)  # it was cancelled
        self.wait(1)
        self.assertEqual(self.spawner.removals[taken], 1)
        self.assertEqual(len(self.spawner.waiting), 2)

    def test_one_that_exits_is_replaced(self) -> None:
        gone = self.spawner.waiting[0]
        self.spawner.exit(gone)
        self.start(A)
        self.wait(1)
        self.assertNotIn(gone, self.spawner.waiting)
        self.assertEqual(len(self.spawner.waiting), 2)

    def test_failing_starts_are_repeated_ever_later(self) -> None:
        self.spawner.error = ProxyUnavailable("Docker is down.")
        self.start_all_but_pool()
        failed = sum(count for id, count in self.spawner.starts.items() if is_waiting_id(id))
        self.wait(120)
        attempts = sum(count for id, count in self.spawner.starts.items() if is_waiting_id(id))
        self.assertTrue(6 <= attempts - failed <= 9, attempts - failed)
        self.spawner.error = None
        self.wait(61)
        self.assertEqual(len(self.spawner.waiting), 2)

    def start_all_but_pool(self) -> None:
        for each in self.spawner.waiting:
            self.spawner.exit(each)

    def test_none_waits_while_the_cloud_drains(self) -> None:
        self.manager.draining = True
        self.wait(1)
        self.assertEqual(self.spawner.proxies, {})
        self.manager.draining = False
        self.wait(1)
        self.assertEqual(len(self.spawner.waiting), 2)

    def test_administrators_see_and_remove_them(self) -> None:
        waiting = self.spawner.waiting
        infos = self.successResultOf(self.run_coroutine(self.manager.list_proxies()))
        self.assertEqual([(each.id, each.state) for each in infos],
                         [(each, "waiting") for each in waiting])  # fmt: skip
        self.successResultOf(self.run_coroutine(self.manager.remove(waiting[0], "was stopped")))
        self.assertEqual(self.spawner.waiting, waiting[1:])
        self.assertEqual(self.spawner.removals[waiting[0]], 1)


class ReconciliationTests(ProxyManagerCase):
    """The last run of the cloud was killed; its proxies run on."""

    settings = Cloud(proxy_warm=2)
    proxies_survive_restart = True

    def before_start(self) -> None:
        self.left = [new_waiting_id() for _ in range(2)]
        for each in self.left:
            self.leave(each)

    def leave(self, proxy_id: str) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.spawner.ensure_running(proxy_id)))

    def test_uses_those_that_waited(self) -> None:
        self.wait(1)
        self.assertEqual(self.spawner.waiting, self.left)
        self.start(A)
        self.assertIn(self.spawner.assigned[A], self.left)

    def test_removes_outdated_ones_and_starts_others(self) -> None:
        self.wait(1)
        self.spawner.outdated.update(self.left)
        self.wait(62)
        self.assertEqual(len(self.spawner.waiting), 2)
        self.assertFalse({*self.left} & {*self.spawner.waiting})

    def test_removes_those_that_hang_or_exited_unseen(self) -> None:
        self.wait(1)
        hanging, gone = self.left
        self.spawner.proxies[hanging].is_hanging = True
        del self.spawner.proxies[gone]
        self.wait(65)
        self.assertEqual(len(self.spawner.waiting), 2)
        self.assertFalse({*self.left} & {*self.spawner.waiting})

    def test_tells_one_that_has_the_id_of_a_user_and_may_not_know(self) -> None:
        """It is the user's, by its id, before it knows. One that knows refuses to hear it again."""
        for user, known in ((A, []), (B, ["somebody"])):
            waiting = new_waiting_id()
            self.leave(waiting)
            self.spawner.proxies[user] = self.spawner.proxies.pop(waiting)
            self.spawner.proxies[user].assignments = known
            self.spawner.assigned[user] = waiting
            self.start(user)
            told = self.spawner.proxies[user].assignments
            self.assertEqual(told[-1], f"{waiting} is {user}")


class NoPoolTests(ProxyManagerCase):
    """The default."""

    proxies_survive_restart = True

    def before_start(self) -> None:
        self.left = new_waiting_id()
        self.successResultOf(Deferred.fromCoroutine(self.spawner.ensure_running(self.left)))

    def test_removes_those_of_an_earlier_run_and_starts_none(self) -> None:
        self.wait(2)
        self.assertEqual((self.spawner.proxies, self.spawner.removals[self.left]), ({}, 1))
        self.start(A)
        self.wait(2)
        self.assertEqual(list(self.spawner.proxies), [A])


class TableTests(ProxyManagerCase):
    """The states, as they are drawn."""

    def test_the_documents_have_the_table(self) -> None:
        lines = (Path(__file__).parents[4] / "docs/architecture.md").read_text().splitlines()
        at = lines.index(next(each for each in lines if each.startswith("| state | ready |")))
        found = {}
        for line in lines[at + 2 : at + 6]:
            state, *targets = _cells(line)
            for event, target in zip(_cells(lines[at])[1:], targets, strict=True):
                if target:
                    key = WaitingState(state), WaitingEvent(event)
                    found[key] = WaitingState(target)
        self.assertEqual(found, TRANSITIONS)

    def test_every_state_can_end_and_only_one_that_waits_can_be_taken(self) -> None:
        ends = {state for state, event in TRANSITIONS if event is WaitingEvent.DISCARDED}
        self.assertEqual(ends | {WaitingState.REMOVING, WaitingState.GONE}, {*WaitingState})
        takes = [state for state, event in TRANSITIONS if event is WaitingEvent.TAKEN]
        self.assertEqual(takes, [WaitingState.WAITING])
        self.assertFalse([state for state, _ in TRANSITIONS if state is WaitingState.GONE])


def _cells(row: str) -> list[str]:
    return [each.strip() for each in row.strip("|").split("|")]

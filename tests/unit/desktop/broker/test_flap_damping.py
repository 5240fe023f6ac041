"""`ctllm.desktop.broker.flap_damping`: when a route that failed is stable again."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.flap_damping import MAX_PENALTY, MIN_PENALTY, RESET_AFTER, FlapDamper


def seconds_until_stable(damper: FlapDamper, now: float) -> float:
    """Seconds until it is dampered, if it stays as it is."""
    return next(later for later in range(1000) if damper.is_stable(now + later))


class FlapDamperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.damper = FlapDamper()

    def test_route_that_never_failed_is_stable_at_once(self) -> None:
        self.assertFalse(self.damper.is_up)
        self.assertFalse(self.damper.is_stable(100))
        self.damper.mark_up(100)
        self.assertTrue(self.damper.is_stable(100))
        self.assertEqual(seconds_until_stable(self.damper, 100), 0)

    def test_route_is_stable_some_seconds_after_it_came_up_again(self) -> None:
        self.damper.mark_up(0)
        self.damper.mark_down(10)
        self.assertFalse(self.damper.is_up)
        self.assertFalse(self.damper.is_stable(1000))
        self.damper.mark_up(20)
        self.damper.mark_up(23)
        self.assertTrue(self.damper.is_up)
        self.assertFalse(self.damper.is_stable(20 + MIN_PENALTY - 0.1))
        self.assertEqual(seconds_until_stable(self.damper, 21), MIN_PENALTY - 1)
        self.assertTrue(self.damper.is_stable(20 + MIN_PENALTY))

    def test_each_failure_doubles_the_penalty_up_to_a_limit(self) -> None:
        self.damper.mark_up(0)
        now, penalties = 0.0, []
        for _ in range(7):
            now += 20
            self.damper.mark_down(now)
            self.damper.mark_up(now)
            penalties.append(seconds_until_stable(self.damper, now))
        self.assertEqual(penalties, [5, 10, 20, 40, 80, MAX_PENALTY, MAX_PENALTY])
        now += RESET_AFTER
        self.damper.mark_down(now)
        self.damper.mark_up(now)
        self.assertEqual(seconds_until_stable(self.damper, now), MIN_PENALTY)

    def test_failures_soon_after_one_another_count_once(self) -> None:
        self.damper.mark_up(0)
        self.damper.mark_request_failed(10)
        self.assertTrue(self.damper.is_up)
        self.assertFalse(self.damper.is_stable(10))
        self.damper.mark_down(11)
        self.damper.mark_up(12)
        self.assertEqual(seconds_until_stable(self.damper, 12), MIN_PENALTY)

    def test_failed_request_on_a_route_that_is_down_is_ignored(self) -> None:
        self.damper.mark_request_failed(1)
        self.damper.mark_up(2)
        self.assertTrue(self.damper.is_stable(2))

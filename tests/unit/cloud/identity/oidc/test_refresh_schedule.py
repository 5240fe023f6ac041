"""`ctllm.cloud.identity.oidc.refresh_schedule`: when a provider's keys are fetched."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.oidc.refresh_schedule import RefreshSchedule


def fetched(at: float, forced: bool = False) -> RefreshSchedule:
    """Return the schedule after a fetch that began and succeeded at this time."""
    return RefreshSchedule().fetch_began(at, forced).fetch_succeeded()


class ScheduleTests(SynchronousTestCase):
    def test_the_first_fetch_is_due_at_once(self) -> None:
        new = RefreshSchedule()
        self.assertFalse(new.has_keys(0))
        self.assertTrue(new.must_confirm(0))
        self.assertEqual((new.seconds_until_due(0), new.seconds_until_retry(0)), (0, 0))

    def test_a_fetch_is_due_ten_seconds_after_the_last_and_needed_after_twenty(self) -> None:
        schedule = fetched(100)
        self.assertTrue(schedule.has_keys(100))
        self.assertEqual(schedule.seconds_until_due(103), 7)
        self.assertEqual(schedule.seconds_until_due(110), 0)
        self.assertFalse(schedule.must_confirm(119.9))
        self.assertTrue(schedule.must_confirm(120))

    def test_the_time_of_the_beginning_counts(self) -> None:
        """What the provider changed while it answered may not be in the answer."""
        schedule = RefreshSchedule().fetch_began(100)
        self.assertFalse(schedule.has_keys(109))
        self.assertEqual(schedule.fetch_succeeded().confirmed, 100)

    def test_after_a_failure_nothing_is_fetched_for_five_seconds(self) -> None:
        schedule = fetched(100).fetch_began(120).fetch_failed(125)
        self.assertEqual(schedule.seconds_until_due(126), 4)
        self.assertEqual(schedule.seconds_until_retry(126), 4)
        self.assertFalse(schedule.may_force(129))
        self.assertTrue(schedule.may_force(130))
        self.assertEqual(schedule.seconds_until_due(130), 0)
        self.assertEqual(schedule.fetch_began(130).seconds_until_retry(130), 0)

    def test_keys_are_used_for_a_day_while_the_provider_is_down(self) -> None:
        schedule = fetched(100).fetch_began(120).fetch_failed(125)
        self.assertTrue(schedule.has_keys(100 + 86399))
        self.assertFalse(schedule.has_keys(100 + 86400))

    def test_one_fetch_is_forced_in_thirty_seconds(self) -> None:
        schedule = fetched(100, forced=True)
        self.assertFalse(schedule.may_force(129))
        self.assertTrue(schedule.may_force(130))
        # The regular fetches in between do not matter, nor do they count.
        self.assertFalse(schedule.fetch_began(110).fetch_succeeded().may_force(129))
        self.assertTrue(fetched(100).may_force(101))

"""`ctllm.cloud.audit.repeats`: floods of like events are a bounded number of lines."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit.entries import AuditEntry, IdentityEvent
from ctllm.cloud.audit.repeats import AGGREGATED, MAX_LINES, USE_INTERVAL, RepeatFilter


def entry(event: IdentityEvent = "login.refused", **fields: Any) -> AuditEntry:
    return AuditEntry("", event, **fields)


class RepeatFilterTests(SynchronousTestCase):
    """Admission and counts."""

    def setUp(self) -> None:
        self.repeats = RepeatFilter()

    def counts(self, now: float) -> list[tuple[str, int | None]]:
        return [(each.reason or each.address, each.count) for each in self.repeats.take_counts(now)]

    def test_repetitions_are_counted_in_one_line_after_the_interval(self) -> None:
        admitted = [self.repeats.admits(entry(reason="expired"), each) for each in range(50)]
        self.assertEqual(admitted, [True] + [False] * 49)
        self.assertEqual(self.counts(59.9), [])
        self.assertEqual(self.counts(60.0), [("expired", 49)])
        self.assertEqual(self.counts(120.0), [])
        self.assertTrue(self.repeats.admits(entry(reason="expired"), 61.0))

    def test_an_entry_that_is_not_repeated_has_no_count(self) -> None:
        self.repeats.admits(entry(reason="expired"), 0.0)
        self.assertEqual(self.counts(60.0), [])

    def test_a_flood_from_many_networks_writes_a_bounded_number_of_lines(self) -> None:
        written = 0
        for second in range(600):
            for each in range(100):
                address = f"2001:db8:{second * 100 + each:x}::/48"
                written += self.repeats.admits(entry(address=address), float(second))
            written += len(self.counts(float(second)))
        self.assertLessEqual(written, 10 * (MAX_LINES + 1))
        [last] = self.repeats.take_counts(660.0)
        self.assertEqual(last.reason, AGGREGATED)

    def test_a_flood_of_one_event_leaves_the_lines_of_others(self) -> None:
        for each in range(1000):
            self.repeats.admits(entry(address=f"{each}"), 0.0)
        self.assertTrue(self.repeats.admits(entry("key.used", credential="k1"), 0.0))
        self.assertTrue(self.repeats.admits(entry("request.refused", reason="scope"), 0.0))

    def test_what_clients_cannot_repeat_at_will_is_always_written(self) -> None:
        events: tuple[IdentityEvent, ...] = ("session.created", "user.revoked", "machine.approved")
        for event in events:
            admitted = [self.repeats.admits(entry(event, user="a"), 0.0) for _ in range(500)]
            self.assertEqual(admitted, [True] * 500)

    def test_the_use_of_a_key_is_written_once_an_hour(self) -> None:
        use = entry("key.used", credential="k1")
        self.assertEqual([self.repeats.admits(use, each) for each in (0.0, 1800.0)], [True, False])
        self.assertEqual(self.counts(USE_INTERVAL), [("", 1)])
        self.assertTrue(self.repeats.admits(use, USE_INTERVAL))

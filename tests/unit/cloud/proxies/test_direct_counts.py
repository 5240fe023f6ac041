"""`ctllm.cloud.proxies.direct_counts`: what proxies report becomes metrics."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.direct_counts import DirectCounter
from ctllm.cloud.proxies.health import DirectCounts


class DirectCounterTests(SynchronousTestCase):
    """The differences between reports are counted."""

    def setUp(self) -> None:
        self.metrics = Metrics()
        self.counter = DirectCounter(self.metrics)

    def values(self) -> dict[str, float]:
        _, text = self.metrics.render_text()
        lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines if name.startswith("ctllm_requests")}

    def value(self, outcome: str) -> float:
        return self.values()[f'ctllm_requests_total{{outcome="{outcome}"}}']

    def test_counts_what_has_changed_since_the_last_report(self) -> None:
        self.counter.start(None)
        self.counter.update(DirectCounts(in_progress=3, outcomes={"completed": 5}))
        self.counter.update(DirectCounts(in_progress=1, outcomes={"completed": 7, "failed": 1}))
        self.assertEqual((self.value("completed"), self.value("failed")), (7, 1))
        self.assertEqual(self.values()["ctllm_requests_in_progress"], 1)
        self.counter.update(None)
        self.counter.stop()
        self.assertEqual(self.values()["ctllm_requests_in_progress"], 0)
        self.assertEqual(self.value("completed"), 7)

    def test_does_not_count_what_an_adopted_proxy_counted_before(self) -> None:
        self.counter.start(DirectCounts(in_progress=2, outcomes={"completed": 100}))
        self.assertEqual(
            (self.value("completed"), self.values()["ctllm_requests_in_progress"]), (0, 2)
        )
        self.counter.update(DirectCounts(in_progress=1, outcomes={"completed": 101}))
        self.assertEqual(
            (self.value("completed"), self.values()["ctllm_requests_in_progress"]), (1, 1)
        )

    def test_a_restarted_proxy_begins_at_zero(self) -> None:
        self.counter.start(None)
        self.counter.update(DirectCounts(outcomes={"completed": 9}))
        self.counter.start(None)
        self.counter.update(DirectCounts(outcomes={"completed": 2}))
        self.assertEqual(self.value("completed"), 11)

    def test_a_proxy_chooses_no_labels_and_takes_nothing_back(self) -> None:
        self.counter.start(None)
        self.counter.update(DirectCounts(outcomes={"completed": 2, "mine": 5}))
        self.counter.update(DirectCounts(outcomes={"completed": 1}))
        self.assertEqual(self.value("completed"), 2)
        self.assertFalse([name for name in self.values() if "mine" in name])

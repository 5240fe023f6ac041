"""Adds up what a proxy reports about the requests that a reverse proxy sends to it itself."""

from __future__ import annotations

from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.health import DirectCounts

#: The outcomes that a proxy may report. Others would be labels of its own choice.
OUTCOMES = ("completed", "refused", "failed", "client_disconnected")
_NONE = DirectCounts()


class DirectCounter:
    """Counts the requests of one proxy in `metrics`: the differences between its reports.

    A proxy counts from its start. What it counted after its last report is lost when it ends.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last = _NONE

    def start(self, baseline: DirectCounts | None) -> None:
        """Begin with a proxy that has counted `baseline` before: one that was adopted."""
        self.stop()
        if baseline is not None:
            self._last = DirectCounts(outcomes=baseline.outcomes)
            self.update(baseline)

    def update(self, counts: DirectCounts | None) -> None:
        """Count what has changed since the last report."""
        if counts is None:
            return
        for outcome in OUTCOMES:
            count = counts.outcomes.get(outcome, 0)
            number = max(0, count - self._last.outcomes.get(outcome, 0))
            self._metrics.direct_requests_finished(outcome, number)
        self._metrics.direct_requests_started(counts.in_progress - self._last.in_progress)
        self._last = counts

    def stop(self) -> None:
        """Count no request in progress any more: the proxy has ended."""
        self._metrics.direct_requests_started(-self._last.in_progress)
        self._last = _NONE

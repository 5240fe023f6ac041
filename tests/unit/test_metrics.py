"""What the cloud counts."""

from __future__ import annotations

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.metrics import Metrics


class MetricsTests(SynchronousTestCase):
    """Read back as Prometheus reads them."""

    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        text = self.metrics.render_text()[1].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None

    def test_content_type(self) -> None:
        """The page says that it is Prometheus' text."""
        self.assertTrue(self.metrics.render_text()[0].startswith(b"text/plain; version="))

    def test_states(self) -> None:
        """A proxy counts in the state it is in, and nowhere once it is absent."""
        self.metrics.proxy_state_changed(None, "starting")
        self.metrics.proxy_state_changed("starting", "running")
        self.assertEqual(self.value("ctllm_proxies", state="starting"), 0)
        self.assertEqual(self.value("ctllm_proxies", state="running"), 1)
        self.metrics.proxy_state_changed("running", None)
        self.assertEqual(self.value("ctllm_proxies", state="running"), 0)

    def test_starts(self) -> None:
        """Starts count with their seconds, failures and removals with their reason."""
        self.metrics.proxy_started(0.4)
        self.metrics.proxy_start_failed("start_timeout")
        self.metrics.proxy_terminated("idle")
        self.assertEqual(self.value("ctllm_proxy_starts_total"), 1)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_sum"), 0.4)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_bucket", le="0.3"), 0)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_bucket", le="0.5"), 1)
        self.assertEqual(self.value("ctllm_proxy_start_failures_total", reason="start_timeout"), 1)
        self.assertEqual(self.value("ctllm_proxy_terminations_total", reason="idle"), 1)

    def test_exchanges(self) -> None:
        """An exchange is under way until it has an outcome."""
        self.metrics.request_started()
        self.metrics.request_started()
        self.metrics.request_finished("whole")
        self.assertEqual(self.value("ctllm_requests_in_progress"), 1)
        self.assertEqual(self.value("ctllm_requests_total", outcome="whole"), 1)

    def test_tokens(self) -> None:
        """Refused tokens count."""
        self.metrics.authentication_failed()
        self.assertEqual(self.value("ctllm_authentication_failures_total"), 1)

    def test_by_itself(self) -> None:
        """Two clouds in one process do not meet, and nothing is in the global registry."""
        Metrics().authentication_failed()
        self.assertEqual(self.value("ctllm_authentication_failures_total"), 0)
        self.assertNotIn(b"ctllm", generate_latest(REGISTRY))

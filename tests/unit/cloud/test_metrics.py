"""`ctllm.cloud.metrics`: the exported metrics, as a Prometheus parser reads them."""

from __future__ import annotations

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.metrics import Metrics


class MetricsTests(SynchronousTestCase):
    """The exported metrics."""

    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        text = self.metrics.render_text()[1].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None

    def test_content_type_is_that_of_prometheus_text(self) -> None:
        self.assertTrue(self.metrics.render_text()[0].startswith(b"text/plain; version="))

    def test_a_proxy_counts_only_in_its_current_state(self) -> None:
        self.metrics.proxy_state_changed(None, "starting")
        self.metrics.proxy_state_changed("starting", "running")
        self.assertEqual(self.value("ctllm_proxies", state="starting"), 0)
        self.assertEqual(self.value("ctllm_proxies", state="running"), 1)
        self.metrics.proxy_state_changed("running", None)
        self.assertEqual(self.value("ctllm_proxies", state="running"), 0)

    def test_counts_starts_with_duration_and_failures_with_reason(self) -> None:
        self.metrics.proxy_started(0.4)
        self.metrics.proxy_start_failed("start_timeout")
        self.metrics.proxy_terminated("idle")
        self.assertEqual(self.value("ctllm_proxy_starts_total"), 1)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_sum"), 0.4)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_bucket", le="0.3"), 0)
        self.assertEqual(self.value("ctllm_proxy_start_duration_seconds_bucket", le="0.5"), 1)
        self.assertEqual(self.value("ctllm_proxy_start_failures_total", reason="start_timeout"), 1)
        self.assertEqual(self.value("ctllm_proxy_terminations_total", reason="idle"), 1)

    def test_a_request_is_in_progress_until_it_has_an_outcome(self) -> None:
        self.metrics.request_started()
        self.metrics.request_started()
        self.metrics.request_finished("whole")
        self.assertEqual(self.value("ctllm_requests_in_progress"), 1)
        self.assertEqual(self.value("ctllm_requests_total", outcome="whole"), 1)

    def test_counts_authentication_failures(self) -> None:
        self.metrics.authentication_failed()
        self.assertEqual(self.value("ctllm_authentication_failures_total"), 1)

    def test_exports_the_limits(self) -> None:
        self.metrics.set_configuration(100, 512, ())
        self.assertEqual(self.value("ctllm_max_proxies"), 100)
        self.assertEqual(self.value("ctllm_proxy_max_memory_bytes"), 512)

    def test_counters_with_known_labels_are_0_before_the_first_event(self) -> None:
        """Prometheus sees no increase in a series that begins with 1."""
        self.metrics.set_configuration(100, 512, ("keycloak",))
        for name, labels in (
            ("ctllm_proxy_start_failures_total", {"reason": "spawner_error"}),
            ("ctllm_proxy_terminations_total", {"reason": "unresponsive"}),
            ("ctllm_requests_total", {"outcome": "failed"}),
            ("ctllm_request_refusals_total", {"code": "too_many_requests"}),
            ("ctllm_provider_fetch_failures_total", {"provider": "keycloak"}),
        ):
            self.assertEqual(self.value(name, **labels), 0, name)

    def test_has_its_own_registry(self) -> None:
        Metrics().authentication_failed()
        self.assertEqual(self.value("ctllm_authentication_failures_total"), 0)
        self.assertNotIn(b"ctllm", generate_latest(REGISTRY))

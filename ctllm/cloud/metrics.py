"""What the cloud counts, in the form that Prometheus reads. No label names a user but by hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ctllm.cloud.spawners.interfaces import ResourceUsage

_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)


class _UsageCollector(Collector):
    """What each proxy uses; those that are gone are not shown any more."""

    def __init__(self) -> None:
        self.usage: Mapping[str, ResourceUsage] = {}

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "ctllm_proxy_memory_bytes", "Memory of a streaming proxy.", labels=["proxy"]
        )
        cpu = CounterMetricFamily(
            "ctllm_proxy_cpu_seconds", "Processor time of a streaming proxy.", labels=["proxy"]
        )
        for proxy_id, used in self.usage.items():
            memory.add_metric([proxy_id], used.memory_bytes)
            cpu.add_metric([proxy_id], used.cpu_seconds)
        yield memory
        yield cpu


class Metrics:
    """The cloud's metrics, in a registry of their own. Reasons and outcomes are few words."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._proxies = Gauge("ctllm_proxies", "Streaming proxies.", ["state"], registry=registry)
        self._starts = Counter(
            "ctllm_proxy_starts", "Starts of streaming proxies that succeeded.", registry=registry
        )
        self._adoptions = Counter(
            "ctllm_proxy_adoptions",
            "Streaming proxies of an earlier run of the cloud that were taken over.",
            registry=registry,
        )
        self._start_failures = Counter(
            "ctllm_proxy_start_failures",
            "Starts of streaming proxies that failed or were refused.",
            ["reason"],
            registry=registry,
        )
        self._terminations = Counter(
            "ctllm_proxy_terminations",
            "Ends of streaming proxies that had started.",
            ["reason"],
            registry=registry,
        )
        self._start_seconds = Histogram(
            "ctllm_proxy_start_duration_seconds",
            "How long streaming proxies took to start.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._requests = Counter(
            "ctllm_requests", "Exchanges that were relayed.", ["outcome"], registry=registry
        )
        self._requests_in_progress = Gauge(
            "ctllm_requests_in_progress", "Exchanges that are being relayed.", registry=registry
        )
        self._authentication_failures = Counter(
            "ctllm_authentication_failures", "Tokens that could not be verified.", registry=registry
        )

        self._usage_collector = _UsageCollector()
        registry.register(self._usage_collector)

    def update_usage(self, used: Mapping[str, ResourceUsage]) -> None:
        """What each proxy, by its id, uses at this moment."""
        self._usage_collector.usage = used

    def proxy_state_changed(self, old: str | None, new: str | None) -> None:
        """One proxy is no longer in the state `old`, but in `new`; None for absent."""
        if old is not None:
            self._proxies.labels(old).dec()
        if new is not None:
            self._proxies.labels(new).inc()

    def proxy_started(self, seconds: float) -> None:
        """A start succeeded."""
        self._starts.inc()
        self._start_seconds.observe(seconds)

    def proxy_adopted(self) -> None:
        """One that ran before we did is looked after."""
        self._adoptions.inc()

    def proxy_start_failed(self, reason: str) -> None:
        """A start failed, or was refused."""
        self._start_failures.labels(reason).inc()

    def proxy_terminated(self, reason: str) -> None:
        """A proxy that had started is no more."""
        self._terminations.labels(reason).inc()

    def request_started(self) -> None:
        """An exchange is under way; `exchange` must follow."""
        self._requests_in_progress.inc()

    def request_finished(self, outcome: str) -> None:
        """An exchange that had begun is over."""
        self._requests_in_progress.dec()
        self._requests.labels(outcome).inc()

    def authentication_failed(self) -> None:
        """A token was none that we know, or none any more."""
        self._authentication_failures.inc()

    def render_text(self) -> tuple[bytes, bytes]:
        """Give the content type and the body of the page that Prometheus reads."""
        return CONTENT_TYPE_LATEST.encode(), generate_latest(self._registry)

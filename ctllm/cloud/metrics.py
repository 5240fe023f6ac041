"""The cloud's metrics in the Prometheus text format. No label names a user except by a hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ctllm.cloud.spawners.interfaces import ResourceUsage

#: Upper bounds of the histogram of start durations, in seconds.
_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)


#: Labels whose series exist from the start. Prometheus sees no increase in a series that begins
#: with 1, so an alert would miss the first failure.
_KNOWN_LABELS = {
    "ctllm_proxy_start_failures": (
        "at_capacity", "queue_timeout", "start_timeout", "spawner_error", "exited",
        "internal_error",
    ),
    "ctllm_proxy_terminations": (
        "idle", "outdated", "requested", "revoked", "exited", "unresponsive", "internal_error",
    ),
    "ctllm_requests": ("completed", "refused", "failed", "client_disconnected"),
    "ctllm_request_refusals": (
        "unauthenticated", "forbidden", "user_disabled", "group_not_allowed",
        "rate_limit_exceeded", "too_many_requests",
    ),
}  # fmt: skip


class _UsageCollector(Collector):
    """Exports the resource usage of each proxy that runs."""

    def __init__(self) -> None:
        self.usage: Mapping[str, ResourceUsage] = {}

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "ctllm_proxy_memory_bytes", "Memory of a streaming proxy.", labels=["proxy"]
        )
        cpu = CounterMetricFamily(
            "ctllm_proxy_cpu_seconds", "Processor time of a streaming proxy.", labels=["proxy"]
        )
        for proxy_id, usage in self.usage.items():
            memory.add_metric([proxy_id], usage.memory_bytes)
            cpu.add_metric([proxy_id], usage.cpu_seconds)
        yield memory
        yield cpu


class Metrics:
    """The cloud's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._proxies = Gauge("ctllm_proxies", "Streaming proxies.", ["state"], registry=registry)
        self._max_proxies = Gauge(
            "ctllm_max_proxies", "Maximum number of streaming proxies.", registry=registry
        )
        self._max_proxy_memory = Gauge(
            "ctllm_proxy_max_memory_bytes",
            "Maximum memory of a streaming proxy.",
            registry=registry,
        )
        self._starts = Counter(
            "ctllm_proxy_starts", "Successful starts of streaming proxies.", registry=registry
        )
        self._assignments = Counter(
            "ctllm_proxy_assignments",
            "Starts of streaming proxies that took one that waited for a user.",
            registry=registry,
        )
        self._adoptions = Counter(
            "ctllm_proxy_adoptions",
            "Streaming proxies that ran before the cloud started and were adopted.",
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
            "Streaming proxies that ended after they had started.",
            ["reason"],
            registry=registry,
        )
        self._start_seconds = Histogram(
            "ctllm_proxy_start_duration_seconds",
            "Duration of successful starts of streaming proxies.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._requests = Counter(
            "ctllm_requests", "Relayed requests that have ended.", ["outcome"], registry=registry
        )
        self._requests_in_progress = Gauge(
            "ctllm_requests_in_progress", "Requests that are being relayed.", registry=registry
        )
        self._authentication_failures = Counter(
            "ctllm_authentication_failures",
            "Requests whose credentials were not valid.",
            registry=registry,
        )
        self._refusals = Counter(
            "ctllm_request_refusals",
            "Requests that were refused for who sent them, or how many.",
            ["code"],
            registry=registry,
        )
        self._provider_fetch_failures = Counter(
            "ctllm_provider_fetch_failures",
            "Requests for the keys of an OpenID provider that failed.",
            ["provider"],
            registry=registry,
        )
        for counter in (
            self._start_failures, self._terminations, self._requests, self._refusals,
        ):  # fmt: skip
            for label in _KNOWN_LABELS[next(iter(counter.describe())).name]:
                counter.labels(label)
        self._usage_collector = _UsageCollector()
        registry.register(self._usage_collector)

    def set_configuration(
        self, max_proxies: int, max_proxy_memory_bytes: int, providers: Iterable[str]
    ) -> None:
        """Set the limits that the configuration has, and name its OpenID providers."""
        self._max_proxies.set(max_proxies)
        self._max_proxy_memory.set(max_proxy_memory_bytes)
        for provider in providers:
            self._provider_fetch_failures.labels(provider)

    def update_usage(self, usage: Mapping[str, ResourceUsage]) -> None:
        """Set the resource usage of each proxy, by its id."""
        self._usage_collector.usage = usage

    def proxy_state_changed(self, old: str | None, new: str | None) -> None:
        """Count a proxy in its new state instead of the old one. None means absent."""
        if old is not None:
            self._proxies.labels(old).dec()
        if new is not None:
            self._proxies.labels(new).inc()

    def proxy_started(self, seconds: float) -> None:
        """Count a successful start that took `seconds`."""
        self._starts.inc()
        self._start_seconds.observe(seconds)

    def proxy_assigned(self) -> None:
        """Count a start that took a proxy that waited for a user."""
        self._assignments.inc()

    def start_counts(self) -> tuple[int, int]:
        """Return how many starts succeeded, and how many failed or were refused."""
        return _total(self._starts), _total(self._start_failures)

    def proxy_adopted(self) -> None:
        """Count an adopted proxy."""
        self._adoptions.inc()

    def proxy_start_failed(self, reason: str) -> None:
        """Count a start that failed or was refused."""
        self._start_failures.labels(reason).inc()

    def proxy_terminated(self, reason: str) -> None:
        """Count the end of a proxy that had started."""
        self._terminations.labels(reason).inc()

    def request_started(self) -> None:
        """Count a request in progress, until `request_finished`."""
        self._requests_in_progress.inc()

    def request_finished(self, outcome: str) -> None:
        """Count the outcome of a request that was in progress."""
        self._requests_in_progress.dec()
        self._requests.labels(outcome).inc()

    def direct_requests_started(self, number: int) -> None:
        """Count requests in progress that a reverse proxy has sent; `number` may be negative."""
        self._requests_in_progress.inc(number)

    def direct_requests_finished(self, outcome: str, number: int) -> None:
        """Count the outcome of so many requests that a reverse proxy has sent."""
        self._requests.labels(outcome).inc(number)

    def authentication_failed(self) -> None:
        """Count a request whose credentials were not valid."""
        self._authentication_failures.inc()

    def request_refused(self, code: str, number: int = 1) -> None:
        """Count requests that were refused with an error of this `code`."""
        self._refusals.labels(code).inc(number)

    def provider_fetch_failed(self, provider: str) -> None:
        """Count a failed request for the keys of the provider with this name."""
        self._provider_fetch_failures.labels(provider).inc()

    def render_text(self) -> tuple[bytes, bytes]:
        """Return the content type and the body of the response to a scrape."""
        return CONTENT_TYPE_LATEST.encode(), generate_latest(self._registry)


def _total(counter: Counter) -> int:
    """Return the sum of a counter over its labels."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

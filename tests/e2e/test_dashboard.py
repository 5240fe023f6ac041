"""Grafana's dashboard: a real Prometheus that scrapes a real cloud has data for its queries."""

from __future__ import annotations

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "etc/grafana/ctllm.json").read_text())
RULES = ROOT / "etc/prometheus/ctllm.rules.yml"
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: ctllm
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
#: What Grafana puts in for its variables.
VARIABLES = {"$job": "ctllm", "$instance": ".*", "$__rate_interval": "30s", "[15m]": "[30s]"}
#: Metrics of what does not happen in this test.
WITHOUT_DATA = {"ctllm_proxy_start_failures_total", "ctllm_provider_fetch_failures_total"}


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel with each of its queries, as Grafana sends them."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


class Prometheus:
    """A Prometheus that scrapes a cluster every second."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder, self._port = cluster, folder, free_port()
        self.process: ChildProcess

    def start(self) -> None:
        program = shutil.which("prometheus")
        assert program, "prometheus is missing: `make system` installs it"
        config = self._folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=RULES, port=self._cluster.metrics_port))
        self.process = self._cluster.start_process(
            "prometheus", program, f"--config.file={config}",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        )  # fmt: skip

    def query(self, expression: str) -> list[Any]:
        """Return the series that a query has now."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?"
        with urllib.request.urlopen(url + urllib.parse.urlencode({"query": expression})) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        result: list[Any] = found["data"]["result"]
        return result


@ensureDeferred
async def test_each_panel_has_data(cluster: Cluster, tmp_path: Path) -> None:
    """Once a user has a streaming proxy, and requests were served and refused."""
    prometheus = Prometheus(cluster, tmp_path)
    await cluster.start_cloud()
    prometheus.start()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    token = await cluster.create_token("alice")
    expected = {
        (title, query) for title, query in queries() if not any(map(query.count, WITHOUT_DATA))
    }
    missing: set[tuple[str, str]] = set(expected)

    async def have_all_data() -> bool:
        await cluster.request("GET", "/api/tags", token=token)
        await cluster.request("GET", "/api/tags", token="wrong")
        for title, query in sorted(missing):
            try:
                if await deferToThread(prometheus.query, query):
                    missing.remove((title, query))
            except ConnectionError:  # it starts
                return False
        return not missing

    try:
        await wait_until(have_all_data, "data of each panel", 60)
    except AssertionError as error:
        raise AssertionError(f"No data: {sorted(missing)}\n{prometheus.process.output}") from error

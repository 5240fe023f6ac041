"""What etc/prometheus and etc/grafana have: promtool's checks, and the metrics that they name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.states import State
from ctllm.cloud.spawners.interfaces import ResourceUsage

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
PROMETHEUS = ROOT / "etc" / "prometheus"
RULE_TESTS = PROMETHEUS / "ctllm.rules.test.yml"
DASHBOARD = json.loads((ROOT / "etc" / "grafana" / "ctllm.json").read_text())

#: Metrics of Prometheus itself and of the blackbox exporter.
FOREIGN = r"\b(?:up|ALERTS|probe_success|probe_ssl_earliest_cert_expiry)\b"
#: Labels that are not the cloud's, and those that may have any value.
TARGET_LABELS = {"job", "instance"}
FREE_LABELS = {"proxy", "provider", "le"}
#: The columns of Grafana's grid.
COLUMNS = 24


def read_yaml(file: str) -> Any:
    """Return the content of a file in etc/prometheus."""
    return yaml.safe_load((PROMETHEUS / file).read_text())


def alerts() -> list[dict[str, Any]]:
    """Return the alerts of the rules."""
    return [rule for group in read_yaml("ctllm.rules.yml")["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without the headings."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Return the expressions of the dashboard."""
    in_panels = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [*in_panels, *(each["expr"] for each in DASHBOARD["annotations"]["list"])]


class MonitoringCase(SynchronousTestCase):
    """Assertions about expressions of Prometheus."""

    def promtool(self, *arguments: str) -> None:
        promtool = shutil.which("promtool")
        assert promtool, "promtool is missing: `make system` installs it"
        result = subprocess.run(
            [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def exported(self) -> dict[str, list[dict[str, str]]]:
        """Return the labels of each series that a cloud exports, by its name."""
        metrics = Metrics()
        metrics.set_configuration(100, 1 << 29, ("keycloak",))
        metrics.update_usage({"ctllm-proxy-1": ResourceUsage(1, 1)})
        for state in (*(each.value for each in State), "waiting"):
            metrics.proxy_state_changed(None, state)
        series: dict[str, list[dict[str, str]]] = {}
        for family in text_string_to_metric_families(metrics.render_text()[1].decode()):
            for sample in family.samples:
                series.setdefault(sample.name, []).append(sample.labels)
        return series

    def assert_exported(self, expressions: Iterable[str]) -> None:
        """Fail unless a cloud exports each series that the expressions select."""
        exported = self.exported()
        for expression in expressions:
            found = re.findall(r"\b(ctllm_\w+)(?:\{([^}]*)\})?", expression)
            self.assertTrue(found or re.search(FOREIGN, expression), expression)
            for name, matchers in found:
                self.assertIn(name, exported, expression)
                for label, value in re.findall(r'(\w+)(?:=|=~|!=|!~)"([^"]*)"', matchers or ""):
                    if label not in TARGET_LABELS:
                        self.assert_values(label, value, exported[name], expression)

    def assert_values(
        self, label: str, value: str, series: list[dict[str, str]], expression: str
    ) -> None:
        values = {labels.get(label) for labels in series}
        self.assertNotIn(None, values, f"{label} in {expression}")
        if label not in FREE_LABELS:
            self.assertLessEqual(set(value.split("|")), values, expression)


class RuleTests(MonitoringCase):
    """The alerts of Prometheus."""

    def test_the_example_configuration_and_its_rules_are_valid(self) -> None:
        self.promtool("check", "config", "prometheus.yml")

    def test_alerts_fire_when_they_shall_and_only_then(self) -> None:
        self.promtool("test", "rules", RULE_TESTS.name)

    def test_each_alert_fires_in_a_test(self) -> None:
        tested = set(re.findall(r'alertname(?:: |=")(Ctllm\w+)', RULE_TESTS.read_text()))
        self.assertEqual(tested, {alert["alert"] for alert in alerts()})

    def test_each_alert_says_what_is_wrong_and_what_to_do(self) -> None:
        for alert in alerts():
            self.assertIn(alert["labels"]["severity"], ("critical", "warning"))
            self.assertRegex(alert["annotations"]["summary"], r"\.$")
            self.assertRegex(alert["annotations"]["description"], r"^.{60,300}[.?]$")
            self.assertRegex(alert["annotations"]["runbook_url"], r"/docs/operations\.md#alerts$")

    def test_the_page_of_operations_lists_each_alert(self) -> None:
        section = OPERATIONS.read_text().partition("\n### Alerts\n")[2]
        listed = re.findall(r"^\| `(Ctllm\w+)` \| (\w+) \|", section, re.M)
        self.assertEqual(listed, [(a["alert"], a["labels"]["severity"]) for a in alerts()])

    def test_alerts_select_series_that_a_cloud_exports(self) -> None:
        self.assert_exported(alert["expr"] for alert in alerts())

    def test_alerts_are_tested_with_series_that_a_cloud_exports(self) -> None:
        inputs = [test["input_series"] for test in read_yaml(RULE_TESTS.name)["tests"]]
        self.assert_exported(each["series"] for series in inputs for each in series)

    def test_the_jobs_of_the_rules_are_those_of_the_example_configuration(self) -> None:
        jobs = {each["job_name"] for each in read_yaml("prometheus.yml")["scrape_configs"]}
        named = re.findall(r'job="([^"]+)"', (PROMETHEUS / "ctllm.rules.yml").read_text())
        self.assertEqual(set(named), jobs)


class DashboardTests(MonitoringCase):
    """The dashboard of Grafana."""

    def test_selects_series_that_a_cloud_exports(self) -> None:
        self.assertGreater(len(queries()), 15)
        self.assert_exported(queries())

    def test_shows_every_metric(self) -> None:
        shown = set(re.findall(r"ctllm_\w+", " ".join(queries())))
        parts = ("_created", "_sum", "_count")  # of a histogram
        self.assertEqual(
            {name for name in self.exported() if not name.endswith(parts)} - shown, set()
        )

    def test_its_expressions_are_valid(self) -> None:
        plain = [
            each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in queries()
        ]
        rules = [{"record": f"query:{n}", "expr": each} for n, each in enumerate(plain)]
        file = Path(self.mktemp())
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        self.promtool("check", "rules", str(file.absolute()))

    def test_each_panel_has_an_id_a_title_and_a_place_of_its_own(self) -> None:
        every = DASHBOARD["panels"]
        self.assertEqual(len({panel["id"] for panel in every}), len(every))
        self.assertEqual(len({panel["title"] for panel in every}), len(every))
        for panel in every:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], COLUMNS, panel["title"])
        for one, other in combinations(every, 2):
            self.assertFalse(overlap(one["gridPos"], other["gridPos"]), (one, other))

    def test_each_query_uses_the_data_source_and_the_cloud_that_are_chosen(self) -> None:
        for panel in panels():
            references = [target["refId"] for target in panel["targets"]]
            self.assertEqual(len(set(references)), len(references), panel["title"])
            for target in panel["targets"]:
                source = {"type": "prometheus", "uid": "${datasource}"}
                self.assertEqual(target["datasource"], source)
                for matchers in re.findall(r"ctllm_\w+(\{[^}]*\})?", target["expr"]):
                    self.assertIn('job="$job", instance=~"$instance"', matchers, panel["title"])
        names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD["panels"])))
        self.assertEqual(used, names)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Return whether two places in the grid overlap."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )

"""Alerts and the dashboard ask for figures that the API really serves."""

import json
import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from api.http.prometheus import PrometheusMetrics
from jobs.states import JobKind, JobState

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NAME = re.compile(r"\batft_[a-z0-9_]+")
LABEL = re.compile(r"(?:by|on) \(([a-z, ]+)\)")


def served() -> tuple[set[str], set[str]]:
    """Sample names and label names of a scrape in which everything has happened once."""
    metrics = PrometheusMetrics()
    metrics.observe_request("GET", "/jobs", 200, 0.01)
    metrics.hints_lost.inc()
    text = metrics.render({(JobKind.TRAIN, JobState.QUEUED): 1}, {"cpu": 1}, {"cpu": 1}, database_up=True).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name for sample in samples}, {label for sample in samples for label in sample.labels}


def asked() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    board = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return found + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_every_expression_names_figures_and_labels_that_exist() -> None:
    names, labels = served()
    expressions = asked()
    assert len(expressions) > 15
    for expression in expressions:
        assert set(NAME.findall(expression)) <= names, expression
        used = {label.strip() for group in LABEL.findall(expression) for label in group.split(",")}
        assert used <= labels, expression


def test_names_follow_prometheus_conventions() -> None:
    names, _ = served()
    assert all(re.fullmatch(r"atft_[a-z][a-z0-9_]*", name) for name in names)
    counters = {name for name in names if name.endswith("_total")}
    assert counters == {"atft_http_requests_total", "atft_hints_lost_total"}


def test_panels_do_not_overlap_and_have_a_title() -> None:
    panels = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(cells) == len(set(cells))
    assert all(panel["title"] for panel in panels)

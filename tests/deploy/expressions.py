"""PromQL expressions of rules and dashboards, and what asks whether they have data."""

import json
import re
import urllib.parse

import yaml

import daemons
from metric_names import ROOT

COMPARISON = re.compile(r'("(?:[^"\\]|\\.)*"|\{[^}]*\})|(==|!=|>=|<=|>|<)(?!\s*bool\b)')


def rule_files():
    return sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yml"))


def rules():
    return [rule for file in rule_files() for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def dashboards():
    return {file.stem: json.loads(file.read_text()) for file in sorted((ROOT / "deploy" / "grafana").glob("*.json"))}


def panel_expressions(dashboard):
    """[(panel's title, expression)]"""
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]


def without_thresholds(expression):
    """An alert's expression with data whether it fires or not: comparisons give 0 or 1, every part of it is needed, and what is
    looked for is there. Subqueries look once a second: a short test is over between the steps that they have."""
    expression = re.sub(r"\[(\w+):\w+\]", r"[\1:1s]", expression)
    expression = COMPARISON.sub(lambda match: match[1] or match[2] + " bool", expression)
    return re.sub(r"\bor\b", "and", re.sub(r"\babsent\(", "(", expression))


def query(prometheus, expression):
    """The values of an instant query."""
    text = urllib.parse.urlencode({"query": expression})
    code, body = daemons.get(prometheus, f"/api/v1/query?{text}")
    if code != 200:
        raise AssertionError(f"{expression}: {body}")
    return [float(sample["value"][1]) for sample in json.loads(body)["data"]["result"]]

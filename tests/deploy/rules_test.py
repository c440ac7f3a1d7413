#!/usr/bin/env python3
"""The Prometheus rules: well formed, about metrics that exist, each alert tested both ways and described for its reader."""

import json
import pathlib
import re
import runpy
import subprocess
import unittest

import yaml

import expressions
import metric_names

ROOT = metric_names.ROOT
RULES = ROOT / "deploy" / "prometheus"
CASES = sorted(pathlib.Path(__file__).parent.glob("*.test.yml"))


class RulesTest(unittest.TestCase):

    def promtool(self, *arguments):
        done = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_configuration_and_the_rules_are_valid(self):
        self.promtool("check", "config", "prometheus.yml")
        for file in RULES.glob("*.rules.yml"):
            self.promtool("check", "rules", str(file))

    def test_the_operators_form_of_the_rules_is_made_from_them(self):
        made = runpy.run_path(str(RULES / "make_prometheus_rule.py"))["made"](RULES)
        self.assertTrue(made == (RULES / "prometheus-rule.yaml").read_text(), "run make_prometheus_rule.py")

    def test_groups_are_each_of_one_name_and_the_cases_take_them_in_order(self):
        """The operator's form is one list by name; promtool puts groups that a case does not name before all others."""
        groups = [group["name"] for file in ("spillway-recording.rules.yml", "spillway-alerts.rules.yml")
                  for group in yaml.safe_load((RULES / file).read_text())["groups"]]
        self.assertEqual(len(groups), len(set(groups)), groups)
        for file in CASES:
            self.assertEqual(yaml.safe_load(file.read_text())["group_eval_order"], groups, file.name)

    def test_every_case_holds(self):
        self.promtool("test", "rules", *map(str, CASES))

    def test_every_alert_has_a_case_that_fires_and_one_that_stays_silent(self):
        fires, silent = set(), set()
        for file in CASES:
            for test in yaml.safe_load(file.read_text())["tests"]:
                for case in test["alert_rule_test"]:
                    (fires if case["exp_alerts"] else silent).add(case["alertname"])
        alerts = {rule["alert"] for rule in expressions.rules() if "alert" in rule}
        self.assertEqual(alerts - fires, set(), "alerts that no case makes fire")
        self.assertEqual(alerts - silent, set(), "alerts that no case sees silent")

    def test_every_metric_and_label_exists(self):
        recorded = {rule["record"] for rule in expressions.rules() if "record" in rule}
        self.assertEqual(metric_names.unknown([rule["expr"] for rule in expressions.rules()], recorded), [])

    def test_a_name_that_does_not_exist_is_seen(self):
        self.assertEqual(len(metric_names.unknown(["rate(spillway_tokens_total[5m])"])), 1)
        self.assertEqual(len(metric_names.unknown(['sum by (a) (spillway_ready{state="x"}) > 3'])), 1)
        self.assertEqual(metric_names.unknown(['sum by (job) (rate(spillway_queue_seconds_bucket{le="1"}[5m])) > 3']), [])

    def test_every_recorded_series_is_used(self):
        used = (RULES / "spillway-alerts.rules.yml").read_text()
        used += "".join(file.read_text() for file in (ROOT / "deploy" / "grafana").glob("*.json"))
        used += "".join(rule["expr"] for rule in expressions.rules())
        for rule in expressions.rules():
            if "record" in rule:
                self.assertTrue(rule["record"] in used, rule["record"])

    def test_alerts_know_the_targets_of_what_is_shipped_and_no_others(self):
        matchers = {matcher for rule in expressions.rules() for matcher in re.findall(r'job=~"([^"]*)"', rule["expr"])}
        self.assertEqual(len(matchers), 1)
        [matcher] = matchers
        [fixed] = yaml.safe_load((RULES / "prometheus.yml").read_text())["scrape_configs"]
        monitor = yaml.safe_load((ROOT / "deploy/kubernetes/components/monitoring/pod-monitor.yaml").read_text())["metadata"]["name"]
        for job in (fixed["job_name"], f"spillway/{monitor}", f"team-a/{monitor}"):
            self.assertTrue(re.fullmatch(matcher, job), job)
        for job in ("spillway/envoy", "spillway/shop", "spillway-client", "not-spillway", "monitoring/spillway-proxy"):
            self.assertFalse(re.fullmatch(matcher, job), job)

    def test_targets_are_looked_at_as_often_as_the_rules_want(self):
        interval = yaml.safe_load((RULES / "prometheus.yml").read_text())["global"]["scrape_interval"]
        [endpoint] = yaml.safe_load((ROOT / "deploy/kubernetes/components/monitoring/pod-monitor.yaml").read_text())["spec"]["podMetricsEndpoints"]
        self.assertEqual((interval, endpoint["interval"]), ("15s", "15s"))
        # Or planned restarts could not be told from crashes.
        lame_duck_ms = json.loads((ROOT / "deploy/systemd/spillwayd.json").read_text())["lame_duck_ms"]
        self.assertGreater(lame_duck_ms, 15000)

    def test_every_alert_says_what_to_do(self):
        operations = (ROOT / "docs" / "operations.md").read_text()
        for rule in expressions.rules():
            if "alert" not in rule:
                continue
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
                self.assertEqual(rule["annotations"]["runbook"], f"docs/operations.md#{rule['alert'].lower()}")
                self.assertRegex(operations, rf"(?m)^#+ {rule['alert']}$")
                self.assertTrue(rule["annotations"]["summary"] and rule["annotations"]["description"])
        headings = set(re.findall(r"(?m)^#+ (Spillway\w+)$", operations))
        self.assertEqual(headings, {rule["alert"] for rule in expressions.rules() if "alert" in rule}, "alerts and their chapters")


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""The Grafana dashboards: ids, units, descriptions, the datasource's variable, and metrics that exist."""

import re
import unittest

import expressions
import metric_names


class DashboardsTest(unittest.TestCase):

    def panels(self):
        for name, dashboard in expressions.dashboards().items():
            for panel in dashboard["panels"]:
                if panel["type"] != "row":
                    yield name, panel

    def test_each_has_an_id_of_its_own(self):
        dashboards = expressions.dashboards()
        self.assertEqual(set(dashboards), {"requests", "engine", "memory"})
        self.assertEqual(len({dashboard["uid"] for dashboard in dashboards.values()}), len(dashboards))
        for name, dashboard in dashboards.items():
            with self.subTest(name):
                self.assertNotIn("id", dashboard)  # Grafana's to give
                ids = [panel["id"] for panel in dashboard["panels"]]
                self.assertEqual(len(ids), len(set(ids)))
                self.assertEqual(dashboard["tags"], ["spillway"])

    def test_every_panel_has_a_unit_and_a_description(self):
        for name, panel in self.panels():
            with self.subTest(f"{name}: {panel['title']}"):
                self.assertRegex(panel["description"], r"^[A-Z0-9].*\.$")
                self.assertIn(panel["fieldConfig"]["defaults"]["unit"],
                              {"short", "s", "percentunit", "reqps", "ops", "Bps", "bytes"})
                self.assertTrue(panel["targets"])
                references = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(references), len(set(references)))

    def test_titles_are_unique_within_a_dashboard(self):
        seen = [(name, panel["title"], panel["type"]) for name, panel in self.panels()]
        self.assertEqual(len(seen), len(set(seen)))

    def test_panels_do_not_overlap(self):
        for name, dashboard in expressions.dashboards().items():
            taken = {}
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertEqual(taken.setdefault((x, y), panel["title"]), panel["title"], name)

    def test_the_datasource_is_a_variable_everywhere(self):
        for name, dashboard in expressions.dashboards().items():
            variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
            self.assertEqual(variables["datasource"]["type"], "datasource")
            for variable in ("job", "instance"):
                self.assertEqual(variables[variable]["datasource"]["uid"], "${datasource}")
        for name, panel in self.panels():
            for where in (panel, *panel["targets"]):
                self.assertEqual(where["datasource"], {"type": "prometheus", "uid": "${datasource}"}, name)

    def test_every_expression_follows_the_variables_and_names_what_exists(self):
        recorded = {rule["record"] for rule in expressions.rules() if "record" in rule}
        for name, dashboard in expressions.dashboards().items():
            for title, expression in expressions.panel_expressions(dashboard):
                with self.subTest(f"{name}: {title}"):
                    self.assertEqual(metric_names.unknown([expression.replace("$__rate_interval", "1m")], recorded), [])
                    for matcher in re.findall(r"\{([^}]*)\}", expression):
                        self.assertIn('job=~"$job"', matcher)
                    self.assertIn("{", expression)


if __name__ == "__main__":
    unittest.main()

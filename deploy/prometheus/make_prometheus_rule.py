#!/usr/bin/env python3
"""Writes prometheus-rule.yaml, the Prometheus operator's form of the rules beside it. usage: make_prometheus_rule.py"""

import pathlib

HEAD = """\
# Made by make_prometheus_rule.py from the *.rules.yml beside it; a test compares.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: spillway
spec:
  groups:
"""


def made(folder):
    out = HEAD
    for file in ("spillway-recording.rules.yml", "spillway-alerts.rules.yml"):
        _, _, groups = (folder / file).read_text().partition("\ngroups:\n")
        out += "".join(f"  {line}\n" if line else "\n" for line in groups.splitlines())
    return out


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    (here / "prometheus-rule.yaml").write_text(made(here))

#!/usr/bin/env python3
"""Prometheus scrapes a daemon under load behind an emulated link: every rule and every panel has data.

Usage: live_test.py --bin=FOLDER --model=FILE.gguf [--pictures=FOLDER] [unittest's own arguments]
"""

import argparse
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

import daemons
import expressions

OPTIONS = argparse.Namespace(bin="", model="", pictures="")
LOAD_S = 10
RATE = 120
RATE_INTERVAL = "10s"
# Behind a link that is slow enough for the planner to have a choice, with a pool and a queue that fill up.
FLAGS = ("--host_pool=6MiB", "--max_sequences=4", "--max_queue=8", "--dtype=f32", "--emulated_link_mb_per_s=50",
         "--device_memory=24MiB", "--residency=fixed:0.3")


class LiveTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        # TLS and a tenant, for what is said of certificates and tenants.
        certificate, key = cls.folder / "tls.crt", cls.folder / "tls.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                        "-subj", "/CN=spillway", "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key],
                       check=True, capture_output=True)
        tokens, token = cls.folder / "tokens.json", cls.folder / "token"
        made = subprocess.run([f"{OPTIONS.bin}/spillway", "token", "--tenant=acme", "--role=admin", f"--tokens_file={tokens}"], env=daemons.environment(),
                              check=True, capture_output=True)
        token.write_bytes(made.stdout)
        cls.daemon = cls.enterClassContext(
            daemons.Spillwayd(f"{OPTIONS.bin}/spillwayd", cls.folder, f"--model={OPTIONS.model}", f"--cache_dir={cls.folder}",
                              f"--tls_certificate={certificate}", f"--tls_key={key}", f"--tokens_file={tokens}", *FLAGS)).wait_until_ready()
        cls.prometheus = cls.enterClassContext(
            daemons.Prometheus(cls.folder, [cls.daemon.metrics], expressions.rule_files())).wait_until_ready()
        # More requests than are served, at an even rate: some are refused all the time.
        load = [f"{OPTIONS.bin}/spillway-bench", "serve", f"--server={cls.daemon.grpc}", f"--tls_ca={certificate}", f"--token_file={token}",
                f"--rate={RATE}", f"--duration_s={LOAD_S}", "--prompt_tokens=uniform:280-400", "--output_tokens=uniform:8-80",
                "--shared_prefix_tokens=256", "--cancel_fraction=0.05", "--max_rejected=1000000"]
        done = subprocess.run(load, env=daemons.environment(), capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"{done.stdout}{done.stderr}{cls.daemon.log()[-2000:]}")
        print(done.stdout, file=sys.stderr)
        time.sleep(2)  # the last scrape, and the rules over it

    def assert_data(self, expression, where):
        values = expressions.query(self.prometheus.address, expression)
        self.assertTrue(values, f"{where} has no data: {expression}")
        self.assertTrue(any(math.isfinite(value) for value in values), f"{where} is no number: {expression}")

    def test_every_rule_has_data(self):
        for rule in expressions.rules():
            with self.subTest(rule.get("alert") or rule["record"]):
                self.assert_data(expressions.without_thresholds(rule["expr"]), rule)
                if "record" in rule:
                    self.assert_data(rule["record"], rule)

    def test_every_panel_has_data(self):
        for name, dashboard in expressions.dashboards().items():
            for title, expression in expressions.panel_expressions(dashboard):
                expression = re.sub(r"\$(job|instance)", ".+", expression.replace("$__rate_interval", RATE_INTERVAL))
                with self.subTest(f"{name}: {title}"):
                    self.assert_data(expression, f"{name}: {title}")

    def test_an_expression_without_data_is_seen(self):
        with self.assertRaises(AssertionError):
            self.assert_data('spillway_ready{job="nobody"}', "a wrong job")
        with self.assertRaises(AssertionError):
            self.assert_data("spillway_ready / 0 * 0", "no number")

    def test_the_dashboards_can_be_drawn(self):
        output = pathlib.Path(OPTIONS.pictures or self.folder / "pictures")
        done = subprocess.run([sys.executable, expressions.ROOT / "deploy/grafana/render.py", f"--output={output}",
                               f"--prometheus=http://{self.prometheus.address}", f"--rate_interval={RATE_INTERVAL}",
                               f"--minutes={(LOAD_S + 4) / 60}"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for name in expressions.dashboards():
            self.assertTrue((output / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pictures", default="")
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=sys.argv[:1] + rest)

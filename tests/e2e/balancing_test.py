#!/usr/bin/env python3
"""Clients before several daemons without a proxy: gRPC's own balancing, with the service configurations of docs/api.md.

Usage: balancing_test.py --bin=FOLDER --model=FILE.gguf [unittest's own arguments]
       balancing_test.py --load=TARGET --stubs=FOLDER      the client: calls until its standard input ends, then a report

Kubernetes' DNS is a file of hosts here, in a mount namespace of the client's own (which needs root), and a pod's address is one of
loopback's. Needs grpcio and grpcio-tools: 77 where they are not installed.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "deploy"))
import daemons  # noqa: E402

OPTIONS = argparse.Namespace(bin="", model="")
NAME = "spillway.spillway.svc"


def documented_configuration():
    """The service configurations of docs/api.md, as one."""
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "api.md").read_text(), re.M | re.S)]
    assert len(blocks) == 2, "docs/api.md has other configurations; the test has to follow"
    return blocks[0] | blocks[1]


def load(target, stubs):
    """Four callers on one channel, until standard input ends; prints how many calls ended well, and how others did not."""
    import grpc

    sys.path.insert(0, stubs)
    from spillway.v1 import inference_pb2 as pb
    from spillway.v1 import inference_pb2_grpc

    # A name is looked up again after 30 s at the earliest, where nothing else is said.
    options = [("grpc.service_config", json.dumps(documented_configuration())), ("grpc.dns_min_time_between_resolutions_ms", 500)]
    request = pb.CompleteRequest(text="the quick brown fox", options=pb.GenerationOptions(max_tokens=20, stop=pb.StopOptions(ignore_eos=True)))
    ended = threading.Event()
    ok, failed = [], []
    with grpc.insecure_channel(target, options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def call():
            while not ended.is_set():
                try:
                    tokens = sum(len(event.delta.token_ids) for event in stub.StreamComplete(request, timeout=60))
                    ok.append(tokens)
                except grpc.RpcError as error:
                    failed.append(f"{error.code().name}: {error.details()}")

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        sys.stdin.read()
        ended.set()
        for caller in callers:
            caller.join()
    print(json.dumps({"ok": len(ok), "whole": all(tokens == 20 for tokens in ok), "failed": failed}))


class BalancingTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.stubs = cls.enterClassContext(tempfile.TemporaryDirectory())
        subprocess.run([ROOT / "examples/python/generate_stubs.sh", cls.stubs], check=True)

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.running = []
        self.addCleanup(lambda: [daemon.stop(tolerant=True) for daemon in self.running])

    def start(self, name, port, *flags, host="127.0.0.1"):
        daemon = daemons.Spillwayd(f"{OPTIONS.bin}/spillwayd", self.folder, f"--model={OPTIONS.model}", "--host_pool=32MiB",
                                   "--lame_duck_ms=1000", *flags, name=name, host=host, grpc_port=port)
        self.running.append(daemon)
        return daemon.wait_until_ready()

    def start_load(self, target, under=()):
        client = subprocess.Popen([*under, sys.executable, __file__, f"--load={target}", f"--stubs={self.stubs}"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, env=daemons.environment())
        self.addCleanup(client.kill)
        return client

    def assert_all_went_well(self, client):
        self.assertIsNone(client.poll(), "the load ended by itself")
        output, _ = client.communicate(timeout=120)
        self.assertEqual(client.returncode, 0)
        report = json.loads(output)
        self.assertEqual(report["failed"], [])
        self.assertTrue(report["whole"])
        self.assertGreater(report["ok"], 20)

    @staticmethod
    def served(daemon):
        return daemon.metric("spillway_generated_tokens_total")

    def test_calls_go_to_every_daemon_and_none_fails_while_each_is_restarted(self):
        ports = [daemons.free_port(), daemons.free_port()]
        pair = [self.start(f"d{i}", port) for i, port in enumerate(ports)]
        client = self.start_load("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))
        for i, port in enumerate(ports):
            for daemon in pair:
                since = self.served(daemon)
                daemon.wait_for(lambda: self.served(daemon) > since + 200, "calls")
            self.assertEqual(pair[i].stop(), 0)
            pair[i] = self.start(f"d{i}", port)
        for daemon in pair:
            daemon.wait_for(lambda: self.served(daemon) > 200, "calls after the restart")
        self.assert_all_went_well(client)

    @unittest.skipUnless(daemons.is_root(), "mounts need root")
    def test_a_daemon_that_comes_later_is_found_by_its_name(self):
        port = daemons.free_port()
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n127.0.0.1 {NAME}\n")
        first = self.start("first", port, "--max_connection_age_ms=2000")
        client = self.start_load(f"dns:///{NAME}:{port}", under=[
            "unshare", "--mount", "bash", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "load"])
        first.wait_for(lambda: self.served(first) > 200, "calls")
        second = self.start("second", port, "--max_connection_age_ms=2000", host="127.0.0.2")
        with open(hosts, "a", encoding="ascii") as file:  # the same file, which is mounted
            file.write(f"127.0.0.2 {NAME}\n")
        second.wait_for(lambda: self.served(second) > 200, "calls to the new daemon")
        since = self.served(first)
        first.wait_for(lambda: self.served(first) > since + 200, "calls to the first one still")
        self.assert_all_went_well(client)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--load", default="")
    parser.add_argument("--stubs", default="")
    OPTIONS, rest = parser.parse_known_args()
    if importlib.util.find_spec("grpc_tools") is None:
        print("skipped: grpcio-tools is not installed (scripts/test.sh does)")
        sys.exit(77)
    if OPTIONS.load:
        load(OPTIONS.load, OPTIONS.stubs)
    else:
        unittest.main(argv=sys.argv[:1] + rest)

#!/usr/bin/env python3
"""An unmodified Envoy with the configuration of deploy/envoy before daemons on loopback.

Usage: envoy_test.py --bin=FOLDER --model=FILE.gguf --certificates=PROGRAM [unittest's own arguments]

PROGRAM is write-test-certificates.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import yaml

import daemons
from metric_names import ROOT

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import http2_by_hand as h2  # pylint: disable=wrong-import-position

OPTIONS = argparse.Namespace(bin="", model="", certificates="")
CONFIGURATION = ROOT / "deploy" / "envoy" / "envoy.yaml"
ENVOYS_ROUTE_TIMEOUT_S = 15  # where a configuration does not say otherwise
SILENCE_S = 20


def with_tls(text, certificates):
    """The configuration with its transport sockets, which are comments as it is shipped, in effect."""
    lines, indent = [], None
    for line in text.splitlines():
        body = line.lstrip()
        if body == "# transport_socket:":
            indent = len(line) - len(body)
        elif indent is not None and not body.startswith("#   "):
            indent = None
        lines.append(line if indent is None else line[:indent] + body[2:])
    text = "\n".join(lines)
    for name, file in (("tls.crt", "client.pem"), ("tls.key", "client.key"), ("ca.crt", "ca.pem")):
        text = text.replace(f"/etc/envoy-tls/{name}", f"{certificates}/{file}")
    # The test's certificates are of this machine.
    return text.replace("sni: spillway.spillway.svc\n", "sni: localhost\n").replace("exact: spillway.spillway.svc}", "exact: localhost}")


class Envoy(daemons.Process):
    """With the shipped configuration; only addresses are the test's."""

    def __init__(self, folder, ports, certificates=None, healthy=None):
        listen, admin = daemons.free_port(), daemons.free_port()
        self.address, self.admin = f"127.0.0.1:{listen}", f"127.0.0.1:{admin}"
        text = CONFIGURATION.read_text()
        configuration = yaml.safe_load(with_tls(text, certificates) if certificates else text)
        resources = configuration["static_resources"]
        configuration["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": admin}
        resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": listen}
        resources["clusters"][0]["load_assignment"]["endpoints"] = [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports]}]
        file = pathlib.Path(folder) / "envoy.yaml"
        file.write_text(yaml.safe_dump(configuration))
        super().__init__("envoy", folder, ["envoy", "--config-path", file, "--concurrency", "1", "--disable-hot-restart",
                                           "--log-level", "warning"])
        self.wait_for_healthy(len(ports) if healthy is None else healthy)

    def wait_for_healthy(self, count):
        self.wait_for(lambda: self.stat("cluster.spillway.membership_healthy") == count, f"{count} healthy daemons")

    def stat(self, name):
        for line in daemons.get(self.admin, f"/stats?filter=^{name}$")[1].splitlines():
            return int(line.split(": ")[1])
        return -1


class EnvoyTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.daemons = {}
        self.addCleanup(lambda: [daemon.stop(tolerant=True) for daemon in self.daemons.values()])

    def start(self, *flags, name, program="spillwayd", port=0, variables=None):
        daemon = daemons.Spillwayd(f"{OPTIONS.bin}/{program}", self.folder, f"--model={OPTIONS.model}", "--host_pool=32MiB", *flags,
                                   name=name, grpc_port=port, variables=variables)
        self.daemons[name] = daemon
        return daemon.wait_until_ready()

    def load(self, server, *flags):
        return [f"{OPTIONS.bin}/spillway-bench", "serve", f"--server={server}", "--prompt_tokens=uniform:20-200",
                "--output_tokens=uniform:8-60", "--max_rejected=1000000", f"--json={self.folder}/report.json",
                f"--admin={next(iter(self.daemons.values())).grpc}", *flags]

    def ledger(self):
        return json.loads((self.folder / "report.json").read_text())["results"]["ledger"]

    def run_load(self, server, *flags):
        done = subprocess.run(self.load(server, *flags), env=daemons.environment(), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.ledger()

    def test_both_daemons_are_restarted_under_load_and_no_request_fails(self):
        ports = {name: daemons.free_port() for name in ("first", "second")}
        for name, port in ports.items():
            self.start("--lame_duck_ms=3000", name=name, port=port)
        envoy = self.enterContext(Envoy(self.folder, ports.values()))
        load = subprocess.Popen(self.load(envoy.address, "--concurrency=6", "--duration_s=18"), env=daemons.environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(load.kill)
        time.sleep(1)
        served_before = {}
        for name, port in ports.items():
            served_before[name] = self.daemons[name].metric("spillway_generated_tokens_total")
            self.assertEqual(self.daemons[name].stop(), 0)
            self.start("--lame_duck_ms=3000", name=name, port=port)
            envoy.wait_for_healthy(2)
        self.assertIsNone(load.poll(), "the load ended before the restarts did; it has to last longer")
        output, _ = load.communicate(timeout=60)
        self.assertEqual(load.returncode, 0, output)
        ledger = self.ledger()
        self.assertEqual((ledger["failed"], ledger["rejected"]), (0, 0), output)
        self.assertEqual(ledger["ok"], ledger["sent"])
        for name in ports:
            self.assertGreater(served_before[name], 0, name)
            self.assertGreater(self.daemons[name].metric("spillway_generated_tokens_total"), 0, f"{name}, after its restart")

    def test_refusals_for_want_of_room_are_retried_when_they_say(self):
        for name in ("first", "second"):
            self.start("--max_sequences=1", "--max_queue=1", "--lame_duck_ms=0", name=name)
        burst = ("--concurrency=10", "--requests=20")
        # One daemon alone refuses most of them.
        self.assertGreater(self.run_load(self.daemons["first"].grpc, *burst)["rejected"], 0)
        ports = [daemon.grpc.rsplit(":", 1)[1] for daemon in self.daemons.values()]
        envoy = self.enterContext(Envoy(self.folder, [int(port) for port in ports]))
        ledger = self.run_load(envoy.address, *burst)
        self.assertEqual((ledger["ok"], ledger["rejected"], ledger["failed"]), (20, 0, 0))
        self.assertGreater(envoy.stat("cluster.spillway.upstream_rq_retry_backoff_ratelimited"), 0)

    def test_operators_calls_do_not_pass_and_clients_calls_do(self):
        daemon = self.start("--lame_duck_ms=0", name="only")
        envoy = self.enterContext(Envoy(self.folder, [int(daemon.grpc.rsplit(":", 1)[1])]))

        def ask(*arguments):
            return subprocess.run([f"{OPTIONS.bin}/spillway", f"--server={envoy.address}", *arguments], env=daemons.environment(),
                                  capture_output=True, text=True, check=False, timeout=30)

        for command in ("status", "drain"):
            with self.subTest(command):
                self.assertNotEqual((refused := ask(command)).returncode, 0, refused.stdout)
        self.assertEqual(envoy.stat("http.grpc.no_route"), 2, "refused by Envoy itself; health, which status asks first, passes")
        self.assertEqual(daemons.get(daemon.metrics, "/readyz")[0], 200)
        self.assertEqual((done := ask("complete", "--max_tokens=2", "the quick")).returncode, 0, done.stderr)
        self.assertNotIn("deprecated", envoy.log().lower())

    def test_tls_is_as_the_comments_have_it(self):
        subprocess.run([OPTIONS.certificates, self.folder], check=True)
        daemon = self.start("--lame_duck_ms=0", f"--tls_certificate={self.folder}/server.pem", f"--tls_key={self.folder}/server.key",
                            f"--tls_client_ca={self.folder}/ca.pem", name="secure")
        ports = [int(daemon.grpc.rsplit(":", 1)[1])]
        plain = self.enterContext(Envoy(self.folder, ports, healthy=0))
        plain.wait_for(lambda: plain.stat("cluster.spillway.health_check.failure") > 0, "a failed check")
        self.assertEqual(plain.stat("cluster.spillway.membership_healthy"), 0, "without the comment no daemon is healthy")
        envoy = self.enterContext(Envoy(self.folder, ports, certificates=self.folder))

        def ask(*flags):
            return subprocess.run([f"{OPTIONS.bin}/spillway", f"--server={envoy.address}", *flags, "complete", "--max_tokens=2", "the quick"],
                                  env=daemons.environment(), capture_output=True, text=True, check=False, timeout=30)

        ca = f"--tls_ca={self.folder}/ca.pem"
        client = (f"--tls_client_certificate={self.folder}/client.pem", f"--tls_client_key={self.folder}/client.key")
        # Envoy shows the client's certificate of the tests.
        done = ask(ca, "--tls_server_name=client", *client)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(envoy.stat("cluster.spillway.ssl.handshake"), 0)
        self.assertNotEqual(ask(ca, "--tls_server_name=client").returncode, 0, "without a certificate")
        self.assertNotEqual(ask().returncode, 0, "plain text")
        self.assertNotIn("deprecated", envoy.log().lower())

    def test_another_names_daemon_is_none_of_ours(self):
        subprocess.run([OPTIONS.certificates, self.folder], check=True)
        daemon = self.start("--lame_duck_ms=0", f"--tls_certificate={self.folder}/client.pem", f"--tls_key={self.folder}/client.key",
                            name="other")
        envoy = self.enterContext(Envoy(self.folder, [int(daemon.grpc.rsplit(":", 1)[1])], certificates=self.folder, healthy=0))
        envoy.wait_for(lambda: envoy.stat("cluster.spillway.ssl.fail_verify_san") > 0, "a refused name")
        self.assertEqual(envoy.stat("cluster.spillway.membership_healthy"), 0)

    def test_ones_headers_do_not_end_anothers_stream(self):
        """All calls share a connection to the daemon, which closes it for headers that it does not take."""
        envoy = self.enterContext(Envoy(self.folder, [self.start(name="only").grpc.split(":")[1]]))
        load = threading.Thread(target=lambda: ledgers.append(self.run_load(envoy.address, "--concurrency=6", "--duration_s=4")))
        ledgers, seen = [], []
        load.start()
        while load.is_alive():
            for extra in ([("x-bin", "not base64!")], [("grpc-tags-bin", "A")], [("large", "x" * 9000)], [("large", "x" * 3500)],
                          [(f"small-{i}", "x" * 30) for i in range(150)], [(f"small-{i}", "x" * 60) for i in range(36)]):
                with h2.Connection(envoy.address, 10) as connection:
                    seen.append(connection.call("/grpc.health.v1.Health/Check", b"", extra=extra)[0])
        load.join()
        self.assertEqual(len(ledgers), 1, "every stream came whole")
        self.assertEqual(envoy.stat("cluster.spillway.upstream_cx_destroy_remote"), 0, "the daemon closed no connection")
        self.assertIn("ended", seen)

    def test_a_long_silence_passes(self):
        fault = self.folder / "fault"
        fault.write_text("")
        daemon = self.start("--lame_duck_ms=0", name="held", program="faulty-spillwayd", variables={"FAULT_FILE": str(fault)})
        envoy = self.enterContext(Envoy(self.folder, [int(daemon.grpc.rsplit(":", 1)[1])]))
        fault.write_text("hold")
        timer = threading.Timer(SILENCE_S, lambda: fault.write_text(""))
        timer.start()
        self.addCleanup(timer.cancel)
        began = time.monotonic()
        done = subprocess.run([f"{OPTIONS.bin}/spillway", f"--server={envoy.address}", "complete", "--max_tokens=8", "the quick"],
                              env=daemons.environment(), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(time.monotonic() - began, SILENCE_S - 1)
        self.assertGreater(SILENCE_S - 1, ENVOYS_ROUTE_TIMEOUT_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--certificates", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=sys.argv[:1] + rest)

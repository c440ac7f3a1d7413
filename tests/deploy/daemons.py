"""Processes of a test's own, all on loopback: spillwayd, Prometheus and the like, each with a log, ended at the end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request


def get(address, path="/"):
    """(code, body) of a GET; code 0 when there is no answer."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_root():
    return os.geteuid() == 0


def environment():
    """The test's, without what would configure a daemon."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}


class Process:
    """Stopped with SIGTERM at the end of the `with`, or killed."""

    def __init__(self, name, folder, arguments, variables=None, **options):
        self.name = name
        self.log_file = pathlib.Path(folder) / f"{name}.log"
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen([str(argument) for argument in arguments], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=environment() | (variables or {}), **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(tolerant=True)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def wait_for(self, condition, what, seconds=60):
        """The condition's first true value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            time.sleep(0.05)
        raise AssertionError(f"waited in vain for {what}:\n{self.log()[-4000:]}")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, tolerant=False, seconds=60):
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            if tolerant:
                return -signal.SIGKILL
            raise AssertionError(f"{self.name} did not stop:\n{self.log()[-4000:]}") from None


def address_file(folder, name):
    return pathlib.Path(folder) / f"{name}.address.json"


class Served(Process):
    """A spillwayd by any command; `variables` are added to its environment."""

    def __init__(self, command, folder, name="spillwayd", variables=None, **options):
        self.address_file = address_file(folder, name)
        self.address_file.unlink(missing_ok=True)
        self.grpc = self.metrics = ""
        super().__init__(name, folder, command, {"SPILLWAY_ADDRESS_FILE": str(self.address_file)} | (variables or {}), **options)

    def wait_until_ready(self, seconds=60):
        self.wait_for(self.address_file.exists, "the address file", seconds)
        addresses = json.loads(self.address_file.read_text())
        self.grpc, self.metrics = addresses["grpc"], addresses["metrics"]
        self.wait_for(lambda: get(self.metrics, "/readyz")[0] == 200, "readiness", seconds)
        return self

    def metric(self, series):
        for line in get(self.metrics, "/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {series}")


class Spillwayd(Served):
    """On free ports, or those that are given; further flags come from the caller."""

    def __init__(self, program, folder, *flags, name="spillwayd", host="127.0.0.1", grpc_port=0, metrics_port=0, **options):
        super().__init__([program, f"--listen={host}:{grpc_port}", f"--metrics_listen=127.0.0.1:{metrics_port}",
                          f"--address_file={address_file(folder, name)}", "--threads=1", *flags], folder, name, **options)


class Prometheus(Process):
    """Scrapes these addresses as job spillway."""

    def __init__(self, folder, targets, rule_files=(), scrape_ms=1000):
        folder = pathlib.Path(folder)
        self.address = f"127.0.0.1:{free_port()}"
        configuration = {"global": {"scrape_interval": f"{scrape_ms}ms", "scrape_timeout": f"{scrape_ms}ms",
                                    "evaluation_interval": f"{scrape_ms}ms"},
                         "rule_files": [str(file) for file in rule_files],
                         "scrape_configs": [{"job_name": "spillway", "static_configs": [{"targets": targets}]}]}
        file = folder / "prometheus.json"  # JSON is YAML
        file.write_text(json.dumps(configuration))
        super().__init__("prometheus", folder, ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                                f"--web.listen-address={self.address}"])

    def wait_until_ready(self):
        self.wait_for(lambda: get(self.address, "/-/ready")[0] == 200, "Prometheus")
        return self

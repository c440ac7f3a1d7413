#!/usr/bin/env python3
"""Runs every command of README.md's ```sh blocks, in order, as a reader would, and checks what they print. The flags and
files that its prose names have to be there too.

Usage: run_readme.py ROOT    needs a built release preset; takes SPILLWAY_DEMO_MODEL, or fetches it

What differs from a reader's session, all of it here: the daemon's ports are free ones (through the environment), the
placeholder of one's own model is the demo model, and scripts/test.sh, which runs this test, is only asked for help.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

SUBSTITUTES = {"scripts/test.sh": "scripts/test.sh --help"}
OWN_MODEL = "/path/to/model.gguf"
PROGRAMS = ["scripts/quickstart.sh", "scripts/test.sh", "build/release/bin/spillwayd", "build/release/bin/spillway"]
METRICS = "127.0.0.1:8091"
EXPECTED = {  # command's beginning: what its output has to have
    "scripts/quickstart.sh": "Paris",
    "build/release/bin/spillway complete": "Paris",
    "build/release/bin/spillway status": "SERVING",
    "curl -sf http://127.0.0.1:8091/metrics": "spillway_generated_tokens_total",
}


def commands(readme):
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def unknown_names(readme):
    """Flags in the prose that no program's --help has, and files that the checkout does not have."""
    prose = re.sub(r"^```.*?^```", "", readme, flags=re.M | re.S)
    helps = "".join(subprocess.run([program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                   check=True).stdout for program in PROGRAMS)
    named = [name for span in re.findall(r"`([^`\n]+)`", prose) for name in span.split()]
    flags = [name.partition("=")[0] for name in named if name.startswith("--")]
    files = [name for name in named if re.match(r"(scripts|docs|proto|examples|tests|build)/", name)]
    if not flags or not files:
        sys.exit("README.md names no flags or no files any more; the test has to follow")
    return [flag for flag in flags if not re.search(rf"{flag}\b", helps)] + [file for file in files if not os.path.exists(file)]


class Daemon:
    """The README's spillwayd, on free ports."""

    def __init__(self, command, environment, folder):
        self.address_file = folder / "address.json"
        self.log = folder / "spillwayd.log"
        environment = dict(environment, SPILLWAY_LISTEN="127.0.0.1:0", SPILLWAY_METRICS_LISTEN="127.0.0.1:0",
                           SPILLWAY_ADDRESS_FILE=str(self.address_file), SPILLWAY_HOST_POOL="256MiB")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["bash", "-c", "exec " + command], env=environment, stderr=log)

    def wait_until_ready(self, deadline_s=120):
        give_up = time.monotonic() + deadline_s
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                sys.exit(f"spillwayd exited with {self.process.returncode}:\n{self.log.read_text()}")
            if self.address_file.exists():
                address = json.loads(self.address_file.read_text())
                ready = ["curl", "-sf", "-o", "/dev/null", f"http://{address['metrics']}/readyz"]
                if subprocess.run(ready, check=False).returncode == 0:
                    return address
            time.sleep(0.1)
        sys.exit(f"spillwayd was not ready after {deadline_s} s:\n{self.log.read_text()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        if code != 0:
            sys.exit(f"spillwayd exited with {code} on SIGTERM:\n{self.log.read_text()}")


def main():
    root = pathlib.Path(sys.argv[1])
    os.chdir(root)
    readme = (root / "README.md").read_text()
    todo = commands(readme)
    unused = [begin for begin in [*SUBSTITUTES, *EXPECTED] if not any(c.startswith(begin) for c in todo)]
    if unused:
        sys.exit(f"README.md no longer has: {unused}; the test has to follow")
    if unknown := unknown_names(readme):
        sys.exit(f"README.md names what is not there: {unknown}")
    environment = dict(os.environ)
    model = environment.get("SPILLWAY_DEMO_MODEL") or subprocess.run(
        ["scripts/fetch-demo-model.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    metrics = METRICS
    daemon = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            for command in todo:
                run = SUBSTITUTES.get(command, command).replace(OWN_MODEL, model).replace(METRICS, metrics)
                print(f"$ {command}", f"\n  as: {run}" if run != command else "", flush=True)
                if command.startswith("build/release/bin/spillwayd "):
                    daemon = Daemon(run, environment, pathlib.Path(folder))
                    address = daemon.wait_until_ready()
                    environment["SPILLWAY_SERVER"] = address["grpc"]
                    metrics = address["metrics"]
                    continue
                done = subprocess.run(["bash", "-c", run], env=environment, stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=900, check=False)
                print(done.stdout[-2000:], flush=True)
                wanted = next((text for begin, text in EXPECTED.items() if command.startswith(begin)), "")
                if done.returncode != 0 or not done.stdout.strip() or wanted not in done.stdout:
                    sys.exit(f"{command}: exit {done.returncode}, expected 0 and '{wanted}' in the output\n{done.stderr}")
        finally:
            if daemon:
                daemon.stop()
    print(f"{len(todo)} commands")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs every command of docs/security.md's ```sh blocks, in order, as a reader would, and its Python.

Usage: run_security.py --bin=FOLDER --model=FILE.gguf --certificates=PROGRAM     PROGRAM is write-test-certificates

What differs from a reader's session, all of it here: the model, the certificates and their authority are the test's; the daemons
listen on free ports of loopback, which is what inference.example.org is; the system's authorities are the test's one. The Python
is run where grpcio and grpcio-tools are installed.
"""

import argparse
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "deploy"))
import daemons  # noqa: E402

ELSEWHERE = "inference.example.org:8090"
LISTEN = "--listen=0.0.0.0:8090"


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


class Session:
    """A reader's shell, in a folder with what the commands name."""

    def __init__(self, folder, options):
        self.folder, self.daemon = folder, None
        subprocess.run([options.certificates, folder], check=True)
        shutil.copy(options.model, folder / "model.gguf")
        self.environment = daemons.environment() | {
            "PATH": f"{options.bin}:/usr/bin:/bin", "SPILLWAY_METRICS_LISTEN": "127.0.0.1:0", "SPILLWAY_HOST_POOL": "32MiB",
            "SPILLWAY_THREADS": "1", "SPILLWAY_LAME_DUCK_MS": "0", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(folder / "ca.pem")}

    def run(self, command):
        if command.startswith("spillwayd "):
            return self.start(command)
        done = subprocess.run(["bash", "-euc", command.replace(ELSEWHERE, self.daemon.grpc if self.daemon else ELSEWHERE)], cwd=self.folder,
                              env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            sys.exit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        if " complete " in command and not done.stdout.strip():
            sys.exit(f"{command}: no text")
        return None

    def start(self, command):
        """The command's daemon, in place of the one before."""
        self.stop()
        if LISTEN not in command:
            command += " --listen=127.0.0.1:0"
        self.daemon = daemons.Served(["bash", "-c", "exec " + command.replace(LISTEN, "--listen=127.0.0.1:0")], self.folder,
                                     variables=self.environment, cwd=self.folder).wait_until_ready()
        self.environment["SPILLWAY_SERVER"] = self.daemon.grpc

    def stop(self):
        if self.daemon and (code := self.daemon.stop()) != 0:
            sys.exit(f"spillwayd ended with {code}:\n{self.daemon.log()}")

    def run_python(self, text):
        """What the text leaves to its reader is put before it: imports, the request, the token."""
        stubs = self.folder / "stubs"
        subprocess.run([ROOT / "examples/python/generate_stubs.sh", stubs], check=True)
        program = f"""
import pathlib, sys
sys.path.insert(0, {str(stubs)!r})
import grpc
from spillway.v1 import inference_pb2, inference_pb2_grpc
request = inference_pb2.ChatRequest(messages=[inference_pb2.ChatMessage(role="user", content="Hello")],
                                    options=inference_pb2.GenerationOptions(max_tokens=4))
token = pathlib.Path("acme.token").read_text().strip()
""" + text.replace(ELSEWHERE, self.daemon.grpc).replace("stub.StreamChat(", "events = stub.StreamChat(") + """
kinds = [event.WhichOneof("event") for event in events]
assert kinds[0] == "started" and kinds[-1] == "usage", kinds
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            sys.exit(f"the Python of docs/security.md: exit {done.returncode}\n{done.stderr}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--certificates", required=True)
    options = parser.parse_args()
    text = (ROOT / "docs" / "security.md").read_text()
    todo = [line.strip() for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    for begin in ("spillwayd --model=model.gguf --listen=0.0.0.0:8090 --tls_certificate=", "spillwayd --model=model.gguf --tokens_file=",
                  f"spillway --server={ELSEWHERE} --tls complete", "spillway token --tenant=operations --role=admin"):
        if not any(command.startswith(begin) for command in todo):
            sys.exit(f"docs/security.md no longer has '{begin}'; the test has to follow")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(pathlib.Path(folder), options)
        try:
            for command in todo:
                print(f"$ {command}", flush=True)
                session.run(command)
            # The tokens are what they are said to be, and without one there is no answer.
            session.run("spillway --token_file=admin.token status")
            session.run("! spillway --token_file=acme.token status && ! spillway models")
            # The Python speaks TLS and has a token: a daemon with both.
            [python] = blocks(text, "python")
            session.start("spillwayd --model=model.gguf --tls_certificate=server.pem --tls_key=server.key --tokens_file=tokens.json")
            if importlib.util.find_spec("grpc_tools") is None:
                print("skipped: the Python, as grpcio-tools is not installed (scripts/test.sh does)")
            else:
                session.run_python(python)
            session.stop()
        finally:
            if session.daemon:
                session.daemon.stop(tolerant=True)
    print(f"{len(todo)} commands")


if __name__ == "__main__":
    main()
